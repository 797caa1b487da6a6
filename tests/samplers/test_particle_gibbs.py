"""Suffix particle Gibbs leaves p^alpha invariant: proved by walking every path of the production kernel's chance."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

from power_sampling.config import ParticleGibbs
from power_sampling.samplers import particle_gibbs
from power_sampling.samplers.particle_gibbs import move
from power_sampling.samplers.parts.rng import NumpyRng
from power_sampling.testing import Branches, TableLM, drive, run_draws
from power_sampling.types import Chain, Continuation, Floats, Law, Progress, Round, Termination
from tests.support.constraints import PLAIN, legal, table_rules
from tests.support.exact import EOS, PROMPT, STOP, World, label

EVERY_BLOCK = {"block_size": 1, "ess_threshold": 1.0}


def kernel(world: World, config: ParticleGibbs) -> Floats:
    def one_move(x: Chain, rng: Branches) -> Generator[Round, list[Continuation], Chain]:
        return move(x, world.horizon, config, world.law, rng, Progress(0, 1, {}))

    return world.kernel(one_move)


@pytest.mark.parametrize(
    ("horizon", "alpha", "tau", "ending", "fields"),
    [
        (4, 2.0, None, EOS, {"num_particles": 2}),  # Barker
        (4, 4.0, None, STOP, {"num_particles": 2}),
        (3, 4.0, None, EOS, {"num_particles": 3}),  # i-SIR
        (3, 2.0, None, EOS, {"num_particles": 2, **EVERY_BLOCK}),
        (3, 4.0, None, STOP, {"num_particles": 2, **EVERY_BLOCK}),
        (3, 4.0, None, EOS, {"num_particles": 2, "block_size": 1, "ess_threshold": 0.8}),  # now and then
        (4, 3.0, None, EOS, {"num_particles": 2, "block_size": 2, "ess_threshold": 1.0}),
        (2, 3.0, 0.8, EOS, {"num_particles": 3, **EVERY_BLOCK}),
        (3, 1.0, None, EOS, {"num_particles": 2, **EVERY_BLOCK}),
        (3, 3.0, 0.8, EOS, {"num_particles": 2, **EVERY_BLOCK}),
        (3, 3.0, 1.7, STOP, {"num_particles": 2, **EVERY_BLOCK}),
        (3, 3.0, None, EOS, {"num_particles": 2, "cut": "entropy", "cut_exponent": 1.0, **EVERY_BLOCK}),
        (4, 2.0, None, STOP, {"num_particles": 2, "cut": "entropy"}),
        (4, 2.0, None, legal(PLAIN, 4), {"num_particles": 2, **EVERY_BLOCK}),
        (3, 3.0, 0.8, legal(PLAIN, 3), {"num_particles": 2, **EVERY_BLOCK}),  # proposals run into dead ends
        (3, 1.0, None, legal(PLAIN, 3), {"num_particles": 2, "cut": "entropy"}),
    ],
    ids=label,
)
def test_a_move_leaves_the_power_law_invariant(
    horizon: int, alpha: float, tau: float | None, ending: Termination, fields: dict[str, Any]
) -> None:
    config = ParticleGibbs.model_validate(fields)
    world = World(
        3, horizon, int(alpha) + horizon, config.law(alpha, 1.0)._replace(proposal_temperature=tau or 1 / alpha), ending
    )
    assert len({len(x.tokens) for x in world.chains}) > 1
    matrix = kernel(world, config)
    assert np.abs(matrix.sum(1) - 1).max() < 1e-12  # and nothing illegal is ever kept
    assert world.gap(matrix) < 1e-10
    assert (np.linalg.matrix_power(matrix, 4) > 0).all()  # everything is reached from everywhere


def test_two_particles_without_resampling_are_barkers_rule() -> None:
    world = World(3, 3, 1, Law(3.0, 1.0, 1 / 3))
    matrix, rule = kernel(world, ParticleGibbs(num_particles=2)), np.zeros((len(world.chains),) * 2)
    for i, x in enumerate(world.chains):
        for cut in range(len(x.tokens)):
            for j, y in enumerate(world.chains):
                if i != j and y.tokens[:cut] == x.tokens[:cut] and len(y.tokens) > cut:
                    w = [np.exp(z.log_weight[cut:].sum()) / len(z.tokens) for z in (x, y)]
                    q = np.exp((3 * y.logp - y.log_weight)[cut:].sum())
                    rule[i, j] += q * w[1] / sum(w) / len(x.tokens)
    rule += np.diag(1 - rule.sum(1))
    assert np.abs(matrix - rule).max() < 1e-12


def test_a_missing_length_term_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    world, config = World(3, 3, 1, Law(2.0, 1.0, 0.5)), ParticleGibbs(num_particles=2)
    monkeypatch.setattr(particle_gibbs, "log_span", lambda x, law: 0.0)
    assert world.gap(kernel(world, config)) > 1e-3


def test_a_look_at_the_weights_that_knows_who_is_kept_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    world, config = World(3, 3, 1, Law(2.0, 1.0, 0.5)), ParticleGibbs(num_particles=2, **EVERY_BLOCK)
    monkeypatch.setattr(particle_gibbs, "effective_sample_size", lambda log_w: 0.0 if log_w[0] < log_w[1] else 2.0)
    assert world.gap(kernel(world, config)) > 1e-3


def test_a_current_suffix_without_its_weight_would_be_noticed() -> None:
    world = World(3, 3, 1, Law(2.0, 1.0, 0.5))

    def one_move(x: Chain, rng: Branches) -> Generator[Round, list[Continuation], Chain]:
        weightless = x._replace(log_weight=np.zeros(len(x.tokens)))
        return move(weightless, 3, ParticleGibbs(num_particles=2), world.law, rng, Progress(0, 1, {}))

    assert world.gap(world.kernel(one_move)) > 1e-3


def run(seed: int, config: ParticleGibbs, law: Law, horizon: int, lm: TableLM, handle: Any, **kwargs: Any) -> Any:
    sampler = config.run(law, horizon, NumpyRng(seed), kwargs.get("is_over", lambda: False))
    return drive(sampler, kwargs.get("answer", lambda r: run_draws(lm, handle, r.draws)))


def test_the_whole_sampler_tends_to_the_power_law() -> None:
    """500 runs of 8 steps: every completion within 5 standard errors of p^alpha, where 5 of it are expected.

    A right sampler fails with probability below 1e-5 by noise; what is left of the start is below 3e-3, less than a
    third of a standard error of the likely completions.
    """
    world = World(3, 3, 1, Law(2.0, 1.0, 0.5))
    config = ParticleGibbs(num_particles=4, block_size=2, num_steps=8)
    n, handle, counts = 500, world.lm.open(PROMPT, EOS), np.zeros(len(world.chains))
    for seed in range(n):
        answer = run(seed, config, world.law, world.horizon, world.lm, handle)
        assert answer.exactness == "asymptotic"
        counts[world.index[answer.chain.tokens]] += 1
    z = (counts - n * world.target) / np.sqrt(n * world.target * (1 - world.target))
    assert np.abs(z[n * world.target > 5]).max() < 5


def test_nothing_is_settled_and_progress_ends_with_the_steps() -> None:
    lm, rounds = TableLM(5, seed=3), []
    handle = lm.open((1,), Termination(frozenset()))

    def answer(current: Round) -> list[Continuation]:
        rounds.append(current)
        return run_draws(lm, handle, current.draws)

    config = ParticleGibbs(num_particles=3, block_size=4, num_steps=2)
    result = run(0, config, Law(2.0, 1.0, 0.5), 12, lm, handle, answer=answer)
    assert len(result.chain.tokens) == 12 and 0 <= result.acceptance_rate <= 1 and result.log_z < 0
    assert not any(r.settled or r.is_live for r in rounds)
    done = [r.progress.done / r.progress.total for r in rounds]
    assert done == sorted(done) and done[-1] < 1

    for limit in range(1, len(rounds)):
        rounds.clear()
        is_over = lambda limit=limit: len(rounds) >= limit  # noqa: E731 - a def would be longer than what it says
        result = run(0, config, Law(2.0, 1.0, 0.5), 12, lm, handle, answer=answer, is_over=is_over)
        assert result.is_budget_spent and result.exactness == "approximate" and len(result.chain.tokens) == 12


def test_a_dead_end_is_left_when_something_legal_is_found() -> None:
    lm, ends = TableLM(3, seed=5, rules=table_rules), set()
    handle = lm.open((1,), legal(["1", "2222222"], 4))
    config = ParticleGibbs(num_particles=2, num_steps=8, block_size=2)
    for seed in range(40):
        ends.add(run(seed, config, Law(2.0, 1.0, 0.5), 4, lm, handle).chain.tokens)
    assert (1, 0) in ends and ends <= {(1, 0), (2, 2, 2, 2)}
    hopeless = lm.open((1,), legal(["22222222"], 4))
    assert run(0, config, Law(2.0, 1.0, 0.5), 4, lm, hopeless).chain.end == "illegal"
