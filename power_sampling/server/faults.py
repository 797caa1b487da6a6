"""What a client is told when something is refused or fails: OpenAI's error shape, never a trace or a path."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from power_sampling.errors import (
    ConfigurationError,
    ContextOverflowError,
    EngineClosedError,
    InputError,
    NoLegalCompletionError,
    NothingAcceptedError,
    OutOfMemoryError,
    PowerSamplingError,
    RequestTimeoutError,
    shortened,
)
from power_sampling.settings import hint

__all__ = ["Fault", "fault_of", "handlers", "unreadable"]

LOG = logging.getLogger("power_sampling.server")
FINAL = {"x-should-retry": "false"}  # the clients of OpenAI go by it: the same request would fail again

# the most special first: status, code, further headers
KINDS: tuple[tuple[type[PowerSamplingError], int, str, Mapping[str, str]], ...] = (
    (ContextOverflowError, 400, "context_length_exceeded", {}),
    (InputError, 400, "invalid_input", {}),
    (ConfigurationError, 400, "invalid_setting", {}),
    (NoLegalCompletionError, 422, "no_legal_completion", {}),
    (NothingAcceptedError, 422, "nothing_accepted", {}),
    (OutOfMemoryError, 413, "out_of_memory", {}),
    (RequestTimeoutError, 504, "timeout", FINAL),
    (EngineClosedError, 503, "shutting_down", {"retry-after": "5"}),
)


class Fault(Exception):
    """A refusal: what the client is answered with."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.headers = status, code, param, dict(headers or {})

    def body(self) -> dict[str, Any]:
        """OpenAI's shape."""
        return {"error": {"message": str(self), "type": self._type(), "param": self.param, "code": self.code}}

    def response(self) -> Response:
        return JSONResponse(self.body(), status_code=self.status, headers=self.headers)

    def _type(self) -> str:
        named = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
        return named.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")


def fault_of(error: Exception) -> Fault:
    """The refusal that an error stands for. What is our own affair is logged, and the client hears that much only."""
    if isinstance(error, Fault):
        return error
    for kind, status, code, headers in KINDS:
        if isinstance(error, kind):
            return Fault(status, str(error), code=code, headers=headers)
    LOG.error("A request failed: %s", error, exc_info=error)
    return Fault(500, "The model or the server failed; its log says why.", code="internal_error")


def unreadable(error: ValidationError, body: bytes, known: Sequence[str]) -> Fault:
    """The fault of a body, with the place it stands at; of the faults of alternatives the one furthest in. `known` are
    the fields of the whole."""
    faults = error.errors(include_url=False, include_context=False)
    if faults[0]["type"] == "json_invalid":
        reason = faults[0]["msg"].removeprefix("Invalid JSON: ")
        return Fault(400, f"The body is not JSON: {reason}.", code="invalid_json")
    content = from_json(body)
    first = max(faults, key=lambda fault: len(_place(content, fault["loc"])))
    place, kind = _place(content, first["loc"]), first["type"]
    if kind == "missing":
        place.append(str(first["loc"][-1]))
    param = ".".join(place) or None
    if kind == "extra_forbidden":
        message = f"{param}: there is no such field here.{hint(place[-1], known) if len(place) == 1 else ''}"
        return Fault(400, message, code="unknown_field", param=param)
    if kind == "missing":
        return Fault(400, f"{param}: the field is required.", code="missing_field", param=param)
    where = f"{param}: " if param else ""
    message = f"{where}{first['msg']}, got {shortened(first['input'])}."
    return Fault(400, message, code="invalid_value", param=param)


def _place(content: Any, steps: Sequence[int | str]) -> list[str]:
    """The steps that lead somewhere in the body; pydantic also names the alternatives that it tried."""
    place = []
    for step in steps:
        is_index = isinstance(step, int) and isinstance(content, list) and step < len(content)
        if is_index or (isinstance(content, dict) and step in content):
            place.append(str(step))
            content = content[step]
    return place


# ------------------------------------------------------------ as Starlette calls them


async def _answer_fault(request: Request, error: Exception) -> Response:
    return fault_of(error).response()


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    message = f"{request.method} {request.url.path}: {error.detail}. GET /docs lists what there is."
    return Fault(error.status_code, message, headers=error.headers).response()


handlers: Mapping[Any, Any] = {
    Fault: _answer_fault,
    PowerSamplingError: _answer_fault,
    HTTPException: _answer_http,
    Exception: _answer_fault,
}
