"""What one client may ask for, and how many may ask at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from pydantic import Field

from power_sampling.server.faults import Fault
from power_sampling.server.turns import Turns
from power_sampling.settings import Settings

__all__ = ["Gate", "Limits"]


class Limits(Settings):
    """Bounds of a server. What goes beyond is refused with a status that says so, never cut short."""

    max_body_bytes: int = Field(default=4 * 2**20, ge=1)
    """Bytes of a request's body; more is a 413."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Tokens of a completion; None: what the context window holds."""
    max_n: int = Field(default=16, ge=1)
    """Completions of a request: its prompts times `n`."""
    max_effort: int = Field(default=1024, ge=1)
    """The largest `num_...` or `max_...` option of a sampler that a request may give (steps, particles, draws)."""
    max_seconds: float = Field(default=600.0, gt=0)
    """Seconds that a request may take, its waiting in the queue left out; then it is a 504."""
    max_running: int = Field(default=256, ge=1)
    """Requests that are answered at the same time; further ones wait."""
    max_waiting: int = Field(default=256, ge=0)
    """Requests that wait; further ones are a 429 with `retry-after`."""
    read_seconds: float = Field(default=30.0, gt=0)
    """Seconds in which the head and the body of a request have to arrive; a slower body is a 408."""
    send_seconds: float = Field(default=60.0, gt=0)
    """Seconds that a reader may leave a piece of an answer unread; then its request is cancelled, and its connection
    closed where the server's own process listens."""
    keep_alive_seconds: float = Field(default=10.0, gt=0)
    """Seconds of silence after which a stream sends a comment, so that no proxy closes it."""


class Gate:
    """Lets so many requests in at once, lets so many wait, and refuses the others; those that are in take turns."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._places = asyncio.Semaphore(limits.max_running)
        self.running = self.waiting = self.completions = 0
        self.turns = Turns()

    @asynccontextmanager
    async def place(self, completions: int) -> AsyncIterator[None]:
        """For `with`: a place among the running, when there is one, for a request of so many completions. Raises a
        Fault where too many wait already."""
        if self._places.locked() and self.waiting >= self._limits.max_waiting:
            raise Fault(
                429,
                f"The server answers {self.running} requests and {self.waiting} wait; try again later.",
                code="queue_full",
                headers={"retry-after": "5"},
            )
        self.waiting += 1
        try:
            await self._places.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        self.completions += completions
        try:
            yield
        finally:
            self.running -= 1
            self.completions -= completions
            self._places.release()
