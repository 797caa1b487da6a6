"""Where the time of decoding goes: the share inside the model's forward pass, and what the rest is.

    python benchmarks/profile_decoding.py            the embedded model, float32, on the CPU
    python benchmarks/profile_decoding.py --quick    one repetition at 1 and 8 rows

Plain draws (q = p) and power draws (alpha 4, q = p^4 renormalised), each row a request of its own. Steady is the time
from the first to the last step that has all rows; the share is exact, by a clock around every call of the model. Whole
is the time from the first request to the last answer: prefill is inside the forward pass, seating and leaving are not.

The rest by function comes from one more run, in which another thread looks every millisecond where the worker's thread
is. It names the innermost function of the package, so what that function calls elsewhere counts as its own.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from forward_clock import Call, ForwardClock
from on_a_thread import on_a_thread
from tqdm import tqdm

import power_sampling
from power_sampling.config import GenerationConfig, ModelConfig
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.engines.torch.prepare import prepare
from power_sampling.models import load_pretrained
from power_sampling.samplers import NumpyRng, sampler_for
from power_sampling.serving.worker import THREAD_NAME, Request, Worker
from power_sampling.types import Termination

PACKAGE = str(Path(power_sampling.__file__).parent)
ROWS, PROMPT, ALPHA = (1, 8, 16, 32), 45, 4.0
SAMPLERS = {"plain": "ancestral", "power": "low_temperature"}
GOAL = {8: 0.85}
LOOK = 0.001  # seconds between two looks
FUNCTIONS = 5  # that are named


class Span(NamedTuple):
    """One run: when it began and ended, and the calls that fed one token to all rows."""

    start: float
    end: float
    steady: list[Call]

    @property
    def steady_share(self) -> float:
        inside = sum(call.seconds for call in self.steady[1:])
        return inside / (self.steady[-1].end - self.steady[0].end)


class Looker(threading.Thread):
    """Notes where the worker's thread is; an entry is (time, function of the package), None inside the model."""

    def __init__(self, clock: ForwardClock) -> None:
        super().__init__(daemon=True)
        self._clock = clock
        self._is_done = threading.Event()
        self.notes: list[tuple[float, str | None]] = []

    def run(self) -> None:
        while not self._is_done.wait(LOOK):
            worker = next((t.ident for t in threading.enumerate() if t.name == THREAD_NAME), None)
            frame = sys._current_frames().get(worker or 0)
            if frame is not None:
                self.notes.append((time.perf_counter(), None if self._clock.is_inside else function_of(frame)))

    def stop(self) -> None:
        self._is_done.set()
        self.join()

    def shares(self, start: float, end: float) -> list[tuple[str, float]]:
        """Of the time between, by function, largest first; what is inside the model is left out."""
        notes = [place for when, place in self.notes if start <= when <= end]
        return [(place, n / len(notes)) for place, n in Counter(notes).most_common() if place is not None]


def function_of(frame: FrameType | None) -> str:
    """The innermost function of the package on the stack."""
    while frame is not None:
        file = frame.f_code.co_filename
        if file.startswith(PACKAGE):
            return f"{Path(file).name} {frame.f_code.co_qualname.split('.<locals>')[0]}"
        frame = frame.f_back
    return "elsewhere"


class Bench:
    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.model, _ = load_pretrained(ModelConfig(device="cpu", dtype="float32"))
        self.clock = ForwardClock(prepare(self.model, is_own=True))
        self._random = np.random.default_rng(0)

    def run(self, sampler: str, rows: int) -> Span:
        config = GenerationConfig(sampler=sampler, alpha=ALPHA, max_new_tokens=self.tokens)
        worker = Worker(TorchLM(self.model, self.clock, max_rows=rows))
        requests = [self._request(config, seed) for seed in range(rows)]
        self.clock.calls.clear()
        start = time.perf_counter()
        for job in worker.submit_all(requests):
            job.future.result()
        end = time.perf_counter()
        worker.close()
        steady = [call for call in self.clock.calls if (call.rows, call.width) == (rows, 1)]
        return Span(start, end, steady)

    def whole_share(self, span: Span) -> float:
        return self.clock.within(span.start, span.end) / (span.end - span.start)

    def _request(self, config: GenerationConfig, seed: int) -> Request:
        prompt = self._random.integers(100, self.model.config.vocab_size, size=PROMPT).tolist()

        def make_sampler(over: Any) -> Any:
            return sampler_for(config, config.max_new_tokens, NumpyRng(seed), over)

        return Request(prompt=tuple(prompt), termination=Termination(frozenset()), make_sampler=make_sampler)


def measure(bench: Bench, name: str, rows: int, repetitions: int) -> None:
    """Print one row of the table, and the functions that make up the rest."""
    steady, whole, step = [], [], []
    for _ in range(repetitions):
        span = bench.run(SAMPLERS[name], rows)
        steady.append(span.steady_share)
        whole.append(bench.whole_share(span))
        step.append((span.steady[-1].end - span.steady[0].end) / (len(span.steady) - 1))
    looker = Looker(bench.clock)
    looker.start()
    span = bench.run(SAMPLERS[name], rows)
    looker.stop()
    rest = looker.shares(span.steady[0].end, span.steady[-1].end)
    named = ", ".join(f"{place} {share:.1%}" for place, share in rest[:FUNCTIONS])
    share = statistics.median(steady)
    goal = f" (goal >= {GOAL[rows]:.0%})" if rows in GOAL else ""
    shares = f"{share:.1%}{goal} | {statistics.median(whole):.1%} | {1 - share:.1%}: {named}"
    tqdm.write(f"| {name} | {rows} | {1000 * statistics.median(step):.1f} | {shares} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    sys.setswitchinterval(1e-4)  # so that a look does not wait until the worker's thread lets go by itself
    bench = on_a_thread(Bench, args.tokens)
    tqdm.write(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads")
    tqdm.write("| draws | rows | ms per step | inside forward, steady | inside forward, whole | the rest of steady |")
    tqdm.write("|---|---|---|---|---|---|")
    bench.run("ancestral", 1)  # the first call pays for what is set up once
    cases = [(name, rows) for rows in (ROWS[:2] if args.quick else ROWS) for name in SAMPLERS]
    for name, rows in tqdm(cases, unit="case"):
        measure(bench, name, rows, 1 if args.quick else args.repetitions)


if __name__ == "__main__":
    main()
