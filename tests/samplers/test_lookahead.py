"""Lookahead tends to p^alpha with candidates and rollouts; the published weights do not."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from power_sampling.config import Lookahead
from power_sampling.samplers import lookahead
from power_sampling.samplers.lookahead import jackknifed
from power_sampling.samplers.parts.rng import NumpyRng
from power_sampling.testing import TableLM, drive, run_draws, suffixes
from power_sampling.types import Continuation, Draw, Floats, Law, Round, Termination
from tests.support.constraints import PLAIN, legal, table_rules
from tests.support.exact import EOS, PROMPT, STOP, World, label


class Even:
    """Answers a round with an even spread of q: of n equal draws, the quantiles (j + u) / n, u uniform.

    Large numbers of candidates and rollouts without their noise: what is left of it falls like 1 / n.
    """

    def __init__(self, world: World) -> None:
        self.world = world
        self.known: dict[Any, tuple[list[Continuation], Floats]] = {}
        self.generator = np.random.default_rng(0)

    def __call__(self, current: Round) -> list[Continuation]:
        groups: dict[Any, list[Draw]] = {}
        for draw in current.draws:
            groups.setdefault((draw.chain.tokens[: draw.cut], draw.max_new_tokens), []).append(draw)
        answers = {key: iter(self.spread(key, draws)) for key, draws in groups.items()}
        return [next(answers[d.chain.tokens[: d.cut], d.max_new_tokens]) for d in current.draws]

    def spread(self, key: Any, draws: list[Draw]) -> list[Continuation]:
        if key not in self.known:
            found = suffixes(self.world.lm, PROMPT, self.world.ending, draws[0], draws[0].law.proposal_temperature)
            self.known[key] = [c for c, _ in found], np.cumsum(np.exp([log_q for _, log_q in found]))
        options, cdf = self.known[key]
        at = (np.arange(len(draws)) + self.generator.random()) / len(draws) * cdf[-1]
        chosen = np.minimum(np.searchsorted(cdf, at, side="right"), len(options) - 1)
        return [options[i] for i in self.generator.permutation(chosen)]


def distance(world: World, config: Lookahead, n: int) -> float:
    """Total variation between n answers and p^alpha."""
    even, counts = Even(world), np.zeros(len(world.chains))
    for seed in range(n):
        answer = drive(config.run(world.law, world.horizon, NumpyRng(seed), lambda: False), even)
        assert answer.exactness == "approximate"
        counts[world.index[answer.chain.tokens]] += 1
    return float(np.abs(counts / n - world.target).sum() / 2)


N = 300
NOISE = 0.12  # the distance of N right answers over 15 completions has mean below 0.06, deviation below 0.018


@pytest.mark.parametrize(
    ("alpha", "tau", "ending"),
    [(4.0, None, EOS), (2.0, 1.0, EOS), (3.0, 0.6, STOP), (2.0, None, legal(PLAIN, 3))],
    ids=label,
)
def test_the_law_tends_to_the_power_law(alpha: float, tau: float | None, ending: Termination) -> None:
    """A right sampler passes but for noise of 3 standard deviations: with probability above 0.998 each."""
    world = World(3, 3, 41, Law(alpha, 1.0, tau or 1 / alpha), ending)
    assert distance(world, Lookahead(block_size=1, num_candidates=24, num_rollouts=8), N) < NOISE


def test_weights_that_forget_the_proposal_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The published weights p(block)^alpha zeta, on candidates that are drawn from q already."""
    world = World(3, 3, 41, Law(3.0, 1.0, 1 / 3))
    monkeypatch.setattr(
        lookahead, "_log_w", lambda candidates, start: np.array([3.0 * x.logp[start:].sum() for x in candidates])
    )
    assert distance(world, Lookahead(block_size=1, num_candidates=24, num_rollouts=8), N) > 2 * NOISE


