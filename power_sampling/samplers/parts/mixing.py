"""How well chains have mixed, from the log p of their states: numbers in, numbers out.

Effective steps: n / tau of n states, tau = 1 + 2 sum_k rho_k the integrated autocorrelation time, its sum ended by
Geyer's initial monotone sequence (Geyer 1992): the sums of two neighbours rho_2k + rho_2k+1, as long as they are
positive, each no larger than the one before.

Split R-hat (Gelman & Rubin 1992; Vehtari et al. 2021): every chain is cut into halves. Of these series of n states

    R^ = sqrt((n - 1) / n + B / W),    B the variance of their means, W the mean of their variances.

It is near 1 where all of them look alike, and above 1 where chains are apart or still on their way. Either number is an
estimate, and sees only what a chain has visited: a mode that none has found is not in it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from power_sampling.types import Floats

__all__ = ["LEAST_STATES", "effective_steps", "has_settled", "split_r_hat"]

LEAST_STATES = 4  # of a chain, below which nothing is said of it
ENOUGH = 8  # effective steps, or accepted ones of a chain that stays where it is
LIKE = 1.1  # split R-hat of halves that are alike


def effective_steps(trace: Sequence[float]) -> float | None:
    """How many independent states a chain's are worth, at most as many as there are. None of too few, and of states
    that are all alike, which tell nothing."""
    n = len(trace)
    if n < LEAST_STATES or len(set(trace)) == 1:
        return None
    x = np.array(trace) - np.mean(trace)
    rho = np.fft.irfft(np.abs(np.fft.rfft(x, 2 * n)) ** 2, 2 * n)[:n] / (x @ x)
    pairs = rho[: n // 2 * 2].reshape(-1, 2).sum(axis=1)
    is_positive = pairs > 0
    kept = pairs if is_positive.all() else pairs[: int(np.argmin(is_positive))]
    tau = 2 * float(np.minimum.accumulate(kept).sum()) - 1 if len(kept) else 1.0
    return min(float(n), n / tau) if tau > 0 else float(n)


def has_settled(trace: Sequence[float], num_moved: int) -> bool:
    """Whether one chain looks like one that has forgotten where it began: its two halves, each split again, have an
    R-hat below LIKE, and it is worth ENOUGH effective steps; or it has accepted ENOUGH proposals, all of them the state
    it was in. A rule of thumb: what it has not visited it does not know."""
    steps, half = effective_steps(trace), len(trace) // 2
    if steps is None:
        return len(trace) >= ENOUGH and num_moved >= ENOUGH
    r_hat = split_r_hat([trace[:half], trace[half:]])
    return steps >= ENOUGH and r_hat is not None and r_hat < LIKE


def split_r_hat(traces: Sequence[Sequence[float]]) -> float | None:
    """Split R-hat of two chains or more of one target; infinite where each stands still somewhere else. None of too
    few chains or states."""
    length = min(map(len, traces), default=0)
    if len(traces) < 2 or length < LEAST_STATES:
        return None
    n = length // 2
    halves: Floats = np.array([part for trace in traces for part in (trace[:n], trace[length - n : length])])
    within, between = float(halves.var(axis=1, ddof=1).mean()), float(halves.mean(axis=1).var(ddof=1))
    if within == 0:
        return math.inf if between > 0 else 1.0
    return math.sqrt((n - 1) / n + between / within)
