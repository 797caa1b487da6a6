"""Potentials: every sampler that takes them has p(x)^alpha phi(x) as its law, proved by walking every path of its
chance, and an estimate of log Z that covers them."""

from __future__ import annotations

import math
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

from power_sampling.config import MetropolisHastings, ParticleGibbs, SequentialMonteCarlo
from power_sampling.samplers import particle_gibbs, sequential_monte_carlo
from power_sampling.samplers.metropolis_hastings import Move
from power_sampling.samplers.particle_gibbs import move
from power_sampling.samplers.parts.rng import NumpyRng
from power_sampling.testing import Branches, drive, outcomes, run_draws
from power_sampling.types import Answer, Chain, Continuation, Floats, Law, Progress, Round
from tests.support.exact import EOS, PROMPT, STOP
from tests.support.judged import JudgedWorld, nothing, phi

PREFIX, FINAL = phi(1), phi(2)
KINDS = {
    "final": {"final": FINAL},
    "prefix": {"prefix": PREFIX},
    "both, and some forbidden": {"prefix": phi(3, forbidden=(1, 2)), "final": phi(4, forbidden=(2, 1, 0))},
}
EVERY_BLOCK = {"block_size": 1, "ess_threshold": 1.0}


def cases(*options: tuple[int, dict[str, Any]]) -> pytest.MarkDecorator:
    """All kinds of potentials with all options; by default those of all kinds together."""
    return pytest.mark.parametrize(
        ("kinds", "horizon", "fields"),
        [
            pytest.param(
                KINDS[kind],
                horizon,
                fields,
                id=f"{kind}-{horizon}-{fields}",
                marks=[pytest.mark.slow] if kind != "both, and some forbidden" else [],
            )
            for kind in KINDS
            for horizon, fields in options
        ],
    )


def kernel_of_moves(world: JudgedWorld, config: MetropolisHastings, *, is_last: bool = True) -> Floats:
    world.set_target(is_last=is_last)
    one = Move(config, world.law, world.horizon, is_last=is_last)

    def run(x: Chain, rng: Branches) -> Generator[Round, list[Continuation], Chain]:
        return one.run(x, rng, Progress(0, 1, {}))

    return world.kernel(run, world.thresholds(world.law, one.log_w)) if config.early_rejection else world.kernel(run)


@cases(
    (3, {"early_rejection": False}),
    (2, {"num_proposals": 2, "early_rejection": False}),
    (3, {"cut": "entropy", "cut_exponent": 1.0, "early_rejection": False}),
    (3, {"proposal_temperature": 0.8, "early_rejection": False}),
)
def test_a_move_leaves_the_law_with_potentials_invariant(
    kinds: dict[str, Any], horizon: int, fields: dict[str, Any]
) -> None:
    config = MetropolisHastings.model_validate(fields)
    world = JudgedWorld(3, horizon, 5, config.law(2.0, 1.0), STOP, **kinds)
    matrix = kernel_of_moves(world, config)
    assert np.abs(matrix.sum(1) - 1).max() < 1e-12
    assert world.gap(matrix) < 1e-10
    assert world.gap(kernel_of_moves(world, config, is_last=False)) < 1e-10  # in a stage before the last
    assert (matrix[:, world.target == 0].sum(1)[world.target > 0] == 0).all()  # what is forbidden is not reached


def test_early_rejection_goes_by_the_most_that_potentials_can_be() -> None:
    """With a bound the kernel is the one without early rejection; a bound that is too low would be noticed."""
    config = MetropolisHastings()
    kinds = {"prefix": phi(1, most=0.4), "final": phi(2, most=0.3)}
    exact = JudgedWorld(3, 2, 5, config.law(2.0, 1.0), most=(0.4, 0.7), **kinds)
    without = kernel_of_moves(exact, MetropolisHastings(early_rejection=False))
    assert np.abs(kernel_of_moves(exact, config) - without).max() < 1e-12
    before = kernel_of_moves(exact, config, is_last=False)
    assert exact.gap(before) < 1e-10 and np.abs(before - without).max() > 1e-3
    wrong = JudgedWorld(3, 2, 5, config.law(2.0, 1.0), most=(0.4, -2.5), **kinds)
    assert wrong.gap(kernel_of_moves(wrong, config)) > 1e-4
    for most, has_floors in ((0.7, True), (math.inf, False)):
        law = config.law(2.0, 1.0)._replace(judging=exact.law.judging._replace(final=most))  # type: ignore[union-attr] # there are potentials
        one = Move(config, law, 2)
        plan = one.plan(exact.chains[0], NumpyRng(0))
        assert all((draw.floors is not None) == has_floors for draw in one.draws(exact.chains[0], plan))


