"""A token from logits in numpy: for engines whose logits reach the host."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from power_sampling.engines.row import Row
from power_sampling.types import Floats, Law, Ranked, Tokens

__all__ = [
    "Choice",
    "Logits",
    "NextToken",
    "Softmax",
    "base_logits",
    "choose",
    "chosen",
    "extras_of",
    "log_law",
    "next_token",
    "ranked",
]

Logits: TypeAlias = NDArray[np.floating[Any]]

BLOCK = 256  # tokens whose weights are summed together: sums one by one over a vocabulary would take longest of all


class Choice(NamedTuple):
    """The next token of a row, as `Row.push` takes it."""

    token: int
    logp: float  # under the base law
    logq: float  # under the proposal, masked
    extras: Sequence[float]  # what the row's law asks for besides


class Softmax:
    """softmax(logits / temperature) over the allowed tokens, or over all; at temperature 0 all on the largest logit.

    Weights are as exact as the logits are stored, their sums float64: so float32 logits need not be copied."""

    def __init__(self, logits: Logits, temperature: float, allowed: NDArray[np.bool_] | None = None) -> None:
        self._logits, self._temperature, self._allowed = logits, temperature, allowed
        seen = logits if allowed is None else np.where(allowed, logits, logits.dtype.type(-np.inf))
        self._top = seen.max()
        with np.errstate(invalid="ignore"):  # NaN stays NaN
            weights = seen - self._top
            if temperature == 0:
                weights = (np.arange(len(seen)) == seen.argmax()).astype(seen.dtype)
            else:
                np.exp(weights if temperature == 1 else np.divide(weights, temperature, out=weights), out=weights)
        whole = len(seen) // BLOCK * BLOCK
        sums = weights[:whole].reshape(-1, BLOCK).sum(axis=1, dtype=np.float64)
        self._weights, self._cdf = weights, np.cumsum(np.append(sums, weights[whole:].sum(dtype=np.float64)))

    def log(self, token: int) -> float:
        """Log-probability of a token."""
        if self._temperature == 0:
            return 0.0 if self._weights[token] else -np.inf
        if self._allowed is not None and not self._allowed[token] and np.isfinite(self._top):
            return -np.inf
        with np.errstate(invalid="ignore"):
            shifted = (np.float64(self._logits[token]) - np.float64(self._top)) / self._temperature
            return float(shifted - np.log(self._cdf[-1]))

    def pick(self, uniform: float) -> int:
        """The token that a uniform on [0, 1) picks by the inverse CDF; where numbers are NaN, any one."""
        sought = min(uniform * self._cdf[-1], np.nextafter(self._cdf[-1], 0.0))
        block = min(int(np.searchsorted(self._cdf, sought, side="right")), len(self._cdf) - 1)
        start = block * BLOCK
        inside = np.cumsum(self._weights[start : start + BLOCK], dtype=np.float64)
        rest = sought - (self._cdf[block - 1] if block else 0.0)
        # the block's sum was rounded otherwise: what is sought may seem to lie behind its last token of any weight
        return start + min(int(np.searchsorted(inside, rest, side="right")), int(np.searchsorted(inside, inside[-1])))

    @property
    def entropy(self) -> float:
        """In nats."""
        weighed = self._weights > 0
        shifted = (self._logits[weighed].astype(np.float64) - np.float64(self._top)) / self._temperature
        return float(np.log(self._cdf[-1]) - (self._weights[weighed] @ shifted) / self._cdf[-1])


class NextToken(NamedTuple):
    """The laws of a row's next token, over the vocabulary."""

    logits: Logits  # of the base law: -inf where it gives no probability
    p: Softmax
    q: Softmax
    allowed: NDArray[np.bool_] | None  # where q is masked; None: nowhere
    is_dead: bool  # whether p gives no allowed token any probability: q is p's own power then, and the row ends illegal


def next_token(logits: Logits, row: Row) -> NextToken:
    """What a row's law makes of the model's logits (vocab_size,)."""
    law, allowed = row.draw.law, row.allowed()
    logits = base_logits(logits, law, row.excluded())
    is_dead = law.base is not None and allowed is not None and not (logits[allowed] > -np.inf).any()
    allowed = None if is_dead else allowed
    p = Softmax(logits, law.temperature)
    is_plain = allowed is None and law.proposal_temperature == law.temperature
    return NextToken(logits, p, p if is_plain else Softmax(logits, law.proposal_temperature, allowed), allowed, is_dead)


def choose(logits: Logits, row: Row) -> Choice:
    """The token that the row's next uniform picks by the inverse CDF of q, from logits (vocab_size,); or the one that
    is given."""
    laws, given = next_token(logits, row), row.given
    return chosen(laws, row.draw.law, given[0] if given else laws.q.pick(row.uniform()))


def chosen(laws: NextToken, law: Law, token: int) -> Choice:
    """A token with its numbers, as `Row.push` takes them."""
    logq = np.inf if laws.is_dead else laws.q.log(token)
    return Choice(token, laws.p.log(token), logq, extras_of(laws.logits, law, laws.allowed, token))


def extras_of(logits: Logits, law: Law, allowed: NDArray[np.bool_] | None, token: int) -> list[float]:
    """What a law asks for besides log p and log q: the entropy of p, then log q at each temperature of `score_at`.
    `logits` are those of the base law."""
    scores = [Softmax(logits, temperature, allowed).log(token) for temperature in law.score_at]
    return [Softmax(logits, law.temperature).entropy, *scores] if law.wants_entropy else scores


def base_logits(logits: Logits, law: Law, excluded: Sequence[int] = ()) -> Logits:
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


def ranked(logits: Logits, law: Law, before: Tokens, count: int) -> Ranked:
    """The `count` likeliest tokens of a position under the base law, behind these tokens of the completion. Those that
    it gives no probability are left out."""
    log_p = log_law(base_logits(logits, law, law.base.excluded(before) if law.base else ()), law.temperature)
    likeliest = np.argsort(-log_p, kind="stable")[:count].tolist()
    return tuple((token, float(log_p[token])) for token in likeliest if log_p[token] > -np.inf)


def log_law(logits: Logits, temperature: float, allowed: NDArray[np.bool_] | None = None) -> Floats:
    """log softmax(logits / temperature), of the allowed tokens alone; at temperature 0 all on the largest logit."""
    if allowed is not None:
        logits = np.where(allowed, logits, -np.inf)
    if temperature == 0:
        return np.where(np.arange(len(logits)) == logits.argmax(), 0.0, -np.inf)
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        scaled: Floats = logits.astype(np.float64) / temperature
        return np.asarray(scaled - np.logaddexp.reduce(scaled))
