"""The servers that draws are sent to: which of them answer, which of them has least to do."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import httpx

from power_sampling.engines.vllm.wire import ServerFault
from power_sampling.errors import NoServerError

__all__ = ["Home", "Server", "Servers"]

FIRST_LOOK, LAST_LOOK = 0.2, 10.0  # seconds between two looks at a server that is set aside, at first and in the end
PATIENCE = 10.0  # seconds that a draw waits for a server when there is none: one may just be starting again


class Server:
    """One address. Used by the client's loop alone, but for `is_up`, which others may read."""

    def __init__(self, url: str, most: int) -> None:
        self.url, self.is_up, self.why = url, True, ""
        self.slots = asyncio.Semaphore(most)
        # one connection each: a pool of httpx searches all of its connections for every request, and again for each
        self.idle: list[httpx.AsyncClient] = []
        self.load = 0  # draws that are sent there or wait for a slot
        self.streams: set[asyncio.Task[Any]] = set()
        self.lost: set[asyncio.Task[Any]] = set()  # of them, those that were ended when it was set aside
        self.heard = 0.0  # when it last said something, or was asked when it had nothing to do


class Home:
    """Where the draws of one prompt go, so that the server's prefix cache has its states."""

    server: Server | None = None


class Servers:
    """`look` finds out whether a server can be used: it raises ServerFault where not. `timeout`: seconds after which
    one that has draws and says nothing is set aside."""

    def __init__(self, every: Sequence[Server], look: Callable[[Server], Awaitable[None]], timeout: float) -> None:
        self.every, self._look, self._timeout = tuple(every), look, timeout
        self._someone_is_up = asyncio.Event()
        self._someone_is_up.set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def for_draw(self, home: Home) -> Server:
        """The home of its prompt, while that one answers; else the one with least to do. Raises NoServerError where
        none answers for some seconds."""
        while home.server is None or not home.server.is_up:
            up = [server for server in self.every if server.is_up]
            if up:
                home.server = min(up, key=lambda server: server.load)
                break
            try:
                await asyncio.wait_for(self._someone_is_up.wait(), PATIENCE)
            except TimeoutError:
                raise self.none_left() from None
        return home.server

    def none_left(self) -> NoServerError:
        told = "; ".join(f"{server.url}: {server.why}" for server in self.every)
        return NoServerError(
            f"No vLLM server answers ({told}). Start one of them again; it is used as soon as it answers."
        )

    def set_aside(self, server: Server, why: str) -> None:
        """Send it nothing more until it can be used again. Its draws end there, and go elsewhere."""
        if not server.is_up:
            return
        server.is_up, server.why = False, why
        if not any(each.is_up for each in self.every):
            self._someone_is_up.clear()
        for stream in server.streams - server.lost:
            server.lost.add(stream)
            stream.cancel()
        self._begin(self._until_back(server))

    async def watch(self) -> None:
        """Set aside those that have draws and say nothing."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, self._timeout / 4))
            for server in self.every:
                if server.streams and loop.time() - server.heard > self._timeout:
                    self.set_aside(server, f"it said nothing for {self._timeout:g} seconds")

    async def _until_back(self, server: Server) -> None:
        wait = FIRST_LOOK
        while not server.is_up:
            await asyncio.sleep(wait)
            wait = min(2 * wait, LAST_LOOK)
            try:
                await self._look(server)
            except ServerFault as fault:
                server.why = str(fault)
            else:
                server.is_up = True
                self._someone_is_up.set()

    def _begin(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
