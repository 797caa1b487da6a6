"""What the engine does for decoding on a processor, part by part: weights laid out once, one team of threads, masks.

    python benchmarks/processor.py

The embedded model in float32. Linear: all linear layers of the model, each weight read in turn as in a step. Threads:
steps on a worker's thread while the main thread, which has computed too, sleeps; and while it has not computed. Mask:
steps with and without a mask that hides nothing, alternating. Medians.
"""

from __future__ import annotations

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
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from power_sampling.config import ModelConfig
from power_sampling.engines.base import Ending
from power_sampling.engines.packed import _Mkl, _OneDnn, pack
from power_sampling.engines.torch import TorchLM
from power_sampling.models import load_pretrained
from power_sampling.types import Chain, Draw, Law

PLAIN = Law(1.0, 1.0, 1.0)
STEPS, REPETITIONS = 20, 5


def load() -> Any:
    return load_pretrained(ModelConfig(device="cpu", dtype="float32"))[0]


def milliseconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - start)


@torch.inference_mode()
def linear() -> None:
    layers = [layer for layer in load().modules() if isinstance(layer, nn.Linear)]
    ways: dict[str, list[Callable[[torch.Tensor, int], torch.Tensor]]] = {
        "torch's linear": [lambda x, _, layer=layer: functional.linear(x, layer.weight) for layer in layers],  # type: ignore[misc]
        "oneDNN": [_OneDnn(layer.weight, None) for layer in layers],
        "MKL": [_Mkl(layer.weight, None) for layer in layers],
    }
    say(f"| all {len(layers)} linear layers, rows | " + " | ".join(f"{way}, ms" for way in ways) + " |")
    say("|---" * (1 + len(ways)) + "|")
    for rows in (1, 2, 3, 4, 8, 16, 32, 64, 128):
        inputs = [torch.randn(rows, 1, layer.in_features) for layer in layers]

        def once(products: Any, rows: int = rows, inputs: Any = inputs) -> None:
            for x, product in zip(inputs, products, strict=True):
                product(x, rows)

        times: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(REPETITIONS + 1):
            for way, products in ways.items():
                times[way].append(milliseconds(partial(once, products)))
        say(f"| {rows} | " + " | ".join(f"{statistics.median(t[1:]):.1f}" for t in times.values()) + " |")


def seated(model: Any, rows: int, prompt: int, masked_from: float | None = None) -> TorchLM:
    """An engine whose rows all decode, of one length."""
    lm = TorchLM(model, max_rows=rows)
    if masked_from is not None:
        lm._batch.masked_from = masked_from
    handle = lm.open(tuple(np.random.default_rng(0).integers(100, 40000, prompt).tolist()), Ending(frozenset()))
    for seed in range(rows):
        lm.add(handle, Draw(Chain.empty(), 0, 4 * STEPS, PLAIN, seed))
    while len(lm.step()[0]) < rows:
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


def rest() -> None:
    """What a step takes without its matrix products."""
    model = load()
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            layer.forward = _Nothing(layer)
    times = {rows: seated(model, rows, 45) for rows in (1, 8, 16)}
    medians = [statistics.median(milliseconds(lm.step) for _ in range(2 * STEPS)) for lm in times.values()]
    say(f"\nwithout matrix products at {', '.join(map(str, times))} rows: {', '.join(f'{m:.1f}' for m in medians)} ms")


class _Nothing:
    """The forward of a layer that answers the same each time."""

    def __init__(self, layer: nn.Linear) -> None:
        self._features = layer.out_features
        self._answers: dict[torch.Size, torch.Tensor] = {}

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        shape = x.shape[:-1]
        if shape not in self._answers:
            self._answers[shape] = torch.randn(*shape, self._features)
        return self._answers[shape]


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
    on_a_thread(mask)
    on_a_thread(rest)
    threads()


if __name__ == "__main__":
    main()
