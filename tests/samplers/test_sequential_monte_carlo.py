"""Sequential Monte Carlo estimates Z without bias: proved by walking every path of the production sampler's chance."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from power_sampling.config import SequentialMonteCarlo
from power_sampling.samplers import sequential_monte_carlo
from power_sampling.samplers.parts.resampling import RATIO, chopthin, effective_sample_size, log_mean_exp, systematic
from power_sampling.samplers.parts.rng import NumpyRng
from power_sampling.testing import Branches, TableLM, completions, drive, outcomes, power_law, run_draws
from power_sampling.types import Answer, Continuation, Law, Round, Termination
from tests.support.constraints import table_rules
from tests.support.exact import World

PROMPT = (2, 0, 1)
EOS = Termination(frozenset({0}))
STOP = Termination(frozenset({0}), ("ab",))


@pytest.mark.parametrize("ending", [EOS, STOP], ids=["eos", "stop"])
@pytest.mark.parametrize(
    ("alpha", "horizon", "fields"),
    [
        (2.0, 3, {"num_particles": 2, "block_size": 1, "ess_threshold": 1.0}),
        (4.0, 3, {"num_particles": 2, "block_size": 1, "ess_threshold": 0.5}),
        (4.0, 4, {"num_particles": 2, "block_size": 2, "ess_threshold": 0.0}),
        (3.0, 2, {"num_particles": 3, "block_size": 1, "ess_threshold": 1.0}),
        (3.0, 3, {"num_particles": 2, "block_size": 1, "ess_threshold": 1.0, "ramp_tokens": 2}),
        (3.0, 3, {"num_particles": 2, "block_size": 1, "ess_threshold": 1.0, "ramp_tokens": 8}),
        (2.0, 3, {"num_particles": 2, "block_size": 1, "ess_threshold": 1.0, "proposal_temperature": 0.8}),
        (4.0, 3, {"num_particles": 2, "block_size": 1, "ess_threshold": 1.0, "resampling": "chopthin"}),
        (3.0, 2, {"num_particles": 3, "block_size": 1, "proposal_temperature": 0.9, "resampling": "chopthin"}),
        (3.0, 3, {"num_particles": 2, "block_size": 1, "ramp_tokens": 2, "resampling": "chopthin"}),
        (3.0, 1, {"num_particles": 2, "proposal_temperature": 0.8, "num_runs": 2}),
    ],
)
def test_the_evidence_and_the_returned_completion_are_unbiased(
    ending: Termination, alpha: float, horizon: int, fields: dict[str, Any]
) -> None:
    """E[Z_hat 1(x is returned)] = p(x)^alpha for every completion x, so E[Z_hat] = Z too."""
    config = SequentialMonteCarlo.model_validate(fields)
    law = Law(alpha, 1.0, config.proposal_temperature or 1 / alpha)
    world = World(3, horizon, int(alpha) + horizon, law, ending)

    def program(rng: Branches) -> Answer:
        return drive(config.run(law, horizon, rng, lambda: False), world.answer(rng))

    exact = {x.tokens: math.exp(alpha * x.logp.sum()) for x in world.chains}
    estimate = dict.fromkeys(exact, 0.0)
    for probability, answer in outcomes(program):
        assert answer.log_z is not None
        estimate[answer.chain.tokens] += probability * math.exp(answer.log_z)
    assert max(abs(estimate[x] - exact[x]) for x in exact) < 1e-10
    assert abs(sum(estimate.values()) - sum(exact.values())) < 1e-10


def test_the_returned_completion_tends_to_the_power_law() -> None:
    """32 particles, 300 runs: within 5 standard errors plus 0.02 of finite-N bias on every completion.

    Over some 30 completions a right sampler fails with probability below 2e-5.
    """
    lm, law, horizon = TableLM(3, seed=1, rules=table_rules), Law(2.0, 1.0, 0.5), 4
    chains = completions(lm, PROMPT, EOS, horizon, law)
    index, target = {x.tokens: i for i, x in enumerate(chains)}, power_law(chains, 2.0)
    n, counts, handle = 300, np.zeros(len(chains)), lm.open(PROMPT, EOS)
    config = SequentialMonteCarlo(num_particles=32, block_size=1)
    for seed in range(n):
        sampler = config.run(law, horizon, NumpyRng(seed), lambda: False)
        counts[index[drive(sampler, lambda r: run_draws(lm, handle, r.draws)).chain.tokens]] += 1
    assert (np.abs(counts / n - target) < 5 * np.sqrt(target * (1 - target) / n) + 0.02).all()


def test_systematic_resampling_has_exact_expectations_and_kills_zero_weights() -> None:
    generator = np.random.default_rng(0)
    for n in (1, 2, 3, 5, 8):
        for _ in range(20):
            w = generator.gamma(0.3, size=n) * (generator.random(n) < 0.8)
            w[generator.integers(n)] += 0.1
            with np.errstate(divide="ignore"):
                log_weights = np.log(w)
            expected = np.zeros(n)
            for probability, ancestors in outcomes(lambda rng, lw=log_weights: systematic(lw, rng)):
                counts = np.bincount(ancestors, minlength=n)
                assert counts.sum() == n and not counts[w == 0].any()
                assert (np.abs(counts - n * w / w.sum()) < 1).all()
                expected += probability * counts
            assert np.abs(expected - n * w / w.sum()).max() < 1e-12


def test_systematic_resampling_survives_weights_of_any_size() -> None:
    rng = NumpyRng(0)
    for log_weights in ([-1e4, -1e4], [0.0, -800.0], [-np.inf, 3.0], [1e300, 0.0]):
        ancestors = systematic(np.array(log_weights), rng)
        assert len(ancestors) == 2
    assert effective_sample_size(np.array([-1e4, -1e4])) == pytest.approx(2)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
def test_chopthin_keeps_every_weight_on_average_and_within_a_ratio(n: int) -> None:
    generator = np.random.default_rng(n)
    for trial in range(30):
        w = generator.gamma(0.3, size=n) * (generator.random(n) < 0.8)
        w[generator.integers(n)] += 0.1
        if trial == 0:
            w[:] = 2.0
        with np.errstate(divide="ignore"):
            log_weights = np.log(w) - 1e4  # of any size
        passed_on = np.zeros(n)
        for probability, (ancestors, after) in outcomes(lambda rng, lw=log_weights: chopthin(lw, rng)):
            assert len(ancestors) == len(after) == n and (w[ancestors] > 0).all()
            if probability > 1e-9:  # a piece of the uniform that is rounding alone may do anything
                assert np.ptp(after) < math.log(RATIO) + 1e-9
                assert effective_sample_size(after) >= n / 2 - 1e-9
            np.add.at(passed_on, ancestors, probability * np.exp(after + 1e4))
        assert passed_on == pytest.approx(w, abs=1e-9)
        if trial == 0:
            assert (after == log_weights).all()  # equal weights are left as they are


@pytest.mark.parametrize("part", ["weights", "evidence"])
def test_wrong_weights_after_resampling_or_between_runs_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    horizon = 3 if part == "weights" else 1
    world = World(3, horizon, 41, Law(2.0, 1.0, 0.5 if part == "weights" else 0.8))
    config = SequentialMonteCarlo(num_particles=2, block_size=1, ess_threshold=1.0, resampling="chopthin")
    if part == "weights":
        monkeypatch.setattr(sequential_monte_carlo, "chopthin", lambda w, rng: (systematic(w, rng), w))
    else:  # every run is as good as any other
        config = SequentialMonteCarlo(num_particles=2, num_runs=2, proposal_temperature=0.8)
        monkeypatch.setattr(
            sequential_monte_carlo,
            "_pooled",
            lambda answers, rng: answers[rng.integers(2)]._replace(log_z=log_mean_exp([a.log_z for a in answers])),
        )

    def program(rng: Branches) -> Answer:
        return drive(config.run(world.law, horizon, rng, lambda: False), world.answer(rng))

    exact = {x.tokens: math.exp(2 * x.logp.sum()) for x in world.chains}
    for probability, answer in outcomes(program):
        assert answer.log_z is not None
        exact[answer.chain.tokens] -= probability * math.exp(answer.log_z)
    assert max(map(abs, exact.values())) > 1e-5


def test_runs_are_decoded_together_and_what_all_of_them_share_is_settled() -> None:
    lm = TableLM(4, seed=5, spread=6)
    handle, rounds = lm.open((1,), Termination(frozenset())), []

    def answer(current: Round) -> list[Continuation]:
        rounds.append(current)
        return run_draws(lm, handle, current.draws)

    settled = 0
    config = SequentialMonteCarlo(num_particles=2, block_size=4, num_runs=3)
    for seed in range(20):
        rounds.clear()
        sampler = config.run(Law(4.0, 1.0, 0.25), 16, NumpyRng(seed), lambda: False)
        result = drive(sampler, answer)
        assert [len(r.draws) for r in rounds] == [6] * 4
        assert all(result.chain.tokens[: len(r.settled)] == r.settled for r in rounds)
        settled += len(rounds[-1].settled)
    assert settled > 0

    rounds.clear()
    sampler = config.run(Law(4.0, 1.0, 0.25), 16, NumpyRng(0), lambda: len(rounds) >= 2)
    result = drive(sampler, answer)
    assert result.is_budget_spent and len(result.chain.tokens) == 16 and len(rounds[-1].draws) == 3


def test_settled_tokens_are_the_prefix_of_the_answer() -> None:
    lm = TableLM(4, seed=5, spread=4)
    handle = lm.open((1,), Termination(frozenset()))
    seen: list[Round] = []

    def answer(current: Round) -> list[Continuation]:
        seen.append(current)
        return run_draws(lm, handle, current.draws)

    settled = 0
    for seed in range(20):
        seen.clear()
        config = SequentialMonteCarlo(num_particles=4, block_size=2)
        result = drive(config.run(Law(4.0, 1.0, 0.25), 20, NumpyRng(seed), lambda: False), answer)
        lengths = [len(r.settled) for r in seen]
        assert lengths == sorted(lengths)
        assert all(result.chain.tokens[: len(r.settled)] == r.settled for r in seen)
        settled += lengths[-1]
    assert settled > 0


def test_terminated_particles_cost_nothing_and_a_spent_budget_returns_one_finished_particle() -> None:
    lm = TableLM(3, seed=2, rules=table_rules)
    handle = lm.open((1,), EOS)
    rounds: list[Round] = []

    def answer(current: Round) -> list[Continuation]:
        rounds.append(current)
        assert not any(draw.chain.is_terminated for draw in current.draws)
        return run_draws(lm, handle, current.draws)

    config = SequentialMonteCarlo(num_particles=6, block_size=1)
    drive(config.run(Law(2.0, 1.0, 0.5), 12, NumpyRng(0), lambda: False), answer)
    assert len(rounds[-1].draws) < 6

    rounds.clear()
    endless = Termination(frozenset())
    handle = lm.open((1,), endless)
    sampler = config.run(Law(2.0, 1.0, 0.5), 12, NumpyRng(0), lambda: len(rounds) >= 3)
    result = drive(sampler, answer)
    assert result.is_budget_spent and len(result.chain.tokens) == 12 and len(rounds[-1].draws) == 1


def test_no_particle_is_lost_where_weights_differ_by_rounding() -> None:
    log_weights = np.array([float.fromhex("-0x1.b0e50c44c9468p-1"), float.fromhex("-0x1.b0e50c44c9465p-1")])
    for probability, ancestors in outcomes(lambda rng: systematic(log_weights, rng)):
        assert len(ancestors) == 2 and probability > 0
