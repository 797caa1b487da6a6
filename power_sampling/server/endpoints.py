"""The endpoints that draw completions: body, limits, a place among the running, the answer or the stream."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from power_sampling.server.asked import Asked, Served, asked_chat, asked_completion
from power_sampling.server.faults import Fault, fault_of, unreadable
from power_sampling.server.forms import form_of
from power_sampling.server.limits import Gate, Limits
from power_sampling.server.metrics import Metrics
from power_sampling.server.responses.asked import asked_response
from power_sampling.server.responses.wire import ResponseRequest
from power_sampling.server.streams import Gone, followed, write_stream
from power_sampling.server.wire import ChatRequest, CompletionRequest, Wire
from power_sampling.types import Completion

__all__ = ["Generation", "chat", "completion", "response"]

LOG = logging.getLogger("power_sampling.server")
CLIENT_GONE = 499  # nobody hears it; the log and the metrics do

Read = Callable[[bytes, Served], Asked]


def chat(body: bytes, served: Served) -> Asked:
    """What the body of POST /v1/chat/completions asks for."""
    return asked_chat(_parsed(ChatRequest, body), served)


def completion(body: bytes, served: Served) -> Asked:
    """What the body of POST /v1/completions asks for."""
    return asked_completion(_parsed(CompletionRequest, body), served)


def response(body: bytes, served: Served) -> Asked:
    """What the body of POST /v1/responses asks for."""
    return asked_response(_parsed(ResponseRequest, body), served)


def _parsed(model: type[Wire], body: bytes) -> Any:
    try:
        return model.model_validate_json(body, strict=True)
    except ValidationError as error:
        raise unreadable(error, body, list(model.model_fields)) from None


@dataclass
class _Course:
    """How one request went, for the log and the metrics."""

    status: int = 200
    asked: Asked | None = None
    completions: list[Completion] = field(default_factory=list)
    has_begun: bool = False  # the response
    is_over: bool = False


class Generation:
    """One endpoint, as an ASGI application. A client that goes away ends its request before the model's next step."""

    def __init__(self, read: Read, served: Served, gate: Gate, metrics: Metrics) -> None:
        self._read, self._served, self._gate, self._metrics = read, served, gate, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, course, began = Request(scope, receive), _Course(), time.monotonic()
        try:
            body = await _body(request, self._served.limits)
            await _unless_gone(self._answer(body, course, request, _watched(send, course)), receive, course)
        except (ClientDisconnect, Gone):
            course.status = CLIENT_GONE
        except Exception as error:  # noqa: BLE001 - the client is told of any
            fault = fault_of(error)
            course.status = fault.status
            if not course.has_begun:
                await fault.response()(scope, receive, send)
        except asyncio.CancelledError:  # the server is shut down
            course.status = CLIENT_GONE
            raise
        finally:
            self._note(request, course, time.monotonic() - began)

    async def _answer(self, body: bytes, course: _Course, request: Request, send: Send) -> None:
        course.asked = asked = await asyncio.to_thread(self._read, body, self._served)
        async with self._gate.place(asked.num_completions):
            if asked.is_stream:
                async with followed(asked, self._gate.turns) as box:
                    written = await write_stream(asked, box, send, self._served.limits)
                course.completions = written.completions
                course.status = written.fault.status if written.fault else 200
            else:
                course.completions = await asked.sampler.agenerate(asked.prompts, n=asked.n)
                await self._gate.turns.turn()
                answer = JSONResponse(form_of(asked).answer(course.completions))
                await answer(request.scope, request.receive, send)

    def _note(self, request: Request, course: _Course, seconds: float) -> None:
        endpoint, asked = request.url.path, course.asked
        self._metrics.count(endpoint, course.status, seconds, course.completions)
        told = f" model={asked.model!r:.80} user={asked.label!r:.80}" if asked else ""
        tokens = sum(len(c.tokens) for c in course.completions)
        LOG.info("%s %d tokens=%d seconds=%.3f%s", endpoint, course.status, tokens, seconds, told)


def _watched(send: Send, course: _Course) -> Send:
    """`send`, that notes when the response begins and ends, and whose failures mean that nobody reads it."""

    async def watched(message: Message) -> None:
        course.has_begun = True
        course.is_over = message["type"] == "http.response.body" and not message.get("more_body")
        try:
            await send(message)
        except OSError as error:
            raise Gone from error

    return watched


async def _body(request: Request, limits: Limits) -> bytes:
    """The body, if it is JSON, small enough and in time."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a page in a browser cannot send this to a server it may not read
        raise Fault(415, f"The body is JSON: send content-type application/json, got {kind!r:.80}.")
    body = bytearray()
    try:
        async with asyncio.timeout(limits.read_seconds):
            async for piece in request.stream():
                body += piece
                if len(body) > limits.max_body_bytes:
                    raise Fault(
                        413,
                        f"The body has more than {limits.max_body_bytes} bytes, which this server allows.",
                        code="body_too_large",
                        headers={"connection": "close"},
                    )
    except TimeoutError:
        message = f"The body did not arrive within {limits.read_seconds:g} seconds."
        raise Fault(408, message, code="body_too_slow", headers={"connection": "close"}) from None
    return bytes(body)


async def _unless_gone(work: Coroutine[Any, Any, None], receive: Receive, course: _Course) -> None:
    """The work, until it is done or the client has gone before all was sent. Raises Gone."""
    task, gone = asyncio.create_task(work), asyncio.create_task(_gone(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done() and not course.is_over:
            raise Gone
        await task
    finally:
        for one in (task, gone):
            one.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    """Until there is nobody any more; a server says so after the whole answer, too."""
    while (await receive())["type"] != "http.disconnect":
        pass
