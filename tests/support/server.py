"""A server on a port of its own, as its clients see it: uvicorn in a thread, over a scripted or a tiny model."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn

from power_sampling import PowerSampler
from power_sampling.server.limits import Limits
from power_sampling.server.process import transport
from tests.support.law import TABLE, table_tokenizer
from tests.support.llamaindex import Rule, Speaker
from tests.support.scripted import TOKENIZER


def spoken(rule: Rule, *, window: int | None = None, **fields: Any) -> PowerSampler:
    """A sampler whose model says what a rule makes of the prompt."""
    settings: Any = {"sampler": "ancestral", "max_new_tokens": 400, **fields}
    return PowerSampler.from_model(Speaker(rule, window=window), TOKENIZER, **settings)


def endless() -> PowerSampler:
    """A sampler that refines for hours before it answers."""
    moves = {"name": "metropolis_hastings", "num_steps": 10**6}
    return PowerSampler.from_model(TABLE, table_tokenizer(), sampler=moves, max_new_tokens=9)


def is_idle(sampler: PowerSampler) -> bool:
    """Whether its model works for nobody."""
    return not sampler._model.load().worker._live


@contextmanager
def listening(application: Any, limits: Limits | None = None, *, send_buffer: int | None = None) -> Iterator[str]:
    """The address of the running application. `send_buffer`: so many bytes of a connection the system keeps; it would
    take megabytes before a reader that does not read is noticed."""
    config = uvicorn.Config(
        application,
        log_config=None,
        timeout_graceful_shutdown=1,
        **transport(limits or Limits()),
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0), backlog=config.backlog) as listener:
        if send_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        until(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join()


def until(holds: Callable[[], bool], seconds: float = 20) -> None:
    """Waits for something that happens on another thread."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def connections(sync: str, asynchronous: str) -> dict[str, Any]:
    """Connections that are closed after each answer: these clients never close the ones they keep. No certificates are
    read for them."""
    kept: Any = {"limits": httpx.Limits(max_keepalive_connections=0), "verify": False}
    return {sync: httpx.Client(**kept), asynchronous: httpx.AsyncClient(**kept)}
