"""What a call says about tools and formats, in LangChain's many forms, and the one form the engine knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_json_schema, convert_to_openai_tool

from power_sampling import ConfigurationError
from power_sampling.integrations import normalize_tool_choice

__all__ = ["ToolLike", "as_json_schema", "as_tools", "chosen", "is_strict", "shown", "wanted_schema", "without_nulls"]

SCHEMA_WORDS = frozenset({"properties", "enum", "anyOf", "oneOf", "allOf", "items", "const", "$ref"})
ToolLike: TypeAlias = dict[str, Any] | type | Callable[..., Any] | BaseTool


def as_tools(tools: Sequence[ToolLike], strict: bool | None = None) -> list[dict[str, Any]]:
    """Tools of any kind LangChain knows, in OpenAI's form."""
    return [_as_tool(tool, strict) for tool in tools]


def _as_tool(tool: ToolLike, strict: bool | None) -> dict[str, Any]:
    try:
        converted = convert_to_openai_tool(tool, strict=strict)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigurationError(f"tools: {tool!r:.80} cannot be described as a function: {error}") from error
    if converted.get("type") != "function" or not isinstance(converted.get("function"), Mapping):
        raise ConfigurationError(
            f"tools: {converted.get('type')!r} is a tool that a provider runs; a local model calls functions only. "
            "Give a function, a pydantic class, a BaseTool or a JSON schema."
        )
    return converted


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
    if isinstance(schema, Mapping) and not {"title", "name", "function"} & set(schema) and SCHEMA_WORDS & set(schema):
        return dict(schema)  # LangChain takes those with a title only
    try:
        converted: dict[str, Any] = convert_to_json_schema(schema, strict=strict or None)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigurationError(
            "response_format: expected {'type': 'json_schema', 'json_schema': {'schema': ...}}, "
            f"{{'type': 'json_object'}}, {{'type': 'text'}} or a schema, got {schema!r:.120}: {error}"
        ) from error
    return converted


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
