"""Messages, tools and formats of the protocol as the runtime has them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from power_sampling.integrations import normalize_tool_choice, openai_call
from power_sampling.server.wire import (
    AssistantMessage,
    ChatRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    Part,
    SystemMessage,
    ToolMessage,
)
from power_sampling.types import Conversation

__all__ = ["constraint_of", "conversation_of"]


def conversation_of(request: ChatRequest) -> Conversation:
    """The conversation of a request, nothing left out."""
    functions = [tool.function for tool in request.tools or ()]
    choice = request.tool_choice
    asked = choice if choice is None or isinstance(choice, str) else choice.function.name
    return Conversation(
        messages=[_message(message) for message in request.messages],
        tools=[{"type": "function", "function": f.model_dump(exclude_none=True)} for f in functions],
        tool_choice=normalize_tool_choice(asked, [function.name for function in functions]),
        parallel_tool_calls=request.parallel_tool_calls,
        strict=any(function.strict for function in functions),
    )


def constraint_of(request: ChatRequest) -> dict[str, Any]:
    """The setting that a response format stands for. A schema is always obeyed, strict or not."""
    match request.response_format:
        case JsonObjectFormat():
            return {"json_schema": {"type": "object"}}
        case JsonSchemaFormat(json_schema=asked):
            return {"json_schema": asked.schema_}
    return {}


def _message(message: Message) -> dict[str, Any]:
    named = {"name": message.name} if message.name else {}
    match message:
        case SystemMessage():
            return {"role": "system", "content": _text(message.content), **named}
        case ToolMessage():
            return {
                "role": "tool",
                "content": _text(message.content),
                "tool_call_id": message.tool_call_id,
                **named,
            }
        case AssistantMessage():
            return {**_of_assistant(message), **named}
    return {"role": message.role, "content": _text(message.content), **named}


def _of_assistant(message: AssistantMessage) -> dict[str, Any]:
    said = _text(message.content or "") + (message.refusal or "")
    calls = [openai_call(call.id, call.function.name, call.function.arguments) for call in message.tool_calls or ()]
    thought = {"reasoning_content": message.reasoning_content} if message.reasoning_content else {}
    return {"role": "assistant", "content": said, **thought, **({"tool_calls": calls} if calls else {})}


def _text(content: str | Sequence[Part]) -> str:
    return content if isinstance(content, str) else "".join(_texts(content))


def _texts(parts: Sequence[Part]) -> Iterator[str]:
    for part in parts:
        yield part.text or ""
        yield part.refusal or ""
