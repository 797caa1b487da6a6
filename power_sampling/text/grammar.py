"""Constraints as Lark grammars, and their compiler.

llguidance does the parsing: of the two libraries that keep up with token masks it needs nothing but itself and compiles
schemas at once (`benchmarks/constraints.py`). `text/guide.py` makes the masks, and the engine masks q by them.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Protocol

from power_sampling.errors import ConfigurationError, UnsupportedModelError, shortened
from power_sampling.text.control import ControlTokens, Marks
from power_sampling.text.guide import GrammarConstraint
from power_sampling.text.schema import json_rule, refusal
from power_sampling.text.stop import Decode, StopStrings
from power_sampling.text.vocabulary import Vocabulary, new_matcher

__all__ = ["Constraints", "Grammars", "answer_rule"]

# where only one text can follow, llguidance would allow only the tokens its tokenizer spells it with
EVERY_SPELLING = '%llguidance {"no_forcing": true}\n'

LARGEST = 1 << 20  # characters of a grammar
MOST_COMPILED = 64  # grammars kept


class Constraints(Protocol):
    """The fields of settings that restrict a completion; one of them at most is given."""

    @property
    def json_schema(self) -> Mapping[str, Any] | None: ...
    @property
    def regex(self) -> str | None: ...
    @property
    def choices(self) -> tuple[str, ...] | None: ...
    @property
    def grammar(self) -> str | None: ...


def answer_rule(config: Constraints) -> str | None:
    """The right-hand side of the Lark rule that the constraint of these settings stands for, if they have one."""
    if config.json_schema is not None:
        return json_rule(config.json_schema)
    if config.regex is not None:
        return f"/{_delimited(config.regex)}/"
    if config.choices is not None:
        # one terminal: thousands of rules would be too many for the parser
        return f"/{_delimited('|'.join(map(_literally, config.choices)))}/"
    if config.grammar is not None:
        return f"%lark {{\n{config.grammar}\n}}"
    return None


def _literally(text: str) -> str:
    """A regular expression of this text alone."""
    return re.sub(r"[\\.+*?()|\[\]{}^$#&~-]", r"\\\g<0>", text)


def _delimited(regex: str) -> str:
    """Between slashes, where a slash and a line break need a backslash."""
    pieces = re.findall(r"\\.|.", regex, re.DOTALL)
    return "".join({"/": "\\/", "\n": "\\n", "\\\n": "\\n"}.get(piece, piece) for piece in pieces)


class Grammars:
    """Compiles Lark grammars for one tokenizer, each once. Safe from any thread."""

    def __init__(self, tokenizer: Any, eos_ids: frozenset[int], vocab_size: int, decode: Decode) -> None:
        self._tokenizer, self._eos_ids, self._vocab_size, self._decode = tokenizer, eos_ids, vocab_size, decode
        self._lock = threading.Lock()
        self._compiled: dict[str, Any] = {}

    def constraint(self, lark: str, horizon: int, stop: StopStrings | None) -> GrammarConstraint:
        """The legal completions of at most `horizon` tokens. Raises ConfigurationError for a grammar that is none or
        too large, UnsupportedModelError for a tokenizer that llguidance cannot read."""
        if len(lark) > LARGEST:
            raise ConfigurationError(
                f"The constraint has {len(lark):,} characters, and {LARGEST:,} are the most: use fewer alternatives."
            )
        with self._lock:
            matcher = self._compiled.pop(lark, None) or self._compile(lark)
            self._compiled[lark] = matcher  # the one used last stands last
            while len(self._compiled) > MOST_COMPILED:
                del self._compiled[next(iter(self._compiled))]
            return GrammarConstraint(self._vocabulary, lark, matcher.deep_copy(), horizon, stop)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        """Made on first use: it takes a moment."""
        return Vocabulary(_readable(self._tokenizer), self._eos_ids, self._vocab_size, self._decode)

    def _compile(self, lark: str) -> Any:
        matcher = new_matcher(self._vocabulary.parser, EVERY_SPELLING + _by_number(lark, self._tokenizer))
        if matcher.is_error():
            error = matcher.get_error()
            raise ConfigurationError(f"The constraint cannot be compiled: {refusal(error) or _plainly(error, lark)}")
        return matcher


# of the parser's words: where a fault is, in a text with our lines around the user's; that text and names of tokens
PLACES = re.compile(r"(?:at )?(?:\d+\(\d+\): )*(\d+)\(\d+\): ")
AROUND = re.compile(r"\n *\d+ \| .*|; following special tokens are available.*", re.DOTALL)


def _plainly(error: str, lark: str) -> str:
    """What the parser says of a fault, with the line of the user's grammar that it is in."""
    place, said = PLACES.match(error), AROUND.sub("", PLACES.sub("", error, count=1))
    lines = lark.splitlines()
    at = int(place[1]) - 1 - EVERY_SPELLING.count("\n") if place else 0
    where = f", in the line {shortened(lines[at])}" if "%lark" in lark and 0 < at < len(lines) else ""
    return f"{said:.400}{where}."


# strings, regular expressions and comments of a grammar; names of tokens outside of them
NAMES = re.compile(r'"(?:\\.|[^"\\])*"|/(?:\\.|[^/\\\n])+/|//[^\n]*|(?P<token><[^<>\s\[\]]+>)')


def _by_number(lark: str, tokenizer: Any) -> str:
    """The grammar with numbers for names of added tokens (`<|end|>`), which llguidance is not told: see `_readable`."""
    numbers = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    return NAMES.sub(lambda found: f"<[{numbers[found[0]]}]>" if found["token"] in numbers else found[0], lark)


def _readable(tokenizer: Any) -> Any:
    """The tokenizer for llguidance, where added tokens have names that no text spells. Under its own names llguidance
    spells a text that can be but one with them, and takes them for no text at once. Grammars mean tokens by number."""
    from llguidance import LLTokenizer

    try:
        written = json.loads(tokenizer.backend_tokenizer.to_str())
        written["truncation"] = written["padding"] = None
        _rename_added(written, unknown=tokenizer.unk_token)
        return LLTokenizer(json.dumps(written), eos_token=tokenizer.eos_token_id)
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        raise UnsupportedModelError(
            f"Constrained decoding needs a fast tokenizer (tokenizer.json), got {type(tokenizer).__name__}: {error}"
        ) from error


def _rename_added(written: dict[str, Any], *, unknown: str | None) -> None:
    """Marks as names of control tokens, in a tokenizer as JSON; a vocabulary may list them too."""
    from tokenizers import AddedToken

    control = ControlTokens({token["id"]: AddedToken(token["content"]) for token in written["added_tokens"]})
    marks = Marks(control, list(control.tokens)).of_token
    vocabulary = written["model"].get("vocab")
    for token in written["added_tokens"]:
        name, number = token["content"], token["id"]
        if name == unknown or name not in marks:
            continue
        token |= {"content": marks[name], "special": True, "normalized": False}
        if isinstance(vocabulary, dict) and name in vocabulary:
            vocabulary[marks[name]] = vocabulary.pop(name)
        elif isinstance(vocabulary, list) and number < len(vocabulary):
            vocabulary[number][0] = marks[name]
