"""A token from logits in numpy: for engines whose logits reach the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from power_sampling.engines.row import Row
from power_sampling.types import Floats, Law, Ranked, Tokens

__all__ = ["Choice", "NextToken", "base_logits", "choose", "chosen", "extras_of", "log_law", "next_token", "ranked"]


class Choice(NamedTuple):
    """The next token of a row, as `Row.push` takes it."""

    token: int
    logp: float  # under the base law
    logq: float  # under the proposal, masked
    extras: Sequence[float]  # what the row's law asks for besides


class NextToken(NamedTuple):
    """The laws of a row's next token, over the vocabulary."""

    logits: Floats  # of the base law: -inf where it gives no probability
    log_p: Floats
    log_q: Floats
    allowed: NDArray[np.bool_] | None  # where q is masked; None: nowhere
    is_dead: bool  # whether p gives no allowed token any probability: q is p's own power then, and the row ends illegal


def next_token(logits: Floats, row: Row) -> NextToken:
    """What a row's law makes of the model's logits (vocab_size,) in float64."""
    law, allowed = row.draw.law, row.allowed()
    logits = base_logits(logits, law, row.excluded())
    is_dead = law.base is not None and allowed is not None and not (logits[allowed] > -np.inf).any()
    allowed = None if is_dead else allowed
    log_q = log_law(logits, law.proposal_temperature, allowed)
    return NextToken(logits, log_law(logits, law.temperature), log_q, allowed, is_dead)


def choose(logits: Floats, row: Row) -> Choice:
    """The token that the row's next uniform picks by the inverse CDF of q, from logits (vocab_size,) in float64."""
    laws = next_token(logits, row)
    cdf = np.cumsum(np.exp(laws.log_q))
    sought = np.searchsorted(cdf, min(row.uniform() * cdf[-1], np.nextafter(cdf[-1], 0.0)), side="right")
    # NaN is found behind the last; `Row.push` refuses its numbers
    return chosen(laws, row.draw.law, min(int(sought), len(cdf) - 1))


def chosen(laws: NextToken, law: Law, token: int) -> Choice:
    """A token with its numbers, as `Row.push` takes them."""
    logq = np.inf if laws.is_dead else float(laws.log_q[token])
    return Choice(token, float(laws.log_p[token]), logq, extras_of(laws.logits, law, laws.allowed, token))


def extras_of(logits: Floats, law: Law, allowed: NDArray[np.bool_] | None, token: int) -> list[float]:
    """What a law asks for besides log p and log q: the entropy of p, then log q at each temperature of `score_at`.
    `logits` are those of the base law."""
    scores = [float(log_law(logits, temperature, allowed)[token]) for temperature in law.score_at]
    if not law.wants_entropy:
        return scores
    log_p = log_law(logits, law.temperature)
    p = np.exp(log_p)
    return [-float(p @ np.where(p > 0, log_p, 0.0)), *scores]


def base_logits(logits: Floats, law: Law, excluded: Sequence[int] = ()) -> Floats:
    """Logits whose softmax is the base law of `law`, as its `base` says: -inf where a token has no probability.
    `excluded` are the tokens that would complete a bad word."""
    base = law.base
    if base is None:
        return logits
    logits = logits.copy()
    for token, bias in base.logit_bias:
        logits[token] += bias
    logits[list(excluded)] = -np.inf
    ordered = np.sort(logits / law.temperature)[::-1]
    if not np.isfinite(ordered[0]):  # nothing is left, or the model is broken: `Row.push` refuses the numbers
        return logits
    least = -np.inf
    if base.top_k is not None:
        least = ordered[min(base.top_k, len(ordered)) - 1]
    if base.top_p is not None:
        kept = ordered[ordered >= least]
        weights = np.exp(kept - kept[0])
        before = (np.cumsum(weights) - weights) / weights.sum()
        least = kept[max(1, int((before < base.top_p).sum())) - 1]
    if base.min_p:
        least = max(least, ordered[0] + np.log(base.min_p))
    logits[logits / law.temperature < least] = -np.inf
    return logits


def ranked(logits: Floats, law: Law, before: Tokens, count: int) -> Ranked:
    """The `count` likeliest tokens of a position under the base law, behind these tokens of the completion. Those that
    it gives no probability are left out."""
    log_p = log_law(base_logits(logits, law, law.base.excluded(before) if law.base else ()), law.temperature)
    likeliest = np.argsort(-log_p, kind="stable")[:count].tolist()
    return tuple((token, float(log_p[token])) for token in likeliest if log_p[token] > -np.inf)


def log_law(logits: Floats, temperature: float, allowed: NDArray[np.bool_] | None = None) -> Floats:
    """log softmax(logits / temperature), of the allowed tokens alone; at temperature 0 all on the largest logit."""
    if allowed is not None:
        logits = np.where(allowed, logits, -np.inf)
    if temperature == 0:
        return np.where(np.arange(len(logits)) == logits.argmax(), 0.0, -np.inf)
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        scaled: Floats = logits / temperature
        return np.asarray(scaled - np.logaddexp.reduce(scaled))
