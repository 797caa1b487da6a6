"""Constrained decoding: which tokens may come next, so that what comes out obeys a schema, an expression, a grammar.

llguidance does the parsing: of the two libraries that keep up with token masks it needs nothing but itself and compiles
schemas at once (`benchmarks/constraints.py`). The masks enter where q is formed, in the engine; here they are made.

A completion is legal if its text, up to EOS, is in the language. It must get there within the horizon: where no more
tokens are left than a short ending takes, that ending is the one thing allowed; shortly before, strings are closed and
JSON opens nothing new. So the legal completions are those that end by themselves, and those that are ended in this way:
a function of the tokens before, never of the row. What comes too late all the same is a dead end, and has weight zero.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from power_sampling.config import GenerationConfig
from power_sampling.errors import ConfigurationError, UnsupportedModelError
from power_sampling.text.stop import Decode, StopStrings
from power_sampling.types import Tokens

__all__ = ["GrammarConstraint", "Grammars", "Guide", "answer_rule", "json_rule"]

# one line, as json.dumps writes it: free whitespace would let a model spend its horizon on blanks
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

LONGEST_ENDING = 128  # tokens after which the search for an ending gives up
SPARE = 6  # tokens by which a string is ended early: an escape with its four digits takes as many to complete
SPARE_DEPTH = 12  # tokens before its end in which JSON opens no more brackets and adds no more items
OPENERS = b"{[,"
LOOK_EVERY = 16  # tokens between two looks at how far the end is, away from the horizon
KNOWN = 64  # grammars kept compiled
CLOSERS = ("}", "]", '"', ",", "0")  # what ends most things soonest, first


def answer_rule(config: GenerationConfig) -> str | None:
    """The right-hand side of the Lark rule that the constraint of these settings stands for, if they have one."""
    if config.json_schema is not None:
        return json_rule(config.json_schema)
    if config.regex is not None:
        return f"/{_delimited(config.regex)}/"
    if config.choices is not None:
        return " | ".join(json.dumps(choice, ensure_ascii=False) for choice in config.choices)
    if config.grammar is not None:
        return f"%lark {{\n{config.grammar}\n}}"
    return None


def json_rule(schema: Mapping[str, Any]) -> str:
    """JSON under a schema, written as `json.dumps` writes it. Objects that list their properties have no others, unless
    the schema says so: a name nobody declared is nothing anybody asked for."""
    return "%json " + json.dumps({"x-guidance": JSON_STYLE, **_closed(schema)}, ensure_ascii=False)


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    new = {k: v if k in ("const", "enum", "default", "examples") else _closed(v) for k, v in schema.items()}
    is_open = {"allOf", "anyOf", "oneOf", "$ref", "patternProperties", "additionalProperties"} & set(schema)
    if schema.get("type") == "object" and isinstance(schema.get("properties"), Mapping) and not is_open:
        new["additionalProperties"] = False
    return new


def _delimited(regex: str) -> str:
    """Between slashes, where a slash and a line break need a backslash."""
    pieces = re.findall(r"\\.|.", regex, re.DOTALL)
    return "".join({"/": "\\/", "\n": "\\n", "\\\n": "\\n"}.get(piece, piece) for piece in pieces)


class Grammars:
    """Compiles Lark grammars for one tokenizer, each once. Safe from any thread."""

    def __init__(self, tokenizer: Any, eos_ids: frozenset[int], vocab_size: int, decode: Decode) -> None:
        self._source, self._lock = tokenizer, threading.Lock()
        self._tokenizer: Any = None  # built on first use: it takes a moment
        self._compiled: dict[str, Any] = {}
        self.eos_ids, self.vocab_size, self.decode = eos_ids, vocab_size, decode
        self.closers: list[int] = []
        self.quotes: list[int] = []

    def constraint(self, lark: str, horizon: int, stop: StopStrings | None) -> GrammarConstraint:
        """The legal completions of at most `horizon` tokens. Raises ConfigurationError for a grammar that is none,
        UnsupportedModelError for a tokenizer that llguidance cannot read."""
        with self._lock:
            if self._tokenizer is None:
                self._tokenizer = _readable(self._source)
                self.closers, self.quotes = self._singles(CLOSERS), self._singles('"')
            matcher = self._compiled.pop(lark, None) or self._compile(lark)
            self._compiled[lark] = matcher  # the one used last stands last
            while len(self._compiled) > KNOWN:
                del self._compiled[next(iter(self._compiled))]
            return GrammarConstraint(
                self, matcher.deep_copy(), horizon, stop, is_json="%json" in lark, is_repeated="\ncalls: " in lark
            )

    def tokens_of(self, text: str) -> list[int]:
        """Tokens that spell a text; any spelling is as good to a grammar as any other."""
        tokens: list[int] = self._tokenizer.tokenize_bytes(text.encode())
        return tokens

    def length_of(self, token: int) -> int:
        """Bytes a token stands for."""
        return len(self._tokenizer.decode_bytes([token]))

    @cached_property
    def openers(self) -> NDArray[np.bool_]:
        """Which tokens open something in JSON, or add to it, shape (vocab_size,)."""
        found = np.zeros(self.vocab_size, dtype=np.bool_)
        for token in range(min(self.vocab_size, self._tokenizer.vocab_size)):
            found[token] = bool(set(OPENERS) & set(self._tokenizer.decode_bytes([token])))
        return found

    def _singles(self, texts: Iterable[str]) -> list[int]:
        """The tokens of those that are one token."""
        return [tokens[0] for text in texts if len(tokens := self.tokens_of(text)) == 1]

    def _compile(self, lark: str) -> Any:
        from llguidance import LLMatcher

        matcher = LLMatcher(self._tokenizer, lark, log_level=0)
        if matcher.is_error():
            raise ConfigurationError(f"The constraint cannot be compiled: {matcher.get_error()}\n{lark}")
        return matcher


def _readable(tokenizer: Any) -> Any:
    from llguidance.hf import from_tokenizer

    try:
        return from_tokenizer(tokenizer)
    except (ValueError, TypeError, AttributeError) as error:
        raise UnsupportedModelError(
            f"Constrained decoding needs a fast tokenizer (tokenizer.json), got {type(tokenizer).__name__}: {error}"
        ) from error


class GrammarConstraint:
    """The legal completions of one request, as the engine asks for them. Used by the engine's thread alone."""

    def __init__(
        self,
        grammars: Grammars,
        start: Any,
        horizon: int,
        stop: StopStrings | None,
        *,
        is_json: bool,
        is_repeated: bool,
    ) -> None:
        self.grammars, self.horizon, self.stop, self.is_json = grammars, horizon, stop, is_json
        self._start = start
        self._endings: dict[Tokens, Tokens | None] = {}
        # where a call is written and another one may follow: tokens that one takes, more or less
        shortest = len(self.ending((), start) or ())
        self.repeat = shortest + SPARE_DEPTH if is_repeated and shortest else 0

    def watch(self, tokens: Tokens) -> Guide:
        """The guide of a row whose completion starts with `tokens`."""
        return Guide(self, self._start.deep_copy(), tokens)

    def accepts(self, text: str) -> bool:
        """Whether a whole text is in the language."""
        matcher = self._start.deep_copy()
        return bool(matcher.consume_tokens(self.grammars.tokens_of(text)) and matcher.is_accepting())

    def ending(self, tokens: Tokens, matcher: Any) -> Tokens | None:
        """A short way to the end after `tokens`, the same one for the same tokens; None: none was found."""
        if tokens not in self._endings:
            self._endings[tokens] = _short_ending(self.grammars, matcher.deep_copy())
        return self._endings[tokens]


