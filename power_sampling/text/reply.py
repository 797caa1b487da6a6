"""A reply taken apart while it comes: reasoning, content, tool calls.

What is released is never taken back, so whatever may yet turn out to be markup is held back until it is known. How a
text arrives, letter by letter or at once, makes no difference to what comes out.
"""

from __future__ import annotations

import hashlib
import secrets
import string
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from power_sampling.errors import InputError
from power_sampling.text.calls import Call, call_of, written
from power_sampling.text.plain import MAY_BEGIN, plain_calls
from power_sampling.text.stop import held_back
from power_sampling.text.validation import checked_text, plain_json
from power_sampling.types import InvalidToolCall, Reply, ToolCall

__all__ = [
    "MISTRAL_THOUGHTS",
    "THINK",
    "THINK_END",
    "THOUGHTS",
    "ParseResponse",
    "ReplyReader",
    "TemplateReader",
    "Thoughts",
    "held_back",
]

THINK, THINK_END = "<think>", "</think>"

Thoughts: TypeAlias = tuple[str, str]
"""What opens a model's reasoning, and what closes it."""

MISTRAL_THOUGHTS: Thoughts = ("[THINK]", "[/THINK]")
THOUGHTS: tuple[Thoughts, ...] = (
    (THINK, THINK_END),
    MISTRAL_THOUGHTS,
    ("<seed:think>", "</seed:think>"),
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    ("<thought>", "</thought>"),  # Exaone
)

ParseResponse = Callable[[str], Mapping[str, Any]]
ReadCalls = Callable[[str, Collection[str]], tuple[list[Call], str] | None]

_REASONING_KEYS = ("reasoning_content", "thinking", "reasoning")  # names that response templates give to it


class ReplyReader:
    """Reads one reply.

    `names` are the tools on offer; without any, only the reasoning is told from the content. `openings` are the texts
    that begin calls, and `read_calls` reads a text that begins so: the calls, and what is content beside them. With
    `reads_plain` a reply that is nothing but JSON may be calls as well. `thoughts` stand around the reasoning. Equal
    replies of equal `salt` get equal ids for their calls; without one, ids are random.
    """

    def __init__(
        self,
        names: Collection[str] = (),
        *,
        openings: Sequence[str] = (),
        read_calls: ReadCalls = lambda text, names: None,
        reads_plain: bool = False,
        thoughts: Thoughts = (THINK, THINK_END),
        starts_in_reasoning: bool = False,
        salt: str | None = None,
    ) -> None:
        self._names = names
        self._think, self._think_end = thoughts
        self._openings = tuple(openings) if names else ()
        self._read = read_calls
        self._reads_plain = reads_plain and bool(names)
        self._salt = salt
        self._stage: Literal["start", "reasoning", "content", "calls"] = "reasoning" if starts_in_reasoning else "start"
        self._held = ""  # came, and not released yet
        self._skips_newlines = starts_in_reasoning
        self._content = self._reasoning = ""
        self._calls: list[Call] = []

    def push(self, text: str) -> tuple[str, str]:
        """New content and new reasoning, neither ever retracted."""
        self._held += text
        return self._release(final=False)

    def finish(self) -> tuple[tuple[str, str], Reply]:
        """The last content and reasoning, and the whole reply: all pieces join to its `content` and `reasoning`."""
        content, reasoning = self._release(final=True)
        if self._stage == "calls":
            rest = self._read_calls()
            content += rest
            self._content += rest
        return (content, reasoning), self._reply()

    def _release(self, *, final: bool) -> tuple[str, str]:
        content = reasoning = ""
        if self._stage == "start":
            self._start(final=final)
        if self._stage == "reasoning":
            reasoning = self._reason(final=final)
            self._reasoning += reasoning
        if self._stage == "content":
            content = self._speak(final=final)
            self._content += content
        return content, reasoning

    def _start(self, *, final: bool) -> None:
        """Does the reply begin with reasoning?"""
        text = self._held.lstrip()
        if text.startswith(self._think):
            self._held, self._stage, self._skips_newlines = text[len(self._think) :], "reasoning", True
        elif final or not self._think.startswith(text):
            self._stage = "content"

    def _reason(self, *, final: bool) -> str:
        piece, is_over = self._before((self._think_end,), final=final)
        if is_over:
            self._held = self._held.lstrip("\n").removeprefix(self._think_end)
            self._stage, self._skips_newlines = "content", True
        return piece

    def _speak(self, *, final: bool) -> str:
        if self._reads_plain and not self._content and MAY_BEGIN.match(self._held):
            if not final:
                return ""
            self._calls = plain_calls(self._held, self._names)
            if self._calls:
                self._held = ""
                return ""
        piece, is_over = self._before(self._openings, final=final)
        if is_over:
            self._stage = "calls"
        return piece

    def _before(self, markers: tuple[str, ...], *, final: bool) -> tuple[str, bool]:
        """Takes what is sure to stand before the first marker; line breaks before it belong to the marker."""
        if self._skips_newlines:
            self._held = self._held.lstrip("\n")
            self._skips_newlines = not self._held
        found = min((at for marker in markers if (at := self._held.find(marker)) >= 0), default=None)
        if found is not None:
            piece = self._held[:found].rstrip("\n")
        elif final or not markers:
            piece = self._held
        else:
            piece = self._held[: len(self._held) - held_back(self._held, markers)].rstrip("\n")
        self._held = self._held[len(piece) :]
        return piece, found is not None

    def _read_calls(self) -> str:
        """Reads the calls in what is held, and returns what is content after all."""
        text = self._held.lstrip("\n")
        found = self._read(text, self._names)
        if found is None:
            return self._held
        self._calls, rest = found
        rest = rest.strip("\n")
        if rest.startswith(self._openings):  # what opened no calls goes on where the content was
            return self._held.removesuffix(text) + rest
        return f"\n{rest}" if rest and self._content else rest

    def _reply(self) -> Reply:
        salt = secrets.token_hex() if self._salt is None else self._salt
        salted = hashlib.sha256(salt.encode())  # once: it may be a long prompt
        usable = map(_usable, self._calls)
        calls = [replace(call, id=_call_id(salted, f" {place} {call}")) for place, call in enumerate(usable)]
        return Reply(
            content=self._content,
            reasoning=self._reasoning,
            tool_calls=tuple(call for call in calls if isinstance(call, ToolCall)),
            invalid_tool_calls=tuple(call for call in calls if isinstance(call, InvalidToolCall)),
        )


