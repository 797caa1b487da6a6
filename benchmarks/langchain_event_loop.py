"""How long an event loop waits while LangChain's `abatch` runs 16 requests on the embedded model.

python benchmarks/langchain_event_loop.py [--sampler ancestral] [--tokens 32]
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time

from langchain_power_sampling import ChatPowerSampling

REQUESTS, TICK = 16, 0.002


async def gaps_during(model: ChatPowerSampling) -> tuple[list[float], float]:
    """Seconds between the ticks of a loop that wants one every TICK, and the seconds of the batch."""
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
    await model.abatch([f"What is {i} plus {i}?" for i in range(REQUESTS)])
    seconds = time.perf_counter() - start
    ticking.cancel()
    return gaps, seconds


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sampler", default="ancestral")
    parser.add_argument("--tokens", type=int, default=32)
    args = parser.parse_args()
    model = ChatPowerSampling(model="embedded", sampler=args.sampler, alpha=4.0, max_tokens=args.tokens, seed=0)
    await model.ainvoke("Load the weights.", max_tokens=1)
    for run in range(3):
        gaps, seconds = await gaps_during(model)
        print(
            f"run {run}: {REQUESTS} requests in {seconds:.1f} s; the loop waited {1000 * max(gaps):.1f} ms at most, "
            f"{1000 * statistics.median(gaps):.1f} ms in the median of {len(gaps)} ticks"
        )


if __name__ == "__main__":
    asyncio.run(main())