def _short_ending(grammars: Grammars, matcher: Any) -> Tokens | None:
    """Always the token that closes soonest: what is forced, then a closer, then the longest of a few."""
    tokens: list[int] = []
    while len(tokens) <= LONGEST_ENDING and not matcher.is_error():
        if matcher.is_accepting():
            return tuple(tokens)
        step = matcher.compute_ff_tokens() or _closing_token(grammars, matcher)
        if not step or not matcher.consume_tokens(step):
            return None
        tokens += step
    return None


def _closing_token(grammars: Grammars, matcher: Any) -> list[int]:
    allowed = _mask(grammars, matcher)
    closers = grammars.quotes if _is_string(grammars, allowed) else grammars.closers
    chosen = [t for t in closers if allowed[t]]
    if not chosen:
        chosen = sorted(np.flatnonzero(allowed)[:64].tolist(), key=grammars.length_of, reverse=True)
    return chosen[:1]


def _is_string(grammars: Grammars, allowed: NDArray[np.bool_]) -> bool:
    """Where a quote and most other tokens may come, they are letters of a string, and a bracket would be one too."""
    return bool(allowed[grammars.quotes].any() and allowed.sum() > grammars.vocab_size // 4)


def _mask(grammars: Grammars, matcher: Any) -> NDArray[np.bool_]:
    """Tokens that may come next, EOS excepted, shape (vocab_size,)."""
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    mask = np.zeros(grammars.vocab_size, dtype=np.bool_)
    mask[: len(bits)] = bits[: grammars.vocab_size].view(np.bool_)
    mask[[t for t in grammars.eos_ids if t < grammars.vocab_size]] = False
    return mask


class _Mark(NamedTuple):
    """What a guide had found out at a token."""

    ending: Tokens | None
    alert: int
    has_looked: bool  # so that its mask is that of the look


class Guide:
    """Follows one row under a constraint."""

    def __init__(self, constraint: GrammarConstraint, matcher: Any, tokens: Tokens) -> None:
        self._constraint, self._matcher = constraint, matcher
        self._tokens: list[int] = []
        self._mask: NDArray[np.bool_] | None = None
        self._ending: Tokens | None = None  # the only way on, once it has begun
        self._alert = 0  # look at every token when no more than this many are left
        self._look()
        self._marks = [_Mark(self._ending, self._alert, has_looked=True)]  # after so many tokens
        for token in tokens:
            self._advance(token)

    def fork(self, length: int) -> Guide:
        """A guide of the same row's first `length` tokens."""
        excess, matcher = len(self._tokens) - length, self._matcher.deep_copy()
        if excess and (matcher.is_error() or not matcher.rollback(excess)):
            return self._constraint.watch(tuple(self._tokens[:length]))  # what is broken cannot be taken back
        fork = Guide.__new__(Guide)
        fork._constraint, fork._matcher, fork._mask = self._constraint, matcher, None
        fork._tokens, fork._marks = self._tokens[:length], self._marks[: length + 1]
        ending, fork._alert, has_looked = fork._marks[-1]
        fork._ending = None if has_looked else ending
        if has_looked:
            fork._look()  # finds the same again, its mask included
        return fork

    def allowed(self) -> NDArray[np.bool_]:
        if self._mask is None:
            grammars = self._constraint.grammars
            self._mask = _mask(grammars, self._matcher)
            if self._ending:
                self._mask[:] = False
                self._mask[self._ending[0]] = True
            elif self._matcher.is_accepting():
                self._mask[[t for t in grammars.eos_ids if t < grammars.vocab_size]] = True
        return self._mask

    def push(self, token: int) -> bool:
        self._advance(token)
        if len(self._tokens) == self._constraint.horizon:
            return bool(self._matcher.is_accepting())
        return bool(self.allowed().any())

    def is_legal_at_stop(self) -> bool:
        stop, text = self._constraint.stop, self._constraint.grammars.decode(self._tokens)
        found = stop.find(text) if stop else None
        return found is not None and self._constraint.accepts(text[: found[0]])

    def _advance(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._tokens.append(token)
        self._mask = None
        has_looked = not self._ending and (self._left <= self._alert or len(self._tokens) % LOOK_EVERY == 0)
        if self._ending:
            self._ending = self._ending[1:]
        elif has_looked:
            self._look()
        self._marks.append(_Mark(self._ending, self._alert, has_looked))

    @property
    def _left(self) -> int:
        return self._constraint.horizon - len(self._tokens)

    def _look(self) -> None:
        """How far is the end? Begin the ending where it is as far as the horizon."""
        ending = self._constraint.ending(tuple(self._tokens), self._matcher)
        if ending is None:
            return
        self._alert = max(2 * len(ending) + LOOK_EVERY, self._constraint.repeat)
        to_spare, grammars = self._left - len(ending), self._constraint.grammars
        is_string = 0 < to_spare <= SPARE_DEPTH and _is_string(grammars, self.allowed())
        if to_spare == 0 or (is_string and to_spare <= SPARE):
            self._ending, self._mask = ending, None
        elif ending and self._constraint.is_json and not is_string and 0 < to_spare <= SPARE_DEPTH:
            mask = self.allowed() & ~grammars.openers
            mask[ending[0]] = True
            self._mask = mask
        elif not ending and to_spare <= self._constraint.repeat:
            mask = np.zeros_like(self.allowed())
            mask[[t for t in grammars.eos_ids if t < grammars.vocab_size]] = True
            self._mask = mask