def _usable(call: Call) -> Call:
    """The call, if it can stand in JSON and in the next prompt; otherwise an invalid one that says why not.

    Decoders read more than that: numbers without end, halves of characters, lists in lists in lists. Characters that
    the door keeps for itself pass: a grammar admits them, and what was decoded under one is a call."""
    try:
        plain_json(call.name, "The name", text=checked_text)
        if isinstance(call, ToolCall):
            plain_json(call.arguments, f"The call of {call.name!r}", text=checked_text)
    except InputError as error:
        if isinstance(call, InvalidToolCall):
            return replace(call, name=None)
        return InvalidToolCall(name=call.name, arguments=written(call.arguments), id="", error=str(error))
    return call


def _call_id(salted: Any, call: str) -> str:
    """Nine letters and digits: Mistral's templates want exactly that, the others take anything. `salted` is a hash that
    has been fed the salt."""
    own = salted.copy()
    own.update(call.encode(errors="replace"))
    number = int.from_bytes(own.digest())
    letters = string.ascii_letters + string.digits
    return "".join(letters[number // len(letters) ** i % len(letters)] for i in range(9))


class TemplateReader(ReplyReader):
    """Reads a reply as the tokenizer's own response template does. Everything is held back until the end.

    Calls that ReplyReader finds come first: they are what a grammar lets a model write, in whatever format it learned.
    """

    def __init__(self, parse_response: ParseResponse, names: Collection[str] = (), **options: Any) -> None:
        super().__init__(names, **options)
        self._parse_response = parse_response
        self._prefix = self._think if options.get("starts_in_reasoning") else ""

    def push(self, text: str) -> tuple[str, str]:
        self._held += text
        return "", ""

    def finish(self) -> tuple[tuple[str, str], Reply]:
        text = self._prefix + self._held
        _, reply = super().finish()
        if not reply.tool_calls:
            with suppress(Exception):  # a template's parser raises what it likes, and gives what it likes
                reply = self._from_message(self._parse_response(text), reply)
        return (reply.content, reply.reasoning), reply

    def _from_message(self, message: Mapping[str, Any], own: Reply) -> Reply:
        reasoning = next((message[key] for key in _REASONING_KEYS if message.get(key)), "")
        given = message.get("tool_calls") or [] if self._names else []
        calls = given if isinstance(given, (list, tuple)) else [given]
        functions = [call.get("function", call) if isinstance(call, Mapping) else call for call in calls]
        self._calls = [call_of(function, written(function), self._names) for function in functions]
        self._calls = self._calls or list(own.invalid_tool_calls)
        self._content, self._reasoning = str(message.get("content") or ""), str(reasoning)
        return self._reply()
