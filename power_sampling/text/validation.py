"""The door for prompts: whatever came, a text or a conversation whose messages have one form; or an InputError.

Behind it a message is a `ChatMessage`: its content is text, its calls are whole, and every value is plain JSON.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn, NotRequired, TypedDict

from power_sampling.errors import InputError, shortened
from power_sampling.text.control import RESERVED
from power_sampling.types import Conversation

__all__ = ["Call", "ChatMessage", "Function", "checked_conversation", "checked_text", "plain_json"]

MOST_NESTED = 64
"""How deep arguments and schemas may go; templates print them by recursion."""

MOST_BITS = 4096
"""Of a whole number; Python writes no longer ones out."""

_TEXT_PARTS = ("text", "input_text", "output_text")
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Function(TypedDict):
    """What is called."""

    name: str
    arguments: dict[str, Any] | str
    """A text where the model wrote what is no plain JSON: it may see it as it was."""


class Call(TypedDict):
    """A past call of a tool."""

    id: str
    type: str
    function: Function


class ChatMessage(TypedDict):
    """A message as it is behind the door."""

    role: str
    content: str
    name: NotRequired[str]
    tool_calls: NotRequired[list[Call]]
    tool_call_id: NotRequired[str]
    reasoning_content: NotRequired[str]
    status: NotRequired[str]


def checked_text(text: str, where: str = "the prompt") -> str:
    """A text that has an encoding. Raises InputError."""
    if lone := _SURROGATE.search(text):
        raise InputError(
            f"{where} holds half of a surrogate pair ({lone[0]!a} at {lone.start()}), which is no character. Decode "
            "what it came from as UTF-8 or UTF-16, or replace it."
        )
    return text


def checked_conversation(prompt: Any) -> Conversation:
    """A conversation, of messages or of a Conversation. Raises InputError for what is neither."""
    conversation = prompt if isinstance(prompt, Conversation) else Conversation(messages=prompt)
    messages, tools = conversation.messages, conversation.tools
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise InputError(f"A prompt is a text or a list of messages, got {shortened(prompt)}.")
    if isinstance(tools, str) or not isinstance(tools, Sequence):
        raise InputError(f"tools: expected a list of tools, got {shortened(tools)}.")
    return replace(
        conversation,
        messages=[_message(message, f"message {i}") for i, message in enumerate(messages)],
        tools=[plain_json(tool, f"tool {i}") for i, tool in enumerate(tools)],
    )


def _message(given: Any, where: str) -> ChatMessage:
    if not isinstance(given, Mapping):
        raise InputError(
            f'A prompt is a text or a list of messages, each a mapping such as {{"role": "user", "content": "Hi"}}; '
            f"{where} is {shortened(given)}."
        )
    role = given.get("role")
    if not isinstance(role, str) or not _ROLE.fullmatch(role):
        raise InputError(f"{where}: role must be system, user, assistant or tool, got {shortened(role)}.")
    if given.get("function_call") is not None:
        raise InputError(f"{where}: function_call is an older form of calls; give them as tool_calls.")
    message = ChatMessage(role=role, content="")
    for key in ("name", "tool_call_id", "reasoning_content", "status"):
        if given.get(key) is not None:
            message[key] = _text(given[key], f"{where}: {key}")
    if calls := _calls(given.get("tool_calls"), where):
        if role != "assistant":
            raise InputError(f"{where}: tool_calls stand in messages of the assistant, not of role {role!r}.")
        message["tool_calls"] = calls
    content = given.get("content")
    if content is None and not calls and "reasoning_content" not in message:
        raise InputError(f"{where}: content is missing; give a text.")
    message["content"] = "" if content is None else _content(content, f"{where}: content")
    return message


def _content(content: Any, where: str) -> str:
    """The text of a message, whole or in parts as OpenAI writes them."""
    if isinstance(content, str):
        return _text(content, where)
    if not isinstance(content, Sequence) or isinstance(content, (bytes, bytearray)):
        raise InputError(f"{where}: expected a text or a list of text parts, got {shortened(content)}.")
    return "".join(_part(part, where) for part in content)


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return _text(part, where)
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "refusal":
        return _text(part.get("refusal"), where)
    if kind in _TEXT_PARTS:
        return _text(part.get("text"), where)
    raise InputError(
        f'{where}: the model reads text only, in parts {{"type": "text", "text": ...}}; got {shortened(part)}. '
        "Describe it in words, or use a model that takes such input."
    )


def _calls(calls: Any, where: str) -> list[Call]:
    if calls is None:
        return []
    if isinstance(calls, str) or not isinstance(calls, Sequence):
        raise InputError(f"{where}: tool_calls must be a list, got {shortened(calls)}.")
    return [_call(call, f"{where}: call {i}") for i, call in enumerate(calls)]


def _call(call: Any, where: str) -> Call:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InputError(
            f'{where}: expected {{"id": ..., "type": "function", "function": {{"name": ..., "arguments": ...}}}}, got '
            f"{shortened(call)}."
        )
    identity = call.get("id")
    return Call(
        id="" if identity is None else _text(identity, f"{where}: id"),
        type="function",
        function=Function(
            name=_text(function["name"], f"{where}: name"),
            arguments=_arguments(function.get("arguments"), f"{where}: arguments"),
        ),
    )


def _arguments(given: Any, where: str) -> dict[str, Any] | str:
    if given is None:
        return {}
    if isinstance(given, Mapping):
        arguments: dict[str, Any] = plain_json(given, where)
        return arguments
    if not isinstance(given, str):
        raise InputError(f"{where}: expected a mapping, or its JSON text, got {shortened(given)}.")
    try:
        parsed = plain_json(json.loads(given or "{}", parse_constant=_no_number), where)
    except (ValueError, RecursionError, InputError):
        parsed = None
    return parsed if isinstance(parsed, dict) else _text(given, where)


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{where}: expected a text, got {shortened(value)}.")
    if found := RESERVED.search(value):
        raise InputError(
            f"{where}: the private-use character U+{ord(found[0]):X} stands for control tokens here, from U+108000 on; "
            "take it out."
        )
    return checked_text(str.__str__(value), where)  # of an enumeration's member, its value


def plain_json(value: Any, where: str, depth: int = 0, text: Callable[[Any, str], str] = _text) -> Any:
    """A copy of plain JSON values. Raises InputError for what is none, and for what templates cannot print. `text`
    checks texts."""
    if depth > MOST_NESTED:
        raise InputError(f"{where}: nested deeper than {MOST_NESTED} levels; templates cannot print that.")
    if isinstance(value, str):
        return text(value, where)
    if isinstance(value, Mapping):
        items = value.items()
        return {text(key, f"{where}, a key"): plain_json(item, where, depth + 1, text) for key, item in items}
    if isinstance(value, (list, tuple)):
        return [plain_json(item, where, depth + 1, text) for item in value]
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and value.bit_length() < MOST_BITS:
        return int(value)
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    raise InputError(f"{where}: expected plain JSON values, got {shortened(value)}.")
