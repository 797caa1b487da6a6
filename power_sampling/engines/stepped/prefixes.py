"""Prompts remembered across requests, so that a shared beginning is prefilled once.

A system prompt, a template, few-shot examples, the history of a chat: the longest common beginning with any remembered
prompt is found by content and shared by reference. What was used longest ago goes first when memory runs out.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from power_sampling.engines.torch.kv import KeyValues, stored_bytes
from power_sampling.types import Tokens

__all__ = ["Prefixes", "shared_length"]


class Remembered(NamedTuple):
    """States of a prompt's first tokens, and the logits at its end where that is the end of the prompt asked for."""

    kept: KeyValues
    logits: torch.Tensor | None


class _Entry(NamedTuple):
    tokens: NDArray[np.int64]
    kept: KeyValues
    logits: torch.Tensor


class Prefixes:
    """At most `capacity` bytes of prompts. Used by the engine's thread alone."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._entries: dict[Tokens, _Entry] = {}  # the one used last stands last

    def find(self, tokens: Tokens) -> Remembered:
        """The most that is remembered of this prompt; at least its last token is left to compute, or its logits are
        known too."""
        if known := self._entries.get(tokens):
            self._use(tokens)
            return Remembered(known.kept, known.logits)
        wanted = np.array(tokens)
        lengths = {key: shared_length(wanted, entry.tokens) for key, entry in self._entries.items()}
        best = max(lengths, key=lambda key: lengths[key], default=None)
        if best is None or not (length := min(lengths[best], len(tokens) - 1)):
            return Remembered(KeyValues(), None)
        self._use(best)
        return Remembered(self._entries[best].kept.head(length), None)

    def put(self, tokens: Tokens, kept: KeyValues, logits: torch.Tensor) -> None:
        """Remember a prompt whose states and last logits are known."""
        if not self.capacity or tokens in self._entries:
            return
        self._entries[tokens] = _Entry(np.array(tokens), kept, logits)
        while self._entries and self.size > self.capacity:
            del self._entries[next(iter(self._entries))]

    def clear(self) -> None:
        self._entries.clear()

    @property
    def size(self) -> int:
        """Bytes held; what several prompts share counts once."""
        logits = {entry.logits.data_ptr(): entry.logits.nbytes for entry in self._entries.values()}
        return sum(logits.values()) + stored_bytes(entry.kept for entry in self._entries.values())

    def _use(self, tokens: Tokens) -> None:
        self._entries[tokens] = self._entries.pop(tokens)


def shared_length(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    """Tokens that both begin with."""
    length = min(len(a), len(b))
    differs = a[:length] != b[:length]
    return int(differs.argmax()) if differs.any() else length
