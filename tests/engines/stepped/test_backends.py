"""The scheduler, the prefix cache and the budget serve any backend: the same tests over torch and over numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from power_sampling import OutOfMemoryError
from power_sampling.config import GenerationConfig
from power_sampling.engines.protocol import Capabilities, LanguageModel, Peeks, StepsOnHost
from power_sampling.engines.stepped import allowance
from power_sampling.engines.stepped.engine import SteppedEngine
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.samplers import NumpyRng, sampler_for
from power_sampling.serving.worker import Outcome, Request, Worker
from power_sampling.testing import TableBackend, TableLM, check_language_model, run_draws
from power_sampling.types import Chain, Continuation, Draw, Law, Termination
from tests.support.copied import CopiedBackend
from tests.support.gguf import NEEDS_LLAMA_CPP, jamba_engine, lfm2_engine, llama_engine, mamba_engine
from tests.support.tiny import tiny_model

ENDLESS, EOS = Termination(frozenset()), Termination(frozenset({0}))
LAW = Law(2.0, 1.0, 0.5)
VOCAB = 12
MODEL = tiny_model(vocab_size=VOCAB, layers=1)


def torch_engine(**options: Any) -> SteppedEngine:
    return TorchLM(MODEL, **options)


def table_engine(**options: Any) -> SteppedEngine:
    return SteppedEngine(TableBackend(TableLM(VOCAB, seed=2)), **options)


def copied_engine(**options: Any) -> SteppedEngine:
    return SteppedEngine(CopiedBackend(TableLM(VOCAB, seed=2)), **options)


BACKENDS = pytest.mark.parametrize(
    "make",
    [
        torch_engine,
        table_engine,
        copied_engine,
        *(
            pytest.param(each, marks=NEEDS_LLAMA_CPP)
            for each in (llama_engine, mamba_engine, jamba_engine, lfm2_engine)
        ),
    ],
    ids=["torch", "table", "copied", "llama_cpp", *(f"llama_cpp of a {kind}" for kind in ("Mamba", "Jamba", "LFM2"))],
)
FLOAT32 = (llama_engine, mamba_engine, jamba_engine, lfm2_engine)  # the others compute in float64
Make = Callable[..., SteppedEngine]


def noise(make: Make) -> float:
    return 1e-4 if make in FLOAT32 else 1e-9


def finished(engine: SteppedEngine, tickets: list[int]) -> tuple[dict[int, int], dict[int, Continuation]]:
    """The step at which each draw ended, and what it drew."""
    steps: dict[int, int] = {}
    found: dict[int, Continuation] = {}
    step = 0
    while len(found) < len(tickets):
        step += 1
        new = dict(engine.step().finished)
        found.update(new)
        steps.update(dict.fromkeys(new, step))
    return steps, found


@BACKENDS
def test_it_is_an_engine_with_every_capability(make: Make) -> None:
    engine = make()
    assert isinstance(engine, LanguageModel) and isinstance(engine, Peeks) and isinstance(engine, StepsOnHost)
    assert engine.capabilities == Capabilities.every()
    check_language_model(engine, (5, 3, 7), horizon=6, num_draws=150, tolerance=noise(make))


@BACKENDS
def test_a_short_request_gets_a_row_and_the_long_one_loses_nothing(make: Make) -> None:
    engine, alone = make(max_rows=4), make()
    long = engine.open((1, 2, 3), ENDLESS)
    draws = [Draw(Chain.empty(), 0, 20, LAW, seed) for seed in range(8)]
    tickets = [engine.add(long, draw) for draw in draws]
    for _ in range(5):
        engine.step()
    short = [engine.add(engine.open((7, s), ENDLESS), Draw(Chain.empty(), 0, 3, LAW, s)) for s in range(3)]
    steps, found = finished(engine, [*tickets, *short])
    assert max(steps[ticket] for ticket in short) <= 5
    for ticket, expected in zip(tickets, run_draws(alone, alone.open((1, 2, 3), ENDLESS), draws), strict=True):
        assert found[ticket].tokens == expected.tokens
        assert np.abs(found[ticket].logp - expected.logp).max() < noise(make)
    assert engine.cost.prefilled_tokens == 3 + 3 * 2, "a row that made way goes on from its state"


@BACKENDS
def test_what_prompts_share_is_prefilled_once(make: Make) -> None:
    engine = make(prompt_memory=2**20)
    shared = tuple(int(t) for t in np.random.default_rng(0).integers(VOCAB, size=30))
    handles = [engine.open((*shared, t), ENDLESS) for t in (1, 2, 3)]
    finished(engine, [engine.add(handle, Draw(Chain.empty(), 0, 2, LAW, 0)) for handle in handles])
    assert engine.cost.prefilled_tokens == 31 + 2
    assert [handle.reused_tokens for handle in handles] == [0, 30, 30]


def answers(engine: SteppedEngine) -> list[Outcome]:
    worker = Worker(engine)
    sampler = {"name": "metropolis_hastings", "block_size": 10, "num_steps": 5, "prefetch": 6}
    config = GenerationConfig(sampler=sampler, alpha=2.0, max_new_tokens=30)
    jobs = worker.submit_all(
        [
            Request(
                prompt=tuple(range(1 + seed, 9 + seed)),
                termination=EOS,
                make_sampler=lambda over, seed=seed: sampler_for(config, 30, NumpyRng(seed), over),
            )
            for seed in range(3)
        ]
    )
    outcomes = [job.future.result(120) for job in jobs]
    worker.close()
    return outcomes


@BACKENDS
def test_a_tight_budget_evicts_and_computes_again_and_changes_no_answer(make: Make) -> None:
    wide = make()
    expected = answers(wide)
    budget = wide._budget.needed(3, 40) + wide._budget.per_token * 60
    tight = make(kv_memory=budget)
    found = answers(tight)
    assert [o.answer.chain.tokens for o in found] == [o.answer.chain.tokens for o in expected]
    assert tight.cost.prefilled_tokens >= wide.cost.prefilled_tokens


@BACKENDS
def test_what_can_never_fit_is_refused(make: Make) -> None:
    engine = make(kv_memory=1)
    finished(engine, [engine.add(engine.open((1, 2), ENDLESS), Draw(Chain.empty(), 0, 2, LAW, 0))])
    with pytest.raises(OutOfMemoryError, match="raise kv_memory"):
        engine.add(engine.open((1, 2), ENDLESS), Draw(Chain.empty(), 0, 2, LAW, 0))


def test_memory_that_runs_out_halves_the_batch_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over numpy; `test_budget.py` has it over torch."""
    draws = [Draw(Chain.empty(), 0, 8, LAW, seed) for seed in range(8)]
    engine = table_engine()
    expected = run_draws(engine, engine.open((1, 2, 3), ENDLESS), draws)
    decode = TableBackend.decode

    def narrow(self: TableBackend, rows: Any, last: Any) -> Any:
        if len(rows) > 3:
            raise MemoryError
        return decode(self, rows, last)

    monkeypatch.setattr(TableBackend, "decode", narrow)
    engine = table_engine()
    found = run_draws(engine, engine.open((1, 2, 3), ENDLESS), draws)
    assert [c.tokens for c in found] == [c.tokens for c in expected]
    assert engine.scheduler.max_rows <= 3


