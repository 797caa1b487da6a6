"""Many requests under way at once, each result kept as it comes, until a bound is reached."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

__all__ = ["Bounds", "in_flight"]

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """When to stop early. No answer is begun after a bound is reached; those under way are finished, so a run that was
    stopped is a fair sample."""

    tokens: int | None = None
    """Decoded in all sessions of the run together."""
    seconds: float | None = None
    """Of this session."""
    in_flight: int = 64
    """Answers that are under way at once; the engine decides how many of their rows it decodes together."""

    def within(self, units: Iterable[T], tokens: Callable[[], int], started: float) -> Iterator[T]:
        """The units, until a bound is reached; `tokens` tells those decoded so far, seconds count from `started`."""
        for unit in units:
            if self.seconds is not None and time.monotonic() - started >= self.seconds:
                return
            if self.tokens is not None and tokens() >= self.tokens:
                return
            yield unit


async def in_flight(
    units: Iterator[T], begin: Callable[[T], Coroutine[Any, Any, R]], keep: Callable[[R], None], most: int
) -> int:
    """Await what is begun with each unit, so many at once, and keep what comes of it; returns how many there were. The
    first error stops the others and is raised."""
    under_way = {asyncio.create_task(begin(unit)) for unit in islice(units, most)}
    done = 0
    try:
        while under_way:
            ready, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for task in ready:
                done += 1
                keep(task.result())
            under_way |= {asyncio.create_task(begin(unit)) for unit in islice(units, len(ready))}
    finally:
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
    return done
