"""A prefetched chain is the sequential one, token for token; only the order of decoding differs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from power_sampling.config import GenerationConfig
from power_sampling.engines.protocol import Cost, LanguageModel
from power_sampling.engines.stepped.states import States
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.errors import ConfigurationError
from power_sampling.samplers import NumpyRng, sampler_for
from power_sampling.serving.draws import Draws
from power_sampling.serving.worker import Outcome, Request, Worker
from power_sampling.testing import TableLM, run_draws
from power_sampling.types import Chain, Continuation, Draw, Law, Round, Termination
from tests.support.constraints import PLAIN, legal, table_rules
from tests.support.exact import EOS, PROMPT, STOP, label
from tests.support.tiny import tiny_model

ENDLESS = Termination(frozenset())


def run(
    lm: LanguageModel,
    seeds: list[int],
    ending: Termination = EOS,
    *,
    alpha: float = 3.0,
    horizon: int = 12,
    **fields: Any,
) -> tuple[list[Outcome], Cost]:
    """One request after another, and what it took."""
    sampler = {"name": "metropolis_hastings", "block_size": 6, "num_steps": 6, **fields}
    config = GenerationConfig(sampler=sampler, alpha=alpha, max_new_tokens=horizon)
    worker, outcomes = Worker(lm), []
    for seed in seeds:
        request = Request(
            prompt=PROMPT,
            termination=ending,
            make_sampler=lambda over, s=seed: sampler_for(config, horizon, NumpyRng(s), over),
        )
        outcomes.append(worker.submit(request).future.result(60))
    worker.close()
    return outcomes, lm.cost


def same(a: Outcome, b: Outcome) -> bool:
    is_same = a.answer.chain.tokens == b.answer.chain.tokens and a.answer.acceptance_rate == b.answer.acceptance_rate
    return is_same and bool((a.answer.chain.log_weight == b.answer.chain.log_weight).all())


@pytest.mark.parametrize(
    ("num_seeds", "prefetch", "ending", "fields"),
    [
        (100, 3, EOS, {}),
        (60, 32, EOS, {"num_steps": 10}),
        (60, 4, STOP, {"cut": "entropy", "cut_exponent": 1.0}),
        (60, 8, EOS, {"early_rejection": False}),
        (40, 8, EOS, {"num_proposals": 2}),
        (60, 6, EOS, {"proposal_temperature": 0.9}),
        (60, 8, legal(PLAIN, 12), {}),
        (60, 16, ENDLESS, {}),
    ],
    ids=label,
)
def test_the_chain_is_identical(num_seeds: int, prefetch: int, ending: Termination, fields: dict[str, Any]) -> None:
    vocab, seeds = 3 if ending.stop or ending.constraint else 5, list(range(num_seeds))
    sequential, cost = run(TableLM(vocab, seed=4, rules=table_rules), seeds, ending, prefetch=0, **fields)
    prefetched, cost_ahead = run(TableLM(vocab, seed=4, rules=table_rules), seeds, ending, prefetch=prefetch, **fields)
    for one, many in zip(sequential, prefetched, strict=True):
        assert same(one, many)
        assert many.serial_steps <= one.serial_steps
    assert sum(bool(o.answer.acceptance_rate) for o in sequential) > num_seeds / 4
    assert cost_ahead.serial_steps < 0.8 * cost.serial_steps
    assert sum(o.tokens_decoded for o in prefetched) == cost_ahead.row_steps >= cost.row_steps


GIBBS = {"name": "particle_gibbs", "block_size": None, "num_particles": 3}
TEMPERING = {"name": "parallel_tempering", "num_rungs": 3}


@pytest.mark.parametrize(
    ("num_seeds", "prefetch", "ending", "fields"),
    [
        (10, 12, EOS, GIBBS),
        (8, 6, STOP, {**GIBBS, "cut": "entropy", "cut_exponent": 1.0}),
        pytest.param(15, 12, legal(PLAIN, 12), {**GIBBS, "proposal_temperature": 0.9}, marks=pytest.mark.slow),
        (4, 12, EOS, TEMPERING),
        (3, 16, STOP, {**TEMPERING, "cut": "entropy", "num_tuning_steps": 2}),
        pytest.param(10, 16, legal(PLAIN, 12), {**TEMPERING, "num_proposals": 2}, marks=pytest.mark.slow),
        pytest.param(10, 24, ENDLESS, {**TEMPERING, "early_rejection": False}, marks=pytest.mark.slow),
    ],
    ids=label,
)
def test_steps_of_several_chains_are_identical(
    num_seeds: int, prefetch: int, ending: Termination, fields: dict[str, Any]
) -> None:
    vocab, seeds = 3 if ending.stop or ending.constraint else 5, list(range(num_seeds))
    sequential, cost = run(TableLM(vocab, seed=4, rules=table_rules), seeds, ending, prefetch=0, **fields)
    prefetched, cost_ahead = run(TableLM(vocab, seed=4, rules=table_rules), seeds, ending, prefetch=prefetch, **fields)
    for one, many in zip(sequential, prefetched, strict=True):
        assert same(one, many) and one.answer.curve == many.answer.curve
        assert many.serial_steps <= one.serial_steps
    assert sum(bool(o.answer.acceptance_rate) for o in sequential) > num_seeds / 4
    assert cost_ahead.serial_steps < 0.8 * cost.serial_steps
    assert sum(o.tokens_decoded for o in prefetched) == cost_ahead.row_steps >= cost.row_steps


def test_prefetch_beside_looks_at_the_weights_in_between_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="prefetch: expected 0 beside block_size=4, got 16"):
        GenerationConfig(sampler={**GIBBS, "block_size": 4, "prefetch": 16})


@pytest.mark.parametrize(("family", "lag"), [("llama", True), pytest.param("mistral", False, marks=pytest.mark.slow)])
def test_on_a_model_with_states_forked_while_they_are_drawn(
    family: str, lag: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64. Most of the steps go, which takes forks from rows that are still being decoded."""
    model = tiny_model(family, vocab_size=40).double()
    forked = []
    cached = States.cached

    def watched(self: States, memo: Any, length: int) -> Any:
        forked.append(hasattr(memo, "row") and length > memo.cached.state.length)
        return cached(self, memo, length)

    monkeypatch.setattr(States, "cached", watched)
    fields: dict[str, Any] = {"block_size": 12, "num_steps": 10, "alpha": 1.5, "horizon": 24}
    for ending in (ENDLESS, EOS):
        sequential, cost = run(TorchLM(model), list(range(2)), ending, prefetch=0, **fields)
        assert not any(forked)
        prefetched, cost_ahead = run(TorchLM(model, lag=lag), list(range(2)), ending, prefetch=16, **fields)
        for one, many in zip(sequential, prefetched, strict=True):
            assert one.answer.chain.tokens == many.answer.chain.tokens
            assert one.answer.acceptance_rate == many.answer.acceptance_rate
        assert cost_ahead.serial_steps < cost.serial_steps / 2
        assert cost_ahead.prefilled_tokens == cost.prefilled_tokens, "a fork is never computed again"
        assert any(forked)
        forked.clear()


