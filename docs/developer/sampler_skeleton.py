"""NAME: what it does, in one sentence (authors, arXiv number).

A skeleton to copy to `power_sampling/samplers/your_name.py`; CONTRIBUTING.md has the checklist. It runs, and its law is
tested. As it stands it is importance resampling: completions x_1..x_N from q, one of them drawn by its weight

    w_i = exp(sum_t log_weight_t(x_i)) = p(x_i)^alpha / q(x_i).

Here stand the formula, why the law is what it is labelled, and where the method differs from the paper. With
Z_hat = mean w_i, E[Z_hat 1(x is returned)] = p(x)^alpha for every N; the law tends to p^alpha as N grows.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from power_sampling.samplers.base import IsOutOfTime, Sampler, SamplerOptions
from power_sampling.samplers.parts.resampling import effective_sample_size, log_mean_exp
from power_sampling.samplers.parts.rng import Rng
from power_sampling.types import Answer, Chain, Chosen, Draw, Exactness, Law, Progress, Round

__all__ = ["YourName"]


class YourName(SamplerOptions):
    """What `power-sampling samplers` prints: one or two sentences, and what the law tends to."""

    # exact: one answer has the law p^alpha. asymptotic: a chain that leaves p^alpha invariant. approximate: all else.
    exactness: ClassVar[Exactness] = "approximate"

    name: Literal["your_name"] = "your_name"
    num_completions: int = Field(default=16, ge=1)
    """Every option has a range and a docstring."""
    num_parallel: int = Field(default=8, ge=1)
    """Completions drawn side by side."""
    proposal_temperature: float | None = Field(default=None, gt=0)
    """Temperature of the proposal q; None: temperature / alpha."""

    def counts(self) -> dict[str, int]:
        return {"num_completions": self.num_completions}  # what is held at one time, so that too much can be refused

    def law(self, alpha: float, temperature: float) -> Law:  # leave it out where q is always at temperature / alpha
        return Law(alpha, temperature, self.proposal_temperature or temperature / alpha)

    def run(self, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime) -> Sampler:
        chains: list[Chain] = []
        while len(chains) < self.num_completions and not (chains and is_out_of_time()):
            num_draws = min(self.num_parallel, self.num_completions - len(chains))
            # A draw continues a chain from a cut, by at most so many tokens, with a seed of its own.
            draws = tuple(Draw(Chain.empty(), 0, horizon, law, rng.seed()) for _ in range(num_draws))
            # Nothing is settled before the choice: no token can be streamed.
            progress = Progress(len(chains), self.num_completions, {"completions": float(len(chains))})
            continuations = yield Round(draws, progress=progress)
            chains += [Chain.empty().spliced(0, continuation) for continuation in continuations]
        is_spent = len(chains) < self.num_completions
        # Numbers that a draw brought are kept, never computed again.
        log_w = np.array([chain.log_weight.sum() for chain in chains])
        if log_w.max() == -math.inf:  # under a constraint: nothing legal was found, and the runtime says so
            return Answer(chains[0], "approximate", ess=0.0, log_z=-math.inf, is_budget_spent=is_spent)
        # All chance goes through rng.
        weights = np.exp(log_w - log_w.max())
        chosen = rng.categorical(weights)
        # What was done, for those who watch; between rounds it goes into the next one's `steps`.
        told = Chosen(0, tuple(chain.bare() for chain in chains), tuple(weights.tolist()), chosen)
        label: Exactness = "approximate" if is_spent else self.exactness
        ess, log_z = effective_sample_size(log_w), log_mean_exp(log_w)
        return Answer(chains[chosen], label, ess=ess, log_z=log_z, is_budget_spent=is_spent, steps=(told,))
