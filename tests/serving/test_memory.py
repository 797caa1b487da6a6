"""What requests take is given back: at once, without a search for garbage, and over thousands of them."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Iterator
from typing import Any
from weakref import WeakSet

import psutil
import pytest

from power_sampling import PowerSampler, PowerSamplingError
from power_sampling.config import GenerationConfig
from power_sampling.engines.row import Row
from power_sampling.engines.stepped.sequence import Prompt
from power_sampling.engines.torch import kv
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.serving.draws import Draws
from power_sampling.serving.live import Live
from power_sampling.serving.worker import Job, Request, Worker
from power_sampling.types import Termination
from tests.support.hostile import ENDLESS, EOS, Panic, bad_rules, of
from tests.support.tiny import tiny_model, tiny_tokenizer

VOCAB = 40
SAMPLERS: list[Any] = [
    "ancestral",
    {"name": "metropolis_hastings", "num_steps": 3, "block_size": 4},
    {"name": "metropolis_hastings", "num_steps": 2, "num_proposals": 3, "cut": "entropy"},
    {"name": "sequential_monte_carlo", "num_particles": 4, "block_size": 3},
    {"name": "particle_gibbs", "num_particles": 3, "num_steps": 2},
    {"name": "parallel_tempering", "num_rungs": 3, "num_steps": 2},
    {"name": "lookahead", "num_candidates": 2, "num_rollouts": 2, "block_size": 4},
    {"name": "rejection", "max_draws": 4},
]
KEPT = (kv.BatchCache, kv.AttentionLayer, kv.Stored, Prompt, Row, Draws, Live, Job)


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> Iterator[WeakSet[Any]]:
    """Whatever of these kinds is made and not freed, while Python does not search for garbage."""
    made: WeakSet[Any] = WeakSet()
    for kind in KEPT:
        init = kind.__init__

        def noted(self: Any, *args: Any, _init: Any = init, **kwargs: Any) -> None:
            _init(self, *args, **kwargs)
            made.add(self)

        monkeypatch.setattr(kind, "__init__", noted)
    gc.collect()
    gc.disable()
    yield made
    gc.enable()


def mixed(i: int) -> Request:
    """Requests of every kind; some fail, some are cancelled by `run`."""
    config = GenerationConfig(sampler=SAMPLERS[i % len(SAMPLERS)], alpha=1.5, max_new_tokens=4 + i % 9)
    ending: Termination = (EOS, ENDLESS)[i % 2]
    fields: dict[str, Any] = {"prompt": tuple(range(1, 3 + i % 30))}
    if i % 11 == 3:
        ending = Termination(frozenset(), constraint=("push", "allowed", "watch", "fork")[i % 4])
    if i % 13 == 4:
        fields["timeout"] = 1e-4
    if i % 17 == 5:
        fields["listener"] = lambda update: 1 / 0
    elif i % 3 == 0:
        fields["listener"] = lambda update: None
    return of(config, i, ending=ending, **fields)


def run(worker: Worker, numbers: range) -> int:
    """Run so many mixed requests, eight at a time; how many were answered."""
    answered = 0
    for start in numbers[::8]:
        jobs = worker.submit_all([mixed(i) for i in range(start, start + 8)])
        for i, job in enumerate(jobs):
            if (start + i) % 19 == 7:
                job.cancel()
            error = job.future.exception(120)
            assert error is None or isinstance(error, PowerSamplingError)
            answered += error is None
    return answered


def rest(worker: Worker) -> None:
    """Until the thread waits for requests."""
    job = worker.submit(of(GenerationConfig(sampler="ancestral", max_new_tokens=1)))
    job.future.result(60)
    deadline = time.monotonic() + 30
    while worker._live or worker._model.scheduler.running or worker._model.backend.batch_bytes:  # type: ignore[attr-defined]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_what_requests_made_is_freed_with_them(alive: WeakSet[Any]) -> None:
    lm = TorchLM(tiny_model(vocab_size=VOCAB, layers=1), rules=bad_rules(VOCAB, Panic("no")), prompt_memory=2**20)
    worker = Worker(lm)
    assert run(worker, range(64)) > 30
    rest(worker)
    kept = {part for entry in lm._prefill.prefixes._entries.values() for part in entry.state.parts}

    def rests() -> list[Any]:
        return [each for each in alive if each not in kept and each is not lm.backend.batch]

    deadline = time.monotonic() + 30
    while (left := rests()) and time.monotonic() < deadline:
        left.clear()
        time.sleep(0.01)  # the thread may be within the turn that answered the last request
    assert not left, f"{len(left)} are left: {sorted({type(each).__name__ for each in left})}"
    worker.close()


def measured() -> dict[str, int]:
    process = psutil.Process()
    return {
        "threads": threading.active_count(),
        "descriptors": process.num_fds() if os.name == "posix" else process.num_handles(),
        "states": sum(x.nbytes for x in gc.get_objects() if type(x) is kv._Stored),
    }


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_thousand_mixed_requests_leave_nothing() -> None:
    """Threads, descriptors, keys and values are back to their base; memory is flat after the first 500."""
    lm = TorchLM(tiny_model(vocab_size=VOCAB, layers=1), rules=bad_rules(VOCAB, Panic("no")), prompt_memory=2**20)
    worker = Worker(lm)
    run(worker, range(64))
    rest(worker)
    base, resident = measured(), []
    for start in range(0, 2000, 100):
        run(worker, range(start, start + 96))
        rest(worker)
        resident.append(psutil.Process().memory_info().rss)
        prefixes = lm._prefill.prefixes
        assert prefixes.nbytes <= 2**20
    after = measured()
    assert (after["threads"], after["descriptors"]) == (base["threads"], base["descriptors"])
    assert after["states"] <= 2**20 and lm.backend.batch_bytes == 0
    assert max(resident[5:]) - resident[5] < 20 * 2**20, [x >> 20 for x in resident]
    worker.close()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_whole_runtime_stays_flat() -> None:
    """Texts, streams, constraints, stop strings and batches through `PowerSampler`, prompts ever new."""
    sampler = PowerSampler.from_model(
        tiny_model(layers=1), tiny_tokenizer(), max_new_tokens=8, prompt_memory=4, kv_memory=16, alpha=1.5
    )
    resident = []
    for i in range(500):
        options: dict[str, Any] = {"sampler": SAMPLERS[i % 7], "seed": i}
        if i % 5 == 1:
            options["regex"] = "[a-z]{1,9}"
        if i % 5 == 2:
            options["stop"] = ["a", f"{i}"]
        prompt = f"{i} begins every prompt anew " * (1 + i % 20)
        try:
            if i % 3:
                sampler.generate([prompt, prompt + "b"], **options)
            else:
                stream = sampler.stream(prompt, **options)
                next(stream)
                if i % 2:
                    list(stream)
                stream.close()
        except PowerSamplingError:
            assert i % 5 == 1, "a constraint may find nothing"
        if i % 50 == 49:
            resident.append(psutil.Process().memory_info().rss)
    engine: Any = sampler._model.load().engine
    assert engine._prefill.prefixes.nbytes <= 2**22
    assert max(resident[3:]) - resident[3] < 30 * 2**20, [x >> 20 for x in resident]
