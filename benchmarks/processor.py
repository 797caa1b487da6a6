"""What the engine does for decoding on a processor, part by part: packed weights, attention, written layers, masks, one
team of threads.

    python benchmarks/processor.py

The embedded model in float32. Linear: all linear layers of the model, each weight read in turn as in a step; by torch,
as oneDNN lays weights out, and by the product of our own, layers of one input together, with weights in 32 bits, in 16
(rounded to bfloat16 before), and in the bits that they need (4, the head 8). Attention: all layers' for one new
position, by torch and by the loop of our own. Layers: steps and prefills by transformers' layers over packed weights,
and by the written ones. Mask: steps of transformers' layers with and without a mask that hides nothing. All these sides
alternate. Threads: steps on a worker's thread while the main thread, which has computed too, sleeps; and while it has
not computed. Medians.
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
from power_sampling.engines.torch.cpu.kernels import Kernels, operators
from power_sampling.engines.torch.cpu.layers import LlamaForward
from power_sampling.engines.torch.cpu.linear import packable, replace_layers
from power_sampling.engines.torch.cpu.operators import EVERYTHING, OneDnn, Operators, Sight
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.engines.torch.forward import Forward
from power_sampling.engines.torch.plain import PlainForward
from power_sampling.engines.torch.prepare import prepare
from power_sampling.models import load_pretrained
from power_sampling.types import Chain, Draw, Law, Termination

PLAIN = Law(1.0, 1.0, 1.0)
STEPS, REPETITIONS = 20, 5
Product = Callable[[torch.Tensor], torch.Tensor]


def load() -> Any:
    return load_pretrained(ModelConfig(device="cpu", dtype="float32"))[0]


def milliseconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


@torch.inference_mode()
def linear() -> None:
    layers = list(packable(load()))
    together = [torch.cat([x.weight for x in group]) for group in groups(layers)]
    ours = operators()
    ways: dict[str, list[tuple[int, Product]]] = {
        "torch's linear": [(y.in_features, partial(functional.linear, weight=y.weight)) for y in layers],
        "oneDNN": [(y.in_features, OneDnn(y.weight, None)) for y in layers],
    }
    if isinstance(ours, Kernels):
        full = [weight + 2**-20 * weight.abs() * torch.rand_like(weight) for weight in together]
        halves = [weight.bfloat16().float() for weight in together]
        for name, weights in (("ours, 32 bits", full), ("16 bits", halves), ("4 bits", together)):
            ways[name] = [(w.shape[1], product) for w in weights if (product := ours.product(w, None))]
    say(f"| all {len(layers)} linear layers, rows | " + " | ".join(f"{way}, ms" for way in ways) + " |")
    say("|---" * (1 + len(ways)) + "|")
    for rows in (1, 2, 3, 4, 8, 16, 24, 32, 64, 128, 360):
        inputs = {width: torch.randn(rows, width) for width in {y.in_features for y in layers}}

        def once(products: list[tuple[int, Product]], inputs: Any = inputs) -> None:
            for width, product in products:
                product(inputs[width])

        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(REPETITIONS + 1):
            for way, products in ways.items():
                times[way].append(milliseconds(partial(once, products)))
        say(f"| {rows} | " + " | ".join(f"{statistics.median(t[1:]):.1f}" for t in times.values()) + " |")


def groups(layers: list[Any]) -> list[list[Any]]:
    """Query, key and value, and gate and up, as the written layers have them; the others alone."""
    found = []
    for i in range(0, len(layers) - 1, 7):
        query, key, value, output, gate, up, down = layers[i : i + 7]
        found += [[query, key, value], [output], [gate, up], [down]]
    return [*found, [layers[-1]]]


@torch.inference_mode()
def attention() -> None:
    layers = 30
    say(f"\n| rows | slots | attention of {layers} layers by torch, ms | by the loop of our own | ratio |")
    say("|---" * 5 + "|")
    for rows, slots in itertools.product((1, 8, 16), (50, 100, 300, 1000)):
        states = torch.randn(rows, 1, 15, 64)  # as the embedded model has it: 3 heads share keys and values
        turns = torch.randn(rows, 1, 64), torch.randn(rows, 1, 64)
        buffers = [torch.randn(2, rows, 3, slots + 64, 64) for _ in range(layers)]
        sight = Sight(rows, 1, 32, 31 + slots, torch.zeros(rows, dtype=torch.long), hides=False)

        def once(
            side: Operators, states: Any = states, turns: Any = turns, buffers: Any = buffers, sight: Any = sight
        ) -> None:
            for keys, values in buffers:
                side.attend(states, turns, keys, values, sight, EVERYTHING, 0.125)

        sides = Operators(), operators()
        times = [[milliseconds(partial(once, side)) for side in sides] for _ in range(3 * REPETITIONS)][1:]
        theirs, ours = (statistics.median(side) for side in zip(*times, strict=True))
        ratio = statistics.median(here / there for there, here in times)
        say(f"| {rows} | {slots} | {theirs:.1f} | {ours:.1f} | {ratio:.2f} |")


def written() -> None:
    model, packed = load(), load()
    replace_layers(packed)
    start = time.perf_counter()
    forwards = PlainForward(packed), prepare(model, is_own=True)
    say(f"\nlaying out weights and trying the layers took {time.perf_counter() - start:.1f} s")
    if not isinstance(forwards[1], LlamaForward):
        return
    say("\n| rows | transformers' layers, ms per step | written | ratio | ms to prefill 45 tokens | written | ratio |")
    say("|---" * 7 + "|")
    for rows in (1, 4, 8, 16, 24, 25, 32, 40):
        cells = []
        for work_of, repetitions in ((steps_of, 3 * STEPS), (prefills_of, 2 * REPETITIONS)):
            sides = [work_of(model, forward, rows) for forward in forwards]
            times = [[milliseconds(side) for side in sides] for _ in range(repetitions)]
            cells += [f"{statistics.median(side):.1f}" for side in zip(*times, strict=True)]
            cells.append(f"{statistics.median(there / here for here, there in times):.2f}")
        say(f"| {rows} | {' | '.join(cells)} |")


def steps_of(model: Any, forward: Forward, rows: int) -> Callable[[], Any]:
    return seated(model, forward, rows, 45).step


def prefills_of(model: Any, forward: Forward, rows: int) -> Callable[[], Any]:
    lm, random = TorchLM(model, forward, max_rows=rows), np.random.default_rng(0)

    def prefill() -> None:
        for seed in range(rows):
            handle = lm.open(tuple(random.integers(100, 40000, 45).tolist()), Termination(frozenset()))
            lm.add(handle, Draw(Chain.empty(), 0, 1, PLAIN, seed))  # its one token is drawn from the prompt's logits
        left = rows
        while left:
            left -= len(lm.step().finished)

    return prefill


def seated(model: Any, forward: Forward, rows: int, prompt: int) -> TorchLM:
    """An engine whose rows all decode, of one length."""
    lm = TorchLM(model, forward, max_rows=rows)
    handle = lm.open(tuple(np.random.default_rng(0).integers(100, 40000, prompt).tolist()), Termination(frozenset()))
    for seed in range(rows):
        lm.add(handle, Draw(Chain.empty(), 0, 4 * STEPS, PLAIN, seed))
    while len(lm.step().decoded) < rows:
        pass
    return lm


def mask() -> None:
    model = load()
    replace_layers(model)
    forwards = PlainForward(model), PlainForward(model)
    forwards[0].masked_from, forwards[1].masked_from = 0, float("inf")
    say("\n| 8 rows, prompt | with a mask, ms per step | without |\n|---|---|---|")
    for prompt in (45, 150, 300, 500, 2000):
        sides = [seated(model, forward, 8, prompt) for forward in forwards]
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
    def loaded() -> tuple[Any, Forward]:
        model = load()
        return model, prepare(model, is_own=True)

    def times(model: Any, forward: Forward, rows: int) -> float:
        lm = seated(model, forward, rows, 45)
        return statistics.median(milliseconds(lm.step) for _ in range(STEPS))

    model, forward = loaded() if way == "main" else on_a_thread(loaded)
    print(*(on_a_thread(times, model, forward, rows) for rows in (1, 8)))


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
    on_a_thread(written)
    on_a_thread(mask)
    threads()


if __name__ == "__main__":
    main()
