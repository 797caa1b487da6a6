"""Metropolis-Hastings over whole completions: Algorithm 1 of Karan & Du (arXiv 2510.14901), for variable length.

The target of a stage with horizon h is pi_h(x) = p(x)^alpha / Z over completions that end by EOS, by a stop string, or
at h tokens. A move cuts the current completion x at a position c, uniform over its len(x) positions or where the
entropy rises (`parts/cuts.py`), draws K suffixes y_1..y_K independently from q up to the horizon h (never up to the
length of x), and weighs, suffixes in full,

    log w(y) = sum_{t >= c} log_weight_t(y) - log N(y)        log w(x) likewise        N(y) = len(y) for uniform cuts

The last term is there because the cut is drawn from a range that differs from x to y. Potentials make the target
p(x)^alpha phi(x): log phi(y) and log phi(x), of the whole completions, join log w. Those that judge complete answers
alone count in the last stage, which is the one that has to be right. Multiple-try with independent
proposals: pick J with probability w_J / W, W = sum_j w_j, accept with probability min(1, W / (W - w_J + w(x)))
(`parts/accept.py`). For K = 1 that is the ordinary ratio w(y) / w(x). Chosen over i-SIR because it contains
Metropolis-Hastings and has the larger spectral gap at every small K (`benchmarks/multiple_try.py`).

Every move has a stream of chance of its own, so that proposals of later moves can be decoded in advance, in rows that
nothing else wants (`parts/prefetch.py`); the chain stays the same, token for token.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Annotated, ClassVar, Literal, NamedTuple

import numpy as np
from pydantic import Field

from power_sampling.samplers.base import MOST_COMPLETIONS, IsOutOfTime, Sampler
from power_sampling.samplers.parts.accept import Decision, decided
from power_sampling.samplers.parts.cuts import SuffixCuts, choose_cut, floors, log_span
from power_sampling.samplers.parts.mixing import has_settled
from power_sampling.samplers.parts.notes import Notes
from power_sampling.samplers.parts.prefetch import Streams, candidates
from power_sampling.samplers.parts.rng import Rng
from power_sampling.types import (
    Answer,
    Chain,
    Chosen,
    Continuation,
    Draw,
    Exactness,
    Extended,
    Judged,
    Law,
    Moved,
    Prefetch,
    Progress,
    Round,
    Step,
)

__all__ = ["MetropolisHastings", "Move", "SuffixMoves"]

PILOT_STEPS = 10  # per block before the last, where the number is left open


class SuffixMoves(SuffixCuts):
    """What a move needs to know; the options of a sampler that makes such moves."""

    num_proposals: int = Field(default=1, ge=1, le=MOST_COMPLETIONS)
    """Suffixes drawn together per move (multiple try)."""
    early_rejection: bool = True
    """Experimental. Abandon a proposal once it is certain to be rejected. Saves tokens and never changes the chain. It
    acts with one proposal and temperature / alpha <= proposal_temperature <= temperature, and beside potentials where
    each says what it is at most (`at_most`); elsewhere nothing is certain early."""


class MetropolisHastings(SuffixMoves):
    """Suffixes redrawn and accepted or rejected (Karan & Du, arXiv 2510.14901). Converges to p^alpha."""

    exactness: ClassVar[Exactness] = "asymptotic"
    takes_potentials: ClassVar[bool] = True

    name: Literal["metropolis_hastings"] = "metropolis_hastings"
    block_size: int | None = Field(default=None, ge=1)
    """Tokens by which the horizon grows from stage to stage; None: a quarter of `max_new_tokens`. The paper's sixteenth
    came no closer for twice the tokens (`benchmarks/quality.py`)."""
    num_steps: Annotated[int, Field(ge=1, le=10**9)] | Literal["auto"] = 10
    """Moves per block. `auto`: as many at full length as a pilot makes until it looks settled, 10 in the blocks before;
    the pilot is another chain, thrown away."""
    max_steps: int = Field(default=100, ge=1, le=10**9)
    """Moves at full length that `num_steps: auto` makes at most, in the pilot and in the chain."""
    proposal_temperature: float | None = Field(default=None, gt=0)
    """Temperature of the proposal q; None: temperature / alpha."""
    prefetch: int = Field(default=8, ge=0)
    """Rows up to which proposals of later moves are decoded in advance: only while fewer than these are busy with
    anything, so under load there is none. Saves time, costs tokens, never changes the chain. 0: none."""

    def counts(self) -> dict[str, int]:
        return {"num_proposals": self.num_proposals}

    def law(self, alpha: float, temperature: float) -> Law:
        return Law(alpha, temperature, self.proposal_temperature or temperature / alpha, self.cut == "entropy")

    def run(self, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime) -> Sampler:
        """A completion whose law tends to p^alpha with `num_steps`: the last stage leaves it invariant.

        Blocks grow the horizon; each is one extension from q and `num_steps` moves over the whole completion. A chain
        that has terminated at the end of a stage goes straight to the last stage, whose horizon is the full one. Out of
        time, no move is begun any more, and an open chain is finished by one extension from q.
        """
        return self.refine(Chain.empty(), law, horizon, rng, is_out_of_time)

    def refine(self, chain: Chain, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime) -> Sampler:
        """As `run`; with a given completion there is the last stage only.

        Under `auto` a pilot's states decide how many steps the chain makes. The two are independent, so the law is a
        mixture of those after fixed numbers of steps, each of which leaves p^alpha as it is. A chain that looked at
        its own states would be biased by where it stops; so would one whose pilot began at its own given completion.
        """
        steps = self.num_steps
        if steps == "auto":
            grown = Chain.empty()
            pilot = yield from self._chain(grown, law, horizon, rng.fork(), is_out_of_time, self.max_steps, of=1)
            if pilot.is_budget_spent:  # there is no time for another one
                kept = pilot if chain.end is None else pilot._replace(chain=chain, acceptance_rate=None, trace=())
                return kept._replace(steps=(*pilot.steps, Chosen(0, (kept.chain.bare(),), None, 0)))
            steps, told = len(pilot.trace), pilot.steps
            return (yield from self._chain(chain, law, horizon, rng.fork(), is_out_of_time, steps, told=told))
        return (yield from self._chain(chain, law, horizon, rng, is_out_of_time, steps))

    def _chain(
        self,
        chain: Chain,
        law: Law,
        horizon: int,
        rng: Rng,
        is_out_of_time: IsOutOfTime,
        last_steps: int,
        *,
        of: int = 0,
        told: tuple[Step, ...] = (),
    ) -> Sampler:
        """One chain; `last_steps` are those of its last stage, at most as many for a pilot (`of` 1). `told` are steps
        that no round has told yet."""
        is_given, stage_end = chain.end is not None, 0
        block_size = self.block_size or max(1, math.ceil(horizon / 4))
        per_block = PILOT_STEPS if self.num_steps == "auto" else self.num_steps
        total = (math.ceil(horizon / block_size) - 1) * (per_block + 1) + last_steps + 1
        num_tried = num_accepted = num_moved = 0
        is_spent, notes, trace = False, Notes(), list[float]()
        notes.add(*told)
        if is_given:
            notes.add(Extended(0, chain.bare(), of))

        while stage_end < horizon:
            is_last = chain.is_terminated or is_spent or is_given
            stage_end = horizon if is_last else min(stage_end + block_size, horizon)
            num_steps = last_steps if stage_end == horizon else per_block
            done = (math.ceil(stage_end / block_size) - 1) * (per_block + 1)
            move = Move(self, law, stage_end, of, is_last=stage_end == horizon)
            length = 0 if chain.is_terminated else stage_end - len(chain.tokens)
            extension = Draw(chain, len(chain.tokens), length, law, rng.seed(), judged=move.judged_by)
            stage = _Stage(move, self, num_steps, rng.fork())
            if not is_given and (length or extension.judged):
                progress = Progress(done, total, _stats(chain, num_tried, num_accepted))
                prefetch = stage.prefetch(0, extension, num_tried, num_accepted)
                asked = Round((extension,), progress=progress, prefetch=prefetch, steps=notes.take())
                (continuation,) = yield asked
                chain = chain.spliced(extension.cut, continuation)
                notes.add(Extended(extension.cut, chain.bare(), of))
            for step in range(num_steps):
                is_spent = is_spent or is_out_of_time()
                if is_spent:
                    break
                stage.forget(step)
                progress = Progress(done + step, total, _stats(chain, num_tried, num_accepted))
                prefetch = stage.prefetch(step, chain, num_tried, num_accepted)
                moved = yield from stage.move.run(chain, stage.stream(step), progress, prefetch, notes)
                num_tried, num_accepted = num_tried + 1, num_accepted + (moved is not chain)
                if stage_end == horizon:
                    num_moved += moved is not chain
                    trace.append(float(moved.logp.sum()))
                chain = moved
                if of and has_settled(trace, num_moved):
                    break

        acceptance_rate = num_accepted / num_tried if num_tried else None
        label: Exactness = "approximate" if is_spent else self.exactness
        return Answer(
            chain,
            label,
            acceptance_rate=acceptance_rate,
            is_budget_spent=is_spent,
            steps=notes.take(),
            trace=tuple(trace),
            num_moved=num_moved,
        )


def _stats(chain: Chain, num_tried: int, num_accepted: int) -> dict[str, float]:
    stats = {"logp": float(chain.logp.sum()), "length": float(len(chain.tokens))}
    return stats | {"acceptance_rate": num_accepted / num_tried} if num_tried else stats


# ---------------------------------------------------------------- one move


class Plan(NamedTuple):
    """What a move decides before it knows its proposals."""

    cut: int
    log_u: float
    seeds: tuple[int, ...]  # of its proposals


class Move(NamedTuple):
    """One multiple-try move of a stage: plan it, draw its proposals, decide. `run` does the three in order; prefetching
    does them for chains that the moves before may lead to."""

    options: SuffixMoves
    law: Law
    stage_end: int
    of: int = 0  # the chain's number among those of the sampler
    is_last: bool = True  # whether every chain that reaches the end of the stage is complete

    @property
    def judged_by(self) -> Judged | None:
        """The potentials that count in this stage."""
        return None if self.law.judging is None else "final" if self.is_last else "prefix"

    @property
    def most(self) -> float:
        """The most that log phi can be in this stage."""
        judging = self.law.judging
        return 0.0 if judging is None else judging.final if self.is_last else judging.prefix

    def run(
        self,
        chain: Chain,
        rng: Rng,
        progress: Progress,
        prefetch: Prefetch | None = None,
        notes: Notes | None = None,
    ) -> Generator[Round, list[Continuation], Chain]:
        """The chain after the move; the chain itself, the same object, where the move is rejected. What was done goes
        into the notes."""
        plan, notes = self.plan(chain, rng), notes or Notes()
        draws = self.draws(chain, plan)
        continuations = yield Round(draws, progress=progress, prefetch=prefetch, steps=notes.take())
        proposals = [chain.spliced(plan.cut, c) for c in continuations]
        accepted, log_ratio = self.decide(chain, plan, proposals, rng)
        moved = chain if accepted is None else proposals[accepted]
        told = tuple(y.bare() for y in proposals)
        notes.add(Moved(plan.cut, told, log_ratio, plan.log_u, accepted, moved.bare(), self.of))
        return moved

    def plan(self, chain: Chain, rng: Rng) -> Plan:
        """A chain that is still being drawn is taken to reach the end of the stage."""
        cut = choose_cut(chain, self.options, rng) if chain.end else rng.integers(self.stage_end)
        return Plan(cut, rng.log_uniform(), tuple(rng.seed() for _ in range(self.options.num_proposals)))

    def draws(self, chain: Chain, plan: Plan) -> tuple[Draw, ...]:
        """The proposals. A single one is rejected as soon as log w(y), with log phi(y) at its most, is below log u +
        log w(x), and the engine may abandon it there. With several, the decision needs every weight, so all are drawn
        in full."""
        length, bounds = self.stage_end - plan.cut, None
        is_single = self.options.num_proposals == 1
        is_certain = self.law.is_bounded and self.most < math.inf and chain.end is not None and chain.is_judged
        if self.options.early_rejection and is_single and is_certain:
            least = plan.log_u + self.log_w(chain, plan.cut) - self.most
            bounds = floors(chain, plan.cut, length, least, self.options)
        return tuple(Draw(chain, plan.cut, length, self.law, seed, bounds, self.judged_by) for seed in plan.seeds)

    def decide(self, chain: Chain, plan: Plan, proposals: list[Chain], rng: Rng) -> Decision:
        """Which proposal is accepted. One that was abandoned at its floors is not: what it has weighed so far bounds
        the ratio."""
        log_w = np.array([self.log_w(y, plan.cut) for y in proposals])
        if any(y.end == "floor" for y in proposals):
            return Decision(None, float(log_w.max()) + self.most - self.log_w(chain, plan.cut))
        return decided(log_w, self.log_w(chain, plan.cut), plan.log_u, rng)

    def log_w(self, chain: Chain, cut: int) -> float:
        """log w of the chain's suffix from a cut."""
        return float(chain.log_weight[cut:].sum()) - log_span(chain, self.options) + chain.log_phi


