"""The application: which path leads where, and who may come in."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from power_sampling.runtime import PowerSampler
from power_sampling.server import endpoints, faults, names
from power_sampling.server.asked import Served
from power_sampling.server.documentation import openapi, page
from power_sampling.server.faults import Fault
from power_sampling.server.front import front
from power_sampling.server.limits import Gate, Limits
from power_sampling.server.metrics import Metrics

__all__ = ["app", "served_name"]

OPEN = ("/", "/health", "/docs", "/openapi.json")  # to everybody, whatever keys there are


def app(
    sampler: PowerSampler,
    *,
    name: str | None = None,
    api_keys: Sequence[str] = (),
    limits: Limits | None = None,
    allow_origins: Sequence[str] = (),
    allow_hosts: Sequence[str] | None = None,
) -> Starlette:
    """An ASGI application that answers the OpenAI protocol with this sampler, under its settings where a request says
    nothing. The model is loaded by the first request, unless it is already.

    `name`: of the model, to clients; else the last part of its own. `api_keys`: one of them is asked of every request;
    none: everybody is answered. `allow_origins`: pages that may call the server from a browser. `allow_hosts`: names
    the server answers to; None: to any.
    """
    served = Served(sampler, name or served_name(sampler.model_name), limits or Limits())
    gate = Gate(served.limits)
    metrics = Metrics(gate)
    cors = Middleware(CORSMiddleware, allow_origins=allow_origins, allow_methods=["*"], allow_headers=["*"])
    return Starlette(
        routes=_routes(served, gate, metrics),
        middleware=[*([cors] if allow_origins else []), Middleware(Guard, keys=api_keys, hosts=allow_hosts)],
        exception_handlers=faults.handlers,
    )


def served_name(model: str) -> str:
    """What a model is called outside: hub ids as they are, of a folder or a file the last part."""
    is_hub_id = model.count("/") == 1 and not model.startswith((".", "/", "~"))
    return model if is_hub_id else model.rstrip("/").rsplit("/", 1)[-1]


def _routes(served: Served, gate: Gate, metrics: Metrics) -> list[Route]:
    def generation(path: str, read: endpoints.Read) -> Route:
        return Route(path, endpoints.Generation(read, served, gate, metrics), methods=["POST"])

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok", "model": served.name})

    async def exposed(request: Request) -> Response:
        return Response(metrics.exposition(), media_type=metrics.content_type)

    return [
        generation("/v1/chat/completions", endpoints.chat),
        generation("/v1/completions", endpoints.completion),
        generation("/v1/responses", endpoints.response),
        Route("/v1/models", _models(served)),
        Route("/v1/models/{model:path}", _model(served)),
        Route("/health", health),
        Route("/metrics", exposed),
        Route("/", _told(front(served.name))),
        Route("/openapi.json", _told(JSONResponse(openapi()))),
        Route("/docs", _told(HTMLResponse(page(served.name, names.listed(served.name))))),
    ]


def _told(response: Response) -> Callable[[Request], Any]:
    async def told(request: Request) -> Response:
        return response

    return told


def _models(served: Served) -> Callable[[Request], Any]:
    async def models(request: Request) -> Response:
        data = [_described(name, served) for name in names.listed(served.name)]
        return JSONResponse({"object": "list", "data": data})

    return models


def _model(served: Served) -> Callable[[Request], Any]:
    async def model(request: Request) -> Response:
        return JSONResponse(_described(request.path_params["model"], served))

    return model


def _described(name: str, served: Served) -> dict[str, Any]:
    """Raises a Fault for a model that is not served, and ConfigurationError for options that there are not."""
    generation = served.sampler.with_settings(**names.settings_of(name, served.name)).generation
    return {
        "id": name,
        "object": "model",
        "created": served.created,
        "owned_by": "power-sampling",
        "max_model_len": served.sampler.known_context_window,
        "power_sampling": {
            "sampler": generation.sampler.model_dump(mode="json"),
            "alpha": generation.alpha,
            "max_new_tokens": generation.max_new_tokens,
        },
    }


class Guard:
    """Refuses requests without a key, and those that call the server by a name that is not its own: a page in a browser
    can make its own name lead to a loopback address."""

    def __init__(self, app: ASGIApp, keys: Sequence[str], hosts: Sequence[str] | None) -> None:
        self._app = app
        self._keys = [_digest(key) for key in keys]
        self._hosts = None if hosts is None else frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        fault = self._fault(scope) if scope["type"] == "http" else None
        await (fault.response() if fault else self._app)(scope, receive, send)

    def _fault(self, scope: Scope) -> Fault | None:
        headers = Headers(scope=scope)
        if self._hosts is not None and _host(headers.get("host", "")) not in self._hosts:
            return Fault(421, "This server does not answer to that host name.", code="unknown_host")
        if not self._keys or scope["path"].removeprefix(scope.get("root_path", "")) in OPEN:
            return None
        kind, _, key = headers.get("authorization", "").partition(" ")
        given = _digest(key.strip() if kind.lower() == "bearer" else "")
        if sum(hmac.compare_digest(given, known) for known in self._keys):  # all are compared, however early one fits
            return None
        return Fault(
            401,
            "A key is needed: send it as 'Authorization: Bearer KEY'.",
            code="invalid_api_key",
            headers={"www-authenticate": "Bearer"},
        )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()


def _host(header: str) -> str:
    """The host of a Host header, without its port."""
    if header.startswith("["):
        return header.partition("]")[0] + "]"
    return header.partition(":")[0].lower()
