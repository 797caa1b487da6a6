"""What an answer says of its acceptance, its effective sample size and its cost is right, by counting: while moves are
prefetched, rows make way for others, and proposals are abandoned early."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from power_sampling.config import GenerationConfig
from power_sampling.engines.row import Row
from power_sampling.engines.stepped.engine import SteppedEngine
from power_sampling.engines.stepped.states import States
from power_sampling.samplers import parallel_tempering, particle_gibbs, sequential_monte_carlo
from power_sampling.samplers.metropolis_hastings import Move
from power_sampling.serving.worker import Job, Outcome, Worker
from power_sampling.testing import TableBackend, TableLM
from power_sampling.types import Chain
from tests.support.hostile import ENDLESS, EOS, PROMPT, of

HORIZON = 20
MH = {"name": "metropolis_hastings", "block_size": 6, "num_steps": 5}
TEMPERING = {"name": "parallel_tempering", "num_rungs": 3, "block_size": 8, "num_steps": 4}


class Engine(SteppedEngine):
    """Counts the tokens of each request's rows, by the token its prompt ends with, and the rows that make way."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **options: Any) -> None:
        super().__init__(TableBackend(TableLM(60, seed=9, spread=1.0)), **options)
        self.tokens: dict[int, int] = {}
        self.dropped = self.preempted = self.floored = 0
        owners: dict[int, int] = {}
        record, preempt, add, drop = Row._record, States.preempt, self.add, self.drop

        def recorded(row: Row, *args: Any) -> Any:
            self.tokens[owners[row.ticket]] = self.tokens.get(owners[row.ticket], 0) + 1
            end = record(row, *args)
            self.floored += end == "floor"
            return end

        def preempts(states: States, place: int) -> None:
            self.preempted += 1
            preempt(states, place)

        def added(prompt: Any, draw: Any) -> int:
            ticket = add(prompt, draw)
            owners[ticket] = prompt.tokens[-1]
            return ticket

        def drops(ticket: int) -> None:
            self.dropped += 1
            drop(ticket)

        monkeypatch.setattr(Row, "_record", recorded)
        monkeypatch.setattr(States, "preempt", preempts)
        self.add, self.drop = added, drops  # type: ignore[method-assign]


def answers(engine: Engine, sampler: Any, *, alpha: float = 2.0, requests: int = 3) -> list[Outcome]:
    """Of requests that come one after the other, each while those before it hold rows."""
    worker = Worker(engine)
    config = GenerationConfig(sampler=sampler, alpha=alpha, max_new_tokens=HORIZON)
    requested = [of(config, seed, ending=EOS, prompt=(*PROMPT, seed)) for seed in range(requests)]
    step, steps, jobs, all_came = engine.step, 0, list[Job](), threading.Event()

    def crowded() -> Any:
        nonlocal steps
        steps += 1
        if steps % 3 == 0 and len(jobs) < requests:
            jobs.append(worker.submit(requested[len(jobs)]))
        if len(jobs) == requests:
            all_came.set()
        return step()

    engine.step = crowded  # type: ignore[method-assign]
    jobs.append(worker.submit(requested[0]))
    assert all_came.wait(60)
    outcomes = [job.future.result(60) for job in jobs]
    worker.close()
    return outcomes


def alone(monkeypatch: pytest.MonkeyPatch, sampler: Any, **fields: Any) -> list[Outcome]:
    """Each request by itself, nothing begun early, nothing abandoned."""
    plain = {**sampler, "early_rejection": False} if "early_rejection" in dict(config_of(sampler)) else sampler
    plain = {**plain, "prefetch": 0} if "prefetch" in dict(config_of(sampler)) else plain
    found = []
    for seed in range(3):
        with monkeypatch.context() as patch:
            worker = Worker(Engine(patch))
            config = GenerationConfig(sampler=plain, max_new_tokens=HORIZON, **fields)
            found.append(worker.submit(of(config, seed, ending=EOS, prompt=(*PROMPT, seed))).future.result(60))
            worker.close()
    return found


def config_of(sampler: Any) -> Any:
    return GenerationConfig(sampler=sampler).sampler


