"""The samplers: one file per method, with its options, its generator and its formula. No torch and no engine in here.

`ALL` lists them. A new sampler is a file and one line there (CONTRIBUTING.md): the names that configurations may give,
the command `power-sampling samplers` and the conformance tests follow from it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Protocol, TypeAlias, Union

from pydantic import BeforeValidator, Discriminator

from power_sampling.errors import ConfigurationError, InputError, shortened
from power_sampling.samplers.ancestral import Ancestral, LowTemperature, constrained_ancestral
from power_sampling.samplers.base import IsOutOfTime, Sampler, SamplerOptions, TextOf
from power_sampling.samplers.best_of_n import BestOfN
from power_sampling.samplers.lookahead import Lookahead
from power_sampling.samplers.marginal import Marginal
from power_sampling.samplers.metropolis_hastings import MetropolisHastings
from power_sampling.samplers.parallel_tempering import ParallelTempering
from power_sampling.samplers.particle_gibbs import ParticleGibbs
from power_sampling.samplers.parts.rng import NumpyRng, Rng
from power_sampling.samplers.rejection import Rejection
from power_sampling.samplers.sequential_monte_carlo import SequentialMonteCarlo
from power_sampling.settings import hint
from power_sampling.types import BaseLaw, Chain, Draw, Law, Round, Tokens

__all__ = [
    "ALL",
    "BY_NAME",
    "SHORT",
    "Ancestral",
    "BestOfN",
    "IsOutOfTime",
    "Lookahead",
    "LowTemperature",
    "Marginal",
    "MetropolisHastings",
    "NumpyRng",
    "ParallelTempering",
    "ParticleGibbs",
    "Rejection",
    "Rng",
    "Sampler",
    "SamplerConfig",
    "SamplerOptions",
    "SequentialMonteCarlo",
    "TextOf",
    "sampler_for",
]

ALL: tuple[type[SamplerOptions], ...] = (
    Ancestral,
    LowTemperature,
    MetropolisHastings,
    SequentialMonteCarlo,
    ParticleGibbs,
    ParallelTempering,
    Lookahead,
    Rejection,
    Marginal,
    BestOfN,
)
BY_NAME: dict[str, type[SamplerOptions]] = {options.model_fields["name"].default: options for options in ALL}
SHORT: Mapping[str, str] = {"plain": "ancestral", "mh": "metropolis_hastings", "smc": "sequential_monte_carlo"}
"""Short names, which settings may give too."""


def _by_name(value: Any) -> Any:
    """A bare name means that sampler with its defaults."""
    values = {"name": value} if isinstance(value, str) else value
    if not isinstance(values, Mapping):
        return values
    name = values.get("name")
    full = SHORT.get(name, name) if isinstance(name, str) else None
    if full not in BY_NAME:
        what = "no name" if name is None else f"no sampler {shortened(name)}"
        raise ConfigurationError(f"sampler: there is {what}.{hint(shortened(name), list(BY_NAME))}")
    return {**values, "name": full}


if TYPE_CHECKING:
    SamplerConfig: TypeAlias = SamplerOptions
else:  # the options of any of them, told apart by `name`
    SamplerConfig = Annotated[Union[ALL], Discriminator("name"), BeforeValidator(_by_name)]  # noqa: UP007


class _Settings(Protocol):
    """What of a `GenerationConfig` decides."""

    @property
    def sampler(self) -> SamplerOptions: ...
    def law(self) -> Law: ...


def sampler_for(
    config: _Settings,
    horizon: int,
    rng: Rng,
    is_out_of_time: IsOutOfTime,
    *,
    is_constrained: bool = False,
    base: BaseLaw | None = None,
    start: Tokens | Chain | None = None,
    text_of: TextOf | None = None,
) -> Sampler:
    """The generator that answers one prompt under these settings.

    A greedy law has one completion, and where every weight is 1 a power sampler is plain sampling: both are run as
    `ancestral`, exact at the cost of one completion. Under a constraint no weight is 1, even at alpha = 1: weights are
    then those of the tokens it forbids. `base` makes p another law, whatever the method. From a `start` the sampler's
    steps are made, at alpha = 1 too. `text_of` is for methods that look at texts.
    """
    law, options = config.law()._replace(base=base), config.sampler
    if start is not None:
        return _started(options, start, law, horizon, rng, is_out_of_time)
    is_plain = law.is_plain and not is_constrained
    if law.is_greedy or (is_plain and options.is_plain_at_alpha_one):
        options, law = Ancestral(), law._replace(wants_entropy=False, score_at=())  # which one draw has no use for
    if is_constrained and options.draws_from_q_alone:
        return constrained_ancestral(law, horizon, rng)
    if text_of is not None:
        options = options.reading(text_of)
    return options.run(law, horizon, rng, is_out_of_time)


def _started(
    options: SamplerOptions, start: Tokens | Chain, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime
) -> Sampler:
    """From a given completion on. Tokens are weighed once, as if q had drawn them; of a chain the numbers are known."""
    if not isinstance(start, Chain):
        given = Draw(Chain.empty(), 0, horizon, law, rng.seed(), judged="final" if law.judging else None, given=start)
        (continuation,) = yield Round((given,))
        start = Chain.empty().spliced(0, continuation)
        if start.log_phi == -math.inf:
            raise InputError("start: a potential forbids this completion; give one that it allows.")
    return (yield from options.refine(start, law, horizon, rng, is_out_of_time))
