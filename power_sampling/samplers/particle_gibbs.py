"""Suffix particle Gibbs: sequential Monte Carlo from a random cut, the current suffix kept as one of the particles.

Target pi(x) = p(x)^alpha / Z over completions of any length. A move is two Gibbs steps on the pair (x, c), whose law is
pi(x) lambda(c | x) with lambda(c | x) = s_c / N(x), s_c a function of x_<c (`parts/cuts.py`; uniform cuts: 1 / len(x)).

1. c from lambda(c | x).
2. x given c and its tokens u before c. That law is

       pi(x | c, u)  ~  p(x)^alpha / N(x)      over completions x that begin with u and are longer than c,

   since s_c is the same for all of them. A conditional particle filter leaves it invariant: particle 0 retraces the
   current suffix, N - 1 others are drawn from q, and one of all is picked at the end with probability proportional to
   its weight

       log w(y) = sum_{t >= c} log_weight_t(y) - log N(y).

   The length correction is thus part of the last weight, whatever the lengths of the others, and needs no ratio.

Potentials make the target p(x)^alpha phi(x), and log phi(y) part of log w(y): phi(u) is the same for all particles and
left out. Those that judge partial texts are factors of the blocks' weights, the current suffix judged as far as it has
been retraced; the others are part of the last weight (`parts/judging.py`).

Between blocks the particles may be resampled, multinomially: each of the N - 1 others takes its ancestor among all N in
proportion to the weights, particle 0 keeps its own, and all weights become equal. Whether to do so is read off the
effective sample size, a function of the weights that does not know which particle is kept. (Andrieu, Doucet &
Holenstein 2010: their extended law of an SMC run with its lineage, Z_hat times the law of the run, has these two
conditionals; a lineage has N^(1 + times resampled) possible indices, equally likely, so it may as well sit at 0.)

Special cases: no resampling is i-SIR from a random cut; with N = 2 it is Barker's rule, w(y) / (w(x) + w(y)); a cut at
0 is particle Gibbs over the whole completion. The first completion is that of a run of sequential Monte Carlo: the
moves make its answer a chain that converges to p^alpha for every N.

Every move has a stream of chance of its own, so that suffixes of later moves can be decoded in advance where the
weights are looked at once, at the end (`parts/prefetch.py`).
"""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import ClassVar, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from power_sampling.errors import ConfigurationError
from power_sampling.samplers.base import MOST_COMPLETIONS, IsOutOfTime, Sampler
from power_sampling.samplers.parts.cuts import SuffixCuts, choose_cut, log_span
from power_sampling.samplers.parts.judging import gained, judged, judgement
from power_sampling.samplers.parts.lockstep import with_rounds
from power_sampling.samplers.parts.notes import Notes, weighed
from power_sampling.samplers.parts.prefetch import Streams, candidates
from power_sampling.samplers.parts.resampling import effective_sample_size
from power_sampling.samplers.parts.rng import Rng
from power_sampling.samplers.sequential_monte_carlo import SequentialMonteCarlo
from power_sampling.types import (
    Answer,
    Chain,
    Continuation,
    Draw,
    Exactness,
    Extended,
    Floats,
    Judged,
    Law,
    Moved,
    Prefetch,
    Progress,
    Round,
)

__all__ = ["ParticleGibbs", "move"]


