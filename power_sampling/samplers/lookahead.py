"""Lookahead: blocks chosen among candidates by what may come after them (scalable power sampling, arXiv 2601.21590).

The law of the next block b after a prefix h under p(x)^alpha / Z is exactly

    pi(b | h)  ~  p(b | h)^alpha zeta(h b),          zeta(h) = sum over completions y of h of p(y | h)^alpha,

zeta = 1 where nothing comes after. It is estimated with L candidates b_i from q and M rollouts y_ir from q behind each:

    W_i = w(b_i) zeta_i,    zeta_i = mean_r w(y_ir),    w = exp(sum log_weight) = p^alpha / q;    choose i ~ W_i.

Two things differ from the published method. Candidates come from q, so their weight is p^alpha / q and not p^alpha:
without the division distinct candidates are counted once for being drawn and once more for being likely, and the law
that results is about p^alpha q. Rollouts come from q as well, which at temperature / alpha leaves the weight prod_t Z_t
of the normalisers alone, of far lower variance than p^(alpha - 1) under p.

The normalised W_i are biased by O(1 / M). The jackknife over rollouts (leave the s-th of every candidate out) takes the
first order away: P = M P_hat - (M - 1) / M sum_s P_hat^(-s); it can fall below 0 and is clipped and renormalised.

Approximate: the law tends to p^alpha as L and M grow, if rollouts reach the end of the horizon. Chosen blocks are
settled and can be streamed.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from power_sampling.samplers.base import MOST_COMPLETIONS, IsOutOfTime, Sampler, SamplerOptions
from power_sampling.samplers.parts.rng import Rng
from power_sampling.types import (
    Answer,
    Chain,
    Chosen,
    Continuation,
    Draw,
    Exactness,
    Extended,
    Floats,
    Law,
    Progress,
    Round,
    Step,
)

__all__ = ["Lookahead", "jackknifed"]


class Lookahead(SamplerOptions):
    """Block after block chosen among candidates, each weighed by rollouts beyond it (scalable power sampling, arXiv
    2601.21590, with corrected weights). Tends to p^alpha as candidates and rollouts grow; here approximate."""

    exactness: ClassVar[Exactness] = "approximate"

    name: Literal["lookahead"] = "lookahead"
    block_size: int = Field(default=16, ge=1)
    """Tokens per candidate."""
    num_candidates: int = Field(default=8, ge=2, le=MOST_COMPLETIONS)
    """Candidates per block."""
    num_rollouts: int = Field(default=4, ge=1, le=MOST_COMPLETIONS)
    """Rollouts per candidate; from 2 on, the jackknife takes out the first order of their bias."""
    rollout_tokens: int | None = Field(default=None, ge=1)
    """Length of a rollout; None: to the end of the horizon, as the target asks."""
    proposal_temperature: float | None = Field(default=None, gt=0)
    """Temperature of candidates and rollouts; None: temperature / alpha."""

    def counts(self) -> dict[str, int]:
        return {"num_candidates": self.num_candidates, "num_rollouts": self.num_rollouts}

    def law(self, alpha: float, temperature: float) -> Law:
        return Law(alpha, temperature, self.proposal_temperature or temperature / alpha)

    def run(self, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime) -> Sampler:
        """One completion. Out of time, it is finished by one extension from q."""
        chain, end, steps = Chain.empty(), 0, tuple[Step, ...]()
        while end < horizon and not chain.is_terminated:
            start = end
            shown = Round(
                (), settled=chain.tokens, progress=Progress(start, horizon, {"logp": float(chain.logp.sum())})
            )
            if is_out_of_time():
                rest = Draw(chain, start, horizon - start, law, rng.seed())
                (continuation,) = yield shown._replace(draws=(rest,), is_live=True, steps=steps)
                chain = chain.spliced(start, continuation)
                return Answer(chain, "approximate", is_budget_spent=True, steps=(Extended(start, chain.bare()),))
            end = min(start + self.block_size, horizon)
            draws = tuple(Draw(chain, start, end - start, law, rng.seed()) for _ in range(self.num_candidates))
            continuations = yield shown._replace(draws=draws, steps=steps)
            candidates = [chain.spliced(start, c) for c in continuations]
            log_w = _log_w(candidates, start)
            rollouts = yield from self._rollouts(candidates, end, law, horizon, rng, shown)
            weights = jackknifed(log_w, rollouts)
            chosen = rng.categorical(weights)
            chain = candidates[chosen]
            steps = (Chosen(start, tuple(x.bare() for x in candidates), tuple(weights.tolist()), chosen),)
        return Answer(chain, self.exactness, steps=steps)

    def _rollouts(
        self, candidates: list[Chain], end: int, law: Law, horizon: int, rng: Rng, shown: Round
    ) -> Generator[Round, list[Continuation], Floats]:
        """log w of every rollout, (L, M): zero behind what has come to its end. `shown` is the round without draws."""
        log_w: Floats = np.zeros((len(candidates), self.num_rollouts))
        length = min(self.rollout_tokens or horizon, horizon - end)
        live = [i for i, x in enumerate(candidates) if not x.is_terminated]
        if length and live:
            draws = tuple(
                Draw(candidates[i], end, length, law, rng.seed()) for i in live for _ in range(self.num_rollouts)
            )
            continuations = yield shown._replace(draws=draws)
            log_w[live] = np.array([c.log_weight.sum() for c in continuations]).reshape(len(live), -1)
        return log_w


def _log_w(candidates: list[Chain], start: int) -> Floats:
    """log p^alpha / q of every candidate's block."""
    return np.array([x.log_weight[start:].sum() for x in candidates])


def jackknifed(log_w: Floats, rollouts: Floats) -> Floats:
    """The probability of every candidate: weights (L,), rollouts (L, M). Uniform where all weights vanish."""
    m = rollouts.shape[1]
    joint = log_w[:, None] + rollouts
    top = joint.max()
    if top == -np.inf:  # nothing legal is in sight: a candidate that can still go on, if there is one
        alive = (log_w > -np.inf).astype(np.float64)
        return alive if alive.any() else np.ones(len(log_w))
    w = np.exp(joint - top)
    full = _normalised(w.sum(1))
    if m == 1:
        return full
    left_out = np.stack([_normalised(w.sum(1) - w[:, s]) for s in range(m)])
    return _normalised(np.maximum(0.0, m * full - (m - 1) * left_out.mean(0)))


def _normalised(w: Floats) -> Floats:
    """Uniform where there is nothing to normalise, which only a left-out rollout can bring about."""
    w = np.maximum(w, 0.0)
    total = w.sum()
    return np.asarray(w / total) if total > 0 else np.full(len(w), 1 / len(w))