def test_four_blocks_of_ten_moves_take_less_than_a_third_of_the_steps() -> None:
    fields: dict[str, Any] = {"block_size": 16, "num_steps": 10, "alpha": 4.0, "horizon": 64}
    _, cost = run(TableLM(40, seed=0), list(range(4)), ENDLESS, prefetch=0, **fields)
    _, cost_ahead = run(TableLM(40, seed=0), list(range(4)), ENDLESS, prefetch=8, **fields)
    assert cost_ahead.serial_steps < cost.serial_steps / 3


class Crowd(TableLM):
    """Notes how many rows each step decodes."""

    def __init__(self) -> None:
        super().__init__(20, seed=1)
        self.rows: list[int] = []

    def step(self) -> Any:
        stepped = super().step()
        self.rows.append(len(stepped.decoded))
        return stepped


def test_under_load_the_sampler_is_the_sequential_one() -> None:
    """Rows that other requests have are not idle: what was prefetched for the first request is cancelled when seven
    others come, and begun again when they have gone."""
    config = GenerationConfig(
        sampler={"name": "metropolis_hastings", "block_size": 40, "num_steps": 30, "prefetch": 8}, max_new_tokens=40
    )
    crowd = Crowd()
    worker = Worker(crowd)

    def request(sampler: GenerationConfig, seed: int, **fields: Any) -> Request:
        horizon = sampler.max_new_tokens
        return Request(
            prompt=PROMPT,
            termination=ENDLESS,
            make_sampler=lambda over: sampler_for(sampler, horizon, NumpyRng(seed), over),
            **fields,
        )

    plain = GenerationConfig(sampler="ancestral", max_new_tokens=30)
    others: list[Any] = []

    def bring_others(update: Any) -> None:
        if update.progress.done == 3 and not others:
            others.extend(worker.submit_all([request(plain, seed) for seed in range(7)]))

    outcome = worker.submit(request(config, 0, listener=bring_others)).future.result(60)
    worker.close()
    assert max(crowd.rows) == 8
    busy = [i for i, rows in enumerate(crowd.rows) if rows == 8]
    assert len(busy) >= 30 and crowd.rows[0] == 1
    alone, _ = run(TableLM(20, seed=1), [0], ENDLESS, alpha=4.0, horizon=40, block_size=40, num_steps=30, prefetch=0)
    assert outcome.answer.chain.tokens == alone[0].answer.chain.tokens
    assert outcome.tokens_decoded + 7 * 30 == sum(crowd.rows)


