"""How the cost of a token grows with the prompt, the horizon, the rows and the requests that wait; and how memory does.

    python benchmarks/growth.py                      also draws docs/figures/growth.svg
    python benchmarks/growth.py --quick              smaller sizes, one repetition, no figure

The embedded model, float32, on the CPU, packed weights, EOS ignored. Prompt and rows: the median of 16 steps of all
rows. Horizon: the median of the 32 steps before each length. Requests: all at once, timed as a whole, their prefill
included. Repetitions go through all curves in turn, and each point is the median of its repetitions: machines are
noisy, and one disturbed point bends a curve.

Two numbers judge a curve: the exponent k of cost ~ size^k between its last two points; and its last point over what the
straight line through the others foretells, which exceeds 1 where a curve bends upwards under a large constant.

Key/value bytes as computed are what the engine sets against its budget before it seats a row; held is the most its
buffers took; the peak is that of the process beyond what it had before, prefill and activations included. Needs Linux
with glibc.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from forward_clock import ForwardClock
from on_a_thread import on_a_thread
from tqdm import tqdm

from power_sampling.config import GenerationConfig, ModelConfig
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.engines.torch.prepare import prepare
from power_sampling.models import load_pretrained
from power_sampling.samplers import NumpyRng, sampler_for
from power_sampling.serving.worker import Request, Worker
from power_sampling.types import Chain, Draw, Law, Termination, Tokens

FIGURE = Path(__file__).parents[1] / "docs" / "figures" / "growth.svg"
PLAIN = Law(1.0, 1.0, 1.0)
ENDLESS = Termination(frozenset())
ROWS, PROMPT = 8, 45
STEPS, TAIL = 16, 32  # that a median is taken of
MAX_ROWS, SHORT_PROMPT, SHORT_ANSWER = 32, 16, 8  # of requests that wait
STEEPEST, BEND = 1.1, 1.2  # what still passes as linear: timings are noisy
MIB = 2**20


class Memory(NamedTuple):
    """Bytes: of keys and values as computed and as held, and the peak of the process."""

    computed: int
    held: int
    peak: int


class Point(NamedTuple):
    size: int
    cost: float  # milliseconds
    memory: Memory
    own: float | None = None  # the part of the cost outside the forward pass, where it is asked for


class Lab:
    """The model and what is measured about it."""

    def __init__(self) -> None:
        self.model, _ = load_pretrained(ModelConfig(device="cpu", dtype="float32"))
        self.clock = ForwardClock(prepare(self.model, is_own=True))
        self._random = np.random.default_rng(0)
        self._held: list[int] = []  # after every step of the engine made last
        self._before = 0  # bytes of the process when that engine was made

    def tokens(self, length: int) -> Tokens:
        return tuple(self._random.integers(100, self.model.config.vocab_size, size=length).tolist())

    def engine(self, rows: int) -> TorchLM:
        """A new engine, its buffers looked at after every step: an idle one holds none."""
        self._held, self._before = [], restart_peak()
        engine = TorchLM(self.model, self.clock, max_rows=rows)
        step = engine.step

        def watched() -> Any:
            result = step()
            self._held.append(engine.backend.batch.nbytes)
            return result

        engine.step = watched  # type: ignore[method-assign] # of this engine alone
        return engine

    def seated(self, prompts: Sequence[Tokens], new_tokens: int) -> TorchLM:
        """An engine with a row for each prompt, all in decoding; equal prompts share their states. Rows come one at a
        time, as they do in service, and the first has drawn a token more than there are rows."""
        rows = len(prompts)
        engine = self.engine(rows)
        handles = {prompt: engine.open(prompt, ENDLESS) for prompt in prompts}
        for row, prompt in enumerate(prompts):
            engine.add(handles[prompt], Draw(Chain.empty(), 0, new_tokens, PLAIN, seed=row))
            engine.step()
        while len(engine.step().decoded) < rows:
            pass
        return engine

    def memory(self, engine: TorchLM, rows: int, longest: int) -> Memory:
        return Memory(engine._budget.needed(rows, longest), max(self._held), status("VmHWM") - self._before)


def restart_peak() -> int:
    """Give back what was freed, and let the peak of this process start again. Returns what it takes now, in bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return status("VmRSS")


