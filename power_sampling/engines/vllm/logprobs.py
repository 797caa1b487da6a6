"""log p and log q of a token from what a server lists of its position: the likeliest tokens of p at temperature 1.

With r_1 >= r_2 >= ... the listed probabilities and b = 1 / proposal_temperature, the server draws

    q(x) = p(x)^b / Z,    Z = sum over what it draws from of p(v)^b.

Drawing from the K likeliest (`top_k` of the server) and listing K + 1 of them, Z is the sum of the first K: exact, but
for a tie r_K = r_K+1. Servers keep every token of a tie on a CPU and K tokens on a GPU, so Z is then known within the
bound below, as it is where the server draws from all tokens. With R = 1 - sum of the first K, no other p is above r_K:

    S_K <= Z <= S_K + R r_K^(b-1)   for b >= 1,      Z <= S_K + (V - K)^(1-b) R^b   for b < 1 (Jensen).

log q is reported by S_K, so that it is too large by log(Z / S_K) at most, and log_weight is never above its bound of 0.
A list of the whole vocabulary gives p at any temperature, and every number.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from power_sampling.types import Floats, Law

__all__ = ["Listed", "Support", "TokenNumbers", "is_drawn", "numbers_of"]

ROUNDING = 1e-6  # of a sum of probabilities that a server tells in float32


class Listed(NamedTuple):
    """One token as a server tells it, with the likeliest of its position."""

    token: int
    logp: float  # at temperature 1
    likeliest: tuple[float, ...]  # log p, falling


class Support(NamedTuple):
    """What a server draws from, and how much of p it lists."""

    num_listed: int
    num_drawn: int | None  # the likeliest tokens that are drawn from; None: all
    vocab_size: int

    @property
    def sees_all(self) -> bool:
        """Whether every token is listed."""
        return self.num_listed >= self.vocab_size

    @property
    def label(self) -> str | None:
        """What `Diagnostics.support` says."""
        return None if self.num_drawn is None else f"top {self.num_drawn}"


def is_drawn(listed: Listed, support: Support) -> bool:
    """Whether a token is among those that a server draws from."""
    return support.num_drawn is None or sum(logp > listed.logp for logp in listed.likeliest) < support.num_drawn


class TokenNumbers(NamedTuple):
    """What is recorded of a drawn token."""

    logp: float
    logq: float
    scores: tuple[float, ...]  # log q at the temperatures of `Law.score_at`
    left_out: float  # -log of the mass that is drawn from
    bound: float  # by how much log q is too large at most


def numbers_of(listed: Listed, law: Law, support: Support) -> TokenNumbers:
    """The numbers of a token under a law whose temperature is 1, or any where every token is listed."""
    top = np.array(listed.likeliest[: support.num_listed])
    logq, bound = _log_q(listed.logp, top, law.proposal_temperature, support)
    scores = [_log_q(listed.logp, top, temperature, support) for temperature in law.score_at]
    logp = listed.logp
    if law.temperature != 1:
        logp = logp / law.temperature - float(np.logaddexp.reduce(top / law.temperature))
    left_out = 0.0
    if support.num_drawn is not None and not law.is_greedy:
        left_out = max(0.0, -float(np.logaddexp.reduce(top[: support.num_drawn])))
    return TokenNumbers(logp, logq, tuple(q for q, _ in scores), left_out, max(bound, *(b for _, b in scores), 0.0))


def _log_q(logp: float, top: Floats, temperature: float, support: Support) -> tuple[float, float]:
    """log q of a token, and by how much it is too large at most."""
    if temperature == 0:
        return 0.0, 0.0
    if temperature == 1 and support.num_drawn is None:
        return logp, 0.0
    drawn = top if support.num_drawn is None else top[: support.num_drawn]
    log_s = float(np.logaddexp.reduce(drawn / temperature))
    return logp / temperature - log_s, _bound(top, drawn, log_s, 1 / temperature, support)


def _bound(top: Floats, drawn: Floats, log_s: float, b: float, support: Support) -> float:
    """log(Z / S_K) at most."""
    if support.num_drawn is None:
        is_exact = support.sees_all
    else:
        is_exact = len(drawn) == support.vocab_size or (len(top) > len(drawn) and top[len(drawn)] < drawn[-1])
    if is_exact:
        return 0.0
    rest = max(0.0, 1 - float(np.exp(drawn).sum())) + ROUNDING
    if b >= 1:
        log_rest = math.log(rest) + (b - 1) * float(drawn[-1])
    else:
        log_rest = (1 - b) * math.log(max(1, support.vocab_size - len(drawn))) + b * math.log(rest)
    return math.log1p(math.exp(log_rest - log_s))
