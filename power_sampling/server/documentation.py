"""The OpenAPI document, made of the wire types, and a page that prints it. Nothing is fetched from outside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

from pydantic.json_schema import models_json_schema

from power_sampling.server.responses.wire import ResponseRequest
from power_sampling.server.wire import ChatRequest, CompletionRequest

__all__ = ["openapi", "page"]

REQUESTS = (ChatRequest, CompletionRequest, ResponseRequest)
REFERENCE = "#/components/schemas/{model}"
FAULTS = {
    "400": "Something in the request cannot be honoured",
    "401": "A key is needed",
    "404": "No such model",
    "408": "The body came too slowly",
    "413": "The body is too large, or the request does not fit into memory",
    "415": "The body is not declared to be JSON",
    "422": "No completion that was asked for has been found",
    "429": "Too many wait already; `retry-after` says when to try again",
    "500": "The model or the server failed",
    "503": "The server is shutting down",
    "504": "The request took too long",
}


def openapi() -> dict[str, Any]:
    """The OpenAPI document."""
    models: list[tuple[Any, Any]] = [(model, "validation") for model in REQUESTS]
    _, schemas = models_json_schema(models, ref_template=REFERENCE)
    error = {"type": "object", "required": ["error"], "properties": {"error": {"type": "object"}}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "power-sampling", "version": "1"},
        "paths": {
            "/": {"get": _get("A page that answers a prompt plainly and by power sampling", kind="text/html")},
            "/v1/chat/completions": {"post": _post("The assistant's next turn", "ChatRequest")},
            "/v1/responses": {"post": _post("The items that come next in a conversation", "ResponseRequest")},
            "/v1/completions": {"post": _post("Texts completed as they stand", "CompletionRequest")},
            "/v1/models": {"get": _get("The names of the model, one for each sampler")},
            "/v1/models/{model}": {"get": _get("What a name stands for", param="model")},
            "/health": {"get": _get("Whether the server answers")},
            "/metrics": {"get": _get("Counters for Prometheus", kind="text/plain")},
        },
        "components": {
            "schemas": {**schemas["$defs"], "Error": error},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _post(summary: str, model: str) -> dict[str, Any]:
    told = {"content": {"application/json": {"schema": {"$ref": REFERENCE.format(model="Error")}}}}
    answer = {"application/json": {"schema": {"type": "object"}}, "text/event-stream": {"schema": {"type": "string"}}}
    return {
        "summary": summary,
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": REFERENCE.format(model=model)}}},
        },
        "responses": {
            "200": {"description": "The answer, or its stream", "content": answer},
            **{status: {"description": meaning, **told} for status, meaning in FAULTS.items()},
        },
    }


def _get(summary: str, *, param: str | None = None, kind: str = "application/json") -> dict[str, Any]:
    told = {"description": "The answer", "content": {kind: {"schema": {}}}}
    responses = {"200": told, **({"404": {"description": FAULTS["404"]}} if param else {})}
    parameters = [{"name": param, "in": "path", "required": True, "schema": {"type": "string"}}] if param else []
    return {"summary": summary, "parameters": parameters, "responses": responses}


# ------------------------------------------------------------ the page

STYLE = """
:root { color-scheme: light dark }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #8886 }
"""


def page(name: str, listed: Sequence[str]) -> str:
    """The paths, the names of the model and the fields of requests, as one page."""
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>{escape(name)} - power-sampling</title><style>{STYLE}</style><main><h1>{escape(name)}</h1>"
        f"<p>An OpenAI-compatible server: point a client's <code>base_url</code> at <code>/v1</code>. "
        f"<a href='openapi.json'>OpenAPI document</a></p>{''.join(_parts(listed))}</main></html>"
    )


def _parts(listed: Sequence[str]) -> Iterator[str]:
    paths = openapi()["paths"]
    rows = [
        (f"{verb.upper()} {path}", told["summary"]) for path, verbs in paths.items() for verb, told in verbs.items()
    ]
    yield _table("Paths", ("path", "what"), rows)
    yield "<h2>Models</h2><p>Options stand behind an @: <code>" + escape(f"{listed[0]}:mh@alpha=2") + "</code></p><ul>"
    yield "".join(f"<li><code>{escape(name)}</code></li>" for name in listed) + "</ul>"
    for model in REQUESTS:
        fields = [(name, " ".join((f.description or "").split())) for name, f in model.model_fields.items()]
        yield _table(str(model.__doc__), ("field", "meaning"), fields)
    yield _table("Errors", ("status", "meaning"), list(FAULTS.items()))


def _table(title: str, heads: Sequence[str], rows: Sequence[tuple[str, str]]) -> str:
    head = "".join(f"<th scope=col>{escape(text)}</th>" for text in heads)
    body = "".join(f"<tr><td><code>{escape(a)}</code></td><td>{escape(b)}</td></tr>" for a, b in rows)
    return f"<h2>{escape(title)}</h2><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
