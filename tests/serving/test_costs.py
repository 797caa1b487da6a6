"""What a request costs besides decoding does not grow with what else there is: counted, not timed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from power_sampling import RequestCancelledError
from power_sampling.config import GenerationConfig
from power_sampling.engines.stepped.engine import SteppedEngine
from power_sampling.serving import worker as serving
from power_sampling.serving.worker import Job, Worker
from power_sampling.testing import TableBackend, TableLM
from power_sampling.types import Draw, Termination
from tests.support.hostile import ENDLESS, of

PLAIN = GenerationConfig(sampler="ancestral", max_new_tokens=20)
LONG = GenerationConfig(sampler="ancestral", max_new_tokens=100_000)


class Counted(SteppedEngine):
    """Counts what the worker does to it."""

    def __init__(self, **options: Any) -> None:
        super().__init__(TableBackend(TableLM(12, seed=2)), **options)
        self.calls = dict.fromkeys(["open", "add", "drop", "step"], 0)
        self.most_waiting = 0

    def open(self, *args: Any) -> Any:
        self.calls["open"] += 1
        return super().open(*args)

    def add(self, *args: Any) -> Any:
        self.calls["add"] += 1
        return super().add(*args)

    def drop(self, *args: Any) -> Any:
        self.calls["drop"] += 1
        return super().drop(*args)

    def step(self) -> Any:
        self.calls["step"] += 1
        self.most_waiting = max(self.most_waiting, len(self.scheduler.waiting))
        return super().step()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_a_batch_of_twenty_thousand_is_cancelled_at_once() -> None:
    engine = Counted(max_rows=4)
    worker = Worker(engine)
    jobs = worker.submit_all([of(LONG, seed, ending=ENDLESS) for seed in range(20_000)])
    until(lambda: engine.calls["step"] > 0)
    for job in jobs:
        job.cancel()
    before = engine.cost.serial_steps  # a step that clears away those who have gone decodes nothing
    after = worker.submit(of(PLAIN, ending=ENDLESS))
    assert len(after.future.result(60).answer.chain.tokens) == 20
    assert engine.cost.serial_steps - before < 30, "it waits for nobody who has gone"
    assert engine.calls["open"] < 5 * serving.MOST_LIVE, "who has not begun costs the engine nothing"
    assert engine.calls["drop"] <= engine.calls["add"] <= engine.calls["open"]
    for job in jobs:
        with pytest.raises(RequestCancelledError):
            job.future.result(0)
    until(lambda: not worker._live and not worker._inbox)
    worker.close()


def test_a_request_of_many_completions_keeps_no_other_waiting() -> None:
    """16,384 completions: the engine has a thousand at a time, and a neighbour is decoded in every step."""
    sampler = {"name": "best_of_n", "num_completions": 2**14}
    engine = Counted(max_rows=32)
    worker = Worker(engine)
    many = worker.submit(of(GenerationConfig(sampler=sampler, max_new_tokens=200), ending=ENDLESS))
    until(lambda: engine.calls["step"] > 2)
    step, taken, asked = engine.step, 0, list[Job]()

    def stepped() -> Any:  # counted where they are taken: this thread may wake up late
        nonlocal taken
        taken += bool(asked) and not asked[0].future.done()
        return step()

    engine.step = stepped  # type: ignore[method-assign]
    asked.append(worker.submit(of(PLAIN, ending=ENDLESS)))
    assert len(asked[0].future.result(60).answer.chain.tokens) == 20
    assert 0 < taken < 30
    assert engine.most_waiting <= serving.MOST_DRAWS + 1
    added = engine.calls["add"]
    many.cancel()
    until(lambda: not engine.scheduler.waiting and not engine.scheduler.running)
    assert engine.calls["add"] - added <= serving.MOST_DRAWS
    worker.close()


def test_every_request_has_a_draw_where_many_ask_for_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "MOST_DRAWS", 8)
    engine = Counted(max_rows=4)
    worker = Worker(engine)
    sampler = {"name": "sequential_monte_carlo", "num_particles": 16, "block_size": 5}
    config = GenerationConfig(sampler=sampler, max_new_tokens=10, alpha=2.0)
    jobs = worker.submit_all([of(config, seed, ending=ENDLESS) for seed in range(12)])
    outcomes = [job.future.result(60) for job in jobs]
    assert engine.most_waiting <= 8 + 12
    alone = Worker(Counted())
    for seed, outcome in enumerate(outcomes):
        expected = alone.submit(of(config, seed, ending=ENDLESS)).future.result(60)
        assert outcome.answer.chain.tokens == expected.answer.chain.tokens
        assert outcome.tokens_decoded == expected.tokens_decoded == 160
    worker.close()
    alone.close()


def test_keys_of_draws_are_made_once_a_round(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key copies a chain's tokens: a round's answers are gathered without making them again at every step."""
    made = 0

    def key(draw: Draw) -> Any:
        nonlocal made
        made += 1
        return draw.seed

    monkeypatch.setattr(Draw, "key", property(key))
    worker = Worker(Counted(max_rows=4))
    sampler = {"name": "best_of_n", "num_completions": 200}
    worker.submit(of(GenerationConfig(sampler=sampler, max_new_tokens=5), ending=ENDLESS)).future.result(60)
    assert made < 8 * 200
    worker.close()


class Pushes:
    """A stop rule that counts the tokens its watches are told."""

    has_masks = is_limited = False

    def __init__(self) -> None:
        self.told = 0

    def watch(self, tokens: Any) -> Pushes:
        self.told += len(tokens)
        return self

    def fork(self, length: int) -> Pushes:
        return self

    def allowed(self) -> None:
        return None

    def push(self, token: int) -> None:
        self.told += 1


@pytest.mark.parametrize(
    "sampler",
    [
        {"name": "metropolis_hastings", "num_steps": 10, "block_size": 10},
        {"name": "sequential_monte_carlo", "num_particles": 6, "block_size": 2},
        {"name": "parallel_tempering", "num_rungs": 3, "num_steps": 4},
        {"name": "particle_gibbs", "num_particles": 3, "block_size": 4},
    ],
    ids=lambda sampler: str(sampler["name"]),
)
@pytest.mark.parametrize("kv_memory", [pytest.param(None, marks=pytest.mark.slow), 8 * 300])
def test_a_stop_rule_is_told_every_token_once(sampler: dict[str, Any], kv_memory: int | None) -> None:
    """However often a suffix is redrawn, and though states are evicted: nothing kept is watched again."""
    rule = Pushes()
    engine = Counted(rules=lambda termination: rule, max_rows=4, kv_memory=kv_memory)
    worker = Worker(engine)
    config = GenerationConfig(sampler=sampler, alpha=1.5, max_new_tokens=40)
    outcome = worker.submit(of(config, ending=Termination(frozenset()))).future.result(60)
    worker.close()
    assert rule.told == outcome.tokens_decoded