class _Stage(Streams):
    """The moves of a stage by number, each with its own stream of chance (see `prefetch.Moves`)."""

    def __init__(self, move: Move, options: MetropolisHastings, num_steps: int, rng: Rng) -> None:
        super().__init__(rng)
        self.move, self._options, self._num_steps = move, options, num_steps

    def __len__(self) -> int:
        return self._num_steps

    def draws(self, number: int, chain: Chain) -> tuple[Draw, ...]:
        has_entropy_cuts = self._options.cut == "entropy"
        if has_entropy_cuts and chain.end is None:
            return ()  # where the entropy will rise is not known
        length = len(chain.tokens) if chain.end else self.move.stage_end
        key = number, chain.tokens if has_entropy_cuts else length
        if key not in self.plans:
            self.plans[key] = self.move.plan(chain, self.stream(number))
        return self.move.draws(chain, self.plans[key])

    def outcome(self, number: int, chain: Chain, proposals: list[Chain]) -> Chain:
        rng = self.stream(number)
        accepted, _ = self.move.decide(chain, self.move.plan(chain, rng), proposals, rng)
        return chain if accepted is None else proposals[accepted]

    def prefetch(self, number: int, root: Chain | Draw, num_tried: int, num_accepted: int) -> Prefetch | None:
        rows, acceptance = self._options.prefetch, (num_accepted + 1) / (num_tried + 2)
        return Prefetch(rows, candidates(self, number, root, acceptance)) if rows else None
