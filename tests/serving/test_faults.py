"""What is wrong with one request is that request's alone, whatever raises, and its waiter is told by a typed error."""

from __future__ import annotations

import gc
import math
import multiprocessing
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from power_sampling import (
    EngineClosedError,
    EngineError,
    OutOfMemoryError,
    PowerSampler,
    PowerSamplingError,
    RequestCancelledError,
    RequestFailedError,
    RequestTimeoutError,
)
from power_sampling.config import GenerationConfig
from power_sampling.engines.protocol import LanguageModel
from power_sampling.engines.stepped.engine import SteppedEngine
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.errors import described
from power_sampling.serving.clock import Clock
from power_sampling.serving.job import Job
from power_sampling.serving.worker import Request, Worker
from power_sampling.testing import TableBackend, TableLM
from power_sampling.types import Termination
from tests.support.hostile import ENDLESS, Broken, Panic, Speechless, Stuck, bad_rules, bystanders, of
from tests.support.tiny import tiny_model, tiny_tokenizer

VOCAB, ROOT = 12, Path(__file__).parents[2]
PLAIN = GenerationConfig(sampler="ancestral", max_new_tokens=30)
MOVES = GenerationConfig(sampler={"name": "metropolis_hastings", "num_steps": 5}, alpha=2.0, max_new_tokens=30)
LONG = GenerationConfig(sampler="ancestral", max_new_tokens=100_000)
MODEL = tiny_model(vocab_size=VOCAB, layers=1)
TABLE = lambda: TableLM(VOCAB, seed=2)  # noqa: E731
ERRORS = pytest.mark.parametrize(
    "error",
    [ValueError("no"), Panic("panicked"), Speechless(), pytest.param(SystemExit(3), marks=pytest.mark.slow)],
    ids=repr,
)


def engines(rules: Any) -> list[Callable[[], LanguageModel]]:
    return [
        lambda: TableLM(VOCAB, seed=2, rules=rules),
        lambda: SteppedEngine(TableBackend(TableLM(VOCAB, seed=2)), rules=rules),
        lambda: TorchLM(MODEL, rules=rules),
    ]


def check_beside(make: Callable[[], LanguageModel], bad: Request, error: type[PowerSamplingError], match: str) -> None:
    """The bad request ends with its error; three that run beside it, and one after it, are answered as alone."""
    worker = Worker(make())
    expected = [worker.submit(each).future.result(60).answer.chain.tokens for each in bystanders()]
    jobs = worker.submit_all([*bystanders(), bad])
    with pytest.raises(error, match=match):
        jobs[-1].future.result(60)
    assert [job.future.result(60).answer.chain.tokens for job in jobs[:-1]] == expected
    assert worker.submit(bystanders()[0]).future.result(60).answer.chain.tokens == expected[0]
    worker.close()


@ERRORS
@pytest.mark.parametrize("place", ["rule", "watch", "fork", "allowed", "push"])
def test_a_stop_rule_or_constraint_that_raises(place: str, error: BaseException) -> None:
    bad = of(MOVES, ending=Termination(frozenset(), constraint=place))
    make, on_torch = engines(bad_rules(VOCAB, error))[1:]
    check_beside(make, bad, RequestFailedError, re.escape(described(error)))
    if place in ("allowed", "push") and isinstance(error, Panic):
        check_beside(on_torch, bad, RequestFailedError, re.escape(described(error)))


def test_a_constraint_that_allows_nothing() -> None:
    bad = of(PLAIN, ending=Termination(frozenset(), constraint="nothing"))
    for make in engines(bad_rules(VOCAB, ValueError())):
        check_beside(make, bad, RequestFailedError, "allows no token after 0 tokens")


