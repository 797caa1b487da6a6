"""A language model that decodes rows: one batch, refilled between any two steps, over a backend that feeds tokens.

A prompt is prefilled once, and the logits at its end are kept: a draw from cut 0 takes its first token from them. A
draw from a later cut takes the cached state of what lies before, less one position, and is fed that last token. What
prompts of different requests begin with is shared. So no token is prefilled twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

from power_sampling.engines.protocol import Capabilities, Cost, RuleMaker, Stepped, Watch, no_rules
from power_sampling.engines.row import Row, context_of
from power_sampling.engines.stepped.allowance import Allowance
from power_sampling.engines.stepped.backend import Backend
from power_sampling.engines.stepped.budget import SHARE, Budget, Cached
from power_sampling.engines.stepped.prefill import PREFILL_CHUNK, Prefill
from power_sampling.engines.stepped.prefixes import PrefixCache
from power_sampling.engines.stepped.scheduler import Scheduler
from power_sampling.engines.stepped.sequence import Prompt, Seq
from power_sampling.engines.stepped.snapshots import SNAPSHOTS
from power_sampling.engines.stepped.states import States
from power_sampling.errors import OutOfMemoryError, PowerSamplingError
from power_sampling.types import Continuation, Draw, Floats, Law, Ranked, Termination, Tokens

__all__ = ["SteppedEngine"]

GIVEN_CHUNK = 64  # given tokens whose logits over the vocabulary exist at one time


class SteppedEngine:
    """The `LanguageModel` of a backend.

    `prompt_memory` bytes of prompts are kept across requests. Open prompts and the rows in decoding
    take `kv_memory` bytes at most, by default a share of what is free, and other draws wait; what they leave holds
    states of chains, which may be forked: the oldest go first, and are computed again at need. When memory runs out all
    the same, the batch is halved, its rows go on from their tokens, and nothing is drawn twice; it grows again after a
    while. Where a state cannot be cut, `snapshots` of it are kept of one row besides those at the ends of prompts and
    draws, and a draw from a cut between two is fed the tokens after the first again.
    """

    capabilities = Capabilities.every()

    def __init__(
        self,
        backend: Backend,
        *,
        rules: RuleMaker = no_rules,
        max_rows: int = 32,
        prompt_memory: int = 0,
        kv_memory: int | None = None,
        snapshots: int = SNAPSHOTS,
    ) -> None:
        self.backend, self.rules = backend, rules
        nbytes = int(SHARE * backend.free_bytes()) if kv_memory is None else kv_memory
        self._budget = Budget(nbytes, backend.empty, backend.slack)
        self._allowance = Allowance(max_rows, PREFILL_CHUNK)
        self._prefill = Prefill(backend, PrefixCache(prompt_memory, backend.empty), self._budget, self._allowance)
        self.scheduler = Scheduler(self._allowance, self._budget)
        self._states = States(backend, self.scheduler, self._budget, self._prefill, snapshots)
        self._tickets = count()
        self._finished: list[tuple[int, Continuation]] = []
        self._failed: list[tuple[int, PowerSamplingError]] = []

    # ------------------------------------------------------------ the protocol

    @property
    def vocab_size(self) -> int:
        return self.backend.vocab_size

    @property
    def context_window(self) -> int | None:
        return self.backend.context_window

    @property
    def cost(self) -> Cost:
        backend = self.backend
        return Cost(backend.forward_calls, backend.serial_steps, backend.row_steps, self._prefill.tokens)

    def open(self, prompt: Tokens, termination: Termination) -> Prompt:
        opened = Prompt(prompt, termination.eos_ids, self.rules(termination), self.backend.empty)
        self.scheduler.opened.add(opened)
        return opened

    def add(self, prompt: Prompt, draw: Draw) -> int:
        ticket = next(self._tickets)
        context = context_of(prompt.tokens, draw)
        cached = self._states.cached(draw.chain.memo, len(context) - 1) if draw.cut else Cached(self.backend.empty)
        seq = Seq(Row(ticket, draw, prompt.eos_ids, _watch(prompt, draw)), prompt, cached, context)
        beside = self._budget.kept(len(prompt.tokens))
        if not self._budget.fits(1, seq.longest, beside):
            needed = self._budget.needed(1, seq.longest) + beside
            raise OutOfMemoryError(
                f"{seq.longest} tokens take {needed >> 20} MiB of keys, values and other states, the prompt's own "
                f"included; {self._budget.nbytes >> 20} MiB may be used. Shorten the prompt, lower max_new_tokens, or "
                "raise kv_memory."
            )
        self.scheduler.waiting[ticket] = seq
        return ticket

    def drop(self, ticket: int) -> None:
        if self.scheduler.waiting.pop(ticket, None) is None and (place := self.scheduler.place(ticket)) is not None:
            self._states.leave([place])

    def so_far(self, ticket: int) -> Continuation:
        seq = self.scheduler[ticket]
        return seq.row.so_far(memo=seq)

    def set_floors(self, ticket: int, floors: Floats | None) -> None:
        self.scheduler[ticket].row.floors = floors

    @property
    def spare_rows(self) -> int:
        return self.scheduler.spare_rows

    def step(self) -> Stepped:
        decoded: list[int] = []
        try:
            weighed = self._admit()
            decoded = [*weighed, *self._decode()]
            self._retire()
            self._states.take_snapshots()
            self._allowance.went_well()
        except (RuntimeError, MemoryError) as error:
            if not self.backend.is_out_of_memory(error) or not self._halve():
                raise
        finished, self._finished = self._finished, []
        failed, self._failed = self._failed, []
        return Stepped(decoded, finished, failed)

    def reset(self) -> None:
        self.scheduler.waiting.clear()
        self._finished.clear()
        self._failed.clear()
        self._clear()

    def score(self, prompt: Tokens, tokens: Tokens, temperature: float) -> Floats:
        """log p(x_t | x_<t) by fresh passes over prompt and tokens, nothing cached. Shape (T,)."""
        fresh = Prompt(prompt, frozenset(), None, self.backend.empty)
        while fresh.missing:
            self._prefill.feed([fresh])
        return self.backend.score(fresh.state, fresh.logits, tokens, temperature)

    def ranked(self, prompt: Prompt, tokens: Tokens, law: Law, count: int) -> Iterator[Sequence[Ranked]]:
        """Behind the prompt's own state, one row at a time."""
        while prompt.missing:
            self._prefill.feed([prompt])
        yield from self.backend.ranked(prompt.state, prompt.logits, tokens, law, count)

    # ------------------------------------------------------------ the parts of a step

    def _admit(self) -> list[int]:
        """Let waiting sequences run while rows and memory last, after one pass for prompts that have no state yet. Of
        those with given tokens, one gets on by a pass and waits; its ticket is returned."""
        if not self.scheduler.waiting:
            return []
        while (place := self.scheduler.to_preempt()) is not None:
            self._states.preempt(place)
        queue = self.scheduler.queue()
        self._prefill.prepare(self.scheduler.prompts_to_prefill(queue))
        admitted = self.scheduler.admissible(queue)
        for seq, state in zip(admitted, self._states.to_start_from(admitted), strict=True):
            seq.cached = self._budget.retain(state)
        self._choose_first_tokens([seq for seq in admitted if seq.starts_at_prompt])
        weighed = [seq for seq in admitted if seq.row.given and not seq.row.is_over][:1]
        for seq in weighed:
            self._weigh_given(seq)
        admitted = [seq for seq in admitted if seq.row.is_over or not (seq.row.given or seq in weighed)]
        for seq in admitted:
            del self.scheduler.waiting[seq.row.ticket]
        self._finished += [(seq.row.ticket, self._states.ended_waiting(seq)) for seq in admitted if seq.row.end]
        self._note_failed(admitted)
        self._enter([seq for seq in admitted if not seq.row.is_over])
        return [seq.row.ticket for seq in weighed]

    def _weigh_given(self, seq: Seq) -> None:
        """The next given tokens of a row, by one pass."""
        piece = (seq.last_token, *seq.row.given[:-1])[: min(GIVEN_CHUNK, self._allowance.chunk)]
        state, logits = self.backend.prefill_each(seq.cached.state, piece)
        self._prefill.count(seq.prompt, piece)
        for each in logits:
            if not seq.row.is_over:
                seq.row.push(*self.backend.choose([each], [seq.row])[0])
        seq.cached = self._budget.retain(self._states.thinned(seq, state))

    def _choose_first_tokens(self, seqs: Sequence[Seq]) -> None:
        """From the logits at the ends of their prompts."""
        if seqs:
            choices = self.backend.choose([seq.prompt.logits for seq in seqs], [seq.row for seq in seqs])
            for seq, choice in zip(seqs, choices, strict=True):
                seq.row.push(*choice)

    def _enter(self, seqs: Sequence[Seq]) -> None:
        self.scheduler.running += seqs
        if seqs:
            states = [seq.cached.state for seq in seqs]
            self._states.make_room(entering=len(seqs))
            self.backend.enter(states, self.scheduler.most_rows(self.scheduler.running))

    def _decode(self) -> list[int]:
        """One token for every row."""
        running = self.scheduler.running
        if not running:
            return []
        chosen = self.backend.decode([seq.row for seq in running], [seq.last_token for seq in running])
        for row, choice in chosen:
            row.push(*choice)
        return [row.ticket for row, _ in chosen]

    def _retire(self) -> None:
        """Rows that have ended leave the batch."""
        running = self.scheduler.running
        over = [i for i, seq in enumerate(running) if seq.row.is_over]
        self._finished += [(running[i].row.ticket, self._states.continuation(i)) for i in over if running[i].row.end]
        self._note_failed([running[i] for i in over])
        self._states.leave(over)
        if over:
            self._states.make_room()

    def _note_failed(self, seqs: Sequence[Seq]) -> None:
        self._failed += [(seq.row.ticket, seq.row.fault) for seq in seqs if seq.row.fault]

    def _halve(self) -> bool:
        """After an allocation failed: give everything back, and go on with half as much at a time. False: there is
        nothing left to halve."""
        scheduler = self.scheduler
        if not self._allowance.halve(len(scheduler.running)):
            return False
        known = {ticket for ticket, _ in (*self._finished, *self._failed)}
        ended = [seq.row for seq in scheduler.running if seq.row.end and seq.row.ticket not in known]
        self._finished += [(row.ticket, row.continuation()) for row in ended]
        self._note_failed([seq for seq in scheduler.running if seq.row.ticket not in known])
        again = {seq.row.ticket: seq for seq in scheduler.running if not seq.row.is_over}
        scheduler.waiting = {**again, **scheduler.waiting}
        self._clear()
        self._prefill.prefixes.clear()
        self._budget.evict(0)
        return True

    def _clear(self) -> None:
        """Forget all rows in decoding."""
        self.scheduler.running.clear()
        self.backend.clear()


def _watch(prompt: Prompt, draw: Draw) -> Watch | None:
    """Of the draw's row: forked from the chain's own, so that what is kept is not watched again."""
    if prompt.rule is None:
        return None
    memo = draw.chain.memo
    if isinstance(memo, Seq) and memo.prompt.rule is prompt.rule and memo.row.watch is not None:
        return memo.row.watch.fork(draw.cut)
    if isinstance(memo, Cached) and memo.rule is prompt.rule and memo.watch is not None:
        return memo.watch.fork(draw.cut)
    return prompt.rule.watch(draw.chain.tokens[: draw.cut])
