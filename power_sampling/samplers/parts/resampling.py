"""Resampling of weighted particles. Weights and indices only."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from power_sampling.samplers.parts.rng import Rng
from power_sampling.types import Floats

__all__ = ["chopthin", "degeneracy", "effective_sample_size", "log_mean_exp", "systematic"]

LEAST_ESS = 2.0  # particles, below which a weighted choice is hardly one

RATIO = 3 + math.sqrt(8)  # of the largest to the smallest weight after chopthin: the effective sample size is >= N / 2


def effective_sample_size(log_weights: Floats) -> float:
    """(sum w)^2 / sum w^2, in particles: 1 for a single survivor, N for equal weights."""
    w = np.exp(log_weights - log_weights.max())
    return float(w.sum() ** 2 / (w**2).sum())


def degeneracy(ess: float, roots: Sequence[int]) -> tuple[str, ...]:
    """What is to be said of weighted particles at the end, where few of them count. `roots`: of each the particle of
    the first block that it descends from."""
    n, told = len(roots), []
    if ess < min(LEAST_ESS, (n + 1) / 2):
        told.append(f"One particle outweighs the others: the effective sample size at the end is {ess:.1f} of {n}.")
    if len(set(roots)) == 1:
        told.append(f"All {n} particles descend from one of the first block: few beginnings were tried.")
    return tuple(told)


def log_mean_exp(log_weights: Floats) -> float:
    """The logarithm of the mean weight."""
    return float(np.logaddexp.reduce(log_weights)) - math.log(len(log_weights))


def systematic(log_weights: Floats, rng: Rng) -> list[int]:
    """Ancestors of N particles: particle i is taken floor or ceil of N w_i times, N w_i on average.
    (Carpenter, Clifford & Fearnhead 1999.)"""
    w = np.exp(log_weights - log_weights.max())
    return np.repeat(np.arange(len(w)), _counts(w * (len(w) / w.sum()), rng)).tolist()


def chopthin(log_weights: Floats, rng: Rng) -> tuple[list[int], Floats]:
    """Ancestors of N particles and their log weights, none more than RATIO times another (Gandy & Lau 2016).

    With a threshold a, a particle of weight w has h(w) offspring on average: w / a (weight a each) where w < a, one
    (weight w) up to RATIO a / 2, and 2 w / (RATIO a), that rounded down or up (equal parts of w), above. The weight it
    passes on is w on average each time, so every sum over weighted particles stays unbiased. a solves sum h = N; h has
    its kinks at w = a and w = RATIO a / 2, and between two kinks the sum is (light + 2 heavy / RATIO) / a + medium.
    """
    n, top = len(log_weights), float(log_weights.max())
    w = np.exp(log_weights - top)
    kinks = np.unique(np.concatenate([w, 2 * w / RATIO]))
    kinks = kinks[kinks > 0]
    num_below = sum(_offspring(w, a).sum() >= n for a in kinks)  # the sum falls with a
    below = kinks[num_below - 1] if num_below else 0.0
    middle = (below + kinks[min(num_below, len(kinks) - 1)]) / 2
    light, heavy = w < middle, 2 * w > RATIO * middle
    num_medium = n - int(light.sum() + heavy.sum())
    a = float(w[light].sum() + 2 * w[heavy].sum() / RATIO) / (n - num_medium) if num_medium < n else middle
    counts = _counts(_offspring(w, a), rng)
    passed_on = np.where(w < a, a, w / np.maximum(counts, 1))
    ancestors = np.repeat(np.arange(n), counts)
    return ancestors.tolist(), np.log(passed_on[ancestors]) + top


def _offspring(w: Floats, a: float) -> Floats:
    """h(w), the expected number of offspring."""
    return np.asarray(np.where(w < a, w / a, np.maximum(1.0, 2 * w / (RATIO * a))))


def _counts(means: Floats, rng: Rng) -> NDArray[np.int_]:
    """How often each particle is taken: floor or ceil of its mean, the mean on average. The means sum to N.

    The points j + u, u uniform, fall into the cumulated means. The result is piecewise constant in u with at most N + 1
    pieces, so the piece is drawn, with its length as probability, and u put in its middle: no point can sit on an edge,
    and a particle of mean zero never survives.
    """
    n = len(means)
    expected = np.cumsum(means)  # expected number of points up to and including particle i
    last = np.flatnonzero(means)[-1]  # the last particle of any weight closes the sum, whatever the rounding
    expected[last:] = n
    edges = np.unique(np.concatenate([[0.0, 1.0], expected % 1.0]))
    piece = rng.categorical(np.diff(edges))
    u = (edges[piece] + edges[piece + 1]) / 2
    reached = np.ceil(expected - u).astype(int)
    reached[last:] = n  # the middle of a piece of 1e-16 is one of its ends
    return np.asarray(np.diff(reached, prepend=0))
