"""How often sequential Monte Carlo should look at its weights: the default of `block_size`.

    python benchmarks/smc_block_size.py

On real prompts and the embedded model, for each block size: the spread of the estimate of log Z over seeds (standard
deviation, averaged over prompts: smaller is better), the smallest effective sample size met, and row-steps. All runs
of a block size are decoded as one batch.
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
from tqdm import tqdm

from power_sampling import PowerSampler
from power_sampling.config import GenerationConfig
from power_sampling.samplers import NumpyRng, sampler_for
from power_sampling.serving.worker import Request
from power_sampling.types import Termination

PROMPTS = [
    "What is the capital of France?",
    "Why is the sky blue?",
    "If I have 3 apples and buy 4 more, how many apples do I have?",
    "Name three colours of the rainbow.",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--blocks", type=int, nargs="*", default=[1, 4, 8, 16, 32])
    args = parser.parse_args()
    sampler = PowerSampler.from_pretrained("embedded", dtype="float32", max_rows=64)
    loaded = sampler._model.load()
    ending = Termination(loaded.codec.eos_ids)
    prompts = [loaded.codec.encode_chat([{"role": "user", "content": text}]) for text in PROMPTS]
    print(f"8 particles, alpha 4, {args.tokens} tokens, {len(prompts)} prompts, {args.seeds} seeds each")
    print(f"{'block':>6}{'sd of log Z':>14}{'mean log Z':>12}{'smallest ESS':>14}{'row-steps':>11}{'serial steps':>14}")
    for block in tqdm(args.blocks, unit="size"):
        config = GenerationConfig(
            sampler={"name": "sequential_monte_carlo", "block_size": block}, alpha=4.0, max_new_tokens=args.tokens
        )
        requests = [
            Request(
                prompt=prompt,
                termination=ending,
                make_sampler=lambda over, s=seed, c=config: sampler_for(c, c.max_new_tokens, NumpyRng(s), over),
            )
            for prompt in prompts
            for seed in range(args.seeds)
        ]
        outcomes = [job.future.result() for job in loaded.worker.submit_all(requests)]
        log_z = np.array([o.answer.log_z for o in outcomes]).reshape(len(prompts), args.seeds)
        ess = statistics.mean(o.answer.ess or 0 for o in outcomes)
        tqdm.write(
            f"{block:>6}{log_z.std(1, ddof=1).mean():>14.2f}{log_z.mean():>12.2f}{ess:>14.2f}"
            f"{sum(o.tokens_decoded for o in outcomes):>11}{max(o.serial_steps for o in outcomes):>14}"
        )


if __name__ == "__main__":
    main()