def test_no_lookahead_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(3, 3, 41, Law(4.0, 1.0, 0.25))
    monkeypatch.setattr(lookahead, "jackknifed", lambda log_w, rollouts: np.exp(log_w - log_w.max()))
    assert distance(world, Lookahead(block_size=1, num_candidates=24, num_rollouts=2), N) > 2 * NOISE


def test_the_jackknife_takes_out_the_first_order_of_the_bias() -> None:
    """Two candidates, rollouts of two values each, every outcome summed: the bias falls with M^-2 instead of M^-1."""
    values, log_w = np.log([[0.2, 1.0], [0.5, 0.7]]), np.log([0.4, 0.6])
    zeta = np.exp(values).mean(1)
    exact = np.exp(log_w) * zeta / (np.exp(log_w) @ zeta)
    bias: dict[tuple[str, int], float] = {}
    for m in (3, 6):
        means = {"jackknife": np.zeros(2), "plain": np.zeros(2)}
        for outcome in product((0, 1), repeat=2 * m):
            rollouts = np.array([values[i, list(outcome[i * m : (i + 1) * m])] for i in (0, 1)])
            plain = np.exp(log_w) * np.exp(rollouts).mean(1)
            means["jackknife"] += jackknifed(log_w, rollouts) / 4**m
            means["plain"] += plain / plain.sum() / 4**m
        for name, mean in means.items():
            bias[name, m] = abs(mean - exact).max()
    assert bias["plain", 6] == pytest.approx(bias["plain", 3] / 2, rel=0.05)
    assert bias["jackknife", 6] < bias["jackknife", 3] / 3 and bias["jackknife", 3] < bias["plain", 3] / 10


def test_weights_are_a_law_whatever_the_rollouts() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        log_w, rollouts = generator.normal(size=4) * 20 - 500, generator.normal(size=(4, 3)) * 20
        rollouts[generator.random(size=(4, 3)) < 0.4] = -np.inf
        weights = jackknifed(log_w, rollouts)
        assert (weights >= 0).all() and weights.sum() > 0
        dead = np.isneginf(rollouts).all(1)
        assert dead.all() or not weights[dead].any()
    assert (jackknifed(np.array([-np.inf, -2.0]), np.full((2, 2), -np.inf)) == [0, 1]).all()


def test_blocks_are_settled_and_a_spent_budget_finishes_the_completion() -> None:
    lm, rounds = TableLM(5, seed=3), []
    handle = lm.open((1,), Termination(frozenset()))

    def answer(current: Round) -> list[Continuation]:
        rounds.append(current)
        return run_draws(lm, handle, current.draws)

    config = Lookahead(block_size=4, num_candidates=3, num_rollouts=2, rollout_tokens=5)
    result = drive(config.run(Law(2.0, 1.0, 0.5), 12, NumpyRng(0), lambda: False), answer)
    assert [len(r.draws) for r in rounds] == [3, 6, 3, 6, 3]  # nothing is rolled out behind the last block
    assert [r.draws[0].max_new_tokens for r in rounds] == [4, 5, 4, 4, 4]
    assert [len(r.settled) for r in rounds] == [0, 0, 4, 4, 8]
    assert all(result.chain.tokens[: len(r.settled)] == r.settled for r in rounds)

    rounds.clear()
    result = drive(config.run(Law(2.0, 1.0, 0.5), 12, NumpyRng(0), lambda: len(rounds) >= 2), answer)
    assert result.is_budget_spent and len(result.chain.tokens) == 12 and len(rounds) == 3


def test_a_hopeless_constraint_is_told() -> None:
    lm = TableLM(3, seed=5, rules=table_rules)
    handle = lm.open((1,), legal(["22222222"], 4))
    config = Lookahead(block_size=2, num_candidates=3)
    answer = drive(
        config.run(Law(2.0, 1.0, 0.5), 4, NumpyRng(0), lambda: False), lambda r: run_draws(lm, handle, r.draws)
    )
    assert answer.chain.end == "illegal"
