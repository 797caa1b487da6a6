"""How long an event loop waits while 16 requests of LangChain (`abatch`) or LlamaIndex (`gather`) run on the embedded
model, and around the first requests of a process.

python benchmarks/event_loop.py [--sampler ancestral] [--tokens 32]
python benchmarks/event_loop.py --first 5 [--beside FOLDER]

`--first` starts that many processes for each way to load: `from_pretrained` loads weights on a thread, `from_model` is
given loaded ones there. Then 12 requests are gathered, three times. `--beside` names another checkout, whose processes
take turns with this one's.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

TICK = 0.002
QUESTIONS = [f"What is {i} plus {i}?" for i in range(16)]
HERE = Path(__file__).resolve().parents[1]
WAYS = ("from_pretrained", "from_model")


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
    await asyncio.sleep(2 * TICK)  # the last gap ends with a tick
    ticking.cancel()
    return gaps, seconds


# ------------------------------------------------------------ a process that serves


async def serve(sampler: str, tokens: int) -> None:
    import langchain_power_sampling
    import llamaindex_power_sampling

    settings: dict[str, Any] = {"model": "embedded", "sampler": sampler, "alpha": 4.0, "max_tokens": tokens}
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


# ------------------------------------------------------------ a process that starts


async def start(way: str) -> dict[str, float]:
    """The longest wait in ms, of loading and of each gather after it."""
    from llamaindex_power_sampling import PowerSamplingLLM
    from power_sampling.config import ModelConfig
    from power_sampling.models import load_pretrained

    settings: dict[str, Any] = {"sampler": "ancestral", "max_tokens": 8, "seed": 1}
    objects = load_pretrained(ModelConfig(model="embedded")) if way == "from_model" else None
    llms: list[PowerSamplingLLM] = []

    def load() -> None:
        if objects is None:
            llms.append(PowerSamplingLLM(model="embedded", **settings))
            llms[0].complete("Load the weights.", max_tokens=1)
        else:
            llms.append(PowerSamplingLLM.from_model(*objects, **settings))

    async def gathered() -> None:
        await asyncio.gather(*[llms[0].acomplete(question) for question in QUESTIONS[:12]])

    async def loaded() -> None:
        await asyncio.to_thread(load)

    found = {}
    for name, work in (("loading", loaded), ("first gather", gathered), ("second", gathered), ("third", gathered)):
        gaps, _ = await gaps_during(work)
        found[name] = 1000 * max(gaps)
    return found


def started(checkout: Path, way: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--start", way]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    answer = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
    found: dict[str, float] = json.loads(answer.splitlines()[-1])
    return found


def starts(processes: int, checkouts: list[Path]) -> None:
    for way in WAYS:
        runs: dict[Path, list[dict[str, float]]] = {checkout: [] for checkout in checkouts}
        for _ in range(processes):
            for checkout in checkouts:
                runs[checkout].append(started(checkout, way))
        for checkout, found in runs.items():
            print(f"{checkout.name}, {way}: longest wait of the loop in ms, median and most of {processes} processes")
            for name in found[0]:
                waits = [one[name] for one in found]
                print(f"  {name:<14} {statistics.median(waits):6.1f} {max(waits):6.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sampler", default="ancestral")
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--first", type=int, metavar="PROCESSES")
    parser.add_argument("--beside", type=Path)
    parser.add_argument("--start", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.start:
        print(json.dumps(asyncio.run(start(args.start))))
    elif args.first:
        starts(args.first, [HERE, *([args.beside.resolve()] if args.beside else [])])
    else:
        asyncio.run(serve(args.sampler, args.tokens))


if __name__ == "__main__":
    main()
