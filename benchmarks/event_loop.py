"""How long an event loop waits while 16 requests of LangChain (`abatch`) or LlamaIndex (`gather`) run on the embedded
model.

python benchmarks/event_loop.py [--sampler ancestral] [--tokens 32]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import langchain_power_sampling
import llamaindex_power_sampling

TICK = 0.002
QUESTIONS = [f"What is {i} plus {i}?" for i in range(16)]


async def gaps_during(work: Callable[[], Awaitable[Any]]) -> tuple[list[float], float]:
    """Seconds between the ticks of a loop that wants one every TICK, and the seconds of the work."""
    gaps: list[float] = []

    async def tick() -> None:
        last = time.perf_counter()
        while True:
            await asyncio.sleep(TICK)
            now = time.perf_counter()
            gaps.append(now - last - TICK)
            last = now

    ticking = asyncio.create_task(tick())
    start = time.perf_counter()
    await work()
    seconds = time.perf_counter() - start
    ticking.cancel()
    return gaps, seconds


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sampler", default="ancestral")
    parser.add_argument("--tokens", type=int, default=32)
    args = parser.parse_args()
    settings: dict[str, Any] = {"model": "embedded", "sampler": args.sampler, "alpha": 4.0, "max_tokens": args.tokens}
    chat = langchain_power_sampling.ChatPowerSampling(**settings)
    llm = llamaindex_power_sampling.PowerSamplingLLM(**settings)

    async def gathered() -> None:
        await asyncio.gather(*[llm.acomplete(question) for question in QUESTIONS])

    async def batched() -> None:
        await chat.abatch(QUESTIONS)

    await chat.ainvoke("Load the weights.", max_tokens=1)
    for name, work in (("LangChain abatch", batched), ("LlamaIndex gather", gathered)):
        for _ in range(3):
            gaps, seconds = await gaps_during(work)
            print(
                f"{name}: {len(QUESTIONS)} requests in {seconds:.1f} s; the loop waited {1000 * max(gaps):.1f} ms at "
                f"most, {1000 * statistics.median(gaps):.1f} ms in the median of {len(gaps)} ticks"
            )


if __name__ == "__main__":
    asyncio.run(main())
