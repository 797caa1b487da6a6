"""Best of N: independent completions from q, the one of highest log p is kept. A baseline at equal tokens.

Its law is not p(x)^alpha: with N it runs to the mode of p, whatever alpha, and does not weigh what q prefers.
"""

from __future__ import annotations

import math
from collections.abc import Generator

from power_sampling.config import BestOfN
from power_sampling.samplers.parts.rng import Rng
from power_sampling.types import Answer, Chain, Continuation, Draw, Law, Progress, Round

__all__ = ["best_of_n"]


def best_of_n(config: BestOfN, law: Law, horizon: int, rng: Rng) -> Generator[Round, list[Continuation], Answer]:
    """The completion of highest log p among `num_completions`; the first of equals."""
    draws = tuple(Draw(Chain.empty(), 0, horizon, law, rng.seed()) for _ in range(config.num_completions))
    continuations = yield Round(draws, progress=Progress(0, 1, {"completions": float(len(draws))}))
    return Answer(max((Chain.empty().spliced(0, c) for c in continuations), key=_log_p), "approximate")


def _log_p(chain: Chain) -> float:
    return float(chain.logp.sum()) if chain.end != "illegal" else -math.inf
