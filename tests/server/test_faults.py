"""Clients that break off, stall, and say nonsense, and a model that raises: the others are answered meanwhile, and
nothing is left behind."""

from __future__ import annotations

import gc
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlparse

import httpx
import psutil
import pytest

from power_sampling import PowerSampler
from power_sampling.server import Limits, app
from tests.support.llamaindex import broken
from tests.support.server import is_idle, listening, until
from tests.support.tiny import tiny_model, tiny_tokenizer

CHAT = "/v1/chat/completions"
HELLO: Any = {"model": "M", "messages": [{"role": "user", "content": "Hello?"}]}
LIMITS = Limits(read_seconds=1, send_seconds=0.5, keep_alive_seconds=0.05)
COUNT = 3  # of each fault, at one time


def head(path: str, length: int) -> bytes:
    """Of a request with a body so long."""
    kind = "host: a\r\ncontent-type: application/json"
    return f"POST {path} HTTP/1.1\r\n{kind}\r\ncontent-length: {length}\r\n\r\n".encode()


@dataclass
class Running:
    """A server in this process, as its clients and its host see it."""

    sampler: PowerSampler
    port: int

    def connection(self, stack: ExitStack, *, buffer: int | None = None) -> socket.socket:
        made = stack.enter_context(socket.socket())
        made.settimeout(20)
        if buffer is not None:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        made.connect(("127.0.0.1", self.port))
        return made

    def asking(self, stack: ExitStack, *, path: str = CHAT, buffer: int | None = None, **fields: Any) -> socket.socket:
        """A connection whose answer has begun."""
        body = json.dumps({**HELLO, "stream": True, **fields} if path == CHAT else fields).encode()
        made = self.connection(stack, buffer=buffer)
        made.sendall(head(path, len(body)) + body)
        assert made.recv(12) == b"HTTP/1.1 200"
        return made

    @property
    def num_live(self) -> int:
        return len(self.sampler._model.load().worker._live)

    @property
    def num_connections(self) -> int:
        """At the server's side."""
        found = psutil.Process().net_connections("tcp")
        return sum(each.laddr.port == self.port and each.status != psutil.CONN_LISTEN for each in found)

    def grown(self, before: dict[str, int]) -> dict[str, int]:
        """What is more than before. It may be less: what an earlier test left open is closed meanwhile."""
        return {name: number for name, number in self.kept().items() if number > before[name]}

    def kept(self) -> dict[str, int]:
        """What must not grow. Threads that asyncio keeps for work of the moment are as many as it likes."""
        engine: Any = self.sampler._model.load().engine
        threads = [t for t in threading.enumerate() if not t.name.startswith("asyncio_")]
        process = psutil.Process()
        return {
            "live": self.num_live,
            "rows": len(engine.scheduler.running) + len(engine.scheduler.waiting),
            "bytes": engine.backend.batch_bytes,
            "threads": len(threads),
            "descriptors": process.num_fds() if os.name == "posix" else process.num_handles(),
        }


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    moves = {"name": "metropolis_hastings", "num_steps": 10**6}  # refines for hours
    sampler = PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), sampler=moves, max_new_tokens=8)
    with listening(app(sampler, name="M", limits=LIMITS), LIMITS, send_buffer=4096) as url:
        found = Running(sampler, urlparse(url).port or 0)
        answered(found)
        yield found


def answered(running: Running) -> None:
    """Somebody else is, whole and as a stream."""
    own = httpx.Limits(max_keepalive_connections=0)  # the server closes one that waits, here soon
    with httpx.Client(base_url=f"http://127.0.0.1:{running.port}", timeout=30, verify=False, limits=own) as http:
        asked = {**HELLO, "model": "M:plain", "max_tokens": 4}
        assert http.post(CHAT, json=asked).json()["choices"][0]["finish_reason"]
        assert http.post(CHAT, json={**asked, "stream": True}).text.endswith("data: [DONE]\n\n")


# ------------------------------------------------------------ faults: each begins, and returns what waits for its end

READER = """
import http.client, sys, time
port, path, body, count = int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
kept = []
for _ in range(count):
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("POST", path, body, {"content-type": "application/json"})
    answer = connection.getresponse()
    answer.read(9)
    kept.append((connection, answer))
print("reading", flush=True)
time.sleep(600)
"""


def killed(running: Running, stack: ExitStack) -> Callable[[], None]:
    """A process that reads streams gets a SIGKILL."""
    told = [str(running.port), CHAT, json.dumps({**HELLO, "stream": True}), str(COUNT)]
    process = stack.enter_context(subprocess.Popen([sys.executable, "-S", "-c", READER, *told], stdout=subprocess.PIPE))
    stack.callback(process.kill)
    assert process.stdout is not None and process.stdout.readline() == b"reading\n"
    assert running.num_live == COUNT
    return process.kill


