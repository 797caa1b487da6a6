"""A token from logits in numpy: for engines whose logits reach the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from power_sampling.engines.row import Row
from power_sampling.types import Floats, Law

__all__ = ["Choice", "choose", "extras_of", "log_law"]


class Choice(NamedTuple):
    """The next token of a row, as `Row.push` takes it."""

    token: int
    logp: float  # under the base law
    logq: float  # under the proposal, masked
    extras: Sequence[float]  # what the row's law asks for besides


def choose(logits: Floats, row: Row) -> Choice:
    """The token that the row's next uniform picks by the inverse CDF of q, from logits (vocab_size,) in float64."""
    law, allowed = row.draw.law, row.allowed()
    log_q = log_law(logits, law.proposal_temperature, allowed)
    cdf = np.cumsum(np.exp(log_q))
    sought = np.searchsorted(cdf, min(row.uniform() * cdf[-1], np.nextafter(cdf[-1], 0.0)), side="right")
    token = min(int(sought), len(cdf) - 1)  # NaN is found behind the last; `Row.push` refuses its numbers
    log_p = log_law(logits, law.temperature)
    return Choice(token, float(log_p[token]), float(log_q[token]), extras_of(logits, law, allowed, token))


def extras_of(logits: Floats, law: Law, allowed: NDArray[np.bool_] | None, token: int) -> list[float]:
    """What a law asks for besides log p and log q: the entropy of p, then log q at each temperature of `score_at`."""
    scores = [float(log_law(logits, temperature, allowed)[token]) for temperature in law.score_at]
    if not law.wants_entropy:
        return scores
    log_p = log_law(logits, law.temperature)
    return [-float(np.exp(log_p) @ log_p), *scores]


def log_law(logits: Floats, temperature: float, allowed: NDArray[np.bool_] | None = None) -> Floats:
    """log softmax(logits / temperature), of the allowed tokens alone; at temperature 0 all on the largest logit."""
    if allowed is not None:
        logits = np.where(allowed, logits, -np.inf)
    if temperature == 0:
        return np.where(np.arange(len(logits)) == logits.argmax(), 0.0, -np.inf)
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        scaled: Floats = logits / temperature
        return np.asarray(scaled - np.logaddexp.reduce(scaled))