class ParticleGibbs(SuffixCuts):
    """Sequential Monte Carlo made an exact chain: suffixes redrawn by particles among which the current one is kept
    (Andrieu, Doucet & Holenstein 2010). Converges to p^alpha with the steps, whatever the number of particles."""

    exactness: ClassVar[Exactness] = "asymptotic"
    takes_potentials: ClassVar[bool] = True

    name: Literal["particle_gibbs"] = "particle_gibbs"
    num_particles: int = Field(default=8, ge=2, le=MOST_COMPLETIONS)
    """Suffixes grown side by side, the current one among them."""
    num_steps: int = Field(default=4, ge=0, le=10**9)
    """Moves after the run of sequential Monte Carlo that makes the first completion."""
    block_size: int | None = Field(default=None, ge=1)
    """Tokens between two looks at the weights of the suffixes; None: no look before the end, so that a move is a choice
    among independent suffixes (i-SIR; with two particles Barker's rule)."""
    ess_threshold: float = Field(default=0.5, ge=0, le=1)
    """Resample when the effective sample size falls below this share of the particles; 0 never, 1 at every look."""
    proposal_temperature: float | None = Field(default=None, gt=0)
    """Temperature of the proposal q; None: temperature / alpha."""
    prefetch: int = Field(default=0, ge=0)
    """Rows up to which suffixes of later moves are decoded in advance, in rows that nothing else wants; only where
    `block_size` is None. Saves time, costs tokens, never changes the chain. 0: none."""

    @model_validator(mode="after")
    def _check_prefetch(self) -> Self:
        if self.prefetch and self.block_size is not None:
            raise ConfigurationError(
                f"prefetch: expected 0 beside block_size={self.block_size}, got {self.prefetch}: suffixes that are "
                "resampled at every block cannot be decoded in advance. Leave one of the two out."
            )
        return self

    def counts(self) -> dict[str, int]:
        return {"num_particles": self.num_particles}

    def law(self, alpha: float, temperature: float) -> Law:
        return Law(alpha, temperature, self.proposal_temperature or temperature / alpha, self.cut == "entropy")

    def run(self, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime) -> Sampler:
        """A completion whose law tends to p^alpha with `num_steps`. Out of time, no move is begun any more."""
        total = horizon * (self.num_steps + 1)

        def unsettled(current: Round) -> Round:
            """A round of the first run, whose tokens the moves may still change."""
            progress = current.progress._replace(total=total)
            return current._replace(settled=(), is_live=False, progress=progress)

        answer = yield from with_rounds(self._first_run().run(law, horizon, rng, is_out_of_time), unsettled)
        return (yield from self._refined(answer, law, horizon, rng, is_out_of_time))

    def refine(self, chain: Chain, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime) -> Sampler:
        """The moves alone, from a given completion."""
        given = Answer(chain, self.exactness, steps=(Extended(0, chain.bare()),))
        return (yield from self._refined(given, law, horizon, rng, is_out_of_time))

    def _refined(self, answer: Answer, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime) -> Sampler:
        total = horizon * (self.num_steps + 1)
        chain, is_spent, num_tried, num_moved = answer.chain, answer.is_budget_spent, 0, 0
        notes, trace, moves = Notes(), list[float](), _Moves(self, law, horizon, rng.fork())
        notes.add(*answer.steps)
        for step in range(self.num_steps):
            is_spent = is_spent or is_out_of_time()
            if is_spent:
                break
            stats = {"logp": float(chain.logp.sum()), "length": float(len(chain.tokens))}
            progress = Progress(horizon * (step + 1), total, stats)
            moves.forget(step)
            prefetch = moves.prefetch(step, chain, (num_moved + 1) / (num_tried + 2))
            moved = yield from move(chain, horizon, self, law, moves.stream(step), progress, notes, prefetch)
            num_tried, num_moved = num_tried + 1, num_moved + (moved is not chain)
            chain = moved
            trace.append(float(chain.logp.sum()))
        return answer._replace(
            chain=chain,
            exactness="approximate" if is_spent or not self.num_steps else self.exactness,
            acceptance_rate=num_moved / num_tried if num_tried else None,
            is_budget_spent=is_spent,
            steps=notes.take(),
            trace=tuple(trace),
            num_moved=num_moved,
            warnings=() if num_tried else answer.warnings,  # of the first run, which the moves leave behind
        )

    def _first_run(self) -> SequentialMonteCarlo:
        """What makes the first completion."""
        return SequentialMonteCarlo(
            num_particles=self.num_particles,
            block_size=self.block_size or SequentialMonteCarlo().block_size,
            ess_threshold=self.ess_threshold,
            proposal_temperature=self.proposal_temperature,
        )


