"""The tokens of a model as the parser of constraints knows them, and the same constraints byte by byte.

llguidance does the parsing. Its matchers take tokens; a matcher over single bytes is what a search for endings walks
through, for its masks cost microseconds whatever the model's vocabulary.
"""

from __future__ import annotations

import re
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from power_sampling.text.stop import Decode
from power_sampling.types import Tokens

__all__ = ["Units", "Vocabulary", "is_too_complex", "missing_bytes", "new_matcher"]

Units: TypeAlias = tuple[int, ...]  # bytes; from 256 on, control tokens

OPENERS = b"{[,"
DEAD_ENDS = ("NotStopped", "NoExtension", "NoExtensionBias", "EndOfSentence")  # how a matcher may stop without a fault

_GOES_ON = re.compile(rb"[\x80-\xbf]{0,3}")
_BEGUN = re.compile(rb"[\xc0-\xff][\x80-\xbf]*\Z")


class Characters(NamedTuple):
    """Of the tokens of a model: `missing`, shape (size,), are the bytes that the last character lacks, -n for a token
    that is n bytes of a character's rest; `longest` is the most bytes of a rest in one token."""

    missing: NDArray[np.int8]
    longest: int


class Vocabulary:
    """The tokens of a model. `parser` is llguidance's tokenizer."""

    def __init__(self, parser: Any, eos_ids: frozenset[int], size: int, decode: Decode) -> None:
        self.parser, self.size, self.decode = parser, size, decode
        self.eos_ids = [token for token in eos_ids if token < size]
        self.spelled = lru_cache(4096)(self._spelled)

    def tokens_of(self, text: str) -> list[int]:
        """Tokens that spell a text; any spelling is as good to a grammar as any other."""
        tokens: list[int] = self.parser.tokenize_bytes(text.encode())
        return tokens

    def units_of(self, token: int) -> Units:
        """The bytes a token stands for. A control token is one unit."""
        if token in self._control:
            return (self._control[token],)
        return tuple(self.parser.decode_bytes([token]))

    def begin_one_text(self, ids: NDArray[np.intp]) -> bool:
        """Whether these tokens are beginnings of one text, so that nothing is chosen between them but its spelling."""
        pieces = [self.units_of(token) for token in ids.tolist()]
        longest = max(pieces, key=len, default=())
        return all(longest[: len(piece)] == piece for piece in pieces)

    def _spelled(self, units: Units) -> Tokens:
        """Tokens that spell these units."""
        tokens: list[int] = []
        rest = bytearray()
        for unit in units:
            if unit < 256:
                rest.append(unit)
                continue
            tokens += self.parser.tokenize_bytes(bytes(rest))
            tokens.append(self._controls[unit - 257])
            rest.clear()
        return (*tokens, *self.parser.tokenize_bytes(bytes(rest)))

    @cached_property
    def openers(self) -> NDArray[np.bool_]:
        """Which tokens open something in JSON, or add to it, shape (size,)."""
        mask = np.zeros(self.size, dtype=np.bool_)
        for token in range(min(self.size, self.parser.vocab_size)):
            mask[token] = bool(set(OPENERS) & set(self.parser.decode_bytes([token])))
        return mask

    @cached_property
    def characters(self) -> Characters:
        """Where the tokens stand in characters of several bytes."""
        missing, longest = np.zeros(self.size, dtype=np.int8), 1
        for token in range(min(self.size, self.parser.vocab_size)):
            piece = self.parser.decode_bytes([token])
            going_on = len(_GOES_ON.match(piece)[0])  # type: ignore[index]  # it matches nothing too
            missing[token] = -going_on if piece and going_on == len(piece) else missing_bytes(piece)
            longest = max(longest, going_on)
        return Characters(missing, longest)

    @cached_property
    def control_ids(self) -> NDArray[np.intp]:
        """Control tokens that can be drawn, EOS excepted."""
        return np.array([t for t in self._controls if t < self.size and t not in self.eos_ids], dtype=np.intp)

    def allowed_by(self, matcher: Any) -> NDArray[np.bool_]:
        """Tokens that a matcher allows next, EOS excepted, shape (size,)."""
        bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
        mask = np.zeros(self.size, dtype=np.bool_)
        mask[: len(bits)] = bits[: self.size].view(np.bool_)
        mask[self.eos_ids] = False
        return mask

    # ------------------------------------------------------------ byte by byte

    def bytewise(self, lark: str) -> Any:
        """A matcher of the same grammar whose tokens are units; None where the grammar names tokens by other words."""

        def unit(found: re.Match[str]) -> str:
            return f"<[{self._control.get(int(found[1]), 256)}]>"

        matcher = new_matcher(self._byte_parser, re.sub(r"<\[(\d+)\]>", unit, lark))
        return None if matcher.is_error() else matcher

    @cached_property
    def _controls(self) -> list[int]:
        """Every control token, EOS included."""
        parser = self.parser
        return [token for token in range(parser.vocab_size) if parser.is_special_token(token)]

    @cached_property
    def _control(self) -> dict[int, int]:
        """The unit of every control token."""
        return {token: 257 + i for i, token in enumerate(self._controls)}

    @cached_property
    def _byte_parser(self) -> Any:
        from llguidance import LLTokenizer, TokenizerWrapper

        names = [self.parser.decode_bytes([token]) for token in self._controls]
        return LLTokenizer(TokenizerWrapper(_Bytes(names)), slices=[])


def missing_bytes(text: bytes) -> int:
    """How many bytes the last character lacks."""
    begun = _BEGUN.search(text)
    if begun is None:
        return 0
    first = begun[0][0]
    return max(0, (2 if first < 0xE0 else 3 if first < 0xF0 else 4) - len(begun[0]))


class _Bytes:
    """A tokenizer of bytes, as llguidance asks for one. Unit 256 is its end of text."""

    eos_token_id, bos_token_id = 256, None

    def __init__(self, controls: list[bytes]) -> None:
        self.tokens = [*(bytes([b]) for b in range(256)), b"\xff<end of text>", *controls]
        self.special_token_ids = list(range(256, len(self.tokens)))

    def __call__(self, text: bytes) -> list[int]:
        return list(text)


def new_matcher(parser: Any, lark: str) -> Any:
    """A compiled grammar, or a matcher in error. llguidance bounds its own work by count: items, states, fuel."""
    from llguidance import LLMatcher, LLParserLimits

    return LLMatcher(parser, lark, log_level=0, limits=LLParserLimits(verbose_errors=False))


def is_too_complex(matcher: Any) -> bool:
    """Whether a matcher gave up, which is another thing than a dead end."""
    return bool(matcher.is_error() and matcher.stop_reason() not in DEAD_ENDS)
