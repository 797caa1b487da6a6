"""Seconds from the command to the first token of the embedded model, every process a fresh one, medians of several.

python benchmarks/cold_start.py [--processes 5] [--beside FOLDER]

`command` is `power-sampling generate` as a user runs it, with one token to draw. The other lines are its parts, in
processes of their own: what the command line imports, torch, what of transformers a model needs, the model and its
tokenizer from the cache, the engine around them (weights laid out anew, trials), and the first token after that.

`--beside` names another checkout, whose processes take turns with this one's: only such numbers can be compared. The
processor's seconds are less noisy than the clock's; OMP_NUM_THREADS=1 keeps threads that wait from counting there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]
COMMAND = "generate Hello --model embedded --sampler ancestral --max-new-tokens 1 --seed 1 --json"
PARTS = ("command line", "torch", "transformers", "model", "engine", "first token")
Times = dict[str, tuple[float, float]]  # by the clock, of the processor


def parts() -> Times:
    """In this process. Garbage is collected as in a process that does not know what is coming."""
    found: Times = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        clock, processor = time.perf_counter(), time.process_time()
        yield
        found[name] = time.perf_counter() - clock, time.process_time() - processor

    with timed("command line"):
        import power_sampling.cli  # noqa: F401
    with timed("torch"):
        import torch  # noqa: F401
    with timed("transformers"):
        from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel  # noqa: F401

    from power_sampling import PowerSampler
    from power_sampling.config import ModelConfig
    from power_sampling.models import load_pretrained

    with timed("model"):
        model, tokenizer = load_pretrained(ModelConfig(model="embedded"))
    with timed("engine"):
        sampler = PowerSampler.from_model(model, tokenizer, sampler="ancestral", max_new_tokens=1)
    with timed("first token"):
        sampler.chat([{"role": "user", "content": "Hello"}])
    return found


def whole(checkout: Path) -> tuple[float, float]:
    """The command in a process of its own."""
    before, start = os.times(), time.perf_counter()
    command = [sys.executable, "-m", "power_sampling", *COMMAND.split()]
    subprocess.run(command, check=True, capture_output=True, cwd=checkout)
    after = os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return time.perf_counter() - start, spent


def measured(checkout: Path) -> Times:
    code = "import json, sys; sys.path[:0] = sys.argv[1:]; from cold_start import parts; print(json.dumps(parts()))"
    command = [sys.executable, "-c", code, str(checkout), str(HERE / "benchmarks")]
    answer = subprocess.run(command, check=True, capture_output=True, cwd=checkout, text=True).stdout
    return {"command": whole(checkout), **json.loads(answer.splitlines()[-1])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=5)
    parser.add_argument("--beside", type=Path)
    args = parser.parse_args()
    checkouts = [HERE, *([args.beside.resolve()] if args.beside else [])]
    runs: dict[Path, list[Times]] = {checkout: [] for checkout in checkouts}
    measured(HERE)  # fills the cache
    for _ in range(args.processes):
        for checkout in checkouts:
            runs[checkout].append(measured(checkout))
    for checkout, times in runs.items():
        print(f"{checkout.name}, seconds by the clock (of the processor):")
        for name in ("command", *PARTS):
            clock, processor = (statistics.median(x[name][i] for x in times) for i in (0, 1))
            print(f"  {name:<14} {clock:6.2f} ({processor:6.2f})")


if __name__ == "__main__":
    main()
