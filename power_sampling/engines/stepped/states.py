"""The states of rows: found, forked, kept, and evicted where there is no room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from power_sampling.engines.stepped.backend import Backend
from power_sampling.engines.stepped.budget import Budget, Cached
from power_sampling.engines.stepped.prefill import Prefill
from power_sampling.engines.stepped.scheduler import Scheduler
from power_sampling.engines.stepped.sequence import Seq
from power_sampling.types import Continuation

__all__ = ["States"]


class States:
    """Of the rows that the scheduler has running and waiting, over a backend."""

    def __init__(self, backend: Backend, scheduler: Scheduler, budget: Budget, prefill: Prefill) -> None:
        self._backend, self._scheduler, self._budget, self._prefill = backend, scheduler, budget, prefill

    def cached(self, memo: object, length: int) -> Cached:
        """What a chain's memo has of the first `length` tokens: the state of a row that has ended, or that of a row
        still in decoding."""
        if isinstance(memo, Seq):
            place = self._scheduler.place(memo.row.ticket)
            if place is not None and length > memo.cached.state.length:
                return self._budget.retain(self.of(place, length))
            memo = memo.cached
        return memo if isinstance(memo, Cached) else Cached(self._backend.empty)

    def to_start_from(self, seq: Seq) -> Any:
        """Its chain's, or its prompt's and, for a chain whose state is not cached, that of its tokens."""
        fed = seq.fed
        state = seq.cached.state.head(min(seq.cached.state.length, len(fed)))
        if not state.length:
            state = seq.prompt.state.head(min(len(seq.prompt.tokens), len(fed)))
        return self._prefill.extend(seq.prompt, state, fed)

    def of(self, place: int, length: int | None = None) -> Any:
        """Of a running row's first `length` tokens; of all it has been fed but its last token, where none is given."""
        seq = self._scheduler.running[place]
        length = len(seq.fed) if length is None else length
        base = seq.cached.state if seq.cached.state.length else seq.prompt.state
        return self._backend.state(place, base.head(min(base.length, length)), length)

    def continuation(self, place: int) -> Continuation:
        """What a row drew. Its memo is the state of everything but the last token, which was never fed."""
        seq = self._scheduler.running[place]
        if seq.row.end == "floor":
            return seq.row.continuation()
        return seq.row.continuation(self._budget.retain(self.of(place), seq.row.watch, seq.prompt.rule))

    def preempt(self, place: int) -> None:
        """A running row waits, and goes on from its state."""
        seq = self._scheduler.running[place]
        seq.cached = self._budget.retain(self.of(place))
        self._scheduler.waiting[seq.row.ticket] = seq
        self.leave([place])
        self._backend.cancel_step(seq.row)

    def leave(self, gone: Sequence[int]) -> None:
        """Rows at these places stop running."""
        if gone:
            self._scheduler.leave(gone)
            self._backend.leave(gone)

    def make_room(self) -> None:
        """Evict states that have no room beside the rows in decoding."""
        scheduler, budget = self._scheduler, self._budget
        longest = max((seq.longest for seq in scheduler.running), default=0)
        buffers = max(self._backend.batch_bytes, budget.needed(len(scheduler.running), longest))
        budget.evict(budget.nbytes - buffers, [prompt.state for prompt in scheduler.prompts()])
