"""Rejection sampling returns p^alpha itself: proved by walking every path of the production generator's chance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from power_sampling import NothingAcceptedError
from power_sampling.samplers import NumpyRng, rejection
from power_sampling.samplers.rejection import Rejection
from power_sampling.testing import Branches, TableLM, drive, outcomes, run_draws
from power_sampling.types import Answer, Continuation, Draw, Floats, Round, Termination
from tests.support.constraints import PLAIN, legal
from tests.support.exact import EOS, PROMPT, STOP, World, label

Answering = Callable[[Round], list[Continuation]]


def world_of(options: Rejection, horizon: int, alpha: float, ending: Termination = EOS) -> World:
    return World(3, horizon, int(alpha) + horizon, options.law(alpha, 1.0), ending)


def law_of(
    world: World, options: Rejection, *, edges: Floats | None = None, change: Any = lambda answer: answer
) -> Floats:
    """P(completion x is accepted as the n-th draw), (x, n); what is missing to 1 is the failure."""

    def program(rng: Branches) -> Answer | None:
        sampler = options.run(world.law, world.horizon, rng, lambda: False)
        try:
            return drive(sampler, change(world.answer(rng)))
        except NothingAcceptedError:
            return None

    found = np.zeros((len(world.chains), options.max_draws))
    for probability, answer in outcomes(program, edges):
        if answer is not None:
            assert answer.exactness == "exact" and answer.acceptance_rate is not None
            found[world.index[answer.chain.tokens], round(1 / answer.acceptance_rate) - 1] += probability
    return found


def exact(world: World, num_draws: int) -> Floats:
    p_alpha = np.exp([world.law.alpha * x.logp.sum() for x in world.chains])
    return np.asarray(p_alpha[:, None] * (1 - p_alpha.sum()) ** np.arange(num_draws))


def thresholds(world: World) -> Floats:
    """Every u at which the decision about some completion changes."""
    return np.exp([x.log_weight.sum() for x in world.chains])


@pytest.mark.parametrize(
    ("horizon", "alpha", "ending", "num_parallel", "max_draws"),
    [
        (3, 2.0, EOS, 1, 2),
        (3, 4.0, STOP, 2, 2),
        (2, 3.0, EOS, 2, 3),
        (2, 2.0, STOP, 1, 3),
        (3, 2.0, legal(PLAIN, 3), 2, 3),  # some draws run into a dead end
        (4, 4.0, legal(PLAIN, 4), 1, 2),
        (3, 1.0, legal(PLAIN, 3), 2, 2),
    ],
    ids=label,
)
def test_an_accepted_completion_has_the_power_law(
    horizon: int, alpha: float, ending: Termination, num_parallel: int, max_draws: int
) -> None:
    options = Rejection(num_parallel=num_parallel, max_draws=max_draws)
    world = world_of(options, horizon, alpha, ending)
    assert len({len(x.tokens) for x in world.chains}) > 1
    assert all(x.log_weight.sum() <= 1e-12 for x in world.chains)
    found = law_of(world, options)
    assert np.abs(found - exact(world, max_draws)).max() < 1e-12
    assert found.sum(1) / found.sum() == pytest.approx(world.target, abs=1e-12)


@pytest.mark.parametrize("ending", [pytest.param(EOS, marks=pytest.mark.slow), STOP, legal(PLAIN, 3)], ids=label)
def test_abandoning_early_changes_nothing(ending: Termination) -> None:
    options = Rejection(num_parallel=1, max_draws=2)
    world = world_of(options, 3, 3.0, ending)
    assert np.abs(law_of(world, options, edges=thresholds(world)) - exact(world, 2)).max() < 1e-12


def test_the_first_to_end_would_be_noticed() -> None:
    """Taking draws in the order in which they end prefers short completions."""
    options = Rejection(num_parallel=2, max_draws=2)
    world = world_of(options, 3, 2.0)

    def by_length(answer: Answering) -> Answering:
        return lambda current: sorted(answer(current), key=lambda c: len(c.tokens))

    assert np.abs(law_of(world, options, change=by_length) - exact(world, 2)).max() > 1e-3


def test_floors_that_are_too_high_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    options = Rejection(num_parallel=1, max_draws=1)
    world = world_of(options, 3, 2.0)
    monkeypatch.setattr(rejection, "Draw", lambda *fields: Draw(*fields[:-1], fields[-1] + 1))
    assert np.abs(law_of(world, options, edges=thresholds(world)) / exact(world, 1) - 1).max() > 0.1


def run(options: Rejection, lm: TableLM, seed: int, horizon: int, alpha: float, **limits: Any) -> Answer:
    handle = lm.open(PROMPT, EOS)
    sampler = options.run(options.law(alpha, 1.0), horizon, NumpyRng(seed), limits.get("is_over", lambda: False))
    return drive(sampler, lambda current: run_draws(lm, handle, current.draws))


def test_log_z_is_unbiased_and_most_draws_are_short() -> None:
    """1000 runs: the mean within 5 standard errors of log Z, which fails by chance with probability below 1e-6."""
    options, n, horizon, alpha = Rejection(num_parallel=8), 1000, 6, 2.0
    world = World(3, horizon, 1, options.law(alpha, 1.0))
    answers = [run(options, world.lm, seed, horizon, alpha) for seed in range(n)]
    log_z = np.log(np.exp([alpha * x.logp.sum() for x in world.chains]).sum())
    estimates = [answer.log_z for answer in answers]
    assert np.mean(estimates) == pytest.approx(log_z, abs=5 * np.std(estimates) / math.sqrt(n))
    assert np.std(estimates) < 1.3
    num_draws = sum(round(1 / answer.acceptance_rate) for answer in answers if answer.acceptance_rate)
    assert num_draws / n == pytest.approx(math.exp(-log_z), rel=0.2)


def test_what_is_certain_to_be_rejected_is_abandoned() -> None:
    lm = TableLM(6, seed=3)
    with pytest.raises(NothingAcceptedError, match=r"none of 64 .* below 0\.05"):
        run(Rejection(max_draws=64), lm, 0, 100, 6.0)
    assert lm.cost.row_steps < 64 * 10


def test_out_of_time_it_answers_with_a_draw_from_q_and_says_so() -> None:
    answer = run(Rejection(max_draws=64), TableLM(6, seed=3), 0, 100, 6.0, is_over=lambda: True)
    assert answer.exactness == "approximate" and answer.is_budget_spent and answer.log_z is None
    assert answer.chain.is_terminated or len(answer.chain.tokens) == 100
