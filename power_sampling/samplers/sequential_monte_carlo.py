"""Sequential Monte Carlo for p(x)^alpha: particles grown block by block, weighed, resampled (Power-SMC, 2602.10273).

Feynman-Kac terms: particles move by q; after block b the intermediate target is p(x_1..t)^alpha_b over prefixes, so a
particle's weight grows by

    sum over the block's tokens of (alpha_b log p - log q)  +  (alpha_b - alpha_{b-1}) log p(all its earlier tokens)

The second term, the boundary term of a ramp, also falls on particles that have terminated. Without a ramp
alpha_b = alpha and it vanishes. A terminated particle is a completion: it is carried along and costs nothing.
Resampling leaves every sum over weighted particles unbiased, and the weights it hands on are not normalised: Z_hat is
the mean weight at the end, E[Z_hat 1(x is returned)] = p(x)^alpha for every N, so E[Z_hat] = Z = sum_x p(x)^alpha. The
completion returned has law p^alpha as N grows.

Of several independent runs one answers, with probability Z_hat_r / sum Z_hat; the pooled Z_hat is their mean, and the
same identity holds for it: E[mean(Z_hat) Z_hat_r / sum Z_hat 1(x)] summed over r is the mean of E[Z_hat_r 1(x_r = x)].
(Pooling particles by their weights after resampling would forget each run's evidence.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator

import numpy as np

from power_sampling.config import SequentialMonteCarlo
from power_sampling.samplers.parts.lockstep import common_prefix, together
from power_sampling.samplers.parts.resampling import chopthin, effective_sample_size, log_mean_exp, systematic
from power_sampling.samplers.parts.rng import Rng
from power_sampling.types import Answer, Chain, Continuation, Draw, Floats, Law, Progress, Round

__all__ = ["sequential_monte_carlo"]


def sequential_monte_carlo(
    config: SequentialMonteCarlo, law: Law, horizon: int, rng: Rng, is_over: Callable[[], bool]
) -> Generator[Round, list[Continuation], Answer]:
    """One completion, drawn by weight from `num_runs` runs of `num_particles` each, with the estimate of log Z."""
    if config.num_runs == 1:
        return (yield from _run(config, law, horizon, rng, is_over))
    runs = [_run(config, law, horizon, rng.fork(), is_over) for _ in range(config.num_runs)]
    return _pooled((yield from together(runs)), rng)


def _pooled(answers: list[Answer], rng: Rng) -> Answer:
    spent = [a for a in answers if a.is_budget_spent]  # their weights never came to an end
    if spent:
        return spent[rng.integers(len(spent))]
    log_z: Floats = np.array([a.log_z for a in answers], dtype=np.float64)
    if log_z.max() == -math.inf:
        return answers[0]
    chosen = answers[rng.categorical(np.exp(log_z - log_z.max()))]
    ess = min(a.ess for a in answers if a.ess is not None)
    return chosen._replace(log_z=log_mean_exp(log_z), ess=ess)


def _run(
    config: SequentialMonteCarlo, law: Law, horizon: int, rng: Rng, is_over: Callable[[], bool]
) -> Generator[Round, list[Continuation], Answer]:
    """One of `num_particles` weighted completions, drawn by weight.

    When `is_over()` turns true one particle is drawn by weight and finished by one extension from q.
    """
    n = config.num_particles
    particles = [Chain.empty()] * n
    log_weights: Floats = np.zeros(n)
    smallest_ess = float(n)
    end, alpha = 0, law.alpha

    while end < horizon and not all(x.is_terminated for x in particles):
        if is_over():
            return (yield from _finish_one(particles, log_weights, law, alpha, horizon, rng, smallest_ess))
        end = min(end + config.block_size, horizon)
        alpha_before, alpha = alpha, _ramped(law.alpha, end, config)  # nothing is weighed before the first block
        block_law = law._replace(
            alpha=alpha,
            proposal_temperature=config.proposal_temperature or law.temperature / alpha,
        )
        log_weights = log_weights + (alpha - alpha_before) * _logp(particles)
        live = [i for i, x in enumerate(particles) if not x.is_terminated]
        draws = tuple(Draw(x := particles[i], len(x.tokens), end - len(x.tokens), block_law, rng.seed()) for i in live)
        progress = Progress(
            end - 1, horizon, {"ess": effective_sample_size(log_weights), "particles": float(len(live))}
        )
        continuations = yield Round(draws, settled=common_prefix([x.tokens for x in particles]), progress=progress)
        for i, continuation in zip(live, continuations, strict=True):
            log_weights[i] += continuation.log_weight.sum()
            particles[i] = particles[i].spliced(len(particles[i].tokens), continuation)
        if log_weights.max() == -math.inf:  # a constraint has left no particle alive
            return Answer(particles[0], "approximate", ess=0.0, log_z=-math.inf)

        ess = effective_sample_size(log_weights)
        smallest_ess = min(smallest_ess, ess)
        is_last = end == horizon or all(x.is_terminated for x in particles)
        if ess < config.ess_threshold * n and not is_last:
            ancestors, log_weights = _resampled(log_weights, config, rng)
            particles = [particles[i] for i in ancestors]

    log_weights = log_weights + (law.alpha - alpha) * _logp(particles)  # the ramp may not have reached its end
    smallest_ess = min(smallest_ess, effective_sample_size(log_weights))
    chosen = rng.categorical(np.exp(log_weights - log_weights.max()))
    return Answer(particles[chosen], "approximate", ess=smallest_ess, log_z=log_mean_exp(log_weights))


def _resampled(log_weights: Floats, config: SequentialMonteCarlo, rng: Rng) -> tuple[list[int], Floats]:
    """Ancestors, and what their offspring weigh."""
    if config.resampling == "chopthin":
        return chopthin(log_weights, rng)
    return systematic(log_weights, rng), np.full(len(log_weights), log_mean_exp(log_weights))


def _finish_one(
    particles: list[Chain], log_weights: Floats, law: Law, alpha: float, horizon: int, rng: Rng, ess: float
) -> Generator[Round, list[Continuation], Answer]:
    log_weights = log_weights + (law.alpha - alpha) * _logp(particles)
    chain = particles[rng.categorical(np.exp(log_weights - log_weights.max()))]
    if not chain.is_terminated:
        draw = Draw(chain, len(chain.tokens), horizon - len(chain.tokens), law, rng.seed())
        (continuation,) = yield Round((draw,), settled=chain.tokens, is_live=True)
        chain = chain.spliced(len(chain.tokens), continuation)
    return Answer(chain, "approximate", ess=ess, is_budget_spent=True)


def _ramped(alpha: float, end: int, config: SequentialMonteCarlo) -> float:
    """alpha_b of the block that ends at `end`: linear from 1 to alpha over `ramp_tokens`."""
    return alpha if end >= config.ramp_tokens else 1 + (alpha - 1) * end / config.ramp_tokens


def _logp(particles: list[Chain]) -> Floats:
    return np.array([x.logp.sum() for x in particles])
