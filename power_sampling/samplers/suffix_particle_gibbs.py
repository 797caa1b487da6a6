"""Suffix particle Gibbs: sequential Monte Carlo from a random cut, the current suffix kept as one of the particles.

Target pi(x) = p(x)^alpha / Z over completions of any length. A move is two Gibbs steps on the pair (x, c), whose law is
pi(x) lambda(c | x) with lambda(c | x) = s_c / N(x), s_c a function of x_<c (`cuts.py`; uniform cuts: 1 / len(x)).

1. c from lambda(c | x).
2. x given c and its tokens u before c. That law is

       pi(x | c, u)  ~  p(x)^alpha / N(x)      over completions x that begin with u and are longer than c,

   since s_c is the same for all of them. A conditional particle filter leaves it invariant: particle 0 retraces the
   current suffix, N - 1 others are drawn from q, and one of all is picked at the end with probability proportional to
   its weight

       log w(y) = sum_{t >= c} log_weight_t(y) - log N(y).

   The length correction is thus part of the last weight, whatever the lengths of the others, and needs no ratio.

Between blocks the particles may be resampled, multinomially: each of the N - 1 others takes its ancestor among all N in
proportion to the weights, particle 0 keeps its own, and all weights become equal. Whether to do so is read off the
effective sample size, a function of the weights that does not know which particle is kept. (Andrieu, Doucet &
Holenstein 2010: their extended law of an SMC run with its lineage, Z_hat times the law of the run, has these two
conditionals; a lineage has N^(1 + times resampled) possible indices, equally likely, so it may as well sit at 0.)

Special cases: no resampling is i-SIR from a random cut; with N = 2 it is Barker's rule, w(y) / (w(x) + w(y)); a cut at
0 is particle Gibbs over the whole completion. The first completion is that of a run of sequential Monte Carlo: the
moves make its answer a chain that converges to p^alpha for every N.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

import numpy as np

from power_sampling.config import ParticleGibbs, SequentialMonteCarlo
from power_sampling.samplers.parts.cuts import choose_cut, log_span
from power_sampling.samplers.parts.resampling import effective_sample_size
from power_sampling.samplers.parts.rng import Rng
from power_sampling.samplers.sequential_monte_carlo import sequential_monte_carlo
from power_sampling.types import Answer, Chain, Continuation, Draw, Floats, Law, Progress, Round

__all__ = ["move", "suffix_particle_gibbs"]


def suffix_particle_gibbs(
    config: ParticleGibbs, law: Law, horizon: int, rng: Rng, is_over: Callable[[], bool]
) -> Generator[Round, list[Continuation], Answer]:
    """A completion whose law tends to p^alpha with `num_steps`. When `is_over()` turns true no move is begun."""
    law = config.cutting(law)
    answer = yield from _start(config, law, horizon, rng, is_over)
    chain, is_spent, num_tried, num_moved = answer.chain, answer.is_budget_spent, 0, 0
    for step in range(config.num_steps):
        is_spent = is_spent or is_over()
        if is_spent:
            break
        stats = {"logp": float(chain.logp.sum()), "length": float(len(chain.tokens))}
        progress = Progress(horizon * (step + 1), horizon * (config.num_steps + 1), stats)
        moved = yield from move(chain, horizon, config, law, rng, progress)
        num_tried, num_moved = num_tried + 1, num_moved + (moved is not chain)
        chain = moved
    return answer._replace(
        chain=chain,
        exactness="approximate" if is_spent or not config.num_steps else "asymptotic",
        acceptance_rate=num_moved / num_tried if num_tried else None,
        is_budget_spent=is_spent,
    )


def _start(
    config: ParticleGibbs, law: Law, horizon: int, rng: Rng, is_over: Callable[[], bool]
) -> Generator[Round, list[Continuation], Answer]:
    """A run of sequential Monte Carlo, of which nothing is settled."""
    start = SequentialMonteCarlo(
        num_particles=config.num_particles,
        block_size=config.block_size or SequentialMonteCarlo().block_size,
        ess_threshold=config.ess_threshold,
        proposal_temperature=config.proposal_temperature,
    )
    run = sequential_monte_carlo(start, law, horizon, rng, is_over)
    continuations: list[Continuation] | None = None
    while True:
        try:
            current = next(run) if continuations is None else run.send(continuations)
        except StopIteration as stop:
            answer: Answer = stop.value
            return answer
        total = horizon * (config.num_steps + 1)
        continuations = yield current._replace(
            settled=(), is_live=False, progress=current.progress._replace(total=total)
        )


def move(
    chain: Chain, horizon: int, config: ParticleGibbs, law: Law, rng: Rng, progress: Progress
) -> Generator[Round, list[Continuation], Chain]:
    """One cut and one conditional particle filter behind it; the chain itself where its own suffix is picked."""
    n, cut = config.num_particles, choose_cut(chain, config, rng)
    end, block_size = cut, config.block_size or horizon
    particles, log_weights = [chain.head(cut)] * n, np.zeros(n)
    while True:
        start, end = end, min(end + block_size, horizon)
        live = [i for i in range(1, n) if not particles[i].is_terminated]
        particles[0] = chain.head(end)
        log_weights[0] += chain.log_weight[start:end].sum()
        if live:
            draws = tuple(Draw(particles[i], start, end - start, law, rng.seed()) for i in live)
            continuations = yield Round(draws, progress=progress)
            for i, continuation in zip(live, continuations, strict=True):
                particles[i] = particles[i].spliced(start, continuation)
                log_weights[i] += continuation.log_weight.sum()
        is_last = end == horizon or all(x.is_terminated for x in particles)
        if is_last or log_weights.max() == -math.inf:
            break
        if effective_sample_size(log_weights) < config.ess_threshold * n:
            w: Floats = np.exp(log_weights - log_weights.max())
            particles[1:] = [particles[rng.categorical(w)] for _ in range(1, n)]
            log_weights = np.zeros(n)

    log_weights = log_weights - np.array([log_span(x, config) for x in particles])
    if log_weights.max() == -math.inf:  # nothing legal: stay, and hope for the next cut
        return chain
    return particles[rng.categorical(np.exp(log_weights - log_weights.max()))]
