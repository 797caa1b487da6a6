"""Best of N has the law of the likeliest of N completions from q: by walking every path of the production sampler."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from power_sampling.config import BestOfN, GenerationConfig
from power_sampling.samplers import NumpyRng, best_of_n, sampler_for
from power_sampling.testing import Branches, TableLM, drive, outcomes, run_draws, suffixes
from power_sampling.types import Answer, Chain, Draw, Law, Termination, Tokens
from tests.support.constraints import PLAIN, legal, table_rules
from tests.support.exact import EOS, PROMPT, STOP, World, label


def law_of(world: World, n: int) -> dict[Tokens, float]:
    """By the production sampler, every draw branched over."""
    config, found = BestOfN(num_completions=n), dict[Tokens, float]()

    def program(rng: Branches) -> Answer:
        return drive(config.run(world.law, world.horizon, rng, lambda: False), world.answer(rng))

    for probability, answer in outcomes(program):
        assert answer.exactness == "approximate"
        found[answer.chain.tokens] = found.get(answer.chain.tokens, 0.0) + probability
    return found


def law_of_the_maximum(world: World, n: int) -> dict[Tokens, float]:
    """P(best = x) = (sum of q up to x)^n - (sum of q below x)^n in the order of log p, what is illegal below all."""
    draw = Draw(Chain.empty(), 0, world.horizon, world.law, seed=0)
    drawn = suffixes(world.lm, PROMPT, world.ending, draw, world.law.proposal_temperature)
    drawn.sort(key=lambda found: found[0].logp.sum() if found[0].end != "illegal" else -math.inf)
    below = np.cumsum([math.exp(log_q) for _, log_q in drawn]) ** n
    return {c.tokens: float(p) for (c, _), p in zip(drawn, np.diff(below, prepend=0.0), strict=True)}


def gap(world: World, n: int) -> float:
    """Over the legal completions: which of the illegal ones is returned where there is no other, no law says."""
    found, exact = law_of(world, n), law_of_the_maximum(world, n)
    assert math.isclose(sum(found.values()), 1.0) and math.isclose(sum(exact.values()), 1.0)
    return max(abs(found.get(x.tokens, 0.0) - exact[x.tokens]) for x in world.chains)


@pytest.mark.parametrize(
    ("n", "horizon", "alpha", "tau", "ending"),
    [
        (1, 4, 2.0, 0.5, EOS),
        (2, 4, 4.0, 0.25, EOS),
        (3, 3, 2.0, 0.5, EOS),
        (4, 2, 3.0, 1.0, EOS),
        (3, 3, 2.0, 1.7, STOP),
        (3, 4, 2.0, 0.5, legal(PLAIN, 4)),
        (2, 3, 3.0, 0.8, legal(PLAIN, 3)),  # proposals run into dead ends
    ],
    ids=label,
)
def test_the_best_has_the_law_of_the_maximum(
    n: int, horizon: int, alpha: float, tau: float, ending: Termination
) -> None:
    world = World(3, horizon, 6, Law(alpha, 1.0, tau), ending)
    assert gap(world, n) < 1e-12


def test_its_law_runs_to_the_mode_of_p_and_is_no_power_law() -> None:
    world = World(3, 3, 2, Law(2.0, 1.0, 1.0))
    mode = max(world.chains, key=lambda x: x.logp.sum())
    assert law_of(world, 1)[mode.tokens] == pytest.approx(math.exp(mode.logp.sum()))
    of_the_mode = [law_of_the_maximum(world, n)[mode.tokens] for n in (1, 2, 4, 64)]
    assert of_the_mode == sorted(of_the_mode) and of_the_mode[-1] > 0.999 > world.target.max() + 0.1


WRONG: dict[str, Callable[[Chain], Any]] = {
    "the first": lambda x: 0.0,
    "the unlikeliest": lambda x: -x.logp.sum(),
    "the longest": lambda x: len(x.tokens),
    "log p per token": lambda x: x.logp.mean(),
    "the largest weight": lambda x: x.log_weight.sum(),
    "log q": lambda x: (2 * x.logp - x.log_weight).sum(),
}


@pytest.mark.parametrize("name", WRONG)
def test_another_choice_would_be_noticed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(best_of_n, "_log_p", WRONG[name])
    assert gap(World(3, 3, 6, Law(2.0, 1.0, 1.7)), 2) > 1e-2


def test_an_illegal_completion_that_competes_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(best_of_n, "_log_p", lambda x: x.logp.sum())
    assert gap(World(3, 3, 6, Law(3.0, 1.0, 0.8), legal(PLAIN, 3)), 2) > 1e-2


def test_every_draw_has_a_seed_of_its_own() -> None:
    """Branching is over independent draws, whatever their seeds."""
    asked = next(BestOfN(num_completions=5).run(Law(2.0, 1.0, 0.5), 3, NumpyRng(0), lambda: False))
    assert len({draw.seed for draw in asked.draws}) == 5


def test_the_best_is_legal_where_any_is() -> None:
    lm = TableLM(3, seed=5, rules=table_rules)
    handle = lm.open((1,), legal(["1", "2222222"], 4))
    config = GenerationConfig(sampler=BestOfN(num_completions=12), max_new_tokens=4, alpha=1.0)
    for seed in range(20):
        sampler = sampler_for(config, 4, NumpyRng(seed), lambda: False, is_constrained=True)
        assert drive(sampler, lambda r: run_draws(lm, handle, r.draws)).chain.end in ("eos", "length")
