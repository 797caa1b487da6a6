"""Plain sampling and its token-wise sharpened cousin: one draw, no refinement.

`ancestral` draws from p itself: the "off" position of the switch. `low_temperature` draws every token from
p(v | x_<t)^alpha renormalised per token: cheap, popular, and not p(x)^alpha.
"""

from __future__ import annotations

from collections.abc import Generator

from power_sampling.samplers.rng import Rng
from power_sampling.types import Answer, Chain, Continuation, Draw, Exactness, Law, Progress, Round

__all__ = ["ancestral"]


def ancestral(
    law: Law, horizon: int, rng: Rng, *, exactness: Exactness
) -> Generator[Round, list[Continuation], Answer]:
    """One completion drawn token by token from q; its law is q, which is p where the temperatures agree."""
    draw = Draw(Chain.empty(), 0, horizon, law, rng.seed())
    (continuation,) = yield Round((draw,), is_live=True, progress=Progress(0, horizon, {}))
    return Answer(Chain.empty().spliced(0, continuation), exactness)
