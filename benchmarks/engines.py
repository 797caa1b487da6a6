"""llama.cpp used directly, the engine llama_cpp and the engine torch, side by side on GGUF files.

    python benchmarks/engines.py [FILE.gguf ...] [--rows 1 4 8 16 32] [--repeat 3]

Without a file, on the embedded SmolLM2-135M (Q4_1). Each engine runs in a process of its own, one after the other in
turn, `--repeat` times; medians are printed, and ratios to the bare loop. `load` is a second load, imports not counted;
`memory` is what the process holds beyond its imports, weights that are mapped from the file included.

- decode: milliseconds per step of plain sampling, 64 new tokens of so many rows of one prompt;
- requests: seconds for 1 and for 8 requests of Metropolis-Hastings (4 blocks, 10 steps) and of SMC (16 particles).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

NEW = 64
PROMPT = (
    "Tom has 3 boxes with 12 apples each. He gives a third of all apples to Ann and half of the rest to Ben. How many "
    "apples does he keep? Think step by step."
)
SAMPLERS: dict[str, dict[str, Any]] = {
    "MH": {"name": "metropolis_hastings", "block_size": NEW // 4, "num_steps": 10},
    "SMC": {"name": "sequential_monte_carlo", "num_particles": 16},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 4, 8, 16, 32])
    parser.add_argument("--requests", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--engines", nargs="+", default=["bare", "llama_cpp", "torch"])
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        print(json.dumps(measured(given.worker, given.files[0], given.rows, given.requests)))
        return
    from power_sampling.engines.embedded import embedded_file

    for file in given.files or [embedded_file()]:
        compare(file, [*map(str, given.rows), "--requests", *map(str, given.requests)], given.repeat, given.engines)


def compare(file: Path, asked: list[str], repeat: int, engines: list[str]) -> None:
    print(f"\n{file.name}, {file.stat().st_size >> 20} MiB; {NEW} new tokens; medians of {repeat}", flush=True)
    found: dict[str, list[dict[str, float]]] = {engine: [] for engine in engines}
    for _ in range(repeat):
        for engine in engines:
            arguments = [sys.executable, __file__, str(file), "--worker", engine, "--rows", *asked]
            found[engine].append(json.loads(subprocess.run(arguments, check=True, stdout=subprocess.PIPE).stdout))
    print(f"{'':>22}" + "".join(f"{engine:>12}{'':>8}" for engine in engines))
    for name in dict.fromkeys(name for runs in found.values() for name in runs[0]):
        base = statistics.median(run[name] for run in found[engines[0]]) if name in found[engines[0]][0] else None
        line = f"{name:>22}"
        for engine in engines:
            if name not in found[engine][0]:
                line += " " * 20
                continue
            value = statistics.median(run[name] for run in found[engine])
            ratio = (
                statistics.median(
                    run[name] / first[name] for run, first in zip(found[engine], found[engines[0]], strict=True)
                )
                if base
                else None
            )
            line += f"{value:>12.4g}" + (f"  x{ratio:5.2f}" if ratio and engine != engines[0] else " " * 8)
        print(line, flush=True)


def measured(engine: str, file: Path, rows: list[int], requests: list[int]) -> dict[str, float]:
    """In this process: what `compare` prints."""
    import power_sampling.engines.llama_cpp.load
    import power_sampling.engines.torch.load  # noqa: F401 - imports are not loading

    before = psutil.Process().memory_info().rss
    start = time.perf_counter()
    decode, sampler = bare(file) if engine == "bare" else ours(engine, file)
    found = {"load s": time.perf_counter() - start}
    for count in rows:
        decode(count, 8)
        found[f"decode {count} rows ms"] = 1e3 * min(decode(count, NEW) for _ in range(2))
    if sampler is not None:
        for name, options in SAMPLERS.items():
            for count in requests:
                asked = sampler.with_settings(sampler=options, alpha=4.0)
                start = time.perf_counter()
                asked.chat([[{"role": "user", "content": PROMPT}]] * count)
                found[f"{name} {count} requests s"] = time.perf_counter() - start
    found["memory MiB"] = (psutil.Process().memory_info().rss - before) / 2**20
    return found


def ours(engine: str, file: Path) -> tuple[Callable[[int, int], float], Any]:
    """Seconds per step of plain draws, all of one prompt; and a sampler."""
    from power_sampling import PowerSampler
    from power_sampling.types import Chain, Draw, Law, Termination

    sampler = PowerSampler.from_pretrained(str(file), engine=engine, max_new_tokens=NEW, seed=1)
    loaded = sampler._model.load()
    lm, prompt = loaded.engine, loaded.codec.encode(PROMPT)

    def decode(rows: int, new: int) -> float:
        handle = lm.open(prompt, Termination(frozenset(), (), None, new))
        for seed in range(rows):
            lm.add(handle, Draw(Chain.empty(), 0, new, Law(1.0, 1.0, 1.0), seed))
        lm.step()  # the prompt, and the first tokens
        start, steps, finished = time.perf_counter(), 0, 0
        while finished < rows:
            finished += len(lm.step().finished)
            steps += 1
        return (time.perf_counter() - start) / steps

    return decode, sampler


def bare(file: Path) -> tuple[Callable[[int, int], float], None]:
    """llama.cpp by its low-level interface: one context, the prompt once, a copy for every row, one pass a step, tokens
    drawn in numpy."""
    from power_sampling.engines.llama_cpp.library import library

    api = library()
    model = api.llama_model_load_from_file(str(file).encode(), api.llama_model_default_params())
    vocab = api.llama_model_get_vocab(model)
    size = api.llama_vocab_n_tokens(vocab)
    room = (api.llama_token * 512)()
    text = PROMPT.encode()
    prompt = list(room[: api.llama_tokenize(vocab, text, len(text), room, 512, True, False)])
    parameters = api.llama_context_default_params()
    parameters.n_ctx, parameters.n_seq_max, parameters.kv_unified = 2**13, 64, True
    parameters.n_threads = parameters.n_threads_batch = psutil.cpu_count(logical=False) or 1
    context = api.llama_init_from_model(model, parameters)
    memory, batch = api.llama_get_memory(context), api.llama_batch_init(512, 0, 1)
    rng = np.random.default_rng(0)

    def feed(tokens: list[int], positions: list[int], sequences: list[int], outputs: list[int]) -> Any:
        batch.n_tokens = len(tokens)
        for i, token in enumerate(tokens):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, positions[i], 1
            batch.seq_id[i][0], batch.logits[i] = sequences[i], outputs[i]
        assert api.llama_decode(context, batch) == 0
        return np.ctypeslib.as_array(api.llama_get_logits(context), shape=(sum(outputs), size))

    def drawn(logits: Any) -> int:
        weights = np.exp(logits - logits.max())
        cdf = np.cumsum(weights[: size // 256 * 256].reshape(-1, 256).sum(axis=1, dtype=np.float64))
        block = min(int(np.searchsorted(cdf, rng.random() * cdf[-1])), len(cdf) - 1)
        inside = np.cumsum(weights[block * 256 : block * 256 + 256], dtype=np.float64)
        return block * 256 + min(int(np.searchsorted(inside, rng.random() * inside[-1])), 255)

    def decode(rows: int, new: int) -> float:
        api.llama_memory_clear(memory, True)
        count = len(prompt)
        logits = feed(prompt, list(range(count)), [0] * count, [0] * (count - 1) + [1])
        for row in range(1, rows + 1):
            api.llama_memory_seq_cp(memory, 0, row, 0, -1)
        tokens = [drawn(logits[0]) for _ in range(rows)]
        start = time.perf_counter()
        for t in range(new - 1):
            logits = feed(tokens, [count + t] * rows, list(range(1, rows + 1)), [1] * rows)
            tokens = [drawn(row) for row in logits]
        return (time.perf_counter() - start) / (new - 1)

    return decode, None


if __name__ == "__main__":
    main()
