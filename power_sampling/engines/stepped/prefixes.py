"""The prefix cache: prompts kept across requests, so that a shared beginning is prefilled once.

A system prompt, a template, few-shot examples, the history of a chat: the longest common beginning with any cached
prompt is found by content and shared by reference. What was used longest ago goes first when memory runs out.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from power_sampling.engines.stepped.backend import stored_bytes
from power_sampling.types import Tokens

__all__ = ["PrefixCache", "shared_length"]


class Found(NamedTuple):
    """The state of a prompt's first tokens, and the logits at its end where that is the end of the prompt asked for."""

    state: Any
    logits: Any | None


class _Entry(NamedTuple):
    tokens: NDArray[np.int64]
    state: Any
    logits: Any


class PrefixCache:
    """At most `capacity` bytes of prompts. Used by the engine's thread alone."""

    def __init__(self, capacity: int, empty: Any) -> None:
        self.capacity, self._empty = capacity, empty
        self._entries: dict[Tokens, _Entry] = {}  # the one used last stands last

    def find(self, tokens: Tokens) -> Found:
        """The most that is kept of this prompt; at least its last token is left to compute, or its logits are known
        too."""
        if known := self._entries.get(tokens):
            self._use(tokens)
            return Found(known.state, known.logits)
        wanted = np.array(tokens)
        lengths = {key: shared_length(wanted, entry.tokens) for key, entry in self._entries.items()}
        best = max(lengths, key=lambda key: lengths[key], default=None)
        if best is None or not (length := min(lengths[best], len(tokens) - 1)):
            return Found(self._empty, None)
        self._use(best)
        return Found(self._entries[best].state.head(length), None)

    def put(self, tokens: Tokens, state: Any, logits: Any) -> None:
        """Keep a prompt whose state and last logits are known."""
        if not self.capacity or tokens in self._entries:
            return
        self._entries[tokens] = _Entry(np.array(tokens), state, logits)
        while self._entries and self.nbytes > self.capacity:
            del self._entries[next(iter(self._entries))]

    def clear(self) -> None:
        self._entries.clear()

    @property
    def nbytes(self) -> int:
        """Bytes held; what several prompts share counts once."""
        logits = {id(entry.logits): entry.logits.nbytes for entry in self._entries.values()}
        return int(sum(logits.values())) + stored_bytes(entry.state for entry in self._entries.values())

    def _use(self, tokens: Tokens) -> None:
        self._entries[tokens] = self._entries.pop(tokens)


def shared_length(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """Tokens that both begin with."""
    length = min(len(a), len(b))
    differs = a[:length] != b[:length]
    return int(differs.argmax()) if differs.any() else length
