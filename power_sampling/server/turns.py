"""Work that comes all at once, done a little in every round of the event loop.

A step of the model moves hundreds of streams in one moment. Written in one round they would keep everything else
waiting: new connections, signs of life, the cancellation of a request.
"""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Turns"]

A_ROUND = 3  # pieces that are written; each takes a millisecond or two where a model computes beside it


class Turns:
    """So many turns in every round of the event loop, in the order in which they were asked for."""

    def __init__(self, a_round: int = A_ROUND) -> None:
        self._a_round = self._left = a_round
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._counting: asyncio.AbstractEventLoop | None = None

    async def turn(self) -> None:
        """Returns in the first round that has a turn left: at once where nobody else works."""
        loop = asyncio.get_running_loop()
        if self._counting is not loop:  # nobody works; or the loop that did has ended, with whoever waited there
            self._counting, self._left = loop, self._a_round
            self._waiting.clear()
            loop.call_soon(self._next_round, loop)
        if self._left and not self._waiting:
            self._left -= 1
            return
        mine = loop.create_future()
        self._waiting.append(mine)
        await mine

    def _next_round(self, loop: asyncio.AbstractEventLoop) -> None:
        self._left = self._a_round
        while self._left and self._waiting:
            one = self._waiting.popleft()
            if not one.done():  # else its request was cancelled
                one.set_result(None)
                self._left -= 1
        if self._left < self._a_round:
            loop.call_soon(self._next_round, loop)
        else:
            self._counting = None
