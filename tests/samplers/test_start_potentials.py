"""A start beside potentials: a completion of the law p(x)^alpha phi(x) keeps it, and the law is reached from any start
that is allowed. The value of the potentials is counted once.

Everything is enumerated through `sampler_for`, as a request is answered: the start is weighed and judged by a draw of
its own.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest

from power_sampling import InputError
from power_sampling.config import GenerationConfig
from power_sampling.samplers import NumpyRng, metropolis_hastings, sampler_for
from power_sampling.samplers.metropolis_hastings import Move
from power_sampling.testing import Branches, drive
from power_sampling.types import Chain, Continuation, Draw, Floats, Round, Termination
from tests.support.constraints import PLAIN, legal
from tests.support.exact import EOS, STOP, label
from tests.support.judged import JudgedWorld, phi

MH, GIBBS = "metropolis_hastings", "particle_gibbs"
FULL = {"name": MH, "early_rejection": False}
PAIR = {"name": GIBBS, "num_particles": 2}
KINDS = {
    "final": {"final": phi(2)},
    "prefix": {"prefix": phi(1)},
    "both, and some forbidden": {"prefix": phi(3, forbidden=(1, 2)), "final": phi(4, forbidden=(2, 1, 0))},
}
MOST = {"prefix": phi(1, most=0.4), "final": phi(2, most=0.3)}


def unused(texts: list[str]) -> list[float]:
    raise AssertionError("the world judges")


def config_of(horizon: int, alpha: float, sampler: dict[str, Any], **fields: Any) -> GenerationConfig:
    return GenerationConfig(
        sampler=sampler,  # type: ignore[arg-type] # pydantic reads a mapping
        alpha=alpha,
        max_new_tokens=horizon,
        start="x",
        **{"potentials": [unused], **fields},
    )


def world_of(config: GenerationConfig, ending: Termination, **kinds: Any) -> JudgedWorld:
    return JudgedWorld(3, config.max_new_tokens, 5, config.law(), ending, **kinds)


def of_tokens(x: Chain) -> Any:
    return x.tokens


def of_a_chain(x: Chain) -> Any:
    """As an earlier request with the same potentials leaves it."""
    return x


STARTS = [of_tokens, of_a_chain]


def kernel(
    world: JudgedWorld, config: GenerationConfig, given: Callable[[Chain], Any] = of_tokens, thresholds: Any = id
) -> Floats:
    """From a start to the answer; what is forbidden stays, since no request begins there."""

    def program(x: Chain, rng: Branches) -> Generator[Round, Any, Chain]:
        if x.end == "illegal":
            return x
        is_constrained = world.ending.is_restricted
        sampler = sampler_for(config, world.horizon, rng, lambda: False, is_constrained=is_constrained, start=given(x))
        answer = yield from sampler
        assert answer.chain.log_phi == world.log_phi(answer.chain.tokens, "final")
        return answer.chain

    return world.kernel(program, thresholds)


def slow(*case: Any) -> Any:
    return pytest.param(*case, marks=pytest.mark.slow)


CASES = [
    slow(3, 2.0, {**FULL, "num_steps": 1}, STOP),
    (2, 2.0, {**FULL, "num_steps": 2}, EOS),
    slow(3, 1.0, {**FULL, "num_steps": 1}, EOS),
    slow(2, 3.0, {**FULL, "num_steps": 1, "num_proposals": 2}, EOS),
    slow(3, 3.0, {**FULL, "num_steps": 1, "proposal_temperature": 0.8}, EOS),
    slow(3, 2.0, {**FULL, "num_steps": 1, "cut": "entropy"}, EOS),
    (4, 2.0, {**FULL, "num_steps": 1}, legal(PLAIN, 4)),
    slow(3, 2.0, {**PAIR, "num_steps": 1}, STOP),
    (2, 2.0, {**PAIR, "num_steps": 2}, EOS),
    slow(3, 2.0, {**PAIR, "num_steps": 1, "block_size": 1, "ess_threshold": 1.0}, EOS),
    slow(3, 3.0, {**PAIR, "num_steps": 1, "block_size": 1, "ess_threshold": 0.8, "cut": "entropy"}, EOS),
    slow(4, 2.0, {**PAIR, "num_steps": 1}, legal(PLAIN, 4)),
]


@pytest.mark.parametrize("kind", [slow("final"), slow("prefix"), "both, and some forbidden"])
@pytest.mark.parametrize("given", STARTS, ids=lambda given: given.__name__)
@pytest.mark.parametrize(("horizon", "alpha", "sampler", "ending"), CASES, ids=label)
def test_the_law_with_potentials_is_left_as_it_is_and_reached_from_any_start(
    horizon: int, alpha: float, sampler: dict[str, Any], ending: Termination, given: Callable[[Chain], Any], kind: str
) -> None:
    config = config_of(horizon, alpha, sampler)
    world = world_of(config, ending, **KINDS[kind])
    matrix, is_allowed = kernel(world, config, given), world.target > 0
    assert np.abs(matrix[is_allowed].sum(1) - 1).max() < 1e-12
    assert world.gap(matrix) < 1e-10
    assert (matrix[is_allowed][:, ~is_allowed] == 0).all()  # what is forbidden is not reached
    if kind != "both, and some forbidden":  # which may leave islands
        assert np.abs(np.linalg.matrix_power(matrix, 2**16) - world.target).max() < 1e-6


@pytest.mark.parametrize("sampler", [{**FULL, "num_steps": 1}, {**PAIR, "num_steps": 1}], ids=label)
def test_a_start_whose_numbers_are_known_is_as_good_as_one_that_is_judged(sampler: dict[str, Any]) -> None:
    config = config_of(3, 2.0, sampler)
    world = world_of(config, EOS, **KINDS["both, and some forbidden"])
    assert np.abs(kernel(world, config, of_a_chain) - kernel(world, config)).max() < 1e-12


@pytest.mark.parametrize("given", STARTS, ids=lambda given: given.__name__)
def test_early_rejection_goes_by_what_the_start_is_worth(given: Callable[[Chain], Any]) -> None:
    bounds = [
        {"function": unused, "kind": "prefix", "at_most": 0.4},
        {"function": unused, "at_most": 0.3},
    ]
    config = config_of(2, 2.0, {"name": MH, "num_steps": 1}, potentials=bounds)
    world = world_of(config, EOS, most=(0.7, 0.7), **MOST)
    assert world.law == config.law()._replace(judging=world.law.judging)
    world.law = config.law()
    options: Any = config.sampler
    one = Move(options, world.law, world.horizon)
    matrix = kernel(world, config, given, world.thresholds(world.law, one.log_w))
    without = kernel(world, config_of(2, 2.0, {**FULL, "num_steps": 1}, potentials=bounds))
    assert np.abs(matrix - without).max() < 1e-12 and world.gap(matrix) < 1e-10


@pytest.mark.parametrize("given", STARTS, ids=lambda given: given.__name__)
def test_a_number_of_steps_left_open_leaves_the_law_as_it_is(
    monkeypatch: pytest.MonkeyPatch, given: Callable[[Chain], Any]
) -> None:
    sampler: Any = {**FULL, "num_steps": "auto", "max_steps": 2, "proposal_temperature": 1.0}
    config = config_of(1, 2.0, sampler)
    world = world_of(config, EOS, prefix=phi(3), final=phi(4, forbidden=(1,)))
    likely = sorted(float(x.logp.sum()) for x in world.chains)[-2]
    monkeypatch.setattr(metropolis_hastings, "has_settled", lambda trace, num_moved: trace[-1] >= likely)
    matrix = kernel(world, config, given)
    assert np.abs(matrix.sum(1) - 1).max() < 1e-12 and world.gap(matrix) < 1e-10


@pytest.mark.parametrize("sampler", [MH, GIBBS, {"name": MH, "num_steps": "auto"}], ids=label)
def test_what_is_forbidden_is_no_start(sampler: Any) -> None:
    config = config_of(3, 2.0, sampler)
    world = world_of(config, EOS, **KINDS["both, and some forbidden"])
    forbidden = [x for x in world.chains if x.end == "illegal"]
    assert forbidden
    for x in forbidden:
        with pytest.raises(InputError, match="start: a potential forbids"):
            drive(sampler_for(config, 3, NumpyRng(3), lambda: False, start=x.tokens), world.answer(Branches([], None)))


@pytest.mark.parametrize("sampler", [{**FULL, "num_steps": 1}, {**PAIR, "num_steps": 1}], ids=label)
@pytest.mark.parametrize("times", [0.0, 2.0])
def test_a_start_that_is_not_judged_or_judged_twice_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch, sampler: dict[str, Any], times: float
) -> None:
    config = config_of(3, 2.0, sampler)
    world = world_of(config, EOS, final=phi(2))
    right, as_it_is = world.continuation, world.gap(kernel(world, config))

    def wrong(draw: Draw, rng: Branches) -> Continuation:
        c = right(draw, rng)
        return c._replace(log_phi=times * c.log_phi) if draw.given else c

    def program(x: Chain, rng: Branches) -> Generator[Round, Any, Chain]:
        answer = yield from sampler_for(config, 3, rng, lambda: False, start=x.tokens)
        return answer.chain

    monkeypatch.setattr(world, "continuation", wrong)
    assert as_it_is < 1e-10 and world.gap(world.kernel(program)) > 1e-4
