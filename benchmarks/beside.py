"""Seconds of whole requests here and in another checkout, through public names: one process for each, taking turns.

python benchmarks/beside.py FOLDER [--repetitions 7] [--model embedded]

Every line is one kind of work on one model with one seed. Both sides draw the same tokens where `tokens` says equal;
else the ratio of the seconds compares different work. Medians, and the quartiles of the ratio of neighbouring runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
PROMPTS = [[{"role": "user", "content": f"What is {i} plus {2 * i}? Explain."}] for i in range(32)]
POWER = {"name": "metropolis_hastings", "block_size": 12, "num_steps": 3}
PARTICLES = {"name": "sequential_monte_carlo", "num_particles": 16}
SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}}
WORK: dict[str, tuple[int, dict[str, Any]]] = {
    "1 request": (1, {"sampler": "ancestral", "max_new_tokens": 64}),
    "16 requests": (16, {"sampler": "ancestral", "max_new_tokens": 32}),
    "32 requests": (32, {"sampler": "ancestral", "max_new_tokens": 32}),
    "1 by Metropolis-Hastings": (1, {"sampler": POWER, "max_new_tokens": 48}),
    "8 by Metropolis-Hastings": (8, {"sampler": POWER, "max_new_tokens": 32}),
    "1 by 16 particles": (1, {"sampler": PARTICLES, "max_new_tokens": 32}),
    "1 of 16": (1, {"sampler": {"name": "best_of_n", "num_completions": 16}, "max_new_tokens": 32}),
    "8 with a schema": (8, {"sampler": "ancestral", "max_new_tokens": 48, "json_schema": SCHEMA}),
    "8 with a stop string": (8, {"sampler": "ancestral", "max_new_tokens": 48, "stop": ["\n\n"]}),
}


def serve(model: str) -> None:
    """Answers each name of some work, a line of stdin, with its seconds and tokens."""
    from power_sampling import PowerSampler

    sampler = PowerSampler.from_pretrained(model)
    sampler.complete("Hello", max_new_tokens=1)
    for line in sys.stdin:
        requests, fields = WORK[line.strip()]
        start = time.perf_counter()
        answers = sampler.generate(PROMPTS[:requests], seed=1, **fields)
        seconds = time.perf_counter() - start
        print(json.dumps([seconds, [list(answer.tokens) for answer in answers]]), flush=True)


def started(checkout: Path, model: str) -> subprocess.Popen[str]:
    code = "import sys; sys.path[:0] = sys.argv[1:3]; from beside import serve; serve(sys.argv[3])"
    command = [sys.executable, "-c", code, str(checkout), str(HERE / "benchmarks"), model]
    return subprocess.Popen(command, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def asked(process: subprocess.Popen[str], name: str) -> tuple[float, list[list[int]]]:
    assert process.stdin and process.stdout
    process.stdin.write(name + "\n")
    process.stdin.flush()
    seconds, tokens = json.loads(process.stdout.readline())
    return seconds, tokens


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--model", default="embedded")
    args = parser.parse_args()
    sides = [started(checkout, args.model) for checkout in (HERE, args.folder.resolve())]
    print(f"{'seconds':<26} {'here':>8} {'there':>8} {'ratio':>7}  quartiles    tokens")
    for name in WORK:
        for side in sides:
            asked(side, name)  # once, so that both know the prompts
        pairs = []
        for i in range(args.repetitions):
            answers = {j: asked(sides[j], name) for j in ((0, 1) if i % 2 else (1, 0))}
            pairs.append((answers[0], answers[1]))
        here, there = (statistics.median(pair[j][0] for pair in pairs) for j in (0, 1))
        low, middle, high = statistics.quantiles([a[0] / b[0] for a, b in pairs], n=4)
        same = "equal" if all(a[1] == b[1] for a, b in pairs) else "differ"
        print(f"{name:<26} {here:8.3f} {there:8.3f} {middle:7.3f}  {low:.3f} {high:.3f}  {same}", flush=True)
    for side in sides:
        side.terminate()


if __name__ == "__main__":
    main()