@ERRORS
def test_a_sampler_or_listener_that_raises(error: BaseException) -> None:
    def raises(*args: Any) -> Any:
        raise error

    def later(over: Any) -> Any:
        yield from of(PLAIN).make_sampler(over)
        raise error

    for fields in ({"make_sampler": raises}, {"make_sampler": later}, {"listener": raises}):
        bad = of(PLAIN, ending=ENDLESS, **fields)
        check_beside(TABLE, bad, RequestFailedError, re.escape(described(error)))


def test_memory_that_runs_out_in_a_sampler() -> None:
    def greedy(over: Any) -> Any:
        raise MemoryError

    check_beside(TABLE, of(PLAIN, make_sampler=greedy), OutOfMemoryError, "Lower max_new_tokens")


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_logits_that_are_no_numbers(wrong: float) -> None:
    for config in (MOVES, PLAIN.model_copy(update={"temperature": 0.0})):
        bad = of(config, ending=ENDLESS, prompt=(7, 3, 1))
        for make in (
            lambda: Broken(VOCAB, wrong),
            lambda: SteppedEngine(TableBackend(Broken(VOCAB, wrong))),
            lambda: broken_torch(wrong),
        ):
            check_beside(make, bad, EngineError, "NaN or infinite after 2 tokens")


def broken_torch(wrong: float) -> TorchLM:
    """A transformers model with one bad logit in the rows whose prompt begins with 7, from the fifth token on."""
    lm = TorchLM(MODEL)
    backend, feed = lm.backend, lm.backend._forward
    bad: set[int] = set()

    def forward(tokens: Any, positions: Any, pads: Any, batch: Any, keep: Any) -> Any:
        logits = feed(tokens, positions, pads, batch, keep).clone()
        if batch is backend.batch:  # rows in decoding
            for i, seq in enumerate(lm.scheduler.running):
                if seq.prompt.tokens[0] == 7 and batch.lengths[i] > 4:
                    logits[i, :, batch.lengths[i] % VOCAB] = wrong
        return logits

    assert not bad
    backend._forward = forward  # type: ignore[assignment]
    return lm


def test_logits_narrower_than_the_vocabulary_are_refused() -> None:
    sampler = PowerSampler.from_model(tiny_model(vocab_size=300, layers=1), tiny_tokenizer(), max_new_tokens=4)
    backend: Any = sampler._model.load().engine.backend  # type: ignore[attr-defined]
    whole = backend._forward
    backend._forward = lambda *fed: whole(*fed)[..., :100]
    with pytest.raises(EngineError, match="100 logits for a vocabulary of 262"):
        sampler.complete("a")


# ---------------------------------------------------------------- the worker's thread


class Raises(TableLM):
    """Raises at its third step, once; `reset` raises as often as `bad_resets` says after that."""

    def __init__(self, error: BaseException, bad_resets: int = 0) -> None:
        super().__init__(5, seed=0)
        self.error: BaseException | None = error
        self.bad_resets = bad_resets

    def step(self) -> Any:
        if self.cost.serial_steps == 3 and self.error:
            error, self.error = self.error, None
            raise error
        return super().step()

    def reset(self) -> None:
        if self.error is None and self.bad_resets:
            self.bad_resets -= 1
            raise RuntimeError("nor this")
        super().reset()


@ERRORS
def test_whatever_the_model_raises_reaches_every_waiter_and_the_thread_lives_on(error: BaseException) -> None:
    worker = Worker(Raises(error))
    jobs = worker.submit_all([of(LONG, ending=ENDLESS) for _ in range(3)])
    for job in jobs:
        with pytest.raises(EngineError, match=type(error).__name__) as caught:
            job.future.result(10)
        assert caught.value.__cause__ is error
        assert "self.error = self.error, None" in error.__notes__[0] or "raise error" in error.__notes__[0]
    thread = worker._thread
    assert worker.submit(of(PLAIN)).future.result(10)
    assert worker._thread is thread
    worker.close()


