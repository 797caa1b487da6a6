"""Plain sampling and its token-wise sharpened cousin: one draw, no refinement.

`ancestral` draws from p itself: the "off" position of the switch. `low_temperature` draws every token from
p(v | x_<t)^alpha renormalised per token: cheap, popular, and not p(x)^alpha.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from power_sampling.samplers.base import IsOutOfTime, Sampler, SamplerOptions
from power_sampling.samplers.parts.rng import Rng
from power_sampling.types import Answer, Chain, Draw, Exactness, Extended, Law, Progress, Round

__all__ = ["Ancestral", "LowTemperature", "constrained_ancestral"]

TAIL = 16  # last tokens of the horizon, where a constrained completion can find that it comes too late to be legal
TRIES = 8


class Ancestral(SamplerOptions):
    """Plain sampling from p, or greedy at temperature 0. `alpha` has no effect: this is power sampling switched off."""

    exactness: ClassVar[Exactness] = "exact"
    draws_from_q_alone: ClassVar[bool] = True

    name: Literal["ancestral"] = "ancestral"

    def law(self, alpha: float, temperature: float) -> Law:
        return Law(1.0, temperature, temperature)

    def run(self, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime) -> Sampler:
        return _one_draw(law, horizon, rng, self.exactness)


class LowTemperature(SamplerOptions):
    """Every token from p(v | x_<t)^alpha renormalised: temperature / alpha. A baseline; its law is not p(x)^alpha."""

    exactness: ClassVar[Exactness] = "approximate"
    draws_from_q_alone: ClassVar[bool] = True

    name: Literal["low_temperature"] = "low_temperature"

    def run(self, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime) -> Sampler:
        return _one_draw(law, horizon, rng, self.exactness)


def _one_draw(law: Law, horizon: int, rng: Rng, exactness: Exactness) -> Sampler:
    """One completion drawn token by token from q; its law is q, which is p where the temperatures agree."""
    draw = Draw(Chain.empty(), 0, horizon, law, rng.seed())
    (continuation,) = yield Round((draw,), is_live=True, progress=Progress(0, horizon, {}))
    chain = Chain.empty().spliced(0, continuation)
    return Answer(chain, exactness, steps=(Extended(0, chain.bare()),))


def constrained_ancestral(law: Law, horizon: int, rng: Rng) -> Sampler:
    """One completion drawn token by token from q among the legal tokens: every token is weighed by what is legal next,
    none by what is legal later, so the law is not p on the legal completions. A tail that ends in nothing legal is
    drawn again, a few times."""
    draw = Draw(Chain.empty(), 0, max(1, horizon - TAIL), law, rng.seed())
    (continuation,) = yield Round((draw,), is_live=True, progress=Progress(0, horizon, {}))
    head = chain = Chain.empty().spliced(0, continuation)
    cut, steps = len(head.tokens), (Extended(0, head.bare()),)
    for _ in range(TRIES if cut < horizon and not head.is_terminated else 0):
        draw = Draw(head, cut, horizon - cut, law, rng.seed())
        (continuation,) = yield Round((draw,), settled=head.tokens, progress=Progress(cut, horizon, {}), steps=steps)
        chain = head.spliced(cut, continuation)
        steps = (Extended(cut, chain.bare()),)
        if chain.end != "illegal":
            break
    return Answer(chain, "approximate", steps=steps)
