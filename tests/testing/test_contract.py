"""`check_sampler` notices a sampler that breaks its promises."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from power_sampling.samplers import BestOfN, IsOutOfTime, LowTemperature, MetropolisHastings, Rng, Sampler
from power_sampling.samplers.parts.lockstep import with_rounds
from power_sampling.samplers.parts.rng import NumpyRng
from power_sampling.testing import check_sampler
from power_sampling.types import Draw, Exactness, Law, Round


class WrongLabel(LowTemperature):
    exactness: ClassVar[Exactness] = "exact"


class TakesBack(MetropolisHastings):
    """Calls what it will redraw settled."""

    def run(self, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime) -> Sampler:
        return with_rounds(
            super().run(law, horizon, rng, is_out_of_time),
            lambda current: current._replace(settled=current.draws[0].chain.tokens),
        )


class Tireless(MetropolisHastings):
    """Asks for the time and goes on."""

    def run(self, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime) -> Sampler:
        return super().run(law, horizon, rng, lambda: is_out_of_time() and False)


class OwnChance(MetropolisHastings):
    """Has chance that does not come from its seed."""

    calls: ClassVar[list[None]] = []

    def run(self, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime) -> Sampler:
        self.calls.append(None)
        return super().run(law, horizon, NumpyRng(len(self.calls)), is_out_of_time)


def longer(draw: Draw) -> Draw:
    return draw._replace(max_new_tokens=draw.max_new_tokens + 1)


class TooLong(BestOfN):
    def run(self, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime) -> Sampler:
        def stretched(current: Round) -> Round:
            return current._replace(draws=tuple(map(longer, current.draws)))

        return with_rounds(super().run(law, horizon, rng, is_out_of_time), stretched)


@pytest.mark.parametrize(
    ("sampler", "message"),
    [
        (WrongLabel, "was the answer"),
        (TakesBack, "settled"),
        (Tireless, "out of time"),
        (OwnChance, "the same seed"),
        (TooLong, "new tokens"),
    ],
)
def test_a_broken_promise_is_noticed(sampler: Any, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_sampler(sampler())
