"""What the completions of a piece of code have cost, whoever asks for them: a chain, an agent, a query engine.

with metered() as cost:
    chain.invoke("...")
print(cost.tokens_decoded)
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from power_sampling.types import Diagnostics

__all__ = ["Meter", "metered", "note"]


@dataclass(slots=True)
class Meter:
    """Sums over completions. A request that failed has none, and is not counted."""

    completions: int = 0
    tokens_decoded: int = 0
    tokens_prefilled: int = 0
    serial_steps: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def add(self, cost: Diagnostics) -> None:
        """Count one more completion. Any thread may."""
        with self._lock:
            self.completions += 1
            self.tokens_decoded += cost.tokens_decoded
            self.tokens_prefilled += cost.tokens_prefilled
            self.serial_steps += cost.serial_steps


_METERS: ContextVar[tuple[Meter, ...]] = ContextVar("power_sampling_meters", default=())


@contextmanager
def metered() -> Iterator[Meter]:
    """Count the completions that are read within, in this context: in this thread, in asyncio's tasks and in threads
    that are started with a copy of the context, as `asyncio.to_thread` and LangChain's executors do. Meters nest; each
    counts all within it."""
    meter = Meter()
    token = _METERS.set((*_METERS.get(), meter))
    try:
        yield meter
    finally:
        _METERS.reset(token)


def note(cost: Diagnostics) -> None:
    """Tell the meters of this context of a completion."""
    for meter in _METERS.get():
        meter.add(cost)
