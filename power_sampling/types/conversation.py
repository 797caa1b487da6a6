"""Conversations as data: messages, tools, and the assistant's turn taken apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = ["Conversation", "InvalidToolCall", "Message", "Reply", "ToolCall"]

Message: TypeAlias = Mapping[str, Any]
"""`role`, `content`, and what else the chat template reads."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages for the chat template, with the tools the model may call in its next turn.

    `messages` are mappings with `role` (`system`, `user`, `assistant`, `tool`) and `content` (text). A message of the
    assistant may carry `tool_calls`: `{"id", "type": "function", "function": {"name", "arguments"}}` with arguments
    as a mapping or as JSON text; a message of role `tool` answers one of them: `tool_call_id`, `name`, `content`.

    `tools` are `{"type": "function", "function": {"name", "description", "parameters"}}`, parameters a JSON schema.
    """

    messages: Sequence[Message]
    tools: Sequence[Mapping[str, Any]] = ()
    tool_choice: str = "auto"
    """`auto`: the model decides; `none`: tools are not shown; `required`: one of them is called; or the name of the one
    that is called. A call that is required is decoded under its schema, so it is always valid; it comes before any
    other constraint of the request, which `auto` leaves as the alternative to a call."""
    parallel_tool_calls: bool | None = None
    """False: at most one call. True: any number. None: any number where the model decides, one where it is required."""
    strict: bool = False
    """Decode the arguments under the tools' schemas even where the model decides whether to call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call the model asks for. `id` is unique: nine letters and digits, which every chat template accepts."""

    name: str
    arguments: Mapping[str, Any]
    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InvalidToolCall:
    """What looks like a call and is none: broken JSON, an unknown tool. `arguments` is the text as it came."""

    name: str | None
    arguments: str
    id: str
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The assistant's turn, taken apart: what it thought, what it said, what it wants called."""

    content: str
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    invalid_tool_calls: tuple[InvalidToolCall, ...] = ()
