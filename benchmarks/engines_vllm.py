"""The engine vllm against the bare server: the same prompts, the same number of new tokens, both sides in one run.

    vllm serve MODEL --max-logprobs 65 ... &  python benchmarks/engines_vllm.py http://localhost:8000 MODEL_FOLDER

`bare` posts one completion a request, not streamed, without log-probabilities; `listed` asks for 65 of them as the
engine has to, so that it says what the server itself pays for that; `engine` is PowerSampler with one draw a request.
Medians of alternating repetitions; ratios travel between machines, seconds do not.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any

import httpx

from power_sampling import PowerSampler

NEW = 64


def bare(url: str, model: str, prompts: list[list[int]], further: dict[str, Any]) -> None:
    """Every prompt at once, by the shortest loop there is."""

    async def run() -> None:
        async with httpx.AsyncClient(timeout=600) as http:

            async def ask(tokens: list[int], seed: int) -> None:
                body = {"model": model, "prompt": tokens, "max_tokens": NEW, "seed": seed, **further}
                body |= {"ignore_eos": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
                answer = await http.post(f"{url}/v1/completions", json=body)
                assert answer.json()["usage"]["completion_tokens"] == NEW

            await asyncio.gather(*[ask(tokens, seed) for seed, tokens in enumerate(prompts)])

    asyncio.run(run())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("url")
    parser.add_argument("tokenizer")
    parser.add_argument("--requests", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--repetitions", type=int, default=3)
    given = parser.parse_args()
    sampler = PowerSampler.from_pretrained(
        base_url=given.url, tokenizer=given.tokenizer, sampler="ancestral", max_new_tokens=NEW, alpha=1.0
    )
    engine = sampler._model.load().engine
    sampler._model.load().codec.eos_ids = frozenset()  # exactly so many tokens, as on the other side
    model: str = engine.model  # type: ignore[attr-defined]
    texts = [
        f"{i}. The history of the city begins in the year {1200 + i}, when " + "people came and " * 8 for i in range(64)
    ]
    listed = {"logprobs": 65, "return_tokens_as_token_ids": True}
    sampler.complete(texts[:2])

    for count in given.requests:
        ids = [list(sampler.encode(text)) for text in texts[:count]]
        sides: dict[str, Callable[[], object]] = {
            "bare": lambda ids=ids: bare(given.url, model, ids, {}),
            "listed": lambda ids=ids: bare(given.url, model, ids, listed),
            "engine": lambda count=count: sampler.complete(texts[:count]),
        }
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(given.repetitions):
            for name, side in sides.items():
                begun = time.perf_counter()
                side()
                seconds[name].append(time.perf_counter() - begun)
        median = {name: statistics.median(each) for name, each in seconds.items()}
        told = ", ".join(f"{name} {count * NEW / each:.0f} tokens/s" for name, each in median.items())
        print(
            f"{count} requests: {told}; engine / bare {median['engine'] / median['bare']:.2f}, "
            f"engine / listed {median['engine'] / median['listed']:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
