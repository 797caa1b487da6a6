"""Plain sampling and its token-wise sharpened cousin: one draw, no refinement.

`ancestral` draws from p itself: the "off" position of the switch. `low_temperature` draws every token from
p(v | x_<t)^alpha renormalised per token: cheap, popular, and not p(x)^alpha.
"""

from __future__ import annotations

from collections.abc import Generator

from power_sampling.samplers.parts.rng import Rng
from power_sampling.types import Answer, Chain, Continuation, Draw, Exactness, Law, Progress, Round

__all__ = ["ancestral", "constrained_ancestral"]

TAIL = 16  # last tokens of the horizon, where a constrained completion can find that it comes too late to be legal
TRIES = 8


def ancestral(
    law: Law, horizon: int, rng: Rng, *, exactness: Exactness
) -> Generator[Round, list[Continuation], Answer]:
    """One completion drawn token by token from q; its law is q, which is p where the temperatures agree."""
    draw = Draw(Chain.empty(), 0, horizon, law, rng.seed())
    (continuation,) = yield Round((draw,), is_live=True, progress=Progress(0, horizon, {}))
    return Answer(Chain.empty().spliced(0, continuation), exactness)


def constrained_ancestral(law: Law, horizon: int, rng: Rng) -> Generator[Round, list[Continuation], Answer]:
    """One completion drawn token by token from q among the legal tokens: every token is weighed by what is legal next,
    none by what is legal later, so the law is not p on the legal completions. A tail that ends in nothing legal is
    drawn again, a few times."""
    draw = Draw(Chain.empty(), 0, max(1, horizon - TAIL), law, rng.seed())
    (continuation,) = yield Round((draw,), is_live=True, progress=Progress(0, horizon, {}))
    head = chain = Chain.empty().spliced(0, continuation)
    cut = len(head.tokens)
    for _ in range(TRIES if cut < horizon and not head.is_terminated else 0):
        draw = Draw(head, cut, horizon - cut, law, rng.seed())
        (continuation,) = yield Round((draw,), settled=head.tokens, progress=Progress(cut, horizon, {}))
        chain = head.spliced(cut, continuation)
        if chain.end != "illegal":
            break
    return Answer(chain, "approximate")
