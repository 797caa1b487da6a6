"""The states of rows: found, forked, kept, and evicted where there is no room."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from power_sampling.engines.stepped.backend import Backend
from power_sampling.engines.stepped.budget import Budget, Cached
from power_sampling.engines.stepped.prefill import Prefill
from power_sampling.engines.stepped.scheduler import Scheduler
from power_sampling.engines.stepped.sequence import Seq
from power_sampling.engines.stepped.snapshots import is_due, worth_keeping
from power_sampling.types import Continuation

__all__ = ["States"]


class States:
    """Of the rows that the scheduler has running and waiting, over a backend."""

    def __init__(
        self, backend: Backend, scheduler: Scheduler, budget: Budget, prefill: Prefill, snapshots: int
    ) -> None:
        self._backend, self._scheduler, self._budget, self._prefill = backend, scheduler, budget, prefill
        self._snapshots = snapshots  # of one row
        self._buffers = 0  # bytes that the batch may grow to before room is made again

    def cached(self, memo: object, length: int) -> Cached:
        """What a chain's memo has of the first `length` tokens: the state of a row that has ended, or that of a row
        still in decoding."""
        if isinstance(memo, Seq):
            place = self._scheduler.place(memo.row.ticket)
            if place is not None and length > memo.cached.state.length:
                return self._budget.retain(self.of(place, length))
            memo = memo.cached
        return memo if isinstance(memo, Cached) else Cached(self._backend.empty)

    def to_start_from(self, seqs: Sequence[Seq]) -> list[Any]:
        """Their chains' states, or their prompts'. What lies between these and the rows' next tokens is fed again: the
        tokens of a chain whose state is not cached, those after the snapshot before a cut."""
        return self._prefill.extend([(seq.prompt, self._nearest(seq), seq.fed) for seq in seqs])

    def _nearest(self, seq: Seq) -> Any:
        own, prompts = (state.head(min(state.length, seq.fed_length)) for state in (seq.cached.state, seq.prompt.state))
        return own if own.length >= prompts.length else prompts

    def take_snapshots(self) -> None:
        """Of running rows that have come far since their last one, where states can be cut at snapshots only. Room is
        made for these, and for buffers that have grown by rows which have left since."""
        due = [place for place, seq in enumerate(self._scheduler.running) if self._is_due(seq)]
        for place in due:
            self._scheduler.running[place].cached = self._budget.retain(self.of(place))
        if due or self._backend.batch_bytes > self._buffers:
            self.make_room()

    def _is_due(self, seq: Seq) -> bool:
        start = len(seq.prompt.tokens)
        last = max(start, seq.cached.state.length)
        return seq.prompt.state.snapshots is not None and is_due(seq.fed_length - start, last - start, self._snapshots)

    def of(self, place: int, length: int | None = None) -> Any:
        """Of a running row's first `length` tokens; of all it has been fed but its last token, where none is given."""
        seq = self._scheduler.running[place]
        length = seq.fed_length if length is None else length
        base = seq.cached.state if seq.cached.state.length else seq.prompt.state
        return self.thinned(seq, self._backend.state(place, base.head(min(base.length, length)), length))

    def thinned(self, seq: Seq, state: Any) -> Any:
        """A state of this row without the snapshots that are not worth their bytes."""
        if state.snapshots is None:
            return state
        return state.keeping(worth_keeping(state.snapshots, len(seq.prompt.tokens), self._snapshots))

    def continuation(self, place: int) -> Continuation:
        """What a row drew. Its memo is the state of everything but the last token, which was never fed."""
        seq = self._scheduler.running[place]
        if seq.row.end == "floor":
            return seq.row.continuation()
        return seq.row.continuation(self._budget.retain(self.of(place), seq.row.watch, seq.prompt.rule))

    def ended_waiting(self, seq: Seq) -> Continuation:
        """What a row holds that has ended before it was decoded, with its state where its tokens were given."""
        if not seq.row.draw.given:
            return seq.row.continuation()
        return seq.row.continuation(self._budget.retain(seq.cached.state, seq.row.watch, seq.prompt.rule))

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

    def make_room(self, entering: int = 0) -> None:
        """Evict states that have no room beside the rows in decoding, so many of which are about to enter."""
        scheduler, budget = self._scheduler, self._budget
        longest = max((seq.longest for seq in scheduler.running), default=0)
        present = self._backend.batch_bytes + entering * budget.per_row
        self._buffers = max(present, budget.needed(len(scheduler.running), longest))
        budget.evict(budget.nbytes - self._buffers, scheduler.prompt_states())
