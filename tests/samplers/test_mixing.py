"""What is said of chains by the log p of their states: right where the truth is known, and said where nothing moves."""

from __future__ import annotations

import math

import numpy as np
import pytest

from power_sampling.config import GenerationConfig
from power_sampling.samplers import NumpyRng, sampler_for
from power_sampling.samplers.parts.mixing import effective_steps, split_r_hat
from power_sampling.samplers.parts.resampling import degeneracy
from power_sampling.testing import TableLM, drive, run_draws
from power_sampling.types import Answer, Floats, Termination, Weighed
from tests.support.exact import EOS, PROMPT

ENDLESS = Termination(frozenset())


def autoregression(rho: float, n: int, seed: int) -> Floats:
    noise = np.random.default_rng(seed).normal(size=n)
    x = np.zeros(n)
    for t in range(1, n):
        x[t] = rho * x[t - 1] + noise[t]
    return x


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_effective_steps_are_those_of_an_autoregression(rho: float) -> None:
    """n (1 - rho) / (1 + rho), within 20 percent: some ten standard errors of the mean of 60 estimates."""
    n = 1000
    found = np.mean([effective_steps(autoregression(rho, n, seed).tolist()) or 0.0 for seed in range(60)])
    assert found == pytest.approx(n * (1 - rho) / (1 + rho), rel=0.2)


def test_effective_steps_where_little_is_known() -> None:
    assert effective_steps([1.0, 2.0, 3.0]) is None
    assert effective_steps([2.0] * 9) is None
    assert effective_steps([1.0, -1.0] * 8) == 16.0  # more than independent ones would be worth; no more than there are
    slow = effective_steps([0.0] * 8 + [1.0] * 8)
    assert slow is not None and 1.0 <= slow < 4.0


def test_split_r_hat() -> None:
    apart = [autoregression(0.3, 400, seed) + 9.0 * (seed == 0) for seed in range(4)]
    alike = [autoregression(0.3, 400, seed) for seed in range(4)]
    drifting = [x + np.linspace(0, 9, 400) for x in alike]
    assert (split_r_hat(alike) or 0) < 1.05  # type: ignore[arg-type] # arrays are read too
    assert (split_r_hat(apart) or 0) > 2 and (split_r_hat(drifting) or 0) > 1.5  # type: ignore[arg-type] # arrays are read too
    assert split_r_hat([[1.0] * 6, [2.0] * 6]) == math.inf and split_r_hat([[1.0] * 6] * 2) == 1.0
    assert split_r_hat([[1.0, 2.0, 3.0]] * 3) is None and split_r_hat([[1.0, 2.0, 3.0, 4.0]]) is None


def test_split_r_hat_is_the_formula() -> None:
    traces = [[1.0, 2.0, 4.0, 4.0, 3.0], [0.0, 1.0, 5.0, 2.0, 2.0]]  # of an odd length the middle is left out
    halves = np.array([[1, 2], [4, 3], [0, 1], [2, 2]], dtype=float)
    within, between = np.mean([h.var(ddof=1) for h in halves]), np.var([h.mean() for h in halves], ddof=1)
    assert split_r_hat(traces) == pytest.approx(math.sqrt(1 / 2 + between / within))


def answer(sampler: dict[str, object], *, alpha: float = 2.0, horizon: int = 12, spread: float = 1.5) -> Answer:
    lm = TableLM(6, seed=4, spread=spread)
    config = GenerationConfig(sampler=sampler, alpha=alpha, max_new_tokens=horizon)  # type: ignore[arg-type] # settings read a mapping
    handle = lm.open(PROMPT, ENDLESS)
    return drive(sampler_for(config, horizon, NumpyRng(3), lambda: False), lambda r: run_draws(lm, handle, r.draws))


@pytest.mark.parametrize(
    "sampler",
    [
        {"name": "metropolis_hastings", "num_steps": 7, "block_size": 5},
        {"name": "particle_gibbs", "num_steps": 7, "num_particles": 2},
        {"name": "parallel_tempering", "num_steps": 7, "num_rungs": 2, "num_tuning_steps": 2},
    ],
    ids=lambda sampler: str(sampler["name"]),
)
def test_a_chain_tells_log_p_after_each_step_at_full_length(sampler: dict[str, object]) -> None:
    found = answer(sampler)
    assert len(found.trace) == 7 and found.trace[-1] == pytest.approx(found.chain.logp.sum())
    assert 0 < found.num_moved <= 7 and len(set(found.trace)) <= found.num_moved + 1


def test_particles_that_do_not_count_are_told() -> None:
    assert degeneracy(9.0, range(16)) == ()
    (alone,) = degeneracy(1.3, range(16))
    assert "1.3 of 16" in alone
    assert degeneracy(1.6, range(2)) == () and len(degeneracy(1.4, range(2))) == 1
    (narrow,) = degeneracy(9.0, [3] * 16)
    assert "descend from one" in narrow
    lopsided = {"name": "sequential_monte_carlo", "num_particles": 4, "ess_threshold": 0, "proposal_temperature": 1.0}
    told = answer(lopsided, alpha=20.0)
    assert any("outweighs" in each for each in told.warnings)
    assert answer({"name": "sequential_monte_carlo"}, alpha=1.2, horizon=4).warnings == ()


def test_a_genealogy_that_has_collapsed_is_told_and_no_other() -> None:
    for seed, options in enumerate([{"block_size": 1, "ess_threshold": 1.0}, {"block_size": 2}, {"block_size": 6}] * 4):
        lm, config = TableLM(6, seed=seed), {"name": "sequential_monte_carlo", "num_particles": 3, **options}
        asked = GenerationConfig(sampler=config, alpha=3.0, max_new_tokens=12)  # type: ignore[arg-type] # settings read a mapping
        handle, steps = lm.open(PROMPT, EOS), []

        def run(current: object, lm: TableLM = lm, handle: object = handle, steps: list[object] = steps) -> object:
            steps += current.steps  # type: ignore[attr-defined] # a round
            return run_draws(lm, handle, current.draws)  # type: ignore[attr-defined] # a round

        found = drive(sampler_for(asked, 12, NumpyRng(seed), lambda: False), run)  # type: ignore[arg-type] # settings read a mapping
        roots = [0, 1, 2]
        for step in (*steps, *found.steps):
            if isinstance(step, Weighed) and step.ancestors is not None:
                roots = [roots[i] for i in step.ancestors]
        assert any("descend" in told for told in found.warnings) == (len(set(roots)) == 1)
