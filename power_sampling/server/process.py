"""A process that serves: checks where it may listen, loads the model, listens, and ends within a limit."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import ipaddress
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from power_sampling.errors import ConfigurationError
from power_sampling.runtime import PowerSampler
from power_sampling.server.application import app
from power_sampling.server.limits import Limits

__all__ = ["serve"]

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
SWITCH_SECONDS = 0.0005  # 0.005 by default
WHOLE_SEARCHES = 1000  # how many searches of the younger it takes; 10 by default
MAX_HEAD = 64 * 1024  # bytes of a request's head; more is a 400


def serve(
    sampler: PowerSampler,
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    api_keys: Sequence[str] = (),
    needs_key: bool = True,
    limits: Limits | None = None,
    allow_origins: Sequence[str] = (),
    shutdown_seconds: int = 30,
    when_loaded: Callable[[], None] = lambda: None,
) -> None:
    """Load the model, then serve until SIGTERM or SIGINT; requests have `shutdown_seconds` to end then, and are
    cancelled after that.

    Other hosts than loopback need `api_keys`, or the word that none is needed (`needs_key=False`). Raises
    ConfigurationError where they have neither, or where the port cannot be had, and what loading the model raises.
    """
    is_open = not _is_loopback(host)
    if is_open and needs_key and not api_keys:
        raise ConfigurationError(
            f"host {host!r} is reached from other machines: give --api-key, or --no-auth to answer everybody."
        )
    if any(not key.strip() for key in api_keys):
        raise ConfigurationError("api_keys: an empty key keeps nobody out; leave it out, or give one.")
    limits = limits or Limits()
    application = app(
        sampler,
        name=name,
        api_keys=api_keys,
        limits=limits,
        allow_origins=allow_origins,
        allow_hosts=None if is_open or api_keys else LOOPBACK_NAMES,
    )
    sockets = _bound(host, port)  # before minutes of loading; nobody can connect yet
    try:
        _ = sampler.context_window  # loads the model: who can connect is answered
        when_loaded()
        logging.getLogger("power_sampling.server").setLevel(logging.INFO)
        settings = uvicorn.Config(application, **transport(limits), timeout_graceful_shutdown=shutdown_seconds)
        with short_waits():
            uvicorn.Server(settings).run(sockets)
    finally:
        for each in sockets:
            each.close()


@contextlib.contextmanager
def short_waits() -> Iterator[None]:
    """What the event loop waits for beside its own work, made short: the model's thread and the search for garbage.

    A thread that computes in Python lets another one go on after SWITCH_SECONDS, and the loop may have to wait for that
    at every write. The search spares what is loaded, and looks through everything else only once in hundreds of
    thousands of new objects: every thread waits while it looks, 80 ms where 200 streams are alive. Requests leave it
    nothing to find (a test).
    """
    interval, was_enabled, before = sys.getswitchinterval(), gc.isenabled(), gc.get_threshold()
    sys.setswitchinterval(min(interval, SWITCH_SECONDS))
    gc.freeze()
    gc.set_threshold(*before[:2], WHOLE_SEARCHES)
    gc.enable()
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*before)
        if was_enabled:  # else the process has put the search off until it serves, and ends now
            gc.unfreeze()


def transport(limits: Limits) -> dict[str, Any]:
    """What uvicorn is told beside where to listen."""

    class Patient(H11Protocol):
        """Closes a connection whose request's head does not arrive in time, and one that takes nothing of what is
        written for it; uvicorn would wait for ever."""

        _deadline: asyncio.TimerHandle | None = None
        _reading: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.set_write_buffer_limits(high=0)  # writing is paused whenever a byte is left over
            self._wait_for_head()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._wait_for_head()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            for each in (self._deadline, self._reading):
                if each is not None:
                    each.cancel()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._wait_for_reader(self.transport.get_write_buffer_size())

        def resume_writing(self) -> None:
            super().resume_writing()
            if self._reading is not None:
                self._reading.cancel()

        def _wait_for_reader(self, left: int) -> None:
            self._reading = self.loop.call_later(limits.send_seconds, self._give_reader_up, left)

        def _give_reader_up(self, before: int) -> None:
            left = self.transport.get_write_buffer_size()
            if left < before:  # it reads, and has its time again
                self._wait_for_reader(left)
            else:
                self.transport.abort()  # a close would wait for the reader

        def _wait_for_head(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
            self._deadline = self.loop.call_later(limits.read_seconds, self._give_up)

        def _give_up(self) -> None:
            if self.cycle is None or self.cycle.response_complete:
                self.transport.close()

    return {
        "http": Patient,
        "ws": "none",
        "lifespan": "off",
        "server_header": False,
        "proxy_headers": False,
        "h11_max_incomplete_event_size": MAX_HEAD,
        "access_log": False,
    }


def _bound(host: str, port: int) -> list[socket.socket]:
    """A socket for each address of a host that this machine has, bound and not listening yet."""
    sockets: list[socket.socket] = []
    fault: OSError | None = None
    try:
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in dict.fromkeys(found):
            try:
                sockets.append(_bound_to(family, kind, protocol, address))
            except OSError as error:
                fault = error
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):  # localhost may have no IPv6
                    raise
    except (OSError, OverflowError, UnicodeError) as error:
        for each in sockets:
            each.close()
        raise ConfigurationError(f"host {host!r}, port {port}: {error}; give another one.") from error
    if not sockets:
        raise ConfigurationError(f"host {host!r}, port {port}: {fault}; give another one.")
    return sockets


def _bound_to(family: int, kind: int, protocol: int, address: Any) -> socket.socket:
    made = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)  # the other family has a socket of its own
        made.bind(address)
    except OSError:
        made.close()
        raise
    return made


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