@pytest.mark.parametrize(
    "sampler",
    [
        {**MH, "prefetch": 8},
        pytest.param({**MH, "prefetch": 0}, marks=pytest.mark.slow),
        pytest.param({**MH, "num_proposals": 3, "prefetch": 6}, marks=pytest.mark.slow),
        {**MH, "cut": "entropy", "prefetch": 4},
        TEMPERING,
        {"name": "particle_gibbs", "num_particles": 4, "num_steps": 5, "block_size": 5},
        pytest.param({**TEMPERING, "prefetch": 16}, marks=pytest.mark.slow),
        pytest.param({"name": "particle_gibbs", "num_particles": 2, "prefetch": 6}, marks=pytest.mark.slow),
        {"name": "sequential_monte_carlo", "num_particles": 5, "block_size": 7},
        pytest.param({"name": "rejection", "num_parallel": 6}, marks=pytest.mark.slow),
    ],
    ids=lambda sampler: "-".join(str(value) for value in sampler.values()),
)
def test_acceptance_ess_and_tokens(sampler: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = alone(monkeypatch, sampler, alpha=1.3)
    engine = Engine(monkeypatch, max_rows=4, kv_memory=8 * 600)
    found = answers(engine, sampler, alpha=1.3)
    for seed, (one, crowded) in enumerate(zip(expected, found, strict=True)):
        assert crowded.answer.chain.tokens == one.answer.chain.tokens
        assert crowded.answer.acceptance_rate == one.answer.acceptance_rate
        assert crowded.answer.ess == one.answer.ess and crowded.answer.log_z == one.answer.log_z
        assert crowded.tokens_decoded == engine.tokens[seed], "tokens of all its rows, dropped ones included"
    if sampler.get("prefetch"):
        assert engine.dropped, "something was begun in vain"
    if sampler["name"] in ("particle_gibbs", "sequential_monte_carlo"):
        assert engine.preempted, "some row made way"
    if sampler["name"] == "rejection" or (sampler["name"] == MH["name"] and "num_proposals" not in sampler):
        assert engine.floored, "some draw was abandoned"


@pytest.mark.parametrize(
    "sampler",
    [{**MH, "prefetch": 0}, {**MH, "num_proposals": 2}, {"name": "parallel_tempering", "num_rungs": 3, "num_steps": 6}],
    ids=lambda sampler: str(sampler["name"]),
)
def test_the_acceptance_rate_is_that_of_the_decisions(sampler: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the coldest rung's, on a ladder: what swaps bring is not its own. A proposal that happens to be the same text
    is accepted all the same."""
    decisions: list[bool] = []
    decide = Move.decide

    def decided(move: Move, *args: Any) -> Any:
        decision = decide(move, *args)
        if move.law.alpha == 1.3:
            decisions.append(decision.accepted is not None)
        return decision

    plain = {**sampler, "prefetch": 0} if "prefetch" in dict(config_of(sampler)) else sampler
    monkeypatch.setattr(Move, "decide", decided)
    same = 0
    for seed in range(6):
        decisions.clear()
        worker = Worker(TableLM(2, seed=3))
        config = GenerationConfig(sampler=plain, alpha=1.3, max_new_tokens=4)
        answer = worker.submit(of(config, seed, ending=EOS)).future.result(60).answer
        worker.close()
        assert decisions and answer.acceptance_rate == sum(decisions) / len(decisions)
        same += all(decisions)
    assert same < 6


def test_particle_gibbs_tells_how_often_it_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: list[bool] = []
    move = particle_gibbs.move

    def watched(chain: Chain, *args: Any) -> Any:
        after = yield from move(chain, *args)
        moved.append(after is not chain)
        return after

    monkeypatch.setattr(particle_gibbs, "move", watched)
    config = GenerationConfig(
        sampler={"name": "particle_gibbs", "num_particles": 3, "num_steps": 40}, alpha=2.0, max_new_tokens=3
    )
    worker = Worker(TableLM(2, seed=3))
    answer = worker.submit(of(config, ending=EOS)).future.result(60).answer
    worker.close()
    assert 0 < sum(moved) < 40 and answer.acceptance_rate == sum(moved) / 40


@pytest.mark.parametrize("num_runs", [1, 3])
def test_the_ess_is_the_smallest_that_was_seen(num_runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []
    effective = sequential_monte_carlo.effective_sample_size

    def watched(log_weights: Any) -> float:
        seen.append(effective(log_weights))
        return seen[-1]

    monkeypatch.setattr(sequential_monte_carlo, "effective_sample_size", watched)
    sampler = {"name": "sequential_monte_carlo", "num_particles": 6, "block_size": 3, "num_runs": num_runs}
    not_the_last = 0
    for seed in range(6):
        seen.clear()
        config = GenerationConfig(sampler=sampler, alpha=2.0, max_new_tokens=HORIZON)
        worker = Worker(TableLM(6, seed=9))
        answer = worker.submit(of(config, seed, ending=EOS)).future.result(60).answer
        worker.close()
        assert answer.ess == min(seen)
        not_the_last += seen[-1] != min(seen)
    assert not_the_last


def test_rejection_tells_the_rate_of_all_its_draws() -> None:
    worker = Worker(TableLM(6, seed=9))
    config = GenerationConfig(sampler={"name": "rejection", "num_parallel": 3}, alpha=1.6, max_new_tokens=3)
    rates = []
    for seed in range(12):
        answer = worker.submit(of(config, seed, ending=EOS)).future.result(60).answer
        assert answer.acceptance_rate is not None and answer.log_z is not None
        drawn = round(1 / answer.acceptance_rate)
        assert answer.log_z == pytest.approx(-sum(1 / n for n in range(1, drawn)))
        rates.append(drawn)
    assert max(rates) > 3 and min(rates) < 3
    worker.close()


def test_a_ladder_names_its_counts() -> None:
    ladder = parallel_tempering.ParallelTempering(ladder=(1.0, 1.5), num_proposals=2)
    assert ladder.counts() == {"ladder": 3, "num_proposals": 2}


def test_serial_steps_are_those_that_got_a_request_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps in which it waits for a row are another request's."""
    worker = Worker(Engine(monkeypatch, max_rows=1))
    config = GenerationConfig(sampler="ancestral", max_new_tokens=10)
    jobs = worker.submit_all([of(config, seed, ending=ENDLESS, prompt=(*PROMPT, seed)) for seed in range(3)])
    assert [job.future.result(60).serial_steps for job in jobs] == [9, 9, 9], "the first token is the prompt's"
    worker.close()