def test_an_engine_that_cannot_be_reset_leaves_no_waiter() -> None:
    worker = Worker(Raises(ValueError("first"), bad_resets=2))
    with pytest.raises(EngineError, match="first"):
        worker.submit(of(LONG, ending=ENDLESS)).future.result(10)
    while True:
        try:
            assert worker.submit(of(PLAIN)).future.result(10)
            break
        except EngineError as error:
            assert "nor this" in str(error)
    worker.close()


def test_an_engine_that_can_never_be_reset_is_not_reset_all_the_time() -> None:
    model = Raises(ValueError("first"), bad_resets=10**9)
    worker = Worker(model)
    for _ in range(3):
        with pytest.raises(EngineError):
            worker.submit(of(LONG, ending=ENDLESS)).future.result(10)
    time.sleep(0.1)  # a thread that tried all the time would have tried ten thousand times by now
    assert 10**9 - model.bad_resets < 10
    worker.close()


def test_a_model_that_never_returns_keeps_nobody_waiting() -> None:
    model = Stuck(5, seed=0)
    worker = Worker(model)
    late, cancelled, closed = (of(LONG, ending=ENDLESS, timeout=limit) for limit in (0.3, None, None))
    jobs = worker.submit_all([late, cancelled, closed])
    assert model.is_stuck.wait(10)
    never_begun = worker.submit(of(LONG, timeout=0.1))
    jobs[1].cancel()
    with pytest.raises(RequestCancelledError):
        jobs[1].future.result(0)
    for job in (jobs[0], never_begun):
        with pytest.raises(RequestTimeoutError):
            job.future.result(10)
    worker.close(wait=False)
    with pytest.raises(EngineClosedError):
        jobs[2].future.result(0)
    model.release.set()
    worker.close()
    assert worker._thread is not None and not worker._thread.is_alive()


def test_a_process_ends_though_its_model_does_not_return() -> None:
    program = """
from tests.support.hostile import *
from power_sampling import RequestTimeoutError
from power_sampling.serving import worker
worker.PATIENCE = 0.2
model = Stuck(5, seed=0)
job = worker.Worker(model).submit(of(GenerationConfig(sampler="ancestral"), ending=ENDLESS, timeout=0.2))
try:
    job.future.result()
except RequestTimeoutError:
    print("told")
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True
    )
    assert ended.stdout == "told\n"


def test_the_clock_ends_what_is_due_and_holds_nothing() -> None:
    clock = Clock()
    due, over, forgotten = (Job(of(PLAIN, timeout=0.05)) for _ in range(3))
    over.cancel()
    for job in (due, over, forgotten):
        assert job.deadline is not None
        clock.watch(job, job.deadline)
    del forgotten
    with pytest.raises(RequestTimeoutError, match=r"timeout=0\.05"):
        due.future.result(10)
    with pytest.raises(RequestCancelledError):
        over.future.result(0)
    for _ in range(10_000):
        clock.watch(Job(of(PLAIN, timeout=1e12)), 1e12)
    gc.collect()
    assert len(clock) < 200, "what is over is forgotten, however far its limit"


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_drops_the_requests_of_its_parent() -> None:
    model = TableLM(5, seed=0)
    worker = Worker(model)
    expected = worker.submit(of(PLAIN)).future.result(10).answer.chain.tokens
    running = worker.submit_all([of(LONG, ending=ENDLESS) for _ in range(3)])
    while len(worker._live) < 3:
        threading.Event().wait(0.001)
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()

    def child() -> None:
        before = model.cost.row_steps
        tokens = worker.submit(of(PLAIN)).future.result(60).answer.chain.tokens
        answers.put((tokens, model.cost.row_steps - before))

    process = context.Process(target=child)
    process.start()
    tokens, decoded = answers.get()
    process.join()
    assert tokens == expected and decoded == len(expected), "its own request was decoded, and nothing else"
    assert not any(job.is_over for job in running)
    worker.close()
    assert all(isinstance(job.future.exception(), EngineClosedError) for job in running)
