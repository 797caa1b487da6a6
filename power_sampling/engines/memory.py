"""How many key/value bytes rows may take: known before they are taken, so that rows wait instead of failing."""

from __future__ import annotations

import sys

import psutil
import torch

from power_sampling.engines.kv import KeyValues

__all__ = ["Memory", "is_out_of_memory"]

SHARE = 0.6  # of what is free when the model has been loaded; activations and the rest of the process take some
SLACK = 1.5  # by which buffers may be larger than their content, so that they need not grow at every step
LEAST_SLACK = 64  # tokens by which they are larger at least


class Memory:
    """A budget in bytes for the states of rows in decoding. What one token takes is measured on the first prompt."""

    def __init__(self, device: torch.device, budget: int | None) -> None:
        self.budget = int(SHARE * _free(device)) if budget is None else budget
        self.per_token = 0  # bytes; not known yet

    def measure(self, kept: KeyValues) -> None:
        """Learn from the states of some tokens what a token takes."""
        if not self.per_token and kept.length:
            states = [x for piece in kept.pieces for layer in piece.layers for x in layer or ()]
            self.per_token = sum(x.nbytes for x in states) // kept.length

    def needed(self, rows: int, tokens: int) -> int:
        """Bytes of `rows` rows in decoding, the longest of `tokens`: every row's buffer is as long as the longest."""
        return int(rows * max(tokens * SLACK, tokens + LEAST_SLACK) * self.per_token)

    def fits(self, rows: int, tokens: int) -> bool:
        return self.needed(rows, tokens) <= self.budget

    def rows(self, tokens: int) -> int:
        """How many rows of so many tokens fit."""
        each = self.needed(1, tokens)
        return self.budget // each if each else sys.maxsize


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return int(psutil.virtual_memory().available)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a device or the host refused an allocation; the host says so in words only."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
