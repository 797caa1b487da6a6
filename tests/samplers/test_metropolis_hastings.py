"""Metropolis-Hastings leaves p^alpha invariant: proved by walking every path of the production kernel's chance."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from power_sampling.config import MetropolisHastings
from power_sampling.samplers import metropolis_hastings
from power_sampling.samplers.metropolis_hastings import Move
from power_sampling.samplers.parts.rng import NumpyRng
from power_sampling.testing import (
    Branches,
    TableLM,
    drive,
    outcomes,
    run_draws,
)
from power_sampling.types import Chain, Continuation, Draw, Law, Progress, Round, Termination
from tests.support.exact import EOS, PROMPT, STOP
from tests.support.table import Table


@cache
def table(*args: Any) -> Table:
    return Table(*args)


CASES = [  # vocabulary, horizon, seed, alpha, ending
    (3, 4, 0, 1.0, EOS),
    (3, 4, 1, 2.0, EOS),
    (3, 5, 2, 4.0, EOS),
    (4, 4, 3, 2.0, EOS),
    pytest.param((3, 6, 4, 4.0, EOS), marks=pytest.mark.slow),
    (3, 4, 5, 4.0, STOP),
    (4, 4, 6, 2.0, STOP),
]


@pytest.mark.parametrize("case", CASES)
def test_one_proposal_leaves_the_power_law_invariant(case: tuple[Any, ...]) -> None:
    t = table(*case)
    lengths = {len(x.tokens) for x in t.chains}
    assert lengths == set(range(1, t.horizon + 1)), "the case has completions of every length"
    matrix = t.kernel(MetropolisHastings())
    assert np.abs(matrix.sum(1) - 1).max() < 1e-12
    assert t.gap(matrix) < 1e-10
    flow = t.target[:, None] * matrix
    assert np.abs(flow - flow.T).max() < 1e-10  # detailed balance


@pytest.mark.parametrize("case", [(3, 4, 0, 2.0, EOS), (3, 4, 1, 4.0, EOS), (3, 4, 2, 4.0, STOP)])
def test_early_rejection_has_the_same_kernel(case: tuple[Any, ...]) -> None:
    t = table(*case)
    matrix = t.kernel(MetropolisHastings(early_rejection=True), edges=True)
    assert t.gap(matrix) < 1e-10
    assert np.abs(matrix - t.kernel(MetropolisHastings(early_rejection=False))).max() < 1e-12


@pytest.mark.parametrize(
    ("case", "num_proposals"),
    [
        ((3, 4, 0, 2.0, EOS), 2),
        ((3, 4, 1, 4.0, STOP), 2),
        ((3, 2, 2, 4.0, EOS), 3),
        pytest.param((3, 3, 2, 4.0, EOS), 3, marks=pytest.mark.slow),
        pytest.param((3, 4, 3, 4.0, EOS), 3, marks=pytest.mark.slow),
        pytest.param((4, 4, 4, 2.0, EOS), 2, marks=pytest.mark.slow),
    ],
)
def test_several_proposals_leave_the_power_law_invariant(case: tuple[Any, ...], num_proposals: int) -> None:
    t = table(*case)
    assert t.gap(t.kernel(MetropolisHastings(num_proposals=num_proposals))) < 1e-10


@pytest.mark.parametrize("tau", [0.6, 1.0, 1.7])
def test_any_proposal_temperature_leaves_the_power_law_invariant(tau: float) -> None:
    t = table(3, 4, 8, 3.0, EOS, tau)
    assert t.law.is_bounded == (tau <= 1)
    assert t.gap(t.kernel(MetropolisHastings(proposal_temperature=tau))) < 1e-10


def test_a_missing_length_term_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    t = table(3, 4, 1, 2.0, EOS)
    monkeypatch.setattr(metropolis_hastings, "log_span", lambda x, cuts: 0.0)
    assert t.gap(t.kernel(MetropolisHastings())) > 1e-3


def test_proposals_capped_at_the_current_length_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    t = table(3, 4, 1, 2.0, EOS)

    def capped(chain: Chain, cut: int, max_new_tokens: int, *rest: Any) -> Draw:
        return Draw(chain, cut, len(chain.tokens) - cut, *rest)

    monkeypatch.setattr(metropolis_hastings, "Draw", capped)
    leaked = 0.0
    x = max(t.chains, key=lambda chain: (chain.is_terminated, -len(chain.tokens)))  # a short, terminated state

    def one_move(rng: Branches) -> Chain:
        generator = Move(MetropolisHastings(), t.law, t.horizon).run(x, rng, Progress(0, 1, {}))
        return drive(generator, t.answer(rng))  # type: ignore[arg-type,return-value]

    for probability, y in outcomes(one_move):
        leaked += probability * (y.tokens not in t.index)
    assert leaked > 1e-3  # it ends on texts that are neither terminated nor at the horizon


def test_the_chain_is_identical_with_early_rejection_on_and_off() -> None:
    lm = TableLM(6, seed=9)
    law = Law(4.0, 1.0, 0.25)
    decoded = {True: 0, False: 0}
    for seed in range(60):
        answers = {}
        for is_early in (True, False):
            handle = lm.open(PROMPT, EOS)
            config = MetropolisHastings(block_size=4, num_steps=6, early_rejection=is_early)
            before = lm.cost.row_steps
            sampler = config.run(law, 24, NumpyRng(seed), lambda: False)
            answers[is_early] = drive(sampler, lambda r, h=handle: run_draws(lm, h, r.draws))
            decoded[is_early] += lm.cost.row_steps - before
        assert answers[True].chain.tokens == answers[False].chain.tokens
        assert answers[True].acceptance_rate == answers[False].acceptance_rate
    assert decoded[True] < decoded[False]


@pytest.mark.parametrize("n", [150, pytest.param(2000, marks=pytest.mark.slow)])
def test_the_whole_sampler_tends_to_the_power_law(n: int) -> None:
    """n runs with blocks of 2 and 30 steps each: every completion's frequency within 5 standard errors of p^alpha.

    Over some 30 completions a right sampler fails with probability below 2e-5 by noise; what is left of the start after
    30 steps is below 1e-3 (the kernel's second eigenvalue to the 30th power), a fraction of a standard error.
    """
    t = table(3, 4, 1, 2.0, EOS)
    eigenvalues = np.sort(np.abs(np.linalg.eigvals(t.kernel(MetropolisHastings()))))
    assert eigenvalues[-2] ** 30 < 1e-3
    handle, counts = t.lm.open(PROMPT, EOS), np.zeros(len(t.chains))
    for seed in range(n):
        sampler = MetropolisHastings(block_size=2, num_steps=30).run(t.law, t.horizon, NumpyRng(seed), lambda: False)
        answer = drive(sampler, lambda r: run_draws(t.lm, handle, r.draws))
        counts[t.index[answer.chain.tokens]] += 1
    z = (counts - n * t.target) / np.sqrt(n * t.target * (1 - t.target))
    assert np.abs(z[n * t.target > 5]).max() < 5


@pytest.mark.parametrize("horizon", [1, 2, 16, 17])
def test_every_horizon_and_an_immediate_eos_work(horizon: int) -> None:
    lm = TableLM(2, seed=3)
    handle = lm.open((1,), EOS)
    for seed in range(30):
        sampler = MetropolisHastings(num_steps=2).run(Law(2.0, 1.0, 0.5), horizon, NumpyRng(seed), lambda: False)
        chain = drive(sampler, lambda r: run_draws(lm, handle, r.draws)).chain
        assert chain.is_terminated or len(chain.tokens) == horizon
        assert 0 not in chain.tokens[:-1]


def test_a_spent_budget_ends_the_refinement_and_finishes_the_completion() -> None:
    lm = TableLM(5, seed=3)
    handle = lm.open((1,), Termination(frozenset()))
    rounds: list[Round] = []

    def answer(current: Round) -> list[Continuation]:
        rounds.append(current)
        return run_draws(lm, handle, current.draws)

    sampler = MetropolisHastings(block_size=4).run(Law(2.0, 1.0, 0.5), 32, NumpyRng(0), lambda: len(rounds) > 5)
    result = drive(sampler, answer)
    assert result.is_budget_spent and result.exactness == "approximate"
    assert len(result.chain.tokens) == 32
    assert len(rounds) == 7 and rounds[-1].draws[0].cut == 4  # six rounds, then one extension to the horizon


def test_what_is_kept_of_a_stage_does_not_grow_with_its_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    lm, most = TableLM(6, seed=9), [0]
    handle = lm.open(PROMPT, EOS)
    draws = metropolis_hastings._Stage.draws

    def watched(self: Any, number: int, chain: Chain) -> tuple[Draw, ...]:
        found = draws(self, number, chain)
        most[0] = max(most[0], len(self._streams) + len(self.plans))
        return found

    monkeypatch.setattr(metropolis_hastings._Stage, "draws", watched)

    def answer(current: Round) -> list[Continuation]:
        assert current.prefetch is not None
        list(current.prefetch.candidates(lambda draw: None))
        return run_draws(lm, handle, current.draws)

    options, law = MetropolisHastings(num_steps=300, block_size=8), Law(1.1, 1.0, 1 / 1.1)
    drive(options.run(law, 8, NumpyRng(0), lambda: False), answer)
    assert 0 < most[0] < 100
