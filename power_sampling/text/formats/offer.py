"""The tools of a conversation that a model may call, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

from power_sampling.errors import InputError, shortened
from power_sampling.text.schema import fault_in
from power_sampling.types import Conversation

__all__ = ["Tools", "offered_tools"]

Tools: TypeAlias = dict[str, Mapping[str, Any]]  # name: function, as OpenAI's form has it


def offered_tools(conversation: Conversation) -> Tools:
    """The functions the model may call, by name. Raises InputError for tools and choices that make no sense."""
    tools: Tools = {}
    for tool in conversation.tools:
        name, function = _function(tool)
        if name in tools:
            raise InputError(f"Two tools are named {shortened(name)}; give every tool a name of its own.")
        tools[name] = function
    choice = conversation.tool_choice
    if not isinstance(choice, str):
        raise InputError(
            f"tool_choice must be 'auto', 'none', 'required' or the name of a tool, got {shortened(choice)}."
        )
    if choice == "none":
        return {}
    if choice not in ("auto", "required", *tools):
        known = shortened(", ".join(tools) or "none were given").strip("'")
        raise InputError(
            f"tool_choice must be 'auto', 'none', 'required' or a tool ({known}), got {shortened(choice)}."
        )
    if choice == "required" and not tools:
        raise InputError("tool_choice is 'required', but there are no tools; give some, or choose 'auto'.")
    return tools


def _function(tool: Any) -> tuple[str, Mapping[str, Any]]:
    """A tool's name, and the function that it is."""
    function = tool.get("function", tool) if isinstance(tool, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
        raise InputError(f'A tool is {{"type": "function", "function": {{"name": ..., ...}}}}, got {shortened(tool)}.')
    parameters = function.get("parameters") or {}
    if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
        raise InputError(
            f"The parameters of tool {shortened(name)} must be a JSON schema of type object, got "
            f"{shortened(parameters)}; wrap a single value in an object with one property."
        )
    if fault := fault_in(parameters):
        raise InputError(
            f"The parameters of tool {shortened(name)} are no JSON schema: {fault}. Mend it, or leave the key out."
        )
    return name, function
