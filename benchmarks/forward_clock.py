"""When the model's forward pass ran, call by call: what the benchmarks set everything else against."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch

from power_sampling.engines.torch.forward import Forward
from power_sampling.engines.torch.kv import BatchCache

__all__ = ["Call", "ForwardClock"]


class Call(NamedTuple):
    start: float  # of time.perf_counter
    end: float
    rows: int
    width: int  # tokens fed to every row

    @property
    def seconds(self) -> float:
        return self.end - self.start


class ForwardClock:
    """A forward whose every call is recorded. A processor has done a call's work when the call returns; on another
    device calls return early, and what is recorded is too short."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward
        self.calls: list[Call] = []
        self.is_inside = False

    def __call__(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        pads: torch.Tensor,
        cache: BatchCache,
        keep: int | torch.Tensor,
    ) -> torch.Tensor:
        self.is_inside, start = True, time.perf_counter()
        logits = self._forward(tokens, positions, pads, cache, keep)
        self.calls.append(Call(start, time.perf_counter(), *tokens.shape))
        self.is_inside = False
        return logits

    def within(self, start: float, end: float) -> float:
        """Seconds inside the forward pass between two readings of the clock."""
        return sum(call.seconds for call in self.calls if start <= call.start and call.end <= end)