def test_requests_that_fill_the_rows_decode_nothing_ahead() -> None:
    config = GenerationConfig(
        sampler={"name": "metropolis_hastings", "num_steps": 5, "block_size": 4, "prefetch": 4},
        alpha=2.0,
        max_new_tokens=16,
    )
    requests = [
        Request(
            prompt=PROMPT,
            termination=ENDLESS,
            make_sampler=lambda over, s=seed: sampler_for(config, 16, NumpyRng(s), over),
        )
        for seed in range(8)
    ]
    crowd = Crowd()
    worker = Worker(crowd)
    jobs = worker.submit_all(requests)
    outcomes = [job.future.result(60) for job in jobs]
    worker.close()
    alone, _ = run(
        TableLM(20, seed=1), list(range(8)), ENDLESS, alpha=2.0, horizon=16, num_steps=5, block_size=4, prefetch=0
    )
    assert [o.answer.chain.tokens for o in outcomes] == [o.answer.chain.tokens for o in alone]
    first = min(range(8), key=lambda i: outcomes[i].serial_steps)
    assert outcomes[first].tokens_decoded == alone[first].tokens_decoded


def test_a_proposal_of_another_state_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    fields: dict[str, Any] = {"alpha": 1.2, "num_steps": 12, "block_size": 12}
    seeds = list(range(20))
    sequential, _ = run(TableLM(5, seed=4, rules=table_rules), seeds, ENDLESS, prefetch=0, **fields)
    monkeypatch.setattr(Draw, "key", property(lambda draw: draw.seed))
    wrong, _ = run(TableLM(5, seed=4, rules=table_rules), seeds, ENDLESS, prefetch=32, **fields)
    assert not all(same(one, many) for one, many in zip(sequential, wrong, strict=True))


@pytest.mark.parametrize("is_over", [False, True])
def test_a_draw_begun_under_higher_floors_is_finished_or_drawn_again(is_over: bool) -> None:
    """Another chain may accept what the one it was begun for would have rejected."""
    lm = TableLM(5, seed=4, rules=table_rules)
    draws = Draws(lm, lm.open(PROMPT, ENDLESS))
    draw = Draw(Chain.empty(), 0, 12, Law(3.0, 1.0, 1 / 3), seed=1)
    (expected,) = run_draws(lm, draws.handle, [draw])
    strict = draw._replace(floors=np.full(12, float(expected.log_weight[:6].sum())))

    def answered(asked: Draw) -> list[Continuation]:
        draws.ask(Round((asked,)))
        draws.begin(1)
        while (answers := draws.answers()) is None:
            for ticket, continuation in lm.step().finished:
                draws.finish(ticket, continuation)
        return answers

    if is_over:
        (abandoned,) = answered(strict)
        assert abandoned.end == "floor"
        assert answered(strict._replace(floors=np.zeros(12)))[0] is abandoned, "what is below higher floors is rejected"
    else:
        draws.ask(Round((strict,)))
        draws.begin(1)
        lm.step()
    (found,) = answered(draw)
    assert found.tokens == expected.tokens and found.is_complete
