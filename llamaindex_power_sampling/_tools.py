"""Tools, choices and selections in LlamaIndex's forms, and the one form the engine knows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools.types import BaseTool

from llamaindex_power_sampling._messages import calls_of
from power_sampling import ConfigurationError
from power_sampling.integrations import given_tools, normalize_tool_choice, schema_of

__all__ = ["ToolLike", "as_tools", "chosen", "original_names", "selections", "without_names"]

ToolLike: TypeAlias = BaseTool | Mapping[str, Any]


def as_tools(tools: Sequence[ToolLike] | None) -> list[dict[str, Any]]:
    """Tools in OpenAI's form, as plain JSON. A name that had to be changed for the model stands beside the function,
    as it was: `{"type": "function", "name": "a.b", "function": {"name": "a_b", ...}}`."""
    converted: list[dict[str, Any]] = []
    for tool in given_tools(tools):
        new = dict(tool) if isinstance(tool, Mapping) else _as_tool(tool)
        function = new.get("function")
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str) or not _is_json(function):
            raise ConfigurationError(
                f'tools: expected BaseTools or {{"type": "function", "function": {{"name": ...}}}}, got {tool!r:.120}.'
            )
        taken = {other["function"]["name"] for other in converted}
        free = _free(function["name"], taken) if not isinstance(tool, Mapping) else function["name"]
        if free != function["name"]:
            new = {"name": function["name"], **new, "function": {**function, "name": free}}
        converted.append(new)
    return converted


def _is_json(function: Mapping[str, Any]) -> bool:
    try:
        json.dumps(function, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _as_tool(tool: BaseTool) -> dict[str, Any]:
    if not isinstance(tool, BaseTool):
        return {}  # refused with others that are no tools
    name = tool.metadata.name
    if not name:
        raise ConfigurationError(f"tools: {tool!r:.80} has no name; give its metadata one.")
    described: dict[str, Any] = tool.metadata.to_openai_tool(skip_length_check=True)
    parameters = described["function"]["parameters"]
    if tool.metadata.fn_schema is not None:  # core drops the reference of a class that holds itself
        own = schema_of(tool.metadata.fn_schema)
        root = own.get("$defs", {}).get(own.get("$ref", "").rpartition("/")[2], {})
        described["function"]["parameters"] = {**root, **{key: own.get(key, parameters[key]) for key in parameters}}
    return described if described["function"]["name"] == name else {"name": name, **described}


def _free(name: str, taken: set[str]) -> str:
    """Two names may become one when their odd characters go."""
    return next(free for i in range(1, len(taken) + 2) if (free := name if i == 1 else f"{name}_{i}") not in taken)


def original_names(tools: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Name shown to the model: name of the tool."""
    return {tool["function"]["name"]: tool.get("name", tool["function"]["name"]) for tool in tools}


def without_names(tools: Sequence[Mapping[str, Any]]) -> tuple[dict[str, Any], ...]:
    """What the model is shown."""
    return tuple({"type": "function", "function": tool["function"]} for tool in tools)


def chosen(choice: Any, tools: Sequence[Mapping[str, Any]], *, required: bool = False) -> str:
    """`auto`, `none`, `required`, or the name of the one tool as the model knows it: all forms of `tool_choice` that
    integrations accept. Raises ConfigurationError for a choice that names no tool."""
    shown = {original: name for name, original in original_names(tools).items()}
    name = normalize_tool_choice(choice, list(dict.fromkeys([*shown, *shown.values()])), required=required)
    return shown.get(name, name)


def selections(message: ChatMessage) -> list[ToolSelection]:
    """The calls of a response, from its blocks or from `additional_kwargs`."""
    return [
        ToolSelection(
            tool_id=call["id"],
            tool_name=call["function"]["name"],
            tool_kwargs=_arguments(call["function"]["arguments"]),
        )
        for call in calls_of(message)
    ]


def _arguments(given: Any) -> dict[str, Any]:
    """Core would silently take JSON text for no arguments at all."""
    if isinstance(given, str):
        try:
            given = json.loads(given or "{}")
        except ValueError:
            return {}
    return dict(given) if isinstance(given, Mapping) else {}
