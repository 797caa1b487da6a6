"""Sequential Monte Carlo for p(x)^alpha: particles grown block by block, weighed, resampled (Power-SMC, 2602.10273).

Feynman-Kac terms: particles move by q; after block b the intermediate target is p(x_1..t)^alpha_b over prefixes, so a
particle's weight grows by

    sum over the block's tokens of (alpha_b log p - log q)  +  (alpha_b - alpha_{b-1}) log p(all its earlier tokens)

The second term, the boundary term of a ramp, also falls on particles that have terminated. Without a ramp
alpha_b = alpha and it vanishes. A terminated particle is a completion: it is carried along and costs nothing.
Potentials make the target p(x)^alpha phi(x). Those that judge partial texts are part of the intermediate targets, a
factor phi(x_1..t) / phi(x_1..s) of a block's weight; the others are part of the last weight (`parts/judging.py`). Then
p(x)^alpha phi(x) stands for p(x)^alpha in what follows, and Z is the sum of it.
Resampling leaves every sum over weighted particles unbiased, and the weights it hands on are not normalised: Z_hat is
the mean weight at the end, E[Z_hat 1(x is returned)] = p(x)^alpha for every N, so E[Z_hat] = Z = sum_x p(x)^alpha. The
completion returned has law p^alpha as N grows.

Of several independent runs one answers, with probability Z_hat_r / sum Z_hat; the pooled Z_hat is their mean, and the
same identity holds for it: E[mean(Z_hat) Z_hat_r / sum Z_hat 1(x)] summed over r is the mean of E[Z_hat_r 1(x_r = x)].
(Pooling particles by their weights after resampling would forget each run's evidence.)
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from power_sampling.samplers.base import MOST_COMPLETIONS, IsOutOfTime, Sampler, SamplerOptions
from power_sampling.samplers.parts.judging import gained, judged
from power_sampling.samplers.parts.lockstep import common_prefix, lockstep
from power_sampling.samplers.parts.notes import Notes, weighed
from power_sampling.samplers.parts.resampling import (
    chopthin,
    degeneracy,
    effective_sample_size,
    log_mean_exp,
    systematic,
)
from power_sampling.samplers.parts.rng import Rng
from power_sampling.types import Answer, Chain, Chosen, Draw, Exactness, Extended, Floats, Judged, Law, Progress, Round

__all__ = ["SequentialMonteCarlo"]


class SequentialMonteCarlo(SamplerOptions):
    """Weighted particles grown together (Power-SMC, arXiv 2602.10273). Tends to p^alpha with the particles."""

    exactness: ClassVar[Exactness] = "approximate"
    takes_potentials: ClassVar[bool] = True

    name: Literal["sequential_monte_carlo"] = "sequential_monte_carlo"
    num_particles: int = Field(default=16, ge=2, le=MOST_COMPLETIONS)
    """Completions grown side by side."""
    block_size: int = Field(default=16, ge=1)
    """Tokens between two looks at the weights."""
    ess_threshold: float = Field(default=0.5, ge=0, le=1)
    """Resample when the effective sample size falls below this share of the particles; 0 never."""
    resampling: Literal["systematic", "chopthin"] = "systematic"
    """Experimental. `systematic`: equal weights afterwards; `chopthin`: weights within a ratio, so that fewer particles
    are lost."""
    ramp_tokens: int = Field(default=0, ge=0)
    """Experimental. Tokens over which alpha grows linearly from 1, per block; 0: no ramp."""
    num_runs: int = Field(default=1, ge=1, le=MOST_COMPLETIONS)
    """Experimental. Independent runs decoded together; the answer comes from one of them, drawn by its evidence."""
    proposal_temperature: float | None = Field(default=None, gt=0)
    """Temperature of the proposal q; None: temperature / alpha (of the block, on a ramp)."""

    def counts(self) -> dict[str, int]:
        return {"num_particles": self.num_particles, "num_runs": self.num_runs}

    def law(self, alpha: float, temperature: float) -> Law:
        return Law(alpha, temperature, self.proposal_temperature or temperature / alpha)

    def run(self, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime) -> Sampler:
        """One completion, drawn by weight from `num_runs` runs of `num_particles` each, with the estimate of log Z.

        Out of time, one particle is drawn by weight and finished by one extension from q.
        """
        if self.num_runs == 1:
            return (yield from _run(self, law, horizon, rng, is_out_of_time))
        runs = [_run(self, law, horizon, rng.fork(), is_out_of_time, run) for run in range(self.num_runs)]
        return _pooled((yield from lockstep(runs)), rng)


def _pooled(answers: list[Answer], rng: Rng) -> Answer:
    chains, steps = tuple(a.chain.bare() for a in answers), tuple(step for a in answers for step in a.steps)
    spent = [i for i, a in enumerate(answers) if a.is_budget_spent]  # their weights never came to an end
    if spent:
        chosen = spent[rng.integers(len(spent))]
        weights = tuple(float(a.is_budget_spent) for a in answers)
        return answers[chosen]._replace(steps=(*steps, Chosen(0, chains, weights, chosen)))
    log_z: Floats = np.array([a.log_z for a in answers], dtype=np.float64)
    if log_z.max() == -math.inf:
        return answers[0]._replace(steps=(*steps, Chosen(0, chains, None, 0)))
    evidence = np.exp(log_z - log_z.max())
    chosen = rng.categorical(evidence)
    steps += (Chosen(0, chains, tuple(evidence.tolist()), chosen),)
    ess = min(a.ess for a in answers if a.ess is not None)
    return answers[chosen]._replace(log_z=log_mean_exp(log_z), ess=ess, steps=steps)


def _run(
    options: SequentialMonteCarlo, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime, run: int = 0
) -> Sampler:
    """One of `num_particles` weighted completions, drawn by weight. `run`: its number among several."""
    n, notes = options.num_particles, Notes()
    particles = [Chain.empty()] * n
    log_weights: Floats = np.zeros(n)
    smallest_ess, roots = float(n), list(range(n))
    end, alpha = 0, law.alpha

    while end < horizon and not all(x.is_terminated for x in particles):
        if is_out_of_time():
            log_weights = log_weights + (law.alpha - alpha) * _logp(particles)
            return (yield from _finish_one(particles, log_weights, law, horizon, rng, smallest_ess, run, notes))
        start, end = end, min(end + options.block_size, horizon)
        alpha_before, alpha = alpha, _ramped(law.alpha, end, options)  # nothing is weighed before the first block
        block_law = law._replace(
            alpha=alpha,
            proposal_temperature=options.proposal_temperature or law.temperature / alpha,
        )
        log_weights = log_weights + (alpha - alpha_before) * _logp(particles)
        live = [i for i, x in enumerate(particles) if not x.is_terminated]
        by: Judged | None = "prefix" if law.judging else None
        draws = tuple(
            Draw(x := particles[i], len(x.tokens), end - len(x.tokens), block_law, rng.seed(), judged=by) for i in live
        )
        progress = Progress(
            end - 1, horizon, {"ess": effective_sample_size(log_weights), "particles": float(len(live))}
        )
        settled = common_prefix([x.tokens for x in particles])
        continuations = yield Round(draws, settled=settled, progress=progress, steps=notes.take())
        for i, continuation in zip(live, continuations, strict=True):
            grown = particles[i].spliced(len(particles[i].tokens), continuation)
            log_weights[i] += continuation.log_weight.sum() + gained(particles[i], grown)
            particles[i] = grown
        if log_weights.max() == -math.inf:  # a constraint or a potential has left no particle alive
            notes.add(weighed(start, particles, log_weights, 0.0, is_first=not start, of=run))
            return _taken(0, particles, None, run, notes, _nothing(particles))

        ess = effective_sample_size(log_weights)
        looked_at = weighed(start, particles, log_weights, ess, is_first=not start, of=run)
        smallest_ess = min(smallest_ess, ess)
        is_last = end == horizon or all(x.is_terminated for x in particles)
        if ess < options.ess_threshold * n and not is_last:
            ancestors, log_weights = _resampled(log_weights, options, rng)
            particles, looked_at = [particles[i] for i in ancestors], looked_at._replace(ancestors=tuple(ancestors))
            roots = [roots[i] for i in ancestors]
        notes.add(looked_at)

    log_weights = log_weights + (law.alpha - alpha) * _logp(particles)  # the ramp may not have reached its end
    if law.judging:
        progress = Progress(horizon - 1, horizon, {"ess": effective_sample_size(log_weights)})
        complete = yield from judged(particles, law, progress, notes.take())
        log_weights = log_weights + np.array([gained(x, y) for x, y in zip(particles, complete, strict=True)])
        particles = complete
        if log_weights.max() == -math.inf:
            return _taken(0, particles, None, run, notes, _nothing(particles))
    ess = effective_sample_size(log_weights)
    smallest_ess = min(smallest_ess, ess)
    weights = np.exp(log_weights - log_weights.max())
    chosen = rng.categorical(weights)
    answer = Answer(particles[chosen], "approximate", ess=smallest_ess, log_z=log_mean_exp(log_weights))
    answer = answer._replace(warnings=degeneracy(ess, roots))
    return _taken(chosen, particles, weights, run, notes, answer)


def _nothing(particles: list[Chain]) -> Answer:
    """Where no particle has a weight."""
    return Answer(particles[0], "approximate", ess=0.0, log_z=-math.inf)


def _taken(
    chosen: int, particles: list[Chain], weights: Floats | None, run: int, notes: Notes, answer: Answer
) -> Answer:
    """The answer with what is left to tell."""
    told = None if weights is None else tuple(weights.tolist())
    notes.add(Chosen(0, tuple(x.bare() for x in particles), told, chosen, run))
    return answer._replace(steps=notes.take())


def _resampled(log_weights: Floats, options: SequentialMonteCarlo, rng: Rng) -> tuple[list[int], Floats]:
    """Ancestors, and what their offspring weigh."""
    if options.resampling == "chopthin":
        return chopthin(log_weights, rng)
    return systematic(log_weights, rng), np.full(len(log_weights), log_mean_exp(log_weights))


def _finish_one(
    particles: list[Chain],
    log_weights: Floats,
    law: Law,
    horizon: int,
    rng: Rng,
    ess: float,
    run: int,
    notes: Notes,
) -> Sampler:
    weights = np.exp(log_weights - log_weights.max())
    chosen = rng.categorical(weights)
    chain = particles[chosen]
    notes.add(Chosen(0, tuple(x.bare() for x in particles), tuple(weights.tolist()), chosen, run))
    by: Judged | None = "final" if law.judging else None
    if not chain.is_terminated or by:
        length = 0 if chain.is_terminated else horizon - len(chain.tokens)
        draw = Draw(chain, len(chain.tokens), length, law, rng.seed(), judged=by)
        (continuation,) = yield Round((draw,), settled=chain.tokens, is_live=by is None, steps=notes.take())
        chain = chain.spliced(draw.cut, continuation)
        notes.add(Extended(draw.cut, chain.bare(), run))
    return Answer(chain, "approximate", ess=ess, is_budget_spent=True, steps=notes.take())


def _ramped(alpha: float, end: int, options: SequentialMonteCarlo) -> float:
    """alpha_b of the block that ends at `end`: linear from 1 to alpha over `ramp_tokens`."""
    return alpha if end >= options.ramp_tokens else 1 + (alpha - 1) * end / options.ramp_tokens


def _logp(particles: list[Chain]) -> Floats:
    return np.array([x.logp.sum() for x in particles])
