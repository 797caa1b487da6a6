"""A prefetched chain is the sequential one, token for token; only the order of decoding differs."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

from power_sampling.config import MetropolisHastings
from power_sampling.engines.base import Ending
from power_sampling.samplers import metropolis_hastings
from power_sampling.samplers.prefetch import Prefetcher
from power_sampling.samplers.rng import NumpyRng
from power_sampling.testing import TableLM, drive, run_draws
from power_sampling.types import Answer, Continuation, Law, Round
from tests.exact import EOS, PROMPT, STOP, label
from tests.test_constraints import PLAIN, legal

ENDLESS = Ending(frozenset())
MODULE = importlib.import_module("power_sampling.samplers.prefetch")


class Run:
    """Sampler and table model, with what it took: rounds, and serial steps (the longest draw of each round)."""

    def __init__(self, ending: Ending = EOS, vocab: int = 5, alpha: float = 3.0, horizon: int = 12) -> None:
        self.lm, self.law, self.horizon = TableLM(vocab, seed=4), Law(alpha, 1.0, 1 / alpha), horizon
        self.handle = self.lm.open(PROMPT, ending)
        self.rounds = self.serial_steps = 0

    def __call__(self, seed: int, **fields: Any) -> Answer:
        def answer(current: Round) -> list[Continuation]:
            continuations = run_draws(self.lm, self.handle, current.draws)
            self.rounds += 1
            self.serial_steps += max(len(c.tokens) for c in continuations)
            return continuations

        config = MetropolisHastings.model_validate({"block_size": 6, "num_steps": 6, **fields})
        sampler = metropolis_hastings(config, self.law, self.horizon, NumpyRng(seed), lambda: False)
        return drive(sampler, answer)


@pytest.mark.parametrize(
    ("num_seeds", "prefetch", "ending", "fields"),
    [
        (500, 3, EOS, {}),
        (60, 10, EOS, {}),
        (60, 2, STOP, {"cut": "entropy", "cut_exponent": 1.0}),
        (60, 4, EOS, {"early_rejection": False}),
        (40, 3, EOS, {"num_proposals": 2}),
        (60, 6, EOS, {"proposal_temperature": 0.9}),
        (60, 4, legal(PLAIN, 12), {}),
    ],
    ids=label,
)
def test_the_chain_is_identical(num_seeds: int, prefetch: int, ending: Ending, fields: dict[str, Any]) -> None:
    vocab = 3 if ending.stop or ending.constraint else 5
    one, many = Run(ending, vocab), Run(ending, vocab)
    moved = 0
    for seed in range(num_seeds):
        sequential, prefetched = one(seed, **fields), many(seed, prefetch=prefetch, **fields)
        assert prefetched.chain.tokens == sequential.chain.tokens
        assert (prefetched.chain.log_weight == sequential.chain.log_weight).all()
        assert prefetched.acceptance_rate == sequential.acceptance_rate
        moved += bool(sequential.acceptance_rate)
    assert moved > num_seeds / 4
    assert many.rounds < one.rounds and many.serial_steps < one.serial_steps
    assert many.lm.cost.row_steps >= one.lm.cost.row_steps


def test_a_stage_takes_one_round_and_one_more_for_every_acceptance() -> None:
    many = Run(ENDLESS, 8, 4.0)
    for seed in range(40):
        many.rounds = 0
        rate = many(seed, prefetch=6).acceptance_rate
        assert rate is not None and many.rounds <= 2 * 2 + round(12 * rate)  # two stages of an extension and six moves


@pytest.mark.parametrize("part", ["prefix", "floor"])
def test_a_proposal_of_another_state_would_be_noticed(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Among the seeds is one in which a chain accepts less than it had, and then what it would have abandoned."""
    if part == "prefix":
        monkeypatch.setattr(MODULE, "_key", lambda draw: draw.seed)
    else:
        monkeypatch.setattr(Prefetcher, "_recall", lambda self, draw: MODULE._key(draw) in self._known)
    run, fields = Run(ENDLESS, alpha=1.3), {"num_steps": 12, "block_size": 12}
    assert any(run(s, **fields).chain.tokens != run(s, prefetch=12, **fields).chain.tokens for s in range(50, 70))
