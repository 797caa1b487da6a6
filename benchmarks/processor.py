"""What the engine does for decoding on a processor, part by part: weights laid out once, compiled layers, masks, one
team of threads.

    python benchmarks/processor.py

The embedded model in float32. Linear: all linear layers of the model, each weight read in turn as in a step; in the
bits that they need (4, the head 8), and in 16, rounded to bfloat16 before. Attention: all layers' for one new position,
by torch and by the loop of our own. Compiled: steps and prefills with `compile_layers` and without, alternating. Mask:
steps with and without a mask that hides nothing, alternating. Threads: steps on a worker's thread while the main
thread, which has computed too, sleeps; and while it has not computed. Medians.
"""

from __future__ import annotations

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import transformers
from on_a_thread import on_a_thread
from torch.nn import functional
from tqdm import tqdm

from power_sampling.config import ModelConfig
from power_sampling.engines.torch.cpu.attention import _by_library, _by_torch, _library
from power_sampling.engines.torch.cpu.compact import compact
from power_sampling.engines.torch.cpu.compiled import compile_layers
from power_sampling.engines.torch.cpu.packed import _Mkl, _OneDnn, _those_together, pack, packable
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.models import load_pretrained
from power_sampling.types import Chain, Draw, Law, Termination

PLAIN = Law(1.0, 1.0, 1.0)
STEPS, REPETITIONS = 20, 5
Product = Callable[[torch.Tensor, int], torch.Tensor]


def load() -> Any:
    return load_pretrained(ModelConfig(device="cpu", dtype="float32"))[0]


def milliseconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


@torch.inference_mode()
def linear() -> None:
    model = load()
    layers = list(packable(model))
    ways: dict[str, list[tuple[int, Product]]] = {
        "torch's linear": [(y.in_features, lambda x, _, w=y.weight: functional.linear(x, w)) for y in layers],
        "oneDNN": [(y.in_features, _OneDnn(y.weight, None)) for y in layers],
        "MKL": [(y.in_features, _Mkl(y.weight, None)) for y in layers],
    }
    groups = [(g[0].in_features, torch.cat([y.weight for y in g])) for g in _those_together(model, layers)]
    ways["MKL, layers of one input together"] = [(width, _Mkl(weight, None)) for width, weight in groups]
    halves = [(width, weight.bfloat16().float()) for width, weight in groups]
    for name, weights in (("the same in 16 bits", halves), ("in 4 bits", groups)):
        found = [(width, product) for width, weight in weights if (product := compact(weight, None))]
        if len(found) == len(weights):
            ways[name] = [*found]
    say(f"| all {len(layers)} linear layers, rows | " + " | ".join(f"{way}, ms" for way in ways) + " |")
    say("|---" * (1 + len(ways)) + "|")
    for rows in (1, 2, 3, 4, 8, 16, 32, 64, 128, 360):
        inputs = {width: torch.randn(rows, 1, width) for width in {y.in_features for y in layers}}

        def once(products: list[tuple[int, Product]], rows: int = rows, inputs: Any = inputs) -> None:
            for width, product in products:
                product(inputs[width], rows)

        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(REPETITIONS + 1):
            for way, products in ways.items():
                times[way].append(milliseconds(partial(once, products)))
        say(f"| {rows} | " + " | ".join(f"{statistics.median(t[1:]):.1f}" for t in times.values()) + " |")


@torch.inference_mode()
def attention() -> None:
    library, layers = _library(), 30
    if library is None:
        return
    say(f"\n| rows | slots | attention of {layers} layers by torch, ms | by the loop of our own | ratio |")
    say("|---" * 5 + "|")
    for rows, slots in itertools.product((1, 8, 16), (50, 100, 300, 1000)):
        query = torch.randn(rows, 9, 1, 64)  # as the embedded model has it: 3 heads share keys and values
        states = [torch.randn(2, rows, 3, slots + 64, 64).narrow(3, 32, slots) for _ in range(layers)]
        sides = _by_torch, partial(_by_library, library)

        def once(side: Callable[..., Any], query: torch.Tensor = query, states: Any = states) -> None:
            for keys, values in states:
                side(query, keys, values, None, 0.125)

        times = [[milliseconds(partial(once, side)) for side in sides] for _ in range(3 * REPETITIONS)][1:]
        theirs, ours = (statistics.median(side) for side in zip(*times, strict=True))
        ratio = statistics.median(here / there for there, here in times)
        say(f"| {rows} | {slots} | {theirs:.1f} | {ours:.1f} | {ratio:.2f} |")