def status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def milliseconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


# ------------------------------------------------------------ the curves


def prompt(lab: Lab, sizes: Sequence[int]) -> Iterator[Point]:
    for size in sizes:
        new_tokens = ROWS + STEPS + 3
        engine = lab.seated([lab.tokens(size)] * ROWS, new_tokens)
        step = statistics.median(milliseconds(engine.step) for _ in range(STEPS))
        yield Point(size, step / ROWS, lab.memory(engine, ROWS, size + new_tokens))


def horizon(lab: Lab, sizes: Sequence[int]) -> Iterator[Point]:
    engine = lab.seated([lab.tokens(PROMPT)], sizes[-1] + 4)
    steps: list[float] = []
    for size in sizes:
        steps += [milliseconds(engine.step) for _ in range(size - len(steps))]
        # what this much of a horizon needs; the row was seated by the need of all of it
        yield Point(size, statistics.median(steps[-TAIL:]), lab.memory(engine, 1, PROMPT + size + 4))


def rows(lab: Lab, sizes: Sequence[int]) -> Iterator[Point]:
    for size in sizes:
        new_tokens = size + STEPS + 3
        engine = lab.seated([lab.tokens(PROMPT) for _ in range(size)], new_tokens)
        step = statistics.median(milliseconds(engine.step) for _ in range(STEPS))
        yield Point(size, step, lab.memory(engine, size, PROMPT + new_tokens))


def requests(lab: Lab, sizes: Sequence[int]) -> Iterator[Point]:
    config = GenerationConfig(sampler="ancestral", max_new_tokens=SHORT_ANSWER)
    for size in sizes:
        waiting = [
            Request(
                prompt=lab.tokens(SHORT_PROMPT),
                termination=ENDLESS,
                make_sampler=lambda over, seed=seed: sampler_for(config, SHORT_ANSWER, NumpyRng(seed), over),
            )
            for seed in range(size)
        ]
        engine = lab.engine(MAX_ROWS)
        worker = Worker(engine)
        start = time.perf_counter()
        decoded = sum(job.future.result().tokens_decoded for job in worker.submit_all(waiting))
        end = time.perf_counter()
        worker.close()
        own = end - start - lab.clock.within(start, end)
        memory = lab.memory(engine, min(size, MAX_ROWS), SHORT_PROMPT + SHORT_ANSWER)
        yield Point(size, 1000 * (end - start) / decoded, memory, 1000 * own / decoded)


class Part(NamedTuple):
    curve: Callable[[Lab, Sequence[int]], Iterator[Point]]
    size: str
    cost: str
    sizes: Sequence[int]
    quick: Sequence[int]


PARTS = [
    Part(prompt, f"prompt, tokens ({ROWS} rows)", "ms per token", (250, 500, 1000, 2000, 4000), (50, 100, 200)),
    Part(horizon, "decoded so far, tokens (1 row)", "ms per token", (125, 250, 500, 1000, 2000), (32, 64, 128)),
    Part(rows, "rows", "ms per step", (1, 8, 20, 40, 64), (1, 3, 6)),
    Part(requests, f"requests for {MAX_ROWS} rows", "ms per token", (32, 64, 128, 256), (8, 16, 32)),
]


# ------------------------------------------------------------ what they say


def combined(repetitions: Sequence[Point]) -> Point:
    """The median of each cost; of the memory, which does not vary, the most."""
    own = [p.own for p in repetitions if p.own is not None]
    return Point(
        repetitions[0].size,
        statistics.median(p.cost for p in repetitions),
        Memory(*map(max, zip(*(p.memory for p in repetitions), strict=True))),
        statistics.median(own) if own else None,
    )


def judged(x: Sequence[float], y: Sequence[float]) -> str:
    exponent = np.log(y[-1] / y[-2]) / np.log(x[-1] / x[-2])
    line = np.polyval(np.polyfit(x[:-1], y[:-1], 1), x[-1])
    bend = y[-1] / max(line, np.mean(y[:-1]))  # a falling line foretells too little: costs do not fall for ever
    verdict = "no worse than linear" if exponent <= STEEPEST and bend <= BEND else "WORSE THAN LINEAR"
    return f"{verdict} (exponent {exponent:.2f}, last over line {bend:.2f})"


