"""What a call says about tools and formats, in LangChain's many forms, and the one form the engine knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from langchain_core.tools import BaseTool

from langchain_power_sampling._schemas import described, is_object
from power_sampling import ConfigurationError
from power_sampling.integrations import given_tools, normalize_tool_choice

__all__ = ["ToolLike", "as_json_schema", "as_tools", "chosen", "is_strict", "shown", "wanted_schema", "without_nulls"]

WANTED = (
    "expected {'type': 'json_schema', 'json_schema': {'schema': ...}}, {'type': 'json_object'}, {'type': 'text'} or a "
    "schema"
)
ToolLike: TypeAlias = dict[str, Any] | type | Callable[..., Any] | BaseTool


def as_tools(tools: Sequence[ToolLike] | None, strict: bool | None = None) -> list[dict[str, Any]]:
    """Tools of any kind LangChain knows, in OpenAI's form."""
    return [_as_tool(tool, strict) for tool in given_tools(tools)]


def _as_tool(tool: ToolLike, strict: bool | None) -> dict[str, Any]:
    given = tool if isinstance(tool, Mapping) else {}
    kind = given.get("type")
    if isinstance(kind, str) and kind not in ("function", "object") and "input_schema" not in given:
        raise ConfigurationError(
            f"tools: {kind!r} is a tool that a provider runs, or the schema of what is no object; a local model calls "
            "functions only. Give a function, a pydantic class, a BaseTool or a JSON schema of an object."
        )
    try:
        function = described(tool, strict)
    except ConfigurationError as error:
        raise ConfigurationError(f"tools: {error}") from error
    if not is_object(function.get("parameters") or {}):
        raise ConfigurationError(
            f"tools: the arguments of {function['name']!r} are an object with a property for each, got "
            f"{function['parameters']!r:.120}. A class without fields, such as an Enum, is no tool."
        )
    return {"type": "function", "function": function}


def chosen(tool_choice: Any, tools: Sequence[Mapping[str, Any]]) -> str:
    """`auto`, `none`, `required`, or the name of the one tool: all forms of `tool_choice` that integrations accept."""
    return normalize_tool_choice(tool_choice, [str(tool["function"]["name"]) for tool in tools])


def is_strict(tools: Sequence[Mapping[str, Any]], strict: bool | None) -> bool:
    """Whether arguments are decoded under the schemas: as the call says, or as any of the tools says."""
    return bool(strict) if strict is not None else any(tool["function"].get("strict") for tool in tools)


def shown(tool: Mapping[str, Any]) -> dict[str, Any]:
    """What the model reads of a tool: `strict` is an order to the decoder and no word for the prompt."""
    function = {name: value for name, value in tool["function"].items() if name != "strict"}
    return {"type": "function", "function": function}


def wanted_schema(response_format: Any) -> dict[str, Any] | None:
    """The schema that `response_format` asks for; None for plain text.

    OpenAI's forms (`json_schema`, `json_object`, `text`), or a schema as such: a class or a JSON schema.
    """
    match response_format.get("type") if isinstance(response_format, Mapping) else None:
        case "text":
            return None
        case "json_object":
            return {"type": "object"}
        case "json_schema":
            return _inner_schema(response_format)
        case _:
            return as_json_schema(response_format)


def as_json_schema(schema: Any, strict: bool | None = None) -> dict[str, Any]:
    """The JSON schema of a class, a function, a tool, or of itself."""
    function: dict[str, Any] = {}
    try:
        function = described(schema, strict or None)
    except ConfigurationError as error:
        raise ConfigurationError(f"response_format: {WANTED}: {error}") from error
    if "parameters" not in function:
        raise ConfigurationError(f"response_format: {WANTED}, got {schema!r:.120}, which has no schema.")
    named = {"title": function["name"]} if function["name"] != "answer" else {}
    about = {"description": function["description"]} if "description" in function else {}
    return {**named, **about, **function["parameters"]}


def _inner_schema(response_format: Mapping[str, Any]) -> dict[str, Any]:
    described = response_format.get("json_schema")
    schema = described.get("schema") if isinstance(described, Mapping) else response_format.get("schema")
    if not isinstance(schema, Mapping):
        raise ConfigurationError(
            f"response_format: json_schema needs {{'json_schema': {{'schema': ...}}}}, got {response_format!r:.120}."
        )
    return dict(schema)


def without_nulls(**options: Any) -> dict[str, Any]:
    """The options that were given."""
    return {name: value for name, value in options.items() if value is not None}
