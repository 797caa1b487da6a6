"""LlamaIndex's messages as the engine's: plain text, tool calls, results. The given messages are never changed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from llama_index.core.base.llms.types import (
    CachePoint,
    ChatMessage,
    CitableBlock,
    CitationBlock,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)
from pydantic import BaseModel

from power_sampling import InputError
from power_sampling.integrations import openai_call, shortened

__all__ = ["EngineMessages", "calls_of", "engine_messages"]

EngineMessages: TypeAlias = list[dict[str, Any]]

ROLES = {
    MessageRole.SYSTEM: "system",
    MessageRole.DEVELOPER: "system",
    MessageRole.USER: "user",
    MessageRole.ASSISTANT: "assistant",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.TOOL: "tool",
    MessageRole.FUNCTION: "tool",
}


def engine_messages(messages: Sequence[ChatMessage], shown: Mapping[str, str] | None = None) -> EngineMessages:
    """Messages as chat templates read them; `shown` are the names by which the model knows tools.

    Raises InputError for anything that is no text: images, audio, video, documents.
    """
    return [_converted(message, shown or {}) for message in messages]


def _converted(message: ChatMessage, shown: Mapping[str, str]) -> dict[str, Any]:
    role = ROLES[message.role]
    converted: dict[str, Any] = {"role": role, "content": "\n".join(_texts(message.blocks))}
    if role == "assistant":
        if thoughts := "\n".join(b.content or "" for b in message.blocks if isinstance(b, ThinkingBlock)):
            converted["reasoning_content"] = thoughts  # a template that has a use for it knows when to show it
        calls = [call | {"function": _named(call["function"], shown)} for call in calls_of(message)]
        converted |= {"tool_calls": calls} if calls else {}
    if role == "tool":
        for key in ("tool_call_id", "name"):
            if value := message.additional_kwargs.get(key):
                converted[key] = shown.get(value, value) if isinstance(value, str) else value  # refused at the door
    return converted


def _named(function: Mapping[str, Any], shown: Mapping[str, str]) -> dict[str, Any]:
    name = function["name"]
    return {**function, "name": shown.get(name, name) if isinstance(name, str) else name}


def _texts(blocks: Sequence[Any]) -> Iterator[str]:
    for block in blocks:
        match block:
            case TextBlock():
                yield block.text
            case CitableBlock():
                yield from _texts(block.content)
            case CitationBlock():
                yield from _texts([block.cited_content])
            case ThinkingBlock() | ToolCallBlock() | CachePoint():
                pass  # read elsewhere, or no content at all
            case _:
                raise InputError(
                    f"A message holds a {type(block).__name__}; this model reads text only. Take it out, or describe "
                    "it in words."
                )


def calls_of(message: ChatMessage) -> list[dict[str, Any]]:
    """The calls of an assistant's message in OpenAI's form, arguments as they came: those of its blocks, then those of
    `additional_kwargs` that are not the same ones again."""
    found = [
        openai_call(b.tool_call_id, b.tool_name, b.tool_kwargs) for b in message.blocks if isinstance(b, ToolCallBlock)
    ]
    seen = {_identity(call) for call in found}
    more = message.additional_kwargs.get("tool_calls") or ()
    if not isinstance(more, (list, tuple)):
        raise InputError(f"tool_calls must be a list, got {shortened(more)}.")
    for given in more:
        call = _of_any_form(given)
        if _identity(call) not in seen:
            found.append(call)
    return found


def _of_any_form(given: Any) -> dict[str, Any]:
    """A call as integrations keep it: OpenAI's objects or dictionaries, Ollama's, or core's ToolSelection."""
    value = given.model_dump() if isinstance(given, BaseModel) else given
    function = value.get("function", value) if isinstance(value, Mapping) else None
    if not isinstance(value, Mapping) or not isinstance(function, Mapping):
        raise InputError(f"A call of a tool has a function with a name and arguments, got {shortened(given)}.")
    arguments: Any = next((function[key] for key in ("arguments", "tool_kwargs") if key in function), {})
    return openai_call(
        value.get("id") or value.get("tool_id"), function.get("name") or function.get("tool_name"), arguments
    )


def _identity(call: Mapping[str, Any]) -> str:
    """The same for a call in both of its places: by its id, or by what it says where it has none."""
    function = call["function"]
    arguments = function["arguments"]
    if isinstance(arguments, Mapping):
        arguments = json.dumps(arguments, sort_keys=True, default=str)
    return str(call["id"] or (function["name"], arguments))
