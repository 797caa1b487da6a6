"""Steps that need no host between them: what the rows of a batch need next lies on the device and moves on there.

As long as the rows stay the same, the tokens of a step are the input of the next one, and positions and uniforms
advance beside them. So step t + 1 can be launched before the host has seen step t: the device does not wait for the
host, and the host waits in `Pending.numbers` alone. Written for CUDA and tested on CPU tensors, where every call is
synchronous; not yet measured on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray

from power_sampling.engines.row import Row
from power_sampling.engines.torch.choice import Laws, choose
from power_sampling.engines.torch.kv import BatchCache

__all__ = ["Pending", "Steady"]


class Steady:
    """What the next step of a batch's rows needs, in the batch's order: good until a row enters, leaves or moves.

    `tokens`, `positions` and `pads` are (rows, 1); `fed` gives the first tokens, `batch` where they go. Uniforms that
    `before` has are not uploaded again. Numbers are computed in the type of `like`, on its device."""

    def __init__(
        self, rows: list[Row], fed: Sequence[int], batch: BatchCache, like: torch.Tensor, before: Steady | None
    ) -> None:
        self.rows = rows
        known = before._uniforms_of if before else {}
        self._uniforms_of: dict[Row, torch.Tensor] = {
            row: known[row] if row in known else torch.from_numpy(row.uniforms).to(like.device) for row in rows
        }
        self._uniforms = torch.cat(list(self._uniforms_of.values()))
        starts = accumulate((len(row.uniforms) for row in rows[:-1]), initial=0)
        next_uniform = [start + len(row.tokens) for start, row in zip(starts, rows, strict=True)]
        state = torch.tensor([list(fed), batch.lengths, next_uniform, batch.pads])
        self._state = state.to(like.device)[:, :, None]
        self.tokens, self.positions, self._at, self.pads = self._state
        self._laws = Laws.of([row.draw.law for row in rows], like)
        self._like = like

    def choose(self, logits: torch.Tensor) -> Pending:
        """Draw the rows' next tokens, (rows, vocabulary): from here on they are what is fed next."""
        allowed: list[NDArray[np.bool_] | None] = [row.allowed() for row in self.rows]
        excluded = [row.excluded() for row in self.rows] if self._laws.base else ()
        columns = choose(logits.to(self._like), self._laws, self._uniforms.take(self._at), allowed, excluded)
        self._state[0] = columns[:, :1]
        self._state[1:3] += 1
        return Pending(self.rows, columns)


class Pending:
    """A step that has been launched: the tokens of its rows, with their numbers, on the way to the host."""

    def __init__(self, rows: list[Row], columns: torch.Tensor) -> None:
        self.rows: list[Row | None] = [*rows]
        self._columns = columns.to("cpu", non_blocking=columns.is_cuda)  # into pinned memory, which torch takes for it
        self._arrival = None
        if columns.is_cuda:
            self._arrival = torch.cuda.Event()  # type: ignore[no-untyped-call] # torch has no types here
            self._arrival.record(torch.cuda.current_stream(columns.device))

    def forget(self, row: Row) -> None:
        """Pass over a row that goes on from an earlier state."""
        self.rows = [None if r is row else r for r in self.rows]

    def numbers(self) -> list[list[float]]:
        """The columns of `choose`, row by row, once they have arrived."""
        if self._arrival is not None:
            self._arrival.synchronize()
        found: list[list[float]] = self._columns.tolist()
        return found
