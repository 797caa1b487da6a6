"""The decision of a Metropolis-Hastings move, for one proposal or several."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from power_sampling.samplers.parts.rng import Rng
from power_sampling.types import Floats

__all__ = ["Decision", "decided"]


class Decision(NamedTuple):
    """Of a move."""

    accepted: int | None  # which proposal
    log_ratio: float


def decided(log_w: Floats, log_w_chain: float, log_u: float, rng: Rng) -> Decision:
    """Multiple-try Metropolis with independent proposals.

    Pick J with probability w_J / W, W = sum_j w_j; accept it with probability min(1, W / (W - w_J + w(x))). For one
    proposal that is the ordinary ratio w(y) / w(x). A proposal of weight zero is never accepted.
    """
    top = float(log_w.max())
    if top == -math.inf:
        return Decision(None, -math.inf)
    w = np.exp(log_w - top)  # in units of the heaviest proposal
    chosen = rng.categorical(w) if len(w) > 1 else 0
    w_others = float(w.sum() - w[chosen]) if len(w) > 1 else 0.0
    log_denominator = float(np.logaddexp(math.log(w_others) if w_others > 0 else -math.inf, log_w_chain - top))
    log_ratio = math.log(float(w.sum())) - log_denominator
    return Decision(chosen if log_u <= log_ratio else None, log_ratio)
