"""When the model's forward pass ran, call by call: what the benchmarks set everything else against."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from torch import nn

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
    """Records every call of a model from now on. A processor has done a call's work when the call returns; on another
    device calls return early, and what is recorded is too short."""

    def __init__(self, model: nn.Module) -> None:
        self.calls: list[Call] = []
        self.is_inside = False
        self._start = 0.0
        model.register_forward_pre_hook(self._begin, prepend=True)
        model.register_forward_hook(self._end, with_kwargs=True)

    def within(self, start: float, end: float) -> float:
        """Seconds inside the forward pass between two readings of the clock."""
        return sum(call.seconds for call in self.calls if start <= call.start and call.end <= end)

    def _begin(self, *_: Any) -> None:
        self.is_inside = True
        self._start = time.perf_counter()

    def _end(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        self.calls.append(Call(self._start, time.perf_counter(), *kwargs["input_ids"].shape))
        self.is_inside = False
