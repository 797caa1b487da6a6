"""Resampling of weighted particles. Weights and indices only."""

from __future__ import annotations

import numpy as np

from power_sampling.samplers.rng import Rng
from power_sampling.types import Floats

__all__ = ["effective_sample_size", "systematic"]


def effective_sample_size(log_weights: Floats) -> float:
    """(sum w)^2 / sum w^2, in particles: 1 for a single survivor, N for equal weights."""
    w = np.exp(log_weights - log_weights.max())
    return float(w.sum() ** 2 / (w**2).sum())


def systematic(log_weights: Floats, rng: Rng) -> list[int]:
    """Ancestors of N particles: particle i is taken floor or ceil of N w_i times, N w_i on average.

    The points (j + u) / N, u uniform, fall into the cumulated weights. The result is piecewise constant in u with at
    most N + 1 pieces, so the piece is drawn, with its length as probability, and u put in its middle: no point can sit
    on an edge, and a particle of weight zero never survives. (Carpenter, Clifford & Fearnhead 1999.)
    """
    n = len(log_weights)
    w = np.exp(log_weights - log_weights.max())
    expected = np.cumsum(w) * (n / w.sum())  # expected number of points up to and including particle i
    expected[np.flatnonzero(w)[-1] :] = n  # the last particle of any weight closes the sum, whatever the rounding
    edges = np.unique(np.concatenate([[0.0, 1.0], expected % 1.0]))
    piece = rng.categorical(np.diff(edges))
    u = (edges[piece] + edges[piece + 1]) / 2
    counts = np.diff(np.ceil(expected - u).astype(int), prepend=0)
    return np.repeat(np.arange(n), counts).tolist()
