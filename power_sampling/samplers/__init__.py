"""The samplers, and which generator a configuration means. Neither torch nor engines in here."""

from __future__ import annotations

from collections.abc import Callable, Generator

from power_sampling.config import (
    BestOfN,
    GenerationConfig,
    Lookahead,
    LowTemperature,
    MetropolisHastings,
    ParallelTempering,
    ParticleGibbs,
    SequentialMonteCarlo,
)
from power_sampling.samplers.ancestral import ancestral, constrained_ancestral
from power_sampling.samplers.best_of_n import best_of_n
from power_sampling.samplers.lookahead import lookahead
from power_sampling.samplers.metropolis_hastings import metropolis_hastings
from power_sampling.samplers.parallel_tempering import parallel_tempering
from power_sampling.samplers.parts.rng import NumpyRng, Rng
from power_sampling.samplers.sequential_monte_carlo import sequential_monte_carlo
from power_sampling.samplers.suffix_particle_gibbs import suffix_particle_gibbs
from power_sampling.types import Answer, Continuation, Round

__all__ = [
    "NumpyRng",
    "Rng",
    "Sampler",
    "ancestral",
    "best_of_n",
    "constrained_ancestral",
    "lookahead",
    "metropolis_hastings",
    "parallel_tempering",
    "sampler_for",
    "sequential_monte_carlo",
    "suffix_particle_gibbs",
]

Sampler = Generator[Round, list[Continuation], Answer]


def sampler_for(
    config: GenerationConfig, horizon: int, rng: Rng, is_over: Callable[[], bool], *, is_constrained: bool = False
) -> Sampler:
    """The generator that answers one prompt.

    At alpha = 1 with the proposal at the base temperature every weight is 1, so a power sampler is plain sampling and
    is run as such: exact, at the cost of one completion. At temperature 0, where p has one completion, it is greedy.
    Under a constraint the weights are those of the tokens it forbids, even at alpha = 1; tokens drawn one by one among
    the allowed ones do not have the law of p on the legal completions, and are labelled so.
    """
    law = config.law()
    is_greedy = law.proposal_temperature == 0
    is_plain = law.alpha == 1 and law.proposal_temperature == law.temperature and not is_constrained
    match config.sampler:
        case MetropolisHastings() if not (is_greedy or is_plain):
            return metropolis_hastings(config.sampler, law, horizon, rng, is_over)
        case SequentialMonteCarlo() if not (is_greedy or is_plain):
            return sequential_monte_carlo(config.sampler, law, horizon, rng, is_over)
        case ParticleGibbs() if not (is_greedy or is_plain):
            return suffix_particle_gibbs(config.sampler, law, horizon, rng, is_over)
        case ParallelTempering() if not (is_greedy or is_plain):
            return parallel_tempering(config.sampler, law, horizon, rng, is_over)
        case Lookahead() if not (is_greedy or is_plain):
            return lookahead(config.sampler, law, horizon, rng, is_over)
        case BestOfN() if not is_greedy:
            return best_of_n(config.sampler, law, horizon, rng)
        case _ if is_constrained:
            return constrained_ancestral(law, horizon, rng)
        case LowTemperature() if not (is_greedy or is_plain):
            return ancestral(law, horizon, rng, exactness="approximate")
        case _:
            return ancestral(law, horizon, rng, exactness="exact")
