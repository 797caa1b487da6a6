"""Exact rejection sampling: completions from q, each accepted with probability p(x)^alpha / q(x) (von Neumann 1951).

With q at temperature / alpha, log_weight of a token is zeta_t = log sum_v p(v | x_<t)^alpha <= 0, so

    exp(sum_t log_weight_t(x)) = p(x)^alpha / q(x) <= 1

is a probability. What is drawn from q and accepted with it has the law q(x) p(x)^alpha / q(x) = p(x)^alpha, normalised:
the target itself, at any alpha, from one independent answer. A constraint masks q, which makes q larger on the legal
completions and the weight smaller: the same holds on the legal completions.

Cost. A draw is accepted with probability Z = sum_x p(x)^alpha, so 1 / Z draws are expected. Z falls exponentially with
what the model has to be unsure of: rejection is for short answers that it is fairly sure of, or for a small alpha.
Under a constraint Z is the sum over the legal completions: it is small where the model would not obey by itself. Most
draws live for a few tokens only: u is drawn first, and a draw is abandoned as soon as its running sum is below log u.
(SmolLM2-135M-Instruct asked for the capital of France: 45 tokens decoded per answer at alpha = 2, 290 at alpha = 4, in
6 and 230 draws.)

Draws of a round are decoded side by side, and the first one accepted *in their order* is the answer: the first to end,
or the shortest, would not have the law. The number N of draws up to the answer is geometric, P(N > j) = (1 - Z)^j, so

    E[-(1 + 1/2 + ... + 1/(N - 1))] = -sum_j (1 - Z)^j / j = log Z:

an unbiased estimate of log Z, of standard deviation 1.3 at most.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from power_sampling.errors import NothingAcceptedError
from power_sampling.samplers.base import MOST_COMPLETIONS, IsOutOfTime, Sampler, SamplerOptions
from power_sampling.samplers.parts.rng import Rng
from power_sampling.types import Answer, Chain, Draw, Exactness, Extended, Law, Moved, Progress, Round

__all__ = ["Rejection"]


class Rejection(SamplerOptions):
    """Independent completions until one is accepted: exactly p(x)^alpha, for short answers. It takes 1 / Z draws on
    average, Z = sum_x p(x)^alpha, most of them a few tokens long. Fails where none of `max_draws` is accepted."""

    exactness: ClassVar[Exactness] = "exact"

    name: Literal["rejection"] = "rejection"
    num_parallel: int = Field(default=16, ge=1, le=MOST_COMPLETIONS)
    """Completions drawn side by side; the first accepted in their order is the answer."""
    max_draws: int = Field(default=4096, ge=1, le=10**9)
    """Completions after which the request fails with NothingAcceptedError; nothing else could be returned under the
    label `exact`. With a `time_budget`, a request that is out of time answers with one completion from q, labelled
    `approximate`."""

    def counts(self) -> dict[str, int]:
        return {"num_parallel": self.num_parallel}

    def run(self, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime) -> Sampler:
        """The first completion accepted. Out of time, one from q, labelled so."""
        empty, num_drawn, steps = Chain.empty(), 0, list[Moved]()
        while num_drawn < self.max_draws:
            progress = Progress(num_drawn, self.max_draws, {"draws": float(num_drawn)})
            if is_out_of_time():
                draw = Draw(empty, 0, horizon, law, rng.seed())
                (continuation,) = yield Round((draw,), is_live=True, progress=progress, steps=tuple(steps))
                chain = empty.spliced(0, continuation)
                told = (Extended(0, chain.bare()),)
                return Answer(chain, "approximate", acceptance_rate=0.0, is_budget_spent=True, steps=told)
            log_u = [rng.log_uniform() for _ in range(min(self.num_parallel, self.max_draws - num_drawn))]
            draws = tuple(Draw(empty, 0, horizon, law, rng.seed(), np.full(horizon, bound)) for bound in log_u)
            continuations = yield Round(draws, progress=progress, steps=tuple(steps))
            steps = []
            for bound, continuation in zip(log_u, continuations, strict=True):
                num_drawn += 1
                chain, log_w = empty.spliced(0, continuation), float(continuation.log_weight.sum())
                is_accepted = continuation.is_complete and bound <= log_w
                after = chain if is_accepted else empty
                steps.append(Moved(0, (chain.bare(),), log_w, bound, 0 if is_accepted else None, after.bare()))
                if is_accepted:
                    log_z = -float((1 / np.arange(1, num_drawn)).sum())
                    return Answer(chain, self.exactness, acceptance_rate=1 / num_drawn, log_z=log_z, steps=tuple(steps))
        raise NothingAcceptedError(
            f"rejection: none of {num_drawn} completions was accepted; the acceptance rate here is likely below "
            f"{3 / num_drawn:.1g}. Lower alpha or max_new_tokens, raise max_draws, or use metropolis_hastings."
        )
