"""Potentials are asked beside the worker: what one does to a request is that request's alone, and others go on."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from power_sampling import (
    EngineClosedError,
    Potential,
    PotentialError,
    PowerSamplingError,
    RequestCancelledError,
    RequestTimeoutError,
)
from power_sampling.config import GenerationConfig
from power_sampling.serving.judging import DOCKET, Judge
from power_sampling.serving.worker import Request, Worker
from power_sampling.testing import TableLM
from power_sampling.types import Tokens
from tests.support.hostile import ENDLESS, Panic, Speechless, bystanders, of

SMC = {"name": "sequential_monte_carlo", "num_particles": 4, "block_size": 4}
MH = {"name": "metropolis_hastings", "num_steps": 4, "block_size": 6}


def longer(texts: list[str]) -> list[float]:
    return [0.1 * len(text) for text in texts]


def request(
    *judges: Any,
    sampler: Any = SMC,
    name: str = "",
    kind: Any = "prefix",
    seed: int = 0,
    alpha: float = 2.0,
    **fields: Any,
) -> Request:
    """One whose completions read as their tokens behind a name."""
    given = [Potential(judge, kind=kind) if not isinstance(judge, Potential) else judge for judge in judges]
    config = GenerationConfig(sampler=sampler, alpha=alpha, max_new_tokens=12, potentials=given)

    def text_of(tokens: Tokens) -> str:
        return name + "".join(chr(ord("a") + token) for token in tokens)

    return of(config, seed, judge=Judge(given, text_of) if given else None, **fields)


def until(is_so: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 60
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.005)
    return is_so()


class Slow:
    """Answers when it is released; `texts` are those of each call."""

    def __init__(self, judge: Callable[[list[str]], Any] = longer) -> None:
        self.calls: list[list[str]] = []
        self.asked, self.release, self._judge = threading.Event(), threading.Event(), judge

    def __call__(self, texts: list[str]) -> Any:
        self.calls.append(texts)
        self.asked.set()
        assert self.release.wait(60)
        return self._judge(texts)


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker(TableLM(12, seed=2))
    yield worker
    worker.close()


def raises(error: BaseException) -> Callable[[list[str]], Any]:
    def judge(texts: list[str]) -> Any:
        raise error

    return judge


async def later(texts: list[str]) -> list[float]:
    return longer(texts)


@pytest.mark.parametrize(
    ("judge", "match"),
    [
        (raises(ValueError("no")), "raised ValueError: no"),
        (raises(Panic("panicked")), "raised Panic: panicked"),
        (raises(Speechless()), "raised Speechless: .its text raises"),
        (lambda texts: [0.0] * (len(texts) + 1), "expected a list of as many numbers, got"),
        (lambda texts: None, "expected a list of as many numbers, got None"),
        (lambda texts: ["well"] * len(texts), "expected a list of as many numbers, got"),
        (
            lambda texts: [math.nan] * len(texts),
            "answered nan of 'a?b?.*expected log phi, a number from -1e.12 to 1e.12, or",
        ),
        (lambda texts: [math.inf] * len(texts), "answered inf"),
        (lambda texts: [1e308] * len(texts), "answered 1e.308"),
        (lambda texts: [-1e308] * len(texts), "answered -1e.308"),
        (Potential(longer, at_most=0.0), "longer answered .* expected log phi, a number from -1e.12 to 0 .at_most"),
    ],
    ids=["raises", "panics", "has no text", "many", "nothing", "words", "nan", "inf", "huge", "tiny", "above at_most"],
)
@pytest.mark.parametrize("sampler", [SMC, pytest.param(MH, marks=pytest.mark.slow)], ids=lambda s: str(s["name"]))
def test_a_fault_of_a_potential_is_its_requests_alone(worker: Worker, judge: Any, match: str, sampler: Any) -> None:
    expected = [worker.submit(each).future.result(60).answer.chain.tokens for each in bystanders()]
    jobs = worker.submit_all([*bystanders(), request(judge, sampler=sampler), request(longer)])
    with pytest.raises(PotentialError, match=match):
        jobs[3].future.result(60)
    assert [job.future.result(60).answer.chain.tokens for job in jobs[:3]] == expected
    assert jobs[4].future.result(60).answer.chain.log_phi > 0
    assert until(lambda: not worker._live and not DOCKET._waiting)


def test_requests_that_wait_for_one_potential_are_asked_of_together(worker: Worker) -> None:
    """And where that call fails, each alone, so that the others are answered."""

    def judge(texts: list[str]) -> list[float]:
        if any(text.startswith("bad") for text in texts):
            raise ValueError("bad")
        return longer(texts)

    slow = Slow(judge)
    jobs = [worker.submit(request(slow, name="1 "))]
    assert slow.asked.wait(60)
    jobs += worker.submit_all([request(slow, name=name, kind="final") for name in ("2 ", "bad ", "3 ")])
    key = id(slow), "text"
    assert until(lambda: len(DOCKET._waiting.get(key, ())) == 3)
    slow.release.set()
    for job in (jobs[0], jobs[1], jobs[3]):
        assert job.future.result(60).answer.chain.log_phi > 0
    with pytest.raises(PotentialError, match="raised ValueError: bad"):
        jobs[2].future.result(60)
    assert {text.partition(" ")[0] for text in slow.calls[1]} >= {"2", "bad", "3"}


def test_a_text_is_judged_once_and_a_round_in_one_call(worker: Worker) -> None:
    calls: list[list[str]] = []

    def judge(texts: list[str]) -> list[float]:
        calls.append(texts)
        return longer(texts)

    both = Potential(judge, kind="prefix"), Potential(later, kind="final")
    asked = request(*both, sampler={**SMC, "ess_threshold": 1.0}, ending=ENDLESS)
    answer = worker.submit(asked).future.result(60).answer
    texts = [text for call in calls for text in call]
    assert len(texts) == len(set(texts)) and len(calls) == 3  # three blocks; the end has no new text
    assert answer.chain.log_phi == pytest.approx(2 * 0.1 * len(answer.chain.tokens))
    calls.clear()
    worker.submit(request(Potential(judge), sampler=SMC)).future.result(60)
    assert len(calls) == 1  # at the end


def test_a_slow_potential_stops_nobody_else_and_nothing_turns_meanwhile(worker: Worker) -> None:
    slow, steps, step = Slow(), [0], worker._model.step

    def counted() -> Any:
        steps[0] += 1
        return step()

    worker._model.step = counted  # type: ignore[method-assign] # the real one, counted
    waiting = worker.submit(request(slow, sampler={**MH, "prefetch": 0}))
    assert slow.asked.wait(60)
    for each in bystanders():
        worker.submit(each).future.result(60)
    assert until(lambda: len(worker._live) == 1)
    before = steps[0]
    assert not waiting.future.done()
    time.sleep(0.05)
    assert steps[0] - before <= 1  # it sleeps
    slow.release.set()
    waiting.future.result(60)


def test_a_round_is_asked_of_once_though_prefetched_draws_end_meanwhile(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask, waiting, most = Judge.ask, [0], [0]

    def counted(self: Judge, chains: Any, is_over: Any, tell: Callable[[Any], None]) -> None:
        def heard(verdict: Any) -> None:
            waiting[0] -= 1
            tell(verdict)

        waiting[0] += 1
        most[0] = max(most[0], waiting[0])
        ask(self, chains, is_over, heard)

    def judge(texts: list[str]) -> list[float]:
        time.sleep(0.02)  # draws that were prefetched end meanwhile
        return longer(texts)

    monkeypatch.setattr(Judge, "ask", counted)
    asked = request(judge, sampler={**MH, "prefetch": 8, "num_steps": 8}, ending=ENDLESS)
    assert worker.submit(asked).future.result(60).answer.chain.log_phi > 0
    assert most[0] == 1


@pytest.mark.parametrize("way", ["cancelled", "late", "closed"])
def test_who_waits_for_a_slow_potential_can_go_away(way: str) -> None:
    errors: dict[str, type[PowerSamplingError]] = {
        "cancelled": RequestCancelledError,
        "late": RequestTimeoutError,
        "closed": EngineClosedError,
    }
    lm, slow = TableLM(12, seed=2), Slow()
    worker = Worker(lm)
    job = worker.submit(request(slow, sampler={**MH, "prefetch": 8}, timeout=2.0 if way == "late" else None))
    assert slow.asked.wait(60)
    if way == "cancelled":
        job.cancel()
    elif way == "closed":
        worker.close()
    with pytest.raises(errors[way]):
        job.future.result(60)
    assert until(lambda: not worker._live and (way == "closed" or not lm._rows))  # before it is released
    if way != "closed":
        assert worker.submit(bystanders()[0]).future.result(60).answer.chain.tokens
    slow.release.set()
    assert until(lambda: not DOCKET._waiting)
    worker.close()


def test_a_time_budget_that_ends_while_it_is_judged(worker: Worker) -> None:
    slow = Slow()
    job = worker.submit(request(slow, sampler={**MH, "num_steps": 10**6, "block_size": 12}, time_budget=0.05))
    assert slow.asked.wait(60)
    time.sleep(0.1)
    slow.release.set()
    answer = job.future.result(60).answer
    assert answer.is_budget_spent and answer.exactness == "approximate" and answer.chain.log_phi > 0
    assert len(slow.calls) == 1


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 2.0),
        ({"num_proposals": 2}, None),
        pytest.param({"cut": "entropy"}, 2.0, marks=pytest.mark.slow),
        pytest.param({}, None, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_prefetching_and_early_rejection_change_no_answer(worker: Worker, options: Any, most: float | None) -> None:
    """Nor does what is judged beside it, or before it."""

    def judge(texts: list[str]) -> list[float]:
        return [math.sin(sum(map(ord, text))) for text in texts]

    potentials = Potential(judge, kind="prefix", at_most=most), Potential(longer, at_most=most)
    ways = [{"prefetch": 0, "early_rejection": False}, {"prefetch": 0}, {"prefetch": 8}]
    found = []
    for way in ways:
        jobs = worker.submit_all(
            [request(*potentials, sampler={**MH, **options, **way}, seed=seed, ending=ENDLESS) for seed in range(3)]
        )
        found.append([job.future.result(60).answer for job in jobs])
    told = [[(a.chain.tokens, a.chain.log_phi, a.acceptance_rate) for a in answers] for answers in found]
    assert told[0] == told[1] == told[2]
    assert len({a.chain.tokens for a in found[0]}) > 1
