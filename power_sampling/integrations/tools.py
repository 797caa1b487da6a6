"""Tool choices and tool calls in the forms that frameworks share."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from power_sampling.errors import ConfigurationError, shortened
from power_sampling.text.calls import arguments_in, fault_of

__all__ = ["arguments_in", "call_fault", "given_tools", "normalize_tool_choice", "openai_call"]


def given_tools(tools: Any) -> list[Any]:
    """The tools that a call gives, in a list or another collection; none for None."""
    if tools is None:
        return []
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Iterable):
        raise ConfigurationError(f"tools: expected a list of tools, got {shortened(tools)}.")
    return list(tools)


def normalize_tool_choice(choice: Any, names: Sequence[str], *, required: bool = False) -> str:
    """`auto`, `none`, `required`, or one of `names`, as a Conversation has it: from all forms of `tool_choice` that
    frameworks know (None, True, `any`, a name, OpenAI's and Anthropic's dictionaries). A definite choice comes before
    `required`. Raises ConfigurationError for a choice that names no tool."""
    given = choice
    if isinstance(choice, Mapping):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, Mapping) else choice.get("name")
        choice = name or choice.get("type") or repr(dict(choice))
    if choice in (None, False, "", "auto"):
        choice = "required" if required else "auto"
    if choice in ("auto", "none"):
        return str(choice)
    choice = "required" if choice in (True, "any", "required") else choice
    if not names:
        raise ConfigurationError(f"tool_choice={given!r} asks for a call, but there are no tools; give some.")
    if choice != "required" and choice not in names:
        raise ConfigurationError(
            f"tool_choice={given!r} names no tool: expected 'auto', 'none', 'any', 'required' or one of {list(names)}."
        )
    return str(choice)


def openai_call(identity: str | None, name: str | None, arguments: Any) -> dict[str, Any]:
    """A past tool call in OpenAI's form, as a message of a Conversation carries it."""
    function = {"name": name or "", "arguments": {} if arguments is None else arguments}
    return {"id": identity or "", "type": "function", "function": function}


def call_fault(text: str, names: Collection[str], name: str | None = None) -> str:
    """What was wrong with a call that was none, from the text the model wrote and the tool it named, for the model to
    read; nothing, where that does not tell. `names` are the tools. Frameworks keep the text and lose the error."""
    return fault_of(text, names, name)