def curve(part: Part, lab: Lab, sizes: Sequence[int], bar: tqdm) -> list[Point]:  # type: ignore[type-arg]
    points = []
    for point in part.curve(lab, sizes):
        points.append(point)
        bar.update()
    return points


def report(part: Part, points: list[Point]) -> None:
    say(f"\n| {part.size} | {part.cost} | outside forward | computed, MiB | held, MiB | peak, MiB |")
    say("|---|---|---|---|---|---|")
    for size, cost, memory, own in points:
        numbers = " | ".join(f"{n / MIB:.0f}" for n in memory)
        say(f"| {size} | {cost:.1f} | {'-' if own is None else f'{own:.2f}'} | {numbers} |")
    sizes = [p.size for p in points]
    say(f"\n{part.cost}: {judged(sizes, [p.cost for p in points])}")
    if own := [p.own for p in points if p.own is not None]:
        say(f"outside forward: {judged(sizes, own)}")
    peaks = [max(p.memory.peak, MIB) for p in points]
    say(f"peak: as size^{np.polyfit(np.log(sizes), np.log(peaks), 1)[0]:.2f} over all sizes")
    say(f"held: at most {max(p.memory.held / p.memory.computed for p in points):.2f} of what was computed")


def draw(curves: list[tuple[Part, list[Point]]], figure: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    # text as text makes a small file, and equal numbers an equal one
    matplotlib.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "growth", "font.size": 8}
    from matplotlib import pyplot

    _, panels = pyplot.subplots(2, 3, figsize=(10, 5.4), layout="constrained")
    *costs, own, memory = panels.flat
    for panel, (part, points) in zip(costs, curves, strict=True):
        with_line(panel, [p.size for p in points], [p.cost for p in points])
        panel.set(xlabel=part.size, ylabel=part.cost)
    part, points = curves[-1]
    with_line(own, [p.size for p in points], [p.own or 0.0 for p in points])
    own.set(xlabel=part.size, ylabel="ms per token outside the forward pass")
    for part, points in curves[:3]:
        computed = [p.memory.computed / MIB for p in points]
        memory.plot(computed, [p.memory.held / MIB for p in points], "o", label=part.curve.__name__)
    memory.axline((10, 10), (100, 100), color="grey", linewidth=0.8)
    memory.set(xlabel="keys and values as computed, MiB", ylabel="held, MiB", xscale="log", yscale="log")
    memory.legend()
    figure.parent.mkdir(parents=True, exist_ok=True)
    pyplot.savefig(figure, metadata={"Date": None})


def with_line(panel: Any, x: Sequence[float], y: Sequence[float]) -> None:
    """The points, and the least-squares line through all but the last."""
    panel.set(xlim=(0, 1.05 * x[-1]), ylim=(0, 1.15 * max(y)))
    panel.plot(x, y, "o-")
    panel.plot((0, x[-1]), np.polyval(np.polyfit(x[:-1], y[:-1], 1), (0, x[-1])), "--", color="grey", linewidth=0.8)


def say(line: str) -> None:
    tqdm.write(line)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    lab = on_a_thread(Lab)
    repetitions = 1 if args.quick else args.repetitions
    say(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads")
    on_a_thread(lab.seated, [lab.tokens(PROMPT)], 4)  # the first call pays for what is set up once
    points: dict[tuple[Part, int], list[Point]] = defaultdict(list)
    sizes = {part: part.quick if args.quick else part.sizes for part in PARTS}
    with tqdm(total=repetitions * sum(map(len, sizes.values())), unit="point") as bar:
        for _ in range(repetitions):
            for part in PARTS:
                for point in on_a_thread(curve, part, lab, sizes[part], bar):
                    points[part, point.size].append(point)
    curves = [(part, [combined(points[part, size]) for size in sizes[part]]) for part in PARTS]
    for part, drawn in curves:
        report(part, drawn)
    if not args.quick:
        draw(curves, FIGURE)


if __name__ == "__main__":
    main()
