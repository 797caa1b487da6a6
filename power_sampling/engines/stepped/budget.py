"""How many key/value bytes rows may take: known before they are taken, so that rows wait instead of failing.

What is remembered of rows that have ended, so that they can be forked, takes what rows in decoding leave. It can be
computed again: the oldest goes first.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable
from itertools import count
from weakref import WeakValueDictionary

import psutil
import torch

from power_sampling.engines.torch.kv import KeyValues, newly_stored_bytes, stored_bytes

__all__ = ["Memo", "Memory", "is_out_of_memory"]

SHARE = 0.6  # of what is free when the model has been loaded; activations and the rest of the process take some
SLACK = 1.5  # by which buffers may be larger than their content, so that they need not grow at every step
LEAST_SLACK = 64  # tokens by which they are larger at least


class Memo:
    """The states of a row, as long as there is room for them: `kept` may become empty."""

    __slots__ = ("__weakref__", "kept")

    def __init__(self, kept: KeyValues) -> None:
        self.kept = kept


class Memory:
    """A budget in bytes for keys and values. What one token takes is measured on the first prompt."""

    def __init__(self, device: torch.device, budget: int | None) -> None:
        self.budget = int(SHARE * _free(device)) if budget is None else budget
        self.per_token = 0  # bytes; not known yet
        self._memos: WeakValueDictionary[int, Memo] = WeakValueDictionary()  # the oldest first
        self._at_most = 0  # bytes they take: exact when counted last, and what has come since
        self._numbers = count()

    def measure(self, kept: KeyValues) -> None:
        """Learn from the states of some tokens what a token takes."""
        if not self.per_token and kept.length:
            states = [x for piece in kept.pieces for layer in piece.layers for x in layer or ()]
            self.per_token = sum(x.nbytes for x in states) // kept.length

    def needed(self, rows: int, tokens: int) -> int:
        """Bytes of `rows` rows in decoding, the longest of `tokens`: every row's buffer is as long as the longest."""
        return int(rows * max(tokens * SLACK, tokens + LEAST_SLACK) * self.per_token)

    def fits(self, rows: int, tokens: int, beside: int = 0) -> bool:
        """Whether rows may be decoded beside so many bytes that are needed in any case."""
        return self.needed(rows, tokens) + beside <= self.budget

    def rows(self, tokens: int, beside: int) -> int:
        """How many rows of so many tokens fit."""
        each = self.needed(1, tokens)
        return max(0, self.budget - beside) // each if each else sys.maxsize

    def remember(self, kept: KeyValues) -> Memo:
        """Until there is no room for it, or nobody holds the memo any more."""
        memo = Memo(kept)
        self._memos[next(self._numbers)] = memo
        self._at_most += newly_stored_bytes(kept)
        return memo

    def forget(self, room: int, pinned: Iterable[KeyValues] = ()) -> None:
        """Empty memos, the oldest first, until they take at most `room` bytes together with what is `pinned`."""
        pinned = list(pinned)
        if self._at_most + stored_bytes(pinned) <= room:
            return
        memos = [(memo, [piece.stored for piece in memo.kept.pieces]) for memo in self._memos.values()]
        stored = [piece.stored for kept in pinned for piece in kept.pieces]
        stored += [x for _, pieces in memos for x in pieces]
        users, sizes = Counter(map(id, stored)), {id(x): x.nbytes for x in stored}
        held = sum(sizes.values())
        for memo, pieces in memos:
            if held <= room:
                break
            for x in map(id, pieces):
                users[x] -= 1
                held -= 0 if users[x] else sizes[x]
            memo.kept = KeyValues()
        self._at_most = held


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device or the host refused an allocation; the host says so in words only."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
