"""gpt-oss: a reply is a row of messages, each in a channel; calls name their tool in the head of theirs.

<|channel|>analysis<|message|>The user asks ...<|end|><|start|>assistant
<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Köln"}<|call|>
<|channel|>final<|message|>It rains.<|return|>

(without the line breaks). The first message's `<|start|>assistant` is the end of the prompt.
"""

from __future__ import annotations

import re
from typing import Any, ClassVar

from power_sampling.text.calls import unread_call
from power_sampling.text.formats.messages import Messages, with_single_calls
from power_sampling.text.formats.syntax import Syntax, SyntaxFormat
from power_sampling.text.reply import ReplyReader, Thoughts, held_back
from power_sampling.types import ToolCall

__all__ = ["ChannelReader", "Harmony"]

START, CHANNEL, MESSAGE, END = "<|start|>", "<|channel|>", "<|message|>", "<|end|>"
ENDS = (END, "<|call|>", "<|return|>")
_RECIPIENT = re.compile(r"\bto=(?:functions\.)?([^\s<]+)")
_NAME_GOES_ON = re.compile(r"[\w.-]")
_BEFORE_MESSAGE = re.compile(r"\s*(?:<\||to=)")  # what the head of a message begins with


class ChannelReader(ReplyReader):
    """Reads messages in channels: `analysis` is reasoning, what has a recipient is a call, all else is content."""

    def __init__(self, *arguments: Any, starts_in_reasoning: bool = False, **options: Any) -> None:
        super().__init__(*arguments, starts_in_reasoning=starts_in_reasoning, **options)
        self._part = "reasoning" if starts_in_reasoning else "head"
        self._recipient: str | None = None
        self._arguments: list[str] = []  # pieces of the call that is open
        self._is_new = False  # nothing of this message has been released yet
        self._is_over = False  # this message has come to its end

    def push(self, text: str) -> tuple[str, str]:
        self._held += text
        return self._released(final=False)

    def finish(self) -> Any:
        released = self._released(final=True)
        if self._part == "call":
            self._call()
        return released, self._reply()

    def _released(self, *, final: bool) -> tuple[str, str]:
        content = reasoning = ""
        while self._held:
            before = (self._held, self._part)
            if self._part == "head":
                self._head(final=final)
            else:
                piece = self._body(final=final)
                if self._part == "reasoning":
                    reasoning += self._added(piece, self._reasoning + reasoning)
                elif self._part == "content":
                    content += self._added(piece, self._content + content)
                else:
                    self._arguments.append(piece)
                if self._is_over:
                    if self._part == "call":
                        self._call()
                    self._part, self._recipient = "head", None
            if before == (self._held, self._part):
                break
        self._content, self._reasoning = self._content + content, self._reasoning + reasoning
        return content, reasoning

    def _added(self, piece: str, before: str) -> str:
        """Two messages of a kind have an empty line between them."""
        joint = "\n\n" if self._is_new and before and piece else ""
        self._is_new = self._is_new and not piece
        return joint + piece

    def _head(self, *, final: bool) -> None:
        """Up to the message itself: which channel, and whose."""
        text = self._held.lstrip()
        if text.startswith(ENDS):
            self._held = text[next(len(mark) for mark in ENDS if text.startswith(mark)) :]
        elif (at := self._held.find(MESSAGE)) >= 0 and _BEFORE_MESSAGE.match(self._held):
            head, self._held = self._held[:at], self._held[at + len(MESSAGE) :]
            self._recipient = self._recipient_of(head) if self._names else None
            channel = "reasoning" if "analysis" in head.partition(CHANNEL)[2][:12] else "content"
            self._part, self._is_new = ("call" if self._recipient else channel), True
        elif final and text.startswith((START, CHANNEL)):
            self._held = ""  # a head that was cut short says nothing
        elif final or not any(mark.startswith(text[: len(mark)]) for mark in ("<|", "to=")):
            self._part, self._is_new = "content", True  # a reply outside of all channels

    def _recipient_of(self, head: str) -> str | None:
        """Whom a message goes to: a tool that is known, or whatever stands there."""
        recipient = _RECIPIENT.search(head)
        if recipient is None:
            return None
        start = recipient.start(1)
        known = (  # a name may have blanks in it, and be the beginning of another
            name
            for name in sorted(self._names, key=len, reverse=True)
            if head.startswith(name, start) and not _NAME_GOES_ON.match(head, start + len(name))
        )
        return next(known, recipient[1])

    def _body(self, *, final: bool) -> str:
        marks = (*ENDS, START, CHANNEL)
        found = min((at for mark in marks if (at := self._held.find(mark)) >= 0), default=None)
        self._is_over = found is not None
        stays = 0 if final else held_back(self._held, marks)
        piece = self._held[: found if found is not None else len(self._held) - stays]
        self._held = self._held[len(piece) :]
        return piece

    def _call(self) -> None:
        name, raw = str(self._recipient), "".join(self._arguments)
        self._arguments = []
        tools = self._names if isinstance(self._names, dict) else {}
        fault, end = ValueError("there is more after it"), 0
        try:
            arguments, end = Harmony.syntax.arguments.read(raw, 0, tools.get(name, {}).get("parameters") or {})
        except ValueError as error:
            fault = error
        if name in self._names and end and not raw[end:].strip():
            self._calls.append(ToolCall(name=name, arguments=arguments, id=""))
        else:
            self._calls.append(unread_call(raw.strip(), fault, name, self._names))


class Harmony(SyntaxFormat):
    family = "harmony"
    syntax = Syntax(
        begin=f"{CHANNEL}commentary to=functions.", middle=f" <|constrain|>json{MESSAGE}", also=(START, *ENDS)
    )
    after_thoughts = f"{START}assistant"
    opens_content = f"{CHANNEL}final{MESSAGE}"
    allows_text_before = False
    reader_class: ClassVar[type[ReplyReader]] = ChannelReader

    @classmethod
    def fits(cls, template: str) -> bool:
        return CHANNEL in template and MESSAGE in template

    @classmethod
    def thoughts_in(cls, template: str) -> Thoughts | None:
        return f"{CHANNEL}analysis{MESSAGE}", END

    def calls_rule(self, *, may_be_many: bool) -> str:
        return "call"  # a call ends the model's turn

    def shaped(self, messages: Messages) -> Messages:
        """The template prints one call of a message, and has one place for what was thought and said before it."""
        return [_with_one_preamble(message) for message in with_single_calls(messages)]


def _with_one_preamble(message: dict[str, Any]) -> dict[str, Any]:
    thoughts = message.get("reasoning_content")
    if not message.get("tool_calls") or not thoughts or not message["content"]:
        return message
    return {**message, "reasoning_content": f"{thoughts}\n\n{message['content']}", "content": ""}
