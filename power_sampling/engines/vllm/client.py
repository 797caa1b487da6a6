"""HTTP to the servers, on a thread of its own with an event loop: draws as streams, further calls as futures.

A draw whose server fails goes elsewhere and goes on behind the tokens that have come: each of them was drawn from q
with the numbers recorded, wherever, so the law is that of one server. What was seen of it is never taken back.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from typing import Any, NamedTuple

import httpx
import numpy as np
from pydantic_core import from_json, to_json

from power_sampling.engines.vllm.servers import Home, Server, Servers
from power_sampling.engines.vllm.wire import Event, ServerFault, read_event, refusal_of
from power_sampling.errors import EngineError, PowerSamplingError

__all__ = ["Client", "DrawOrder", "Look", "News"]

MOST_FAULTS = 6  # servers that one draw or call may see failing
CONNECT_TIMEOUT = 10.0
REFUSED = frozenset((400, 401, 403, 404, 413, 422))  # the request's own fault: another server would say the same


class DrawOrder(NamedTuple):
    """A draw as the client is asked for it. `body(received, seed)` asks for what follows those tokens."""

    ticket: int
    home: Home
    seed: int
    body: Callable[[list[int], int], dict[str, Any]]


class News(NamedTuple):
    """Of one draw: a piece of it, or why there is none any more."""

    ticket: int
    event: Event | None
    error: PowerSamplingError | None = None


Look = Callable[["Client", Server], Coroutine[Any, Any, None]]


class Client:
    """`look(client, server)` finds out whether a server that was set aside can be used again. Made and used by any
    thread; its own one starts with it and ends with `close`."""

    def __init__(
        self, urls: tuple[str, ...], *, api_key: str | None, most: int, timeout: float, look: Look | None = None
    ) -> None:
        self.news: queue.SimpleQueue[News] = queue.SimpleQueue()
        self._loop = asyncio.new_event_loop()
        self._streams: dict[int, asyncio.Task[None]] = {}
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._most, self._timeout = most, timeout
        # a context takes a tenth of a second to make
        self._ssl = any(url.startswith("https") for url in urls) and httpx.create_ssl_context(trust_env=False)
        self._is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(urls, look), name="power-sampling-http", daemon=True)
        self._thread.start()
        self._is_ready.wait()

    # ------------------------------------------------------------ from any thread

    def draw(self, order: DrawOrder) -> None:
        """Begin a draw; what comes of it is in `news`, from now until it ends or is dropped."""
        self._loop.call_soon_threadsafe(self._begin, order)

    def drop(self, ticket: int) -> None:
        """Close the connection of a draw, if it has one."""
        self._loop.call_soon_threadsafe(self._cancel, ticket)

    def call(self, body: dict[str, Any], home: Home) -> Future[Any]:
        """The answer to a completion that is not streamed."""
        return asyncio.run_coroutine_threadsafe(self._answered(body, home), self._loop)

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        """What a coroutine on the client's loop returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def set_aside(self, server: Server, why: str) -> None:
        """Do not use a server until it has been looked at."""
        self._loop.call_soon_threadsafe(self.servers.set_aside, server, why)

    def close(self) -> None:
        """Close every connection and end the thread."""
        if self._thread.is_alive() and not self._loop.is_closed():
            with contextlib.suppress(RuntimeError):  # it has just ended
                self._loop.call_soon_threadsafe(self._loop.stop)
            if self._thread is not threading.current_thread():
                self._thread.join(5.0)

    # ------------------------------------------------------------ on the loop

    def _run(self, urls: tuple[str, ...], look: Look | None) -> None:
        asyncio.set_event_loop(self._loop)
        every = [Server(url, self._most) for url in urls]
        self._http = self._new_http(8 * len(every))
        self.servers = Servers(every, (lambda server: look(self, server)) if look else _usable, self._timeout)
        watch = self._loop.create_task(self.servers.watch())
        self._is_ready.set()
        try:
            self._loop.run_forever()
        finally:
            watch.cancel()
            tasks = asyncio.all_tasks(self._loop)
            for task in tasks:
                task.cancel()
            self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
            for http in (self._http, *(http for server in every for http in server.idle)):
                self._loop.run_until_complete(http.aclose())
            self._loop.close()

    def _new_http(self, most: int) -> httpx.AsyncClient:
        return httpx.AsyncClient(
            headers=self._headers,
            limits=httpx.Limits(max_connections=most, max_keepalive_connections=most, keepalive_expiry=60.0),
            timeout=httpx.Timeout(CONNECT_TIMEOUT, read=None, pool=None),
            trust_env=False,
            verify=self._ssl,
        )

    def _begin(self, order: DrawOrder) -> None:
        task = self._loop.create_task(self._draw(order))
        self._streams[order.ticket] = task
        task.add_done_callback(lambda _: self._streams.pop(order.ticket, None))

    def _cancel(self, ticket: int) -> None:
        if (task := self._streams.get(ticket)) is not None:
            task.cancel()

    async def _draw(self, order: DrawOrder) -> None:
        """All of a draw, at one server after the other if need be."""
        received: list[int] = []

        async def stream(server: Server) -> None:
            seed = order.seed if not received else _another_seed(order.seed, len(received))
            async for event in self._events(server, order.body(received, seed)):
                received.extend(each.token for each in event.listed)
                self.news.put(News(order.ticket, event))

        try:
            await self._somewhere(order.home, stream)
        except PowerSamplingError as error:
            self.news.put(News(order.ticket, None, error))
        except Exception as error:  # noqa: BLE001 - whatever it is, its request waits for a word
            told = EngineError(f"A draw failed with {type(error).__name__}: {error!s:.300}")
            self.news.put(News(order.ticket, None, told))

    async def _answered(self, body: dict[str, Any], home: Home) -> Any:
        async def ask(server: Server) -> Any:
            return await self.ask(server, "POST", "/v1/completions", body)

        return await self._somewhere(home, ask)

    async def _somewhere(self, home: Home, work: Callable[[Server], Coroutine[Any, Any, Any]]) -> Any:
        """What `work` returns from the first server that does not fail meanwhile."""
        task = asyncio.current_task()
        assert task is not None
        for _ in range(MOST_FAULTS):
            server = await self.servers.for_draw(home)
            server.load += 1
            try:
                async with server.slots:
                    if not server.is_up:
                        continue
                    if not server.streams:
                        server.heard = self._loop.time()
                    server.streams.add(task)
                    try:
                        return await work(server)
                    finally:
                        server.streams.discard(task)
            except ServerFault as fault:
                self.servers.set_aside(server, str(fault))
            except asyncio.CancelledError:
                if task not in server.lost or task.uncancel() > 0:  # dropped, whatever became of its server
                    raise
            finally:
                server.lost.discard(task)
                server.load -= 1
        raise self.servers.none_left()

    async def _events(self, server: Server, body: dict[str, Any]) -> AsyncIterator[Event]:
        """The events of a stream to its end, the last one with what the server used. Raises ServerFault where it ends
        otherwise. Who leaves it early closes the connection."""
        last: Event | None = None
        is_whole = False
        response: httpx.Response | None = None
        http = server.idle.pop() if server.idle else self._new_http(1)
        try:
            with _faults():
                url = server.url + "/v1/completions"
                request = http.build_request("POST", url, content=to_json(body), headers=_JSON)
                response = await http.send(request, stream=True)
            if response.status_code != 200:
                with _faults():
                    await response.aread()
                raise _not_answered(server, response)
            rest = b""
            pieces = response.aiter_raw()
            while True:
                with _faults():
                    piece = await anext(pieces, None)
                if piece is None:
                    break
                server.heard = self._loop.time()
                *lines, rest = (rest + piece).split(b"\n")
                for line in lines:
                    if not line.startswith(b"data:") or (data := line[5:].strip()) == b"[DONE]":
                        continue
                    event = read_event(data)
                    if last is not None:  # what was used is told behind the end
                        last = last._replace(num_prompt=event.num_prompt, num_cached=event.num_cached)
                    elif event.finish_reason in ("stop", "length"):
                        last = event
                    else:
                        yield event
            if last is None:
                raise ServerFault("it broke a stream off")
            is_whole = True
        finally:
            if is_whole:
                server.idle.append(http)
            else:  # a pool of httpx may lose a connection that is closed while something is under way
                await http.aclose()
        yield last

    async def ask(self, server: Server, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON a server answers with. Raises ServerFault, and EngineError for what it refuses."""
        with _faults():
            content, headers = (None, {}) if body is None else (to_json(body), _JSON)
            response = await self._http.request(
                method, server.url + path, content=content, headers=headers, timeout=self._timeout
            )
        server.heard = self._loop.time()
        if response.status_code != 200:
            raise _not_answered(server, response)
        try:
            return from_json(response.content)
        except ValueError as error:
            raise ServerFault(f"it answered {path} with what is no JSON") from error


async def _usable(server: Server) -> None:
    """Who does not look finds nothing wrong."""


_JSON = {"content-type": "application/json"}


@contextlib.contextmanager
def _faults() -> Any:
    """What httpx raises, as a fault of the server."""
    try:
        yield
    except (httpx.HTTPError, httpx.StreamError) as error:
        raise ServerFault(f"{type(error).__name__} {error!s:.200}".strip()) from error


def _not_answered(server: Server, response: httpx.Response) -> Exception:
    """An answer that is none, as an error: of the server, or of what it was asked."""
    try:
        told = refusal_of(from_json(response.content))
    except ValueError:
        told = response.text[:200]
    status = response.status_code
    if status in (401, 403):
        return EngineError(f"{server.url} wants another key (HTTP {status}); give api_key, or set VLLM_API_KEY.")
    if status in REFUSED:
        return EngineError(f"{server.url} refuses what it is asked (HTTP {status}): {told}")
    return ServerFault(f"HTTP {status}: {told}")


def _another_seed(seed: int, length: int) -> int:
    """For what follows so many tokens elsewhere: the same seed would draw them with the noise of the first ones."""
    return int(np.random.SeedSequence([seed, length]).generate_state(1, np.uint64)[0] >> np.uint64(1))