def test_what_ran_out_for_a_moment_is_not_halved_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three allocations fail, as when another process takes memory for a while: 32 rows become 4, and 32 again."""
    monkeypatch.setattr(allowance, "PATIENCE", 8)
    engine = table_engine()
    failures = 3
    decode = TableBackend.decode

    def passing(self: TableBackend, rows: Any, last: Any) -> Any:
        nonlocal failures
        if failures:
            failures -= 1
            raise MemoryError
        return decode(self, rows, last)

    monkeypatch.setattr(TableBackend, "decode", passing)
    draws = [Draw(Chain.empty(), 0, 100, LAW, seed) for seed in range(32)]
    handle = engine.open((1, 2, 3), ENDLESS)
    tickets = [engine.add(handle, draw) for draw in draws]
    widths, found = [], dict[int, Continuation]()
    while len(found) < len(tickets):
        decoded, ended, _ = engine.step()
        widths.append(len(decoded))
        found.update(ended)
    assert widths[:4] == [0, 0, 0, 4] and max(widths) == 32
    fresh = table_engine()
    expected = run_draws(fresh, fresh.open((1, 2, 3), ENDLESS), draws)
    assert [found[ticket].tokens for ticket in tickets] == [c.tokens for c in expected]


def test_what_is_out_for_good_is_tried_ever_more_seldom() -> None:
    allowed = allowance.Allowance(32, 512)
    tries, steps = [], 100_000
    for step in range(steps):
        if allowed.rows > 4:
            tries.append(step)
            assert allowed.halve(allowed.rows)
        else:
            allowed.went_well()
    assert 3 <= len(tries[3:]) < 16, "the first three bring it down"
    assert allowed.halve(4) and allowed.halve(2)
    while allowed.halve(1):
        assert allowed.chunk >= 1
    assert (allowed.rows, allowed.chunk) == (1, 1)