def compiled() -> None:
    plain, changed = load(), load()
    for model in (plain, changed):
        pack(model, is_required=False)
    seconds = milliseconds(lambda: compile_layers(changed)) / 1000
    say(f"\ncompile_layers took {seconds:.0f} s (less where torch finds its files of an earlier time)")
    say("\n| rows | plain, ms per step | compiled | ratio | plain, ms to prefill 45 tokens each | compiled | ratio |")
    say("|---" * 7 + "|")
    for rows in (1, 8, 16, 32):
        cells = []
        for work_of, repetitions in ((steps_of, 3 * STEPS), (prefills_of, 2 * REPETITIONS)):
            sides = work_of(plain, rows), work_of(changed, rows)
            times = [[milliseconds(side) for side in sides] for _ in range(repetitions)]
            cells += [f"{statistics.median(side):.1f}" for side in zip(*times, strict=True)]
            cells.append(f"{statistics.median(there / here for here, there in times):.2f}")
        say(f"| {rows} | {' | '.join(cells)} |")


def steps_of(model: Any, rows: int) -> Callable[[], Any]:
    return seated(model, rows, 45).step


def prefills_of(model: Any, rows: int) -> Callable[[], Any]:
    lm, random = TorchLM(model, max_rows=rows), np.random.default_rng(0)

    def prefill() -> None:
        for seed in range(rows):
            handle = lm.open(tuple(random.integers(100, 40000, 45).tolist()), Termination(frozenset()))
            lm.add(handle, Draw(Chain.empty(), 0, 1, PLAIN, seed))  # its one token is drawn from the prompt's logits
        left = rows
        while left:
            left -= len(lm.step().finished)

    return prefill


def seated(model: Any, rows: int, prompt: int, masked_from: float | None = None) -> TorchLM:
    """An engine whose rows all decode, of one length."""
    lm = TorchLM(model, max_rows=rows)
    if masked_from is not None:
        lm.backend.batch.masked_from = masked_from
    handle = lm.open(tuple(np.random.default_rng(0).integers(100, 40000, prompt).tolist()), Termination(frozenset()))
    for seed in range(rows):
        lm.add(handle, Draw(Chain.empty(), 0, 4 * STEPS, PLAIN, seed))
    while len(lm.step().decoded) < rows:
        pass
    return lm


def mask() -> None:
    model = load()
    pack(model, is_required=False)
    say("\n| 8 rows, prompt | with a mask, ms per step | without |\n|---|---|---|")
    for prompt in (45, 150, 300, 500, 2000):
        sides = [seated(model, 8, prompt, start) for start in (0, float("inf"))]
        times: tuple[list[float], list[float]] = [], []
        for _ in range(STEPS):
            for side, found in zip(sides, times, strict=True):
                found.append(milliseconds(side.step))
        say(f"| {prompt} | " + " | ".join(f"{statistics.median(t):.1f}" for t in times) + " |")


def threads() -> None:
    """In processes of their own, alternating: a team of threads cannot be told to go."""
    say("\n| rows | loaded on the main thread, ms per step | on one that has ended |\n|---|---|---|")
    results: dict[str, list[list[float]]] = {"main": [], "passing": []}
    for _ in range(3):
        for way, found in results.items():
            command = [sys.executable, __file__, way]
            out = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True).stdout
            found.append([float(x) for x in out.splitlines()[-1].split()])
    for i, rows in enumerate((1, 8)):
        medians = [statistics.median(run[i] for run in found) for found in results.values()]
        say(f"| {rows} | " + " | ".join(f"{m:.1f}" for m in medians) + " |")


def time_steps(way: str) -> None:
    def loaded() -> Any:
        model = load()
        pack(model, is_required=False)
        return model

    def times(model: Any, rows: int) -> float:
        lm = seated(model, rows, 45)
        return statistics.median(milliseconds(lm.step) for _ in range(STEPS))

    model = loaded() if way == "main" else on_a_thread(loaded)
    print(*(on_a_thread(times, model, rows) for rows in (1, 8)))


def say(line: str) -> None:
    tqdm.write(line)


def main() -> None:
    transformers.logging.set_verbosity_error()
    if len(sys.argv) > 1:
        time_steps(sys.argv[1])
        return
    say(f"torch {torch.__version__}, transformers {transformers.__version__}, {torch.get_num_threads()} threads")
    on_a_thread(linear)
    on_a_thread(attention)
    on_a_thread(compiled)
    on_a_thread(mask)
    threads()


if __name__ == "__main__":
    main()
