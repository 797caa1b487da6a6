"""A chain that begins at a given completion: if that has the law p^alpha, so has the answer; it gets there from any.

Everything is enumerated through `sampler_for`, as a request is answered: the start is weighed by a draw of its own.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

from power_sampling import ConfigurationError, InputError
from power_sampling.config import GenerationConfig
from power_sampling.samplers import ALL, NumpyRng, sampler_for
from power_sampling.testing import Branches, drive, run_draws
from power_sampling.types import BaseLaw, Chain, Draw, Floats, Law, Round, Termination
from tests.support.constraints import PLAIN, legal
from tests.support.exact import EOS, PROMPT, STOP, World, label

MH, GIBBS = "metropolis_hastings", "particle_gibbs"


def world_of(config: GenerationConfig, ending: Termination, seed: int, base: BaseLaw | None = None) -> World:
    return World(3, config.max_new_tokens, seed, config.law()._replace(base=base), ending)


def kernel(world: World, config: GenerationConfig, *, is_known: bool = False) -> Floats:
    """From a start to the answer. `is_known`: its numbers are those of an earlier request."""

    def program(x: Chain, rng: Branches) -> Generator[Round, Any, Chain]:
        start = x if is_known else x.tokens
        base, is_constrained = world.law.base, world.ending.is_restricted
        sampler = sampler_for(
            config, world.horizon, rng, lambda: False, is_constrained=is_constrained, base=base, start=start
        )
        answer = yield from sampler
        return answer.chain

    return world.kernel(program)


def config_of(horizon: int, alpha: float, sampler: str, **options: Any) -> GenerationConfig:
    given = {"name": sampler, **options}
    return GenerationConfig(sampler=given, alpha=alpha, max_new_tokens=horizon, start="x")  # type: ignore[arg-type] # settings read a mapping


CASES = [
    (4, 2.0, MH, {"num_steps": 1}, EOS),
    (2, 4.0, MH, {"num_steps": 2}, STOP),
    (3, 1.0, MH, {"num_steps": 1}, EOS),
    (3, 3.0, MH, {"num_steps": 1, "proposal_temperature": 1.7}, EOS),
    (2, 3.0, MH, {"num_steps": 1, "num_proposals": 2}, EOS),
    (3, 2.0, MH, {"num_steps": 1, "cut": "entropy"}, EOS),
    (4, 2.0, MH, {"num_steps": 1}, legal(PLAIN, 4)),
    (3, 2.0, GIBBS, {"num_steps": 1, "num_particles": 2, "block_size": 1}, EOS),
    (2, 2.0, GIBBS, {"num_steps": 2, "num_particles": 2}, EOS),
    (4, 2.0, GIBBS, {"num_steps": 1, "num_particles": 2}, legal(PLAIN, 4)),
]


@pytest.mark.parametrize(("horizon", "alpha", "sampler", "options", "ending"), CASES, ids=label)
def test_the_power_law_is_left_as_it_is_and_reached_from_any_start(
    horizon: int, alpha: float, sampler: str, options: dict[str, Any], ending: Termination
) -> None:
    config = config_of(horizon, alpha, sampler, **options)
    world = world_of(config, ending, seed=horizon + int(alpha))
    matrix = kernel(world, config)
    assert np.abs(matrix.sum(1) - 1).max() < 1e-12
    assert world.gap(matrix) < 1e-10
    assert np.abs(np.linalg.matrix_power(matrix, 2**16) - world.target).max() < 1e-6


@pytest.mark.parametrize("sampler", [MH, GIBBS])
def test_a_start_whose_numbers_are_known_is_as_good_as_one_that_is_weighed(sampler: str) -> None:
    config = config_of(3, 2.0, sampler, num_steps=1, **({"num_particles": 2} if sampler == GIBBS else {}))
    world = world_of(config, EOS, 4)
    assert np.abs(kernel(world, config) - kernel(world, config, is_known=True)).max() < 1e-12


def test_a_base_law_of_ones_own_is_left_as_it_is() -> None:
    config, base = config_of(3, 2.0, MH, num_steps=1), BaseLaw(((1, 0.7),), (), 2)
    world = world_of(config, EOS, 5, base)
    assert world.gap(kernel(world, config)) < 1e-10


def test_a_start_with_other_numbers_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """One whose log q is not that of the proposal, as a text has that somebody else wrote."""
    config = config_of(3, 3.0, MH, num_steps=1)
    world = world_of(config, EOS, 6)
    spliced = Chain.spliced

    def weighed_by_p(chain: Chain, cut: int, continuation: Any) -> Chain:
        found = spliced(chain, cut, continuation)
        return found if chain.tokens else found._replace(log_weight=2.0 * found.logp)

    monkeypatch.setattr(Chain, "spliced", weighed_by_p)
    assert world.gap(kernel(world, config)) > 1e-3


@pytest.mark.parametrize("sampler", [MH, GIBBS])
def test_it_is_weighed_once_by_one_draw_and_nothing_is_grown(sampler: str) -> None:
    config = config_of(4, 2.0, sampler, num_steps=3)
    world = world_of(config, EOS, 2)
    handle, rounds = world.lm.open(PROMPT, EOS), list[Round]()

    def answer(current: Round) -> Any:
        rounds.append(current)
        return run_draws(world.lm, handle, current.draws)

    x = world.chains[0]
    found = drive(sampler_for(config, 4, NumpyRng(3), lambda: False, start=x.tokens), answer)
    assert [draw.given for draw in rounds[0].draws] == [x.tokens]
    assert not any(draw.given for current in rounds[1:] for draw in current.draws)
    assert len(rounds) == 1 + 3 if sampler == MH else len(rounds) >= 1
    assert all(draw.cut + draw.max_new_tokens == 4 for current in rounds for draw in current.draws), "up to the horizon"
    assert found.exactness == "asymptotic" and found.chain.tokens in world.index
    spent = drive(sampler_for(config, 4, NumpyRng(3), lambda: True, start=x.tokens), answer)
    assert spent.chain.tokens == x.tokens and spent.is_budget_spent and spent.exactness == "approximate"


def test_drawing_goes_on_behind_tokens_that_end_nothing() -> None:
    config = config_of(4, 2.0, MH, num_steps=1)
    world = world_of(config, EOS, 2)
    handle = world.lm.open(PROMPT, EOS)
    (found,) = run_draws(world.lm, handle, [Draw(Chain.empty(), 0, 4, world.law, 5, given=(1, 2))])
    assert found.tokens[:2] == (1, 2) and found.is_complete and (found.end == "eos" or len(found.tokens) == 4)
    (found,) = run_draws(world.lm, handle, [Draw(Chain.empty(), 0, 4, world.law, 5, given=(1, 0, 2))])
    assert found.tokens == (1, 0) and found.end == "eos", "nothing stands behind an EOS"


def test_what_has_no_probability_is_refused() -> None:
    law = Law(2.0, 1.0, 0.5)
    world = World(3, 4, 1, law, legal(PLAIN, 4))
    for given, other in ((2, 1, 1), law), ((2,), law._replace(base=BaseLaw(bad_words=((2,),)))):
        ticket = world.lm.add(world.lm.open(PROMPT, world.ending), Draw(Chain.empty(), 0, 4, other, 0, given=given))
        failed = []
        for _ in range(4):
            failed += world.lm.step().failed
        ((number, error),) = failed
        assert number == ticket and isinstance(error, InputError) and "start" in str(error)


def test_samplers_that_make_no_steps_say_so() -> None:
    assert {options.model_fields["name"].default for options in ALL if options.takes_start()} == {MH, GIBBS}
    for sampler in ("ancestral", "sequential_monte_carlo", "parallel_tempering"):
        with pytest.raises(ConfigurationError, match="metropolis_hastings or particle_gibbs"):
            GenerationConfig(sampler=sampler, start="x")  # type: ignore[arg-type] # settings read a mapping
    with pytest.raises(ConfigurationError, match="temperature=0"):
        GenerationConfig(start="x", temperature=0)