def stuck(running: Running, stack: ExitStack) -> Callable[[], None]:
    """Readers that stop reading while much is sent, and stay connected."""
    for _ in range(COUNT):
        running.asking(stack, buffer=4096, trace=True)
    return lambda: None


def stuck_at_the_end(running: Running, stack: ExitStack) -> Callable[[], None]:
    """Readers that do not read a large answer, which is whole by then."""
    for _ in range(COUNT):
        asked = {"model": "M:plain", "prompt": "a", "max_tokens": 8, "n": 16, "logprobs": 20}
        running.asking(stack, path="/v1/completions", buffer=4096, **asked)
    return lambda: None


def reset(running: Running, stack: ExitStack) -> Callable[[], None]:
    """Readers that are gone in the middle of an event."""
    connections = [running.asking(stack) for _ in range(COUNT)]
    for each in connections:
        found = b""
        while b"data: {" not in found:
            found += each.recv(1)
        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # what is unread is refused

    def end() -> None:
        for each in connections:
            each.close()

    return end


def half_sent(running: Running, stack: ExitStack) -> Callable[[], None]:
    """Bodies that never come, and connections that stay open."""
    for _ in range(COUNT):
        running.connection(stack).sendall(head(CHAT, 99) + b"{")
    return lambda: None


def half_sent_and_gone(running: Running, stack: ExitStack) -> Callable[[], None]:
    half_sent(running, stack)
    return stack.close


def slow_loris(running: Running, stack: ExitStack) -> Callable[[], None]:
    """Heads that come byte by byte for ever."""
    connections = [running.connection(stack) for _ in range(COUNT)]

    def drip() -> None:
        open_ones, letters = list(connections), iter(f"POST {CHAT} HTTP/1.1\r\nx-long: {'x' * 10_000}".encode())
        while open_ones:
            letter = bytes([next(letters)])
            for each in tuple(open_ones):
                try:
                    each.sendall(letter)
                except OSError:
                    open_ones.remove(each)
            time.sleep(0.01)

    dripping = threading.Thread(target=drip)
    dripping.start()
    return dripping.join


def long_head(running: Running, stack: ExitStack) -> Callable[[], None]:
    """A megabyte of headers."""
    for _ in range(COUNT):
        headers = b"".join(b"x-%d: %s\r\n" % (i, b"x" * 1000) for i in range(1000))
        try:
            made = running.connection(stack)
            made.sendall(b"POST / HTTP/1.1\r\nhost: a\r\n" + headers + b"\r\n")
            assert made.recv(12) in (b"HTTP/1.1 400", b"")
        except ConnectionError:
            pass  # it is closed before all is sent
    return lambda: None


def nonsense(running: Running, stack: ExitStack) -> Callable[[], None]:
    for said in (b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n"):
        made = running.connection(stack)
        made.sendall(said)
    return lambda: None


FAULTS = (killed, stuck, stuck_at_the_end, reset, half_sent, half_sent_and_gone, slow_loris, long_head, nonsense)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_others_are_answered_and_nothing_is_left(running: Running, fault: Any) -> None:
    before = running.kept()
    with ExitStack() as stack:
        end = fault(running, stack)
        answered(running)
        end()
        until(lambda: not running.num_live and not running.num_connections)  # whoever is still connected
    until(lambda: not running.grown(before))


def test_where_the_model_raises_each_of_its_requests_hears_it(running: Running) -> None:
    before = running.kept()
    with ExitStack() as stack:
        connections = [running.asking(stack) for _ in range(COUNT)]
        until(lambda: running.num_live == COUNT)
        with broken(running.sampler._model.load().engine):
            for each in connections:
                found = b""
                while piece := each.recv(65536):
                    found += piece
                    if b'"internal_error"' in found:
                        break
                assert b'data: {"error"' in found and b"broken" not in found
        answered(running)
    until(lambda: is_idle(running.sampler) and not running.grown(before))


def test_requests_leave_nothing_to_the_search_for_garbage(running: Running) -> None:
    """It stops every thread, and `short_waits` puts it off. What asyncio leaves of a connection is small. What requests
    leave is found every time; what an earlier test's model leaves, ending late, is not."""
    answered(running)
    assert not set.intersection(*(left_behind(running) for _ in range(3)))


def left_behind(running: Running, requests: int = 5) -> set[str]:
    """Types of ours that so many requests leave as many of."""
    gc.collect()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(requests):
            answered(running)
        gc.collect()
        left = Counter(f"{type(each).__module__}.{type(each).__qualname__}" for each in gc.garbage)
        ours = ("power_sampling", "starlette", "fastapi", "uvicorn", "torch", "builtins.coroutine", "builtins.frame")
        return {name for name, count in left.items() if count >= requests and name.startswith(ours)}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
