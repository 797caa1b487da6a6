"""What a table of right and wrong answers says, and how sure it is. Numbers in, numbers out.

A table has a row per question and a column per completion of it. Questions are the independent units: answers to one
question resemble each other, so intervals resample whole questions (the cluster bootstrap). Every random number comes
from a fixed seed: the same table gives the same interval.
"""

from __future__ import annotations

from fractions import Fraction
from math import comb, sqrt
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from power_sampling.errors import InputError

__all__ = [
    "Estimate",
    "bootstrap_interval",
    "half_width",
    "holm",
    "mcnemar",
    "pass_at_k",
    "paired_difference",
    "questions_needed",
    "sign_flip_test",
]

RESAMPLES = 10_000
LEVEL = 0.95
SEED = 20_260_828
Numbers = NDArray[np.float64]


class Estimate(NamedTuple):
    """A mean over questions and its interval."""

    value: float
    low: float
    high: float


def pass_at_k(num_completions: int, num_right: int, k: int) -> float:
    """The chance that at least one of k completions is right, without bias: 1 - C(n - c, k) / C(n, k).

    k of the n completions are taken without replacement. Raises InputError where k is not within 1..n.
    """
    if not 0 <= num_right <= num_completions:
        raise InputError(f"pass_at_k: expected 0 to {num_completions} right completions, got {num_right}.")
    if not 1 <= k <= num_completions:
        raise InputError(
            f"pass_at_k: k is {k}, and there are {num_completions} completions per question; draw at least k (samples)."
        )
    return 1.0 - comb(num_completions - num_right, k) / comb(num_completions, k)


def bootstrap_interval(values: ArrayLike, level: float = LEVEL) -> Estimate:
    """The mean over questions with the percentile interval of the cluster bootstrap.

    `values` holds one number per question: the mean of its completions, or the difference between two such means.
    """
    given = _numbers(values)
    means = _resampled_means(given)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(given.mean()), float(low), float(high))


def paired_difference(first: ArrayLike, second: ArrayLike, level: float = LEVEL) -> Estimate:
    """mean(first) - mean(second) over the same questions, in the same order; questions are resampled as pairs."""
    return bootstrap_interval(_paired(first, second), level)


def mcnemar(first: ArrayLike, second: ArrayLike) -> float:
    """The exact two-sided p value of McNemar's test: one right or wrong answer of each side per question.

    Among the questions where the two disagree, each side wins a fair coin's share under the hypothesis of no
    difference. 1 where they never disagree.
    """
    difference = _paired(first, second)
    if not np.isin(difference, (-1.0, 0.0, 1.0)).all():
        raise InputError("mcnemar: expected one right (1) or wrong (0) answer per question on both sides.")
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    n = wins + losses
    tail: int = sum(comb(n, i) for i in range(min(wins, losses) + 1))
    return min(1.0, float(Fraction(2 * tail, 2**n)))


def sign_flip_test(first: ArrayLike, second: ArrayLike) -> float:
    """The two-sided p value of a paired permutation test, for several completions per question.

    Under the hypothesis of no difference the sides of a question can be exchanged: its difference has either sign
    equally often. For one completion per question it tends to `mcnemar`.
    """
    difference = _paired(first, second)
    moved = difference[difference != 0]
    if not len(moved):
        return 1.0
    rng = np.random.default_rng(SEED)
    observed, reached = abs(moved.sum()) - 1e-9, 0
    for size in _chunks(len(moved)):
        signs = rng.integers(0, 2, (size, len(moved))) * 2.0 - 1.0
        reached += int((np.abs(signs @ moved) >= observed).sum())
    return (reached + 1) / (RESAMPLES + 1)  # the observed table is one of the exchanges: never 0


def holm(p_values: list[float]) -> list[float]:
    """p values after Holm's correction for as many comparisons as there are, in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def half_width(differences: ArrayLike, level: float = LEVEL) -> float:
    """Half the width of the interval that so many questions with such differences have, by the normal law."""
    given = _numbers(differences)
    return _z((1 + level) / 2) * _deviation(given) / sqrt(len(given))


def questions_needed(differences: ArrayLike, effect: float, *, level: float = LEVEL, power: float = 0.8) -> int:
    """About how many questions it takes to see a true difference of `effect` with this power.

    n = ((z_(1 - a/2) + z_power) s / effect)^2, with s the standard deviation of the paired differences observed.
    """
    if effect <= 0:
        raise InputError(f"questions_needed: expected a difference above 0, got {effect}.")
    deviation = _deviation(_numbers(differences))
    return max(1, int(np.ceil(((_z((1 + level) / 2) + _z(power)) * deviation / effect) ** 2)))


# ------------------------------------------------------------ parts


def _resampled_means(given: Numbers) -> Numbers:
    rng = np.random.default_rng(SEED)
    picks = [rng.integers(0, len(given), (size, len(given))) for size in _chunks(len(given))]
    return np.concatenate([given[pick].mean(axis=1) for pick in picks])


def _chunks(width: int) -> list[int]:
    """RESAMPLES cut into pieces that need no more than some ten million numbers at once."""
    size = max(1, min(RESAMPLES, 10_000_000 // max(1, width)))
    return [min(size, RESAMPLES - start) for start in range(0, RESAMPLES, size)]


def _numbers(values: ArrayLike) -> Numbers:
    given = np.asarray(values, dtype=np.float64)
    if given.ndim != 1 or not len(given) or not np.isfinite(given).all():
        raise InputError(f"measures: expected one finite number per question, at least one, got {values!r:.80}.")
    return given


def _paired(first: ArrayLike, second: ArrayLike) -> Numbers:
    one, other = _numbers(first), _numbers(second)
    if len(one) != len(other):
        raise InputError(f"measures: expected the same questions on both sides, got {len(one)} and {len(other)}.")
    return one - other


def _deviation(given: Numbers) -> float:
    return float(given.std(ddof=1)) if len(given) > 1 else 0.0


def _z(probability: float) -> float:
    return NormalDist().inv_cdf(probability)
