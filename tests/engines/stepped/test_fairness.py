"""A long request does not starve short ones, and rows that make way for others lose nothing."""

from __future__ import annotations

from typing import Any

import pytest

from power_sampling.engines.torch.engine import TorchLM
from power_sampling.testing import run_draws
from power_sampling.types import Chain, Continuation, Draw, Law, Termination
from tests.support.tiny import tiny_model

ENDLESS = Termination(frozenset())
LAW = Law(2.0, 1.0, 0.5)


def draw(tokens: int, seed: int) -> Draw:
    return Draw(Chain.empty(), 0, tokens, LAW, seed)


def finished_at(lm: TorchLM, tickets: list[int]) -> tuple[dict[int, int], dict[int, Continuation]]:
    """The step at which each draw ended, and what it drew."""
    steps: dict[int, int] = {}
    found: dict[int, Continuation] = {}
    step = 0
    while len(steps) < len(tickets):
        step += 1
        finished = lm.step().finished
        found.update(finished)
        steps.update(dict.fromkeys((ticket for ticket, _ in finished), step))
    return steps, found


@pytest.mark.parametrize("lag", [False, True])
def test_a_short_request_gets_a_row_at_once_and_the_long_one_loses_nothing(lag: bool) -> None:
    model = tiny_model("llama", vocab_size=40).double()
    lm = TorchLM(model, max_rows=4, lag=lag)
    long = lm.open((1, 2, 3), ENDLESS)
    particles = [lm.add(long, draw(30, seed)) for seed in range(8)]
    for _ in range(5):
        lm.step()
    short = [lm.add(lm.open((7, seed), ENDLESS), draw(3, seed)) for seed in range(3)]
    steps, found = finished_at(lm, [*particles, *short])
    assert max(steps[ticket] for ticket in short) <= 5
    assert lag or lm.cost.row_steps == 8 * 29 + 3 * 2, "nothing is decoded twice"
    assert lm.cost.prefilled_tokens == 3 + 3 * 2
    alone = TorchLM(model)
    for seed, expected in enumerate(run_draws(alone, alone.open((1, 2, 3), ENDLESS), [draw(30, s) for s in range(8)])):
        assert found[particles[seed]].tokens == expected.tokens
        assert abs(found[particles[seed]].logp - expected.logp).max() < 1e-9


def test_rows_are_shared_between_requests() -> None:
    """Two requests of many draws each advance together, whichever came first."""
    lm = TorchLM(tiny_model("llama", vocab_size=40), max_rows=4)
    first, second = (lm.open((token, 2), ENDLESS) for token in (1, 5))
    one = [lm.add(first, draw(5, seed)) for seed in range(12)]
    two = [lm.add(second, draw(5, seed)) for seed in range(4)]
    steps, _ = finished_at(lm, one + two)
    assert max(steps[ticket] for ticket in two) < max(steps[ticket] for ticket in one) - 4


def test_a_long_prompt_lets_short_ones_pass(monkeypatch: Any) -> None:
    monkeypatch.setattr("power_sampling.engines.stepped.engine.PREFILL_CHUNK", 8)
    lm = TorchLM(tiny_model("llama", vocab_size=40))
    long = lm.add(lm.open(tuple(range(1, 39)) * 2, ENDLESS), draw(2, 0))
    short = lm.add(lm.open((3, 4), ENDLESS), draw(2, 0))
    steps, _ = finished_at(lm, [long, short])
    assert steps[short] <= 3 < steps[long] <= 12
