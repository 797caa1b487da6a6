"""Short ways to the end of a text under a grammar, found byte by byte.

What is found is an upper bound: this many tokens will do. That fewer will not, or none, is proved in `text/reach.py`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import count
from typing import Any

import numpy as np

from power_sampling.text.reach import Rules
from power_sampling.text.vocabulary import Units
from power_sampling.types import Tokens

__all__ = ["Endings"]

LONGEST = 4096  # bytes after which the search for an ending gives up
MOST_STEPS = 30_000  # bytes tried in one search
BYTES_A_TOKEN = 16  # an ending of more bytes a token is none that fits
BEAM = 64  # states kept of each length: those that look different
MOST_CHOICES = 1024  # made one after another in one search
AGAIN = 16  # tokens between two searches where none was found
MOST_KEPT = 4096  # endings remembered for one grammar
CLOSERS = tuple(b'}]"')  # what ends most of JSON soonest
QUOTE, COMMA, ZERO = ord('"'), ord(","), ord("0")
DIGITS = frozenset(b"0123456789")
# what completes a character of several bytes, or an escape of JSON
PIECES = tuple(
    map(
        tuple, [b"\x80", b"\x80\x80", b"\xa0\x80", b"\x80\x80\x80", b"\x90\x80\x80", b"n", b"0000", b"000", b"00", b"0"]
    )
)
WIDE = 96  # bytes: where more are allowed, letters of a free text are


class Endings:
    """The endings of one grammar. All it answers is a function of the tokens asked for."""

    def __init__(self, rules: Rules, lark: str, horizon: int) -> None:
        self._longest = min(LONGEST, BYTES_A_TOKEN * horizon)
        self._vocabulary, self._rules = rules.vocabulary, rules
        self._start = rules.vocabulary.bytewise(lark)
        self._is_json = "%json" in lark
        self.search = lru_cache(MOST_KEPT)(self._search)

    def kept(self, before: Units | None, tokens: Tokens, matcher: Any, step: Tokens = ()) -> Units | None:
        """What the ending before the last token becomes by it: what is left of it, or the same again if it will still
        do. None: it will not. `matcher` has seen all but the last tokens, `step`."""
        if before is None:
            return None
        ways = self._ways_on(before, self._vocabulary.units_of(tokens[-1]))
        return next((way for way in ways if self.ends(tokens, matcher, way, step)), None)

    def _ways_on(self, before: Units, last: Units) -> Iterator[Units]:
        """What may be left of an ending after a token: the shorter the earlier."""
        for length in range(min(len(last), len(before)), -1, -1):
            if last[len(last) - length :] == before[:length]:
                if not length:  # a piece that was missing may be there by now
                    yield from (before[len(piece) :] for piece in PIECES if before[: len(piece)] == piece)
                yield before[length:]
        yield from (piece + before for piece in PIECES)

    def next(self, before: Units | None, tokens: Tokens, matcher: Any) -> Units | None:
        """The ending of `tokens`, whose matcher is given, from the one before the last token, or a new one."""
        kept = self.kept(before, tokens, matcher)
        if kept is not None or (before is None and len(tokens) % AGAIN):
            return kept
        return self.search(tokens)

    def ends(self, tokens: Tokens, matcher: Any, ending: Units, step: Tokens = ()) -> bool:
        """Whether these units complete a text of `tokens`; `matcher` has seen all but the last of them, `step`."""
        way = [*step, *self._vocabulary.spelled(ending)]
        if way:
            is_end = matcher.validate_tokens([*way, self._vocabulary.parser.eos_token]) > len(way)
        else:
            is_end = matcher.is_accepting()
        return bool(is_end) and not self._rules.completes_a_stop(self._rules.tail(tokens), ending)

    def _search(self, tokens: Tokens) -> Units | None:
        matcher = self._after(tokens)
        if matcher is None:
            return None
        found = self._greedy(matcher.deep_copy()) if self._is_json else None
        if found is None:
            found = _nearest(matcher, lambda m: m.is_accepting(), self._longest)
        is_cut = found is not None and self._rules.completes_a_stop(self._rules.tail(tokens), found)
        return None if is_cut else found

    def _after(self, tokens: Tokens) -> Any:
        if self._start is None:
            return None
        matcher = self._start.deep_copy()
        for token in tokens:
            units = list(self._vocabulary.units_of(token))
            if not units or not matcher.consume_tokens(units):
                return None
        return matcher

    def _greedy(self, matcher: Any) -> Units | None:
        """Always what closes soonest: what is forced, then a closer, then the shortest way to either."""
        units: list[int] = []
        for _ in range(MOST_CHOICES):
            if len(units) > self._longest or matcher.is_error():
                return None
            if matcher.is_accepting():
                return tuple(units)
            step = list(matcher.compute_ff_bytes()) or _closing(matcher, units[-1:])
            if step is None or not matcher.consume_tokens(step):
                return None
            units += step
        return None


def _closing(matcher: Any, last: list[int]) -> list[int] | None:
    allowed = set(_allowed(matcher))
    closers = [QUOTE] if len(allowed) > WIDE else [*CLOSERS, COMMA]
    chosen = [unit for unit in closers if unit in allowed]
    if not chosen and ZERO in allowed and not DIGITS.intersection(last):
        chosen = [ZERO]
    if chosen:
        return chosen[:1]
    way = _nearest(matcher, lambda m: m.is_accepting() or bool({*CLOSERS, COMMA} & set(_allowed(m))), LONGEST)
    return list(way) if way else None


def _allowed(matcher: Any) -> list[int]:
    """Units that may come next."""
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    bits[256] = 0
    allowed: list[int] = np.flatnonzero(bits).tolist()
    return allowed


def _nearest(matcher: Any, is_there: Callable[[Any], bool], longest: int) -> Units | None:
    """The shortest way to a state that is there. Of states of one length those that allow the same next are taken for
    the same: something may be missed, but what is found is a way."""
    order, steps = count(), 0
    heap: list[tuple[int, int, Units, Any]] = [(0, next(order), (), matcher)]
    seen: dict[int, set[bytes]] = {}
    while heap:
        length, _, units, here = heapq.heappop(heap)
        if is_there(here):
            return units
        forced = tuple(here.compute_ff_bytes())
        for way in [forced] if forced else [(unit,) for unit in _allowed(here)]:
            steps += 1
            new = length + len(way)
            kept = seen.setdefault(new, set())
            if steps > MOST_STEPS or new > longest:
                return None
            child = here.deep_copy()
            if len(kept) >= BEAM or not child.consume_tokens(list(way)):
                continue
            looks = child.compute_bitmask() + bytes([child.is_accepting()])
            if looks not in kept and not child.is_error():
                kept.add(looks)
                heapq.heappush(heap, (new, next(order), (*units, *way), child))
    return None
