"""Who is decoded next: waiting and running sequences, fairness between requests, and what fits into the budget.

Pure bookkeeping: no token is fed here. A request without a row comes before those that have one; while it waits, the
request with most rows gives one up. Such a row is preempted and goes on from its state when its turn comes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakSet

from power_sampling.engines.stepped.allowance import Allowance
from power_sampling.engines.stepped.backend import stored_bytes, vacated
from power_sampling.engines.stepped.budget import Budget
from power_sampling.engines.stepped.sequence import Prompt, Seq

__all__ = ["Scheduler"]


class Scheduler:
    """As many sequences run at one time as the allowance has rows, fewer where the budget says so."""

    def __init__(self, allowance: Allowance, budget: Budget) -> None:
        self._allowance, self._budget = allowance, budget
        self.waiting: dict[int, Seq] = {}  # by ticket, the first come first
        self.running: list[Seq] = []  # in the order of the batch
        self.opened: WeakSet[Prompt] = WeakSet()  # prompts that draws may yet come of

    @property
    def max_rows(self) -> int:
        return self._allowance.rows

    def __getitem__(self, ticket: int) -> Seq:
        """An unfinished sequence."""
        return self.waiting.get(ticket) or next(seq for seq in self.running if seq.row.ticket == ticket)

    def place(self, ticket: int) -> int | None:
        """Where in the batch it is running; None: it is not."""
        return next((i for i, seq in enumerate(self.running) if seq.row.ticket == ticket), None)

    def leave(self, gone: Sequence[int]) -> None:
        """Sequences at these places stop running."""
        for place, source in vacated(len(self.running), gone):
            self.running[place] = self.running[source]
        del self.running[len(self.running) - len(gone) :]

    def prompt_states(self) -> list[Any]:
        """Of the prompts that are open, those of requests between two rounds included."""
        return [prompt.state for prompt in self.opened if prompt.state.length]

    def prompt_bytes(self) -> int:
        """What the open prompts take."""
        return stored_bytes(self.prompt_states())

    def most_rows(self, seqs: Iterable[Seq]) -> int:
        """How many rows as long as the longest of these may run at one time."""
        longest = max((seq.longest for seq in seqs), default=0)
        return min(self.max_rows, self._budget.rows(longest, self.prompt_bytes()))

    @property
    def spare_rows(self) -> int:
        """Rows left after all unfinished sequences; negative: so many wait."""
        unfinished = [*self.running, *self.waiting.values()]
        return self.most_rows(unfinished) - len(unfinished)

    def queue(self) -> list[Seq]:
        """The waiting sequences: first those of requests that have no row, then those of requests that have one, and so
        on, each time in the order they came."""
        held = Counter(seq.prompt for seq in self.running)
        ranked = []
        for seq in self.waiting.values():
            ranked.append((held[seq.prompt], seq))
            held[seq.prompt] += 1
        return [seq for _, seq in sorted(ranked, key=lambda ranked_seq: ranked_seq[0])]

    def prompts_to_prefill(self, queue: Sequence[Seq]) -> list[Prompt]:
        """Prompts without a state, of as many sequences as may have a row soon."""
        soon = self.most_rows([*self.running, *queue]) - len({seq.prompt for seq in self.running})
        return list(dict.fromkeys(seq.prompt for seq in queue[: max(1, soon)] if seq.prompt.missing))

    def admissible(self, queue: Sequence[Seq]) -> list[Seq]:
        """The first of the queue that may run beside those that do. One whose prompt is not ready lets later ones pass.

        Alone, a sequence is tried: what a token takes may not have been known when it was added, and it must not wait
        for ever."""
        admitted: list[Seq] = []
        beside = self.prompt_bytes()
        longest = max((seq.longest for seq in self.running), default=0)
        for seq in queue[: self.max_rows - len(self.running)]:
            rows, with_it = len(self.running) + len(admitted) + 1, max(longest, seq.longest)
            if not seq.prompt.missing and (rows == 1 or self._budget.fits(rows, with_it, beside)):
                admitted.append(seq)
                longest = with_it
        return admitted

    def to_preempt(self) -> int | None:
        """The place of a row that has to make way for a request that has none; None: nothing has to."""
        held = Counter(seq.prompt for seq in self.running)
        poor = {seq.prompt: seq for seq in self.waiting.values() if not seq.prompt.missing and seq.prompt not in held}
        if not poor or len(self.running) + len(poor) <= self.most_rows([*self.running, *poor.values()]):
            return None
        richest = max(held, key=lambda prompt: held[prompt], default=None)
        if richest is None or held[richest] < 2:
            return None
        return max(i for i, seq in enumerate(self.running) if seq.prompt is richest)
