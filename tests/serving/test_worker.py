"""The worker: one batch for all requests, each as if it were alone; faults, limits and cancellations stay its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from power_sampling import EngineClosedError, EngineError, RequestCancelledError, RequestTimeoutError
from power_sampling.config import GenerationConfig
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.errors import RequestFailedError
from power_sampling.samplers import NumpyRng, sampler_for
from power_sampling.serving.worker import Job, Request, Worker
from power_sampling.testing import TableLM
from power_sampling.text.rules import Rules
from power_sampling.types import Termination, Tokens
from tests.support.tiny import tiny_model

EOS = Termination(frozenset({0}))
SAMPLERS: list[dict[str, Any]] = [
    {"sampler": "ancestral", "alpha": 1.0},
    {"sampler": "low_temperature", "alpha": 3.0},
    {"sampler": {"name": "metropolis_hastings", "num_steps": 4, "block_size": 5, "prefetch": 0}, "alpha": 4.0},
    {"sampler": {"name": "metropolis_hastings", "num_steps": 3, "num_proposals": 3, "prefetch": 0}, "alpha": 2.0},
    {"sampler": {"name": "sequential_monte_carlo", "num_particles": 5, "block_size": 3}, "alpha": 2.0},
    {"sampler": {"name": "sequential_monte_carlo", "ramp_tokens": 9}, "alpha": 4.0, "temperature": 0.8},
]


def request(i: int, *, prompt: Tokens = (5, 3, 1), ending: Termination = EOS, **limits: Any) -> Request:
    config = GenerationConfig(max_new_tokens=4 + 3 * i % 23, **SAMPLERS[i % len(SAMPLERS)])
    return of(config, seed=i, prompt=prompt, ending=ending, **limits)


def of(
    config: GenerationConfig, *, seed: int = 0, prompt: Tokens = (5, 3, 1), ending: Termination = EOS, **limits: Any
) -> Request:
    return Request(
        prompt=prompt,
        termination=ending,
        make_sampler=lambda is_over: sampler_for(config, config.max_new_tokens, NumpyRng(seed), is_over),
        **limits,
    )


LONG = GenerationConfig(sampler="ancestral", max_new_tokens=100_000)
ENDLESS = Termination(frozenset())


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_sixteen_concurrent_requests_give_what_each_gives_alone() -> None:
    prompts = [tuple((7 * i + j) % 37 + 1 for j in range(1 + 5 * i % 11)) for i in range(16)]
    stop = Termination(frozenset({0, 3}), ("\x05\x06", "\x09"))
    rules = Rules(lambda ids: "".join(map(chr, ids)))
    endings = [(EOS, stop)[i % 2] for i in range(16)]
    model = tiny_model("qwen2", vocab_size=40)
    requests = [request(i, prompt=p, ending=e) for i, (p, e) in enumerate(zip(prompts, endings, strict=True))]
    together = Worker(TorchLM(model, rules=rules, max_rows=7))
    jobs = together.submit_all(requests)
    crowded = [job.future.result(60) for job in jobs]
    together.close()
    alone = Worker(TorchLM(model, rules=rules))
    for i, r in enumerate(requests):
        outcome = alone.submit(r).future.result(60)
        assert outcome.answer.chain.tokens == crowded[i].answer.chain.tokens, i
        assert outcome.answer.acceptance_rate == crowded[i].answer.acceptance_rate
        assert (outcome.tokens_decoded, outcome.tokens_prefilled) == (
            crowded[i].tokens_decoded,
            crowded[i].tokens_prefilled,
        )
        assert outcome.tokens_prefilled == len(r.prompt)
    alone.close()


def test_cost_is_counted_per_request_rejected_proposals_included() -> None:
    engine = TableLM(40, seed=0)
    worker = Worker(engine)
    outcomes = [job.future.result(60) for job in [worker.submit(request(i)) for i in range(6)]]
    worker.close()
    assert sum(o.tokens_decoded for o in outcomes) == engine.cost.row_steps
    assert outcomes[2].tokens_decoded > len(outcomes[2].answer.chain.tokens)
    assert all(o.serial_steps <= o.tokens_decoded for o in outcomes)


def test_rows_are_refilled_continuously() -> None:
    engine = TorchLM(tiny_model(vocab_size=40), max_rows=4)
    worker = Worker(engine)
    mh = GenerationConfig(sampler={"name": "metropolis_hastings", "num_steps": 5}, alpha=2.0, max_new_tokens=16)
    jobs = worker.submit_all([of(mh, seed=i, ending=ENDLESS) for i in range(12)])
    outcomes = [job.future.result(60) for job in jobs]
    worker.close()
    last_refill = sum(o.tokens_decoded for o in outcomes) - 4 * max(o.serial_steps for o in outcomes)
    assert engine.cost.row_steps / engine.cost.serial_steps > 3
    assert last_refill > 0


def test_a_cancelled_request_stops_within_a_step_and_the_others_go_on() -> None:
    engine = TableLM(5, seed=0)
    worker = Worker(engine)
    doomed, other = worker.submit(of(LONG, ending=ENDLESS)), worker.submit(of(LONG, ending=ENDLESS))
    wait_until(lambda: engine.cost.serial_steps > 3)
    doomed.cancel()
    with pytest.raises(RequestCancelledError):
        doomed.future.result(10)
    assert not other.future.done()
    other.future.cancel()  # a waiter may also cancel its future, as asyncio does
    wait_until(lambda: not worker._live)
    assert worker.submit(request(0)).future.result(10).answer.chain.tokens
    worker.close()


def test_a_timeout_ends_the_request_with_a_typed_error() -> None:
    worker = Worker(TableLM(5, seed=0))
    with pytest.raises(RequestTimeoutError, match=r"timeout=0\.05"):
        worker.submit(of(LONG, ending=ENDLESS, timeout=0.05)).future.result(10)
    assert worker.submit(request(0)).future.result(10)
    worker.close()


def test_a_time_budget_ends_the_refinement_only() -> None:
    worker = Worker(TableLM(5, seed=0))
    config = GenerationConfig(sampler={"name": "metropolis_hastings", "num_steps": 10**6}, max_new_tokens=40)
    answer = worker.submit(of(config, ending=ENDLESS, time_budget=0.05)).future.result(30).answer
    assert answer.is_budget_spent and len(answer.chain.tokens) == 40
    worker.close()


class Breaks(TableLM):
    """A model that raises at its third step, once."""

    def step(self) -> Any:
        if self.cost.serial_steps == 3 and not hasattr(self, "is_broken"):
            self.is_broken = True
            raise RuntimeError("the GPU fell off")
        return super().step()


def test_an_error_of_the_model_reaches_every_waiter_and_the_worker_lives_on() -> None:
    worker = Worker(Breaks(5, seed=0))
    jobs = worker.submit_all([of(LONG, ending=ENDLESS) for _ in range(4)])
    for job in jobs:
        with pytest.raises(EngineError, match="RuntimeError: the GPU fell off") as caught:
            job.future.result(10)
        assert isinstance(caught.value.__cause__, RuntimeError)
    assert worker.submit(request(2)).future.result(10)
    worker.close()


def test_an_error_of_one_request_is_its_own() -> None:
    worker = Worker(TableLM(5, seed=0))

    def broken(is_over: Any) -> Any:
        raise KeyError("no such thing")

    def deaf(update: Any) -> None:
        raise OSError("the line is cut")

    bad_request = Request(prompt=(1,), termination=EOS, make_sampler=broken)
    requests = [request(4), bad_request, of(LONG, ending=ENDLESS, listener=deaf)]
    good, bad, unheard = worker.submit_all(requests)
    with pytest.raises(RequestFailedError, match="KeyError: 'no such thing'"):
        bad.future.result(10)
    with pytest.raises(RequestFailedError, match="OSError: the line is cut"):
        unheard.future.result(10)
    assert good.future.result(10)
    worker.close()


def test_close_ends_what_is_unfinished_and_the_thread() -> None:
    worker = Worker(TableLM(5, seed=0))
    job = worker.submit(of(LONG, ending=ENDLESS))
    worker.close()
    with pytest.raises(EngineClosedError):
        job.future.result(1)
    with pytest.raises(EngineClosedError):
        worker.submit(request(0))
    assert worker._thread is not None and not worker._thread.is_alive()


def test_requests_from_many_threads_are_answered() -> None:
    worker = Worker(TableLM(5, seed=0))
    results: dict[int, Tokens] = {}

    def ask(i: int) -> None:
        job: Job = worker.submit(request(i))
        results[i] = job.future.result(30).answer.chain.tokens

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {i: worker.submit(request(i)).future.result(30).answer.chain.tokens for i in range(12)}
    worker.close()


def test_an_answer_holds_no_states() -> None:
    """However long it is kept, the rows it was drawn in are free."""
    worker = Worker(TorchLM(tiny_model(vocab_size=40)))
    for i in range(len(SAMPLERS)):
        assert worker.submit(request(i)).future.result(60).answer.chain.memo is None
    worker.close()
