"""Which tokens may come next, so that a row obeys a compiled grammar and is complete within the horizon.

A completion is legal if its text, up to EOS, is in the language. It must get there within the horizon. Where no more
tokens are left than a short ending takes, that ending is the one thing allowed. Shortly before, strings are closed and
JSON opens nothing new. So the legal completions are those that end by themselves, and those that are ended in this way:
a function of the tokens before, never of the row. What comes too late all the same is a dead end, and has weight zero.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from power_sampling.text.stop import Decode, StopStrings
from power_sampling.types import Tokens

__all__ = ["GrammarConstraint", "Guide", "Vocabulary"]

LONGEST_ENDING = 128  # tokens after which the search for an ending gives up
SPARE = 6  # tokens by which a string is ended early: an escape with its four digits takes as many to complete
SPARE_DEPTH = 12  # tokens before its end in which JSON opens no more brackets and adds no more items
OPENERS = b"{[,"
LOOK_EVERY = 16  # tokens between two looks at how far the end is, away from the horizon
MOST_ENDINGS = 1024  # kept for one constraint
CLOSERS = ("}", "]", '"', ",", "0")  # what ends most things soonest, first


class Vocabulary:
    """The tokens of a model, as the parser knows them. `parser` is llguidance's tokenizer."""

    def __init__(self, parser: Any, eos_ids: frozenset[int], size: int, decode: Decode) -> None:
        self.parser, self.size, self.decode = parser, size, decode
        self.eos_ids = [token for token in eos_ids if token < size]
        self.closers, self.quotes = self._singles(CLOSERS), self._singles('"')

    def tokens_of(self, text: str) -> list[int]:
        """Tokens that spell a text; any spelling is as good to a grammar as any other."""
        tokens: list[int] = self.parser.tokenize_bytes(text.encode())
        return tokens

    def length_of(self, token: int) -> int:
        """Bytes a token stands for."""
        return len(self.parser.decode_bytes([token]))

    @cached_property
    def openers(self) -> NDArray[np.bool_]:
        """Which tokens open something in JSON, or add to it, shape (size,)."""
        mask = np.zeros(self.size, dtype=np.bool_)
        for token in range(min(self.size, self.parser.vocab_size)):
            mask[token] = bool(set(OPENERS) & set(self.parser.decode_bytes([token])))
        return mask

    def only(self, tokens: list[int]) -> NDArray[np.bool_]:
        """A mask that allows these tokens and no others."""
        mask = np.zeros(self.size, dtype=np.bool_)
        mask[tokens] = True
        return mask

    def allowed_by(self, matcher: Any) -> NDArray[np.bool_]:
        """Tokens that a matcher allows next, EOS excepted, shape (size,)."""
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        mask = np.zeros(self.size, dtype=np.bool_)
        mask[: len(bits)] = bits[: self.size].view(np.bool_)
        mask[self.eos_ids] = False
        return mask

    def is_in_string(self, mask: NDArray[np.bool_]) -> bool:
        """Where a quote and most other tokens may come, they are letters of a string, and so would a bracket be."""
        return bool(mask[self.quotes].any() and mask.sum() > self.size // 4)

    def _singles(self, texts: Iterable[str]) -> list[int]:
        """The tokens of those that are one token."""
        return [tokens[0] for text in texts if len(tokens := self.tokens_of(text)) == 1]


class GrammarConstraint:
    """The legal completions of at most `horizon` tokens. Its guides are used by the engine's thread alone.

    `start` is the compiled grammar: a matcher that has seen no token, and never will.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        start: Any,
        horizon: int,
        stop: StopStrings | None,
        *,
        is_json: bool,
        is_repeated: bool,
    ) -> None:
        self.vocabulary, self.horizon, self.stop, self.is_json = vocabulary, horizon, stop, is_json
        self.start = start
        self._endings: dict[Tokens, Tokens | None] = {}
        # where a call is written and another one may follow: tokens that one takes, more or less
        shortest = len(_short_ending(vocabulary, start) or ())
        self.repeat = shortest + SPARE_DEPTH if is_repeated and shortest else 0

    def ending(self, tokens: Tokens, matcher: Any) -> Tokens | None:
        """A short way to the end after `tokens`, the same one for the same tokens; None: none was found."""
        if tokens not in self._endings:
            if len(self._endings) >= MOST_ENDINGS:
                self._endings.clear()
            self._endings[tokens] = _short_ending(self.vocabulary, matcher)
        return self._endings[tokens]

    def watch(self, tokens: Tokens) -> Guide:
        """The guide of a row whose completion starts with `tokens`."""
        return Guide(self, tokens)

    def accepts(self, text: str) -> bool:
        """Whether a whole text is in the language."""
        matcher = self.start.deep_copy()
        return bool(matcher.consume_tokens(self.vocabulary.tokens_of(text)) and matcher.is_accepting())


def _short_ending(vocabulary: Vocabulary, matcher: Any) -> Tokens | None:
    """Always the token that closes soonest: what is forced, then a closer, then the longest of a few."""
    tokens: list[int] = []
    matcher = matcher.deep_copy()
    while len(tokens) <= LONGEST_ENDING and not matcher.is_error():
        if matcher.is_accepting():
            return tuple(tokens)
        step = matcher.compute_ff_tokens() or _closing_token(vocabulary, matcher)
        if not step or not matcher.consume_tokens(step):
            return None
        tokens += step
    return None


def _closing_token(vocabulary: Vocabulary, matcher: Any) -> list[int]:
    allowed = vocabulary.allowed_by(matcher)
    closers = vocabulary.quotes if vocabulary.is_in_string(allowed) else vocabulary.closers
    chosen = [t for t in closers if allowed[t]]
    if not chosen:
        chosen = sorted(np.flatnonzero(allowed)[:64].tolist(), key=vocabulary.length_of, reverse=True)
    return chosen[:1]


class _Mark(NamedTuple):
    """What a guide has found out about the way to the end, after so many tokens."""

    alert: int  # look at every token when no more than this many are left
    ending: Tokens | None = None  # the only way on, once it has begun
    limit: Literal["none", "close", "end"] = "none"  # close: open nothing new; end: EOS and nothing else
    closer: int = -1  # the token that `close` allows in any case


class Guide:
    """Follows one row under a constraint. All it answers is a function of the row's tokens."""

    def __init__(self, constraint: GrammarConstraint, tokens: Tokens) -> None:
        self._constraint, self._matcher = constraint, constraint.start.deep_copy()
        self._tokens: list[int] = []
        self._mask: NDArray[np.bool_] | None = None  # of this position, once it is asked for
        self._marks = [self._look(alert=0)]  # after 0, 1, ... tokens
        for token in tokens:
            self._advance(token)

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, shape (vocab_size,): those of EOS where the completion may end."""
        if self._mask is None:
            self._mask = self._limited(self._marks[-1])
        return self._mask

    def push(self, token: int) -> bool:
        """Told the next token, unless it is EOS: can the completion still be legal?"""
        self._advance(token)
        if not self._left:
            return bool(self._matcher.is_accepting())
        return bool(self.allowed().any())

    def is_legal_at_stop(self) -> bool:
        """Whether the text before the stop string, which is complete now, is in the language."""
        stop, text = self._constraint.stop, self._constraint.vocabulary.decode(self._tokens)
        found = stop.find(text) if stop else None
        return found is not None and self._constraint.accepts(text[: found[0]])

    def fork(self, length: int) -> Guide:
        """A guide of the same row's first `length` tokens. None of them is parsed again."""
        matcher = self._matcher.deep_copy()
        if matcher.is_error() or not matcher.rollback(len(self._tokens) - length):
            return self._constraint.watch(tuple(self._tokens[:length]))  # what is broken cannot be taken back
        fork = Guide.__new__(Guide)
        fork._constraint, fork._matcher, fork._mask = self._constraint, matcher, None
        fork._tokens, fork._marks = self._tokens[:length], self._marks[: length + 1]
        return fork

    def _advance(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._tokens.append(token)
        self._mask = None
        last = self._marks[-1]
        if last.ending:
            mark = _Mark(last.alert, last.ending[1:])
        elif self._left <= last.alert or len(self._tokens) % LOOK_EVERY == 0:
            mark = self._look(last.alert)
        else:
            mark = _Mark(last.alert)
        self._marks.append(mark)

    @property
    def _left(self) -> int:
        return self._constraint.horizon - len(self._tokens)

    def _look(self, alert: int) -> _Mark:
        """How far is the end? Begin the ending where it is as far as the horizon."""
        constraint, vocabulary = self._constraint, self._constraint.vocabulary
        ending = constraint.ending(tuple(self._tokens), self._matcher)
        if ending is None:
            return _Mark(alert)
        alert = max(2 * len(ending) + LOOK_EVERY, constraint.repeat)
        to_spare = self._left - len(ending)
        is_near = 0 < to_spare <= SPARE_DEPTH
        is_string = is_near and vocabulary.is_in_string(self._legal())
        if to_spare == 0 or (is_string and to_spare <= SPARE):
            return _Mark(alert, ending)
        if ending and constraint.is_json and is_near and not is_string:
            return _Mark(alert, limit="close", closer=ending[0])
        if not ending and to_spare <= constraint.repeat:
            return _Mark(alert, limit="end")
        return _Mark(alert)

    def _limited(self, mark: _Mark) -> NDArray[np.bool_]:
        """What the grammar and the horizon allow next."""
        vocabulary = self._constraint.vocabulary
        if mark.ending:
            return vocabulary.only([mark.ending[0]])
        if mark.limit == "end":
            return vocabulary.only(vocabulary.eos_ids)
        mask = self._legal()
        if mark.limit == "close":
            mask &= ~vocabulary.openers
            mask[mark.closer] = True
        return mask

    def _legal(self) -> NDArray[np.bool_]:
        """What the grammar alone allows next."""
        mask = self._constraint.vocabulary.allowed_by(self._matcher)
        if self._matcher.is_accepting():
            mask[self._constraint.vocabulary.eos_ids] = True
        return mask
