"""Entropy cuts leave p^alpha invariant, early rejection included: by walking every path of the production kernel."""

from __future__ import annotations

import functools
import math
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

from power_sampling.config import MetropolisHastings
from power_sampling.samplers import metropolis_hastings
from power_sampling.samplers.metropolis_hastings import Move
from power_sampling.samplers.parts.cuts import MIN_CUT_WEIGHT, cut_weights, floors, log_span
from power_sampling.samplers.parts.rng import NumpyRng
from power_sampling.testing import Branches, TableLM, drive, run_draws
from power_sampling.types import Chain, Continuation, Floats, Law, Progress, Round, Termination
from tests.support.constraints import PLAIN, legal
from tests.support.exact import EOS, PROMPT, STOP, World, label


def kernel(world: World, config: MetropolisHastings, *, thresholds: bool = False) -> Floats:
    def one_move(x: Chain, rng: Branches) -> Generator[Round, list[Continuation], Chain]:
        return Move(config, world.law, world.horizon).run(x, rng, Progress(0, 1, {}))

    def log_w(x: Chain, cut: int) -> float:
        return float(x.log_weight[cut:].sum()) - log_span(x, config)

    def edges(x: Chain) -> Floats:
        """Every u at which the decision about some proposal changes."""
        met = [(y, c) for y in world.chains for c in range(len(x.tokens)) if y.tokens[:c] == x.tokens[:c]]
        return np.array([math.exp(min(0.0, log_w(y, c) - log_w(x, c))) for y, c in met if len(y.tokens) > c])

    return world.kernel(one_move, edges) if thresholds else world.kernel(one_move)


def cuts(beta: float, **fields: Any) -> MetropolisHastings:
    return MetropolisHastings(cut="entropy", cut_exponent=beta, **fields)


def world_of(horizon: int, alpha: float, ending: Termination = EOS, tau: float | None = None) -> World:
    law = Law(alpha, 1.0, tau or 1 / alpha, wants_entropy=True)
    return World(3, horizon, int(alpha) + horizon, law, ending)


@pytest.mark.parametrize(
    ("horizon", "alpha", "beta", "ending", "tau"),
    [
        (4, 2.0, 4.0, EOS, None),
        (2, 4.0, 1.0, EOS, None),
        (4, 3.0, 2.0, STOP, 0.8),
        (4, 1.0, 4.0, EOS, 1.7),
        (4, 2.0, 4.0, legal(PLAIN, 4), None),
        (3, 2.0, 1.0, legal(PLAIN, 3), 0.8),
    ],
    ids=label,
)
def test_moves_leave_the_power_law_invariant(
    horizon: int, alpha: float, beta: float, ending: Termination, tau: float | None
) -> None:
    world = world_of(horizon, alpha, ending, tau)
    matrix = kernel(world, cuts(beta))
    flow = world.target[:, None] * matrix
    assert np.abs(matrix.sum(1) - 1).max() < 1e-12
    assert np.abs(flow - flow.T).max() < 1e-10  # detailed balance
    if horizon == 2 or ending.constraint:
        assert world.gap(kernel(world, cuts(beta, num_proposals=2))) < 1e-10
        early = kernel(world, cuts(beta), thresholds=True)
        assert np.abs(matrix - early).max() < 1e-12


def test_the_cut_law_is_what_the_formula_says() -> None:
    world = world_of(4, 2.0)
    for x in world.chains:
        entropy = []
        for t in range(len(x.tokens)):
            p = np.exp(world.lm.logits((*PROMPT, *x.tokens[:t])))
            p /= p.sum()
            entropy.append(-(p * np.log(p)).sum())
        assert x.entropy == pytest.approx(entropy, abs=1e-12)
        jumps = [max(0.0, b - a) ** 2 + MIN_CUT_WEIGHT for a, b in zip([0.0, *entropy], entropy, strict=False)]
        assert cut_weights(x.entropy, 2.0) == pytest.approx(jumps, abs=1e-12)
        assert log_span(x, cuts(2.0)) == pytest.approx(math.log(sum(jumps)))


@pytest.mark.parametrize(
    "wrong", [lambda x, cuts: 0.0, lambda x, cuts: math.log(len(x.tokens))], ids=["none", "length"]
)
def test_a_wrong_correction_would_be_noticed(monkeypatch: pytest.MonkeyPatch, wrong: Any) -> None:
    world = world_of(4, 2.0)
    monkeypatch.setattr(metropolis_hastings, "log_span", wrong)
    assert world.gap(kernel(world, cuts(1.0))) > 1e-3


def test_a_bound_that_is_none_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Early rejection by the length of a uniform cut is no bound here: it gives another kernel."""
    world = world_of(3, 2.0)
    right = kernel(world, cuts(4.0))
    assert np.abs(kernel(world, cuts(4.0), thresholds=True) - right).max() < 1e-12
    by_length = functools.partial(floors, cuts=MetropolisHastings())
    monkeypatch.setattr(metropolis_hastings, "floors", lambda *bounds: by_length(*bounds[:-1]))
    assert np.abs(kernel(world, cuts(4.0), thresholds=True) - right).max() > 1e-3


def test_the_chain_is_identical_with_early_rejection_on_and_off() -> None:
    lm, decoded = TableLM(6, seed=9), {True: 0, False: 0}
    for seed in range(40):
        tokens = []
        for is_early in (True, False):
            handle, before = lm.open(PROMPT, EOS), lm.cost.row_steps
            config = MetropolisHastings(block_size=4, num_steps=6, early_rejection=is_early, cut="entropy")
            sampler = config.run(config.law(4.0, 1.0), 24, NumpyRng(seed), lambda: False)
            tokens.append(drive(sampler, lambda r, h=handle: run_draws(lm, h, r.draws)).chain.tokens)
            decoded[is_early] += lm.cost.row_steps - before
        assert tokens[0] == tokens[1]
    assert decoded[True] < decoded[False]