def move(
    chain: Chain,
    horizon: int,
    options: ParticleGibbs,
    law: Law,
    rng: Rng,
    progress: Progress,
    notes: Notes | None = None,
    prefetch: Prefetch | None = None,
) -> Generator[Round, list[Continuation], Chain]:
    """One cut and one conditional particle filter behind it; the chain itself where its own suffix is picked. What was
    done goes into the notes."""
    n, cut, notes = options.num_particles, choose_cut(chain, options, rng), notes or Notes()
    end, block_size = cut, options.block_size or horizon
    by: Judged | None = "prefix" if law.judging else None
    particles, log_weights = [chain.head(cut)] * n, np.zeros(n)
    while True:
        start, end = end, min(end + block_size, horizon)
        live = [i for i in range(1, n) if not particles[i].is_terminated]
        before, particles[0] = particles[:], chain.head(end)
        log_weights[0] += chain.log_weight[start:end].sum()
        draws = [Draw(particles[i], start, end - start, law, rng.seed(), judged=by) for i in live]
        if by:
            live, draws = [*live, 0], [*draws, judgement(particles[0], law, by)]
        if draws:
            continuations = yield Round(tuple(draws), progress=progress, prefetch=prefetch, steps=notes.take())
            for i, draw, continuation in zip(live, draws, continuations, strict=True):
                particles[i] = particles[i].spliced(draw.cut, continuation)
                log_weights[i] += continuation.log_weight.sum() + gained(before[i], particles[i])
        is_last = end == horizon or all(x.is_terminated for x in particles)
        if is_last or log_weights.max() == -math.inf:
            break
        ess = effective_sample_size(log_weights)
        looked_at = weighed(start, particles, log_weights, ess, is_first=start == cut)
        if ess < options.ess_threshold * n:
            w: Floats = np.exp(log_weights - log_weights.max())
            ancestors = [0, *(rng.categorical(w) for _ in range(1, n))]
            looked_at = looked_at._replace(ancestors=tuple(ancestors))
            particles = [particles[i] for i in ancestors]
            log_weights = np.zeros(n)
        notes.add(looked_at)

    if law.judging and log_weights.max() > -math.inf:
        complete = [chain, *(yield from judged(particles[1:], law, progress, notes.take()))]
        log_weights = log_weights + np.array([gained(x, y) for x, y in zip(particles, complete, strict=True)])
        particles = complete
    log_weights = log_weights - np.array([log_span(x, options) for x in particles])
    picked = _picked(log_weights, rng)
    ess = effective_sample_size(log_weights) if log_weights.max() > -math.inf else 0.0
    moved = particles[picked] if picked else chain
    notes.add(weighed(start, particles, log_weights, ess, is_first=start == cut))
    told = tuple(x.bare() for x in particles[1:])
    notes.add(Moved(cut, told, None, None, None if moved is chain else picked - 1, moved.bare()))
    return moved


def _picked(log_weights: Floats, rng: Rng) -> int:
    """By weight; where nothing is legal the kept one, in hope for the next cut."""
    top = float(log_weights.max())
    return rng.categorical(np.exp(log_weights - top)) if top > -math.inf else 0


class _Moves(Streams):
    """The moves by number, as far as they look at the weights once (see `prefetch.Moves`)."""

    def __init__(self, options: ParticleGibbs, law: Law, horizon: int, rng: Rng) -> None:
        super().__init__(rng)
        self._options, self._law, self._horizon = options, law, horizon

    def __len__(self) -> int:
        return self._options.num_steps

    def draws(self, number: int, chain: Chain) -> tuple[Draw, ...]:
        has_entropy_cuts = self._options.cut == "entropy"
        if has_entropy_cuts and chain.end is None:
            return ()  # where the entropy will rise is not known
        length = len(chain.tokens) if chain.end else self._horizon
        key = number, chain.tokens if has_entropy_cuts else length
        if key not in self.plans:
            self.plans[key] = self._planned(self.stream(number), chain)
        cut, seeds = self.plans[key]
        return tuple(Draw(chain, cut, self._horizon - cut, self._law, seed) for seed in seeds)

    def outcome(self, number: int, chain: Chain, proposals: list[Chain]) -> Chain:
        rng, particles = self.stream(number), [chain, *proposals]
        cut, _ = self._planned(rng, chain)
        log_weights = [x.log_weight[cut:].sum() - log_span(x, self._options) for x in particles]
        return particles[_picked(np.array(log_weights), rng)]

    def prefetch(self, number: int, chain: Chain, acceptance: float) -> Prefetch | None:
        rows = self._options.prefetch if self._law.judging is None else 0  # a judge is not asked in advance
        return Prefetch(rows, candidates(self, number, chain, acceptance)) if rows else None

    def _planned(self, rng: Rng, chain: Chain) -> tuple[int, list[int]]:
        """Cut and seeds, in the order in which `move` draws them."""
        cut = choose_cut(chain, self._options, rng) if chain.end else rng.integers(self._horizon)
        return cut, [rng.seed() for _ in range(1, self._options.num_particles)]
