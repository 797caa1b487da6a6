"""How many bytes of states rows may take: known before they are taken, so that rows wait instead of failing.

What is kept of rows that have ended, so that they can be forked, takes what rows in decoding leave. It can be computed
again: the oldest is evicted first.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from itertools import count
from typing import Any
from weakref import WeakSet, WeakValueDictionary

from power_sampling.engines.protocol import Rule, Watch
from power_sampling.engines.stepped.backend import Part, State, stored_bytes

__all__ = ["Budget", "Cached"]

SHARE = 0.6  # of what is free when the model has been loaded; activations and the rest of the process take some
LEAST_SLACK = 64  # tokens by which buffers are larger than their content at least, where they are larger at all


class Cached:
    """What is kept of a row so that it can be forked: its state, as long as there is room for it, and its watch.

    `state` may become the empty one; the watch is small and stays."""

    __slots__ = ("__weakref__", "rule", "state", "watch")

    def __init__(self, state: Any, watch: Watch | None = None, rule: Rule | None = None) -> None:
        self.state, self.watch, self.rule = state, watch, rule  # the rule that the watch is of


class Budget:
    """Bytes for states. What a token and a snapshot take is measured on the first prompt; `slack` is the backend's."""

    def __init__(self, nbytes: int, empty: Any, slack: float = 1.5) -> None:
        self.nbytes, self._slack = nbytes, slack
        self.per_token = self.per_row = 0  # bytes, the latter whatever the row's length; not known yet
        self._empty = empty
        self._cached: WeakValueDictionary[int, Cached] = WeakValueDictionary()  # the oldest first
        self._counted: WeakSet[Part] = WeakSet()
        self._at_most = 0  # bytes they take: exact when counted last, and what has come since
        self._numbers = count()

    def measure(self, state: State) -> None:
        """Learn from the state of some tokens what a token and a snapshot take."""
        if not self.per_token and not self.per_row and state.length:
            self.per_token, self.per_row = state.nbytes // state.length, state.snapshot_nbytes

    def needed(self, rows: int, tokens: int) -> int:
        """Bytes of `rows` rows in decoding, the longest of `tokens`: every row's buffer is as long as the longest."""
        least = tokens + LEAST_SLACK if self._slack > 1 else tokens
        return int(rows * (max(tokens * self._slack, least) * self.per_token + self.per_row))

    def kept(self, tokens: int) -> int:
        """Bytes of a state of so many tokens."""
        return tokens * self.per_token + self.per_row

    def fits(self, rows: int, tokens: int, beside: int = 0) -> bool:
        """Whether rows may be decoded beside so many bytes that are needed in any case."""
        return self.needed(rows, tokens) + beside <= self.nbytes

    def rows(self, tokens: int, beside: int) -> int:
        """How many rows of so many tokens fit."""
        each = self.needed(1, tokens)
        return max(0, self.nbytes - beside) // each if each else sys.maxsize

    def retain(self, state: Any, watch: Watch | None = None, rule: Rule | None = None) -> Cached:
        """Keep a state until there is no room for it, or nobody holds it any more."""
        cached = Cached(state, watch, rule)
        self._cached[next(self._numbers)] = cached
        self._count(state)
        return cached

    def _count(self, state: State) -> None:
        """Add what has not been counted before. Before a part that was counted, all were: that ends the search."""
        for part in reversed(state.parts):
            if part in self._counted:
                return
            self._counted.add(part)
            self._at_most += part.nbytes

    def evict(self, room: int, pinned: Iterable[State] = ()) -> None:
        """Empty cached states, the oldest first, until they take at most `room` bytes together with `pinned`."""
        pinned = list(pinned)
        if self._at_most + stored_bytes(pinned) <= room:
            return
        cached = [(number, each, list(each.state.parts)) for number, each in self._cached.items()]
        stored = [part for state in pinned for part in state.parts]
        stored += [part for _, _, parts in cached for part in parts]
        users, sizes = Counter(map(id, stored)), {id(part): part.nbytes for part in stored}
        held = sum(sizes.values())
        for number, each, parts in cached:
            if held <= room:
                break
            for part in map(id, parts):
                users[part] -= 1
                held -= 0 if users[part] else sizes[part]
            each.state = self._empty
            del self._cached[number]  # it has nothing left to give
        self._at_most = held