@cases(
    (2, {"num_particles": 2, **EVERY_BLOCK}),
    (3, {"num_particles": 2, "block_size": 2, "ess_threshold": 0.8}),
    (2, {"num_particles": 2, "block_size": 1, "ess_threshold": 0.0, "proposal_temperature": 0.8}),
    (2, {"num_particles": 2, **EVERY_BLOCK, "resampling": "chopthin"}),
    (2, {"num_particles": 2, **EVERY_BLOCK, "ramp_tokens": 2}),
    (1, {"num_particles": 2, "num_runs": 2}),
)
def test_the_evidence_and_the_returned_completion_are_unbiased(
    kinds: dict[str, Any], horizon: int, fields: dict[str, Any]
) -> None:
    """E[Z_hat 1(x is returned)] = p(x)^alpha phi(x) for every completion x and any number of particles."""
    config = SequentialMonteCarlo.model_validate(fields)
    world = JudgedWorld(3, horizon, 6, config.law(2.0, 1.0), EOS, **kinds)

    def program(rng: Branches) -> Answer:
        return drive(config.run(world.law, horizon, rng, lambda: False), world.answer(rng))

    estimate = np.zeros(len(world.chains))
    for probability, answer in outcomes(program):
        assert answer.log_z is not None
        if answer.log_z > -math.inf:
            at = world.index[answer.chain.tokens]
            estimate[at] += probability * math.exp(answer.log_z)
            assert answer.chain.log_phi == pytest.approx(world.chains[at].log_phi)
        else:
            assert answer.chain.end == "illegal" and answer.chain.log_phi == -math.inf
    assert np.abs(estimate - world.weights).max() < 1e-10


@cases(
    (3, {"num_particles": 2, **EVERY_BLOCK}),
    (3, {"num_particles": 2}),
    (2, {"num_particles": 3}),
    (3, {"num_particles": 2, "block_size": 1, "ess_threshold": 0.8, "cut": "entropy"}),
)
def test_a_move_of_particles_leaves_it_invariant(kinds: dict[str, Any], horizon: int, fields: dict[str, Any]) -> None:
    config = ParticleGibbs.model_validate(fields)
    world = JudgedWorld(3, horizon, 5, config.law(3.0, 1.0), STOP, **kinds)
    matrix = world.kernel(lambda x, rng: move(x, horizon, config, world.law, rng, Progress(0, 1, {})))
    assert np.abs(matrix.sum(1) - 1).max() < 1e-12
    assert world.gap(matrix) < 1e-10


@pytest.mark.parametrize("part", ["moves", "particles", "conditional particles"])
def test_a_potential_left_out_would_be_noticed(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    law = Law(2.0, 1.0, 0.5)
    world = JudgedWorld(3, 2, 5, law, EOS, prefix=PREFIX, final=FINAL)
    if part == "moves":
        config = MetropolisHastings(early_rejection=False)
        right = Move.log_w
        monkeypatch.setattr(Move, "log_w", lambda self, x, cut: right(self, x, cut) - x.log_phi)
        assert world.gap(kernel_of_moves(world, config)) > 1e-3
        return
    owner = sequential_monte_carlo if part == "particles" else particle_gibbs
    monkeypatch.setattr(owner, "gained", lambda before, after: after.log_phi)  # which does not telescope
    if part == "particles":
        smc = SequentialMonteCarlo(num_particles=2, block_size=1, ess_threshold=1.0)
        found = outcomes(lambda rng: drive(smc.run(world.law, 2, rng, lambda: False), world.answer(rng)))
        evidence = sum(p * math.exp(answer.log_z or 0.0) for p, answer in found)
        assert abs(evidence - world.weights.sum()) > 1e-3
    else:
        gibbs = ParticleGibbs(num_particles=2, block_size=1, ess_threshold=1.0)
        matrix = world.kernel(lambda x, rng: move(x, 2, gibbs, world.law, rng, Progress(0, 1, {})))
        assert world.gap(matrix) > 1e-4


@pytest.mark.parametrize(
    ("config", "blocks"),
    [
        (MetropolisHastings(block_size=2, num_steps=2), {"prefix", "final"}),
        (SequentialMonteCarlo(num_particles=3, block_size=2), {"prefix", "final"}),
        (ParticleGibbs(num_particles=3, block_size=2, num_steps=2), {"prefix", "final"}),
    ],
    ids=lambda x: x.name if hasattr(x, "name") else "",
)
def test_out_of_time_the_answer_is_judged_all_the_same(config: Any, blocks: set[str]) -> None:
    world = JudgedWorld(3, 5, 5, config.law(2.0, 1.0), EOS, prefix=PREFIX, final=nothing)
    handle, asked, rounds = world.lm.open(PROMPT, EOS), set[str](), [0]

    def answer(current: Round) -> list[Continuation]:
        rounds[0] += 1
        asked.update(draw.judged for draw in current.draws if draw.judged)
        drawn = iter(run_draws(world.lm, handle, [draw for draw in current.draws if draw.max_new_tokens]))
        found = [next(drawn) if draw.max_new_tokens else draw.undrawn() for draw in current.draws]
        made = [d.chain.tokens[: d.cut] + c.tokens for d, c in zip(current.draws, found, strict=True)]
        return [c._replace(log_phi=world.log_phi(x, "final")) for c, x in zip(found, made, strict=True)]

    for limit in (0, 1, 2, 4, 99):
        for seed in range(3):
            rounds[0] = 0
            sampler = config.run(world.law, 5, NumpyRng(seed), lambda limit=limit: rounds[0] >= limit)
            chain = drive(sampler, answer).chain
            assert chain.is_terminated or len(chain.tokens) == 5
            assert chain.log_phi == world.log_phi(chain.tokens, "final")
    assert asked == blocks
