"""Best of N: independent completions from q, the one of highest log p is kept. A baseline at equal tokens.

Its law is not p(x)^alpha: with N it runs to the mode of p, whatever alpha, and does not weigh what q prefers.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

from pydantic import Field

from power_sampling.samplers.base import MOST_COMPLETIONS, IsOutOfTime, Sampler, SamplerOptions
from power_sampling.samplers.parts.rng import Rng
from power_sampling.types import Answer, Chain, Chosen, Draw, Exactness, Law, Progress, Round

__all__ = ["BestOfN"]


class BestOfN(SamplerOptions):
    """The completion of highest log p among independent ones. A baseline; its law is not p(x)^alpha."""

    exactness: ClassVar[Exactness] = "approximate"
    is_plain_at_alpha_one: ClassVar[bool] = False

    name: Literal["best_of_n"] = "best_of_n"
    num_completions: int = Field(default=8, ge=1, le=MOST_COMPLETIONS)
    """How many."""
    proposal_temperature: float | None = Field(default=None, gt=0)
    """Temperature they are drawn at; None: temperature / alpha."""

    def counts(self) -> dict[str, int]:
        return {"num_completions": self.num_completions}

    def law(self, alpha: float, temperature: float) -> Law:
        return Law(alpha, temperature, self.proposal_temperature or temperature / alpha)

    def run(self, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime) -> Sampler:
        """The completion of highest log p among `num_completions`; the first of equals."""
        draws = tuple(Draw(Chain.empty(), 0, horizon, law, rng.seed()) for _ in range(self.num_completions))
        continuations = yield Round(draws, progress=Progress(0, 1, {"completions": float(len(draws))}))
        chains = [Chain.empty().spliced(0, continuation) for continuation in continuations]
        best = max(range(len(chains)), key=lambda i: _log_p(chains[i]))
        taken = Chosen(0, tuple(chain.bare() for chain in chains), None, best)
        return Answer(chains[best], self.exactness, steps=(taken,))


def _log_p(chain: Chain) -> float:
    return float(chain.logp.sum()) if chain.end != "illegal" else -math.inf
