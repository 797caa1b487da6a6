"""What all families share: a conversation made ready for the template, the grammar of its replies, and their reader.

A family says how calls are written, in a class of its own: what begins them, one call, a row of calls, and how they are
read. The grammar admits and the reader understands what that class says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, cast

from power_sampling.text.calls import Call
from power_sampling.text.formats import messages as shared
from power_sampling.text.formats.messages import Messages
from power_sampling.text.formats.offer import Tools, offered_tools
from power_sampling.text.lark import escaped, literal, marked, rules_until, text_without
from power_sampling.text.plain import HEAD, plain_rules
from power_sampling.text.reply import (
    THINK,
    THINK_END,
    THOUGHTS,
    ParseResponse,
    ReplyReader,
    TemplateReader,
    Thoughts,
)
from power_sampling.text.schema import json_rule
from power_sampling.text.validation import ChatMessage, checked_conversation
from power_sampling.types import Conversation, Message

__all__ = ["ToolFormat", "Turn"]


@dataclass(frozen=True, kw_only=True)
class ToolFormat(ABC):
    """One family, as one chat template has it. Raises InputError for tools that cannot be offered."""

    family: ClassVar[str]
    marker: ClassVar[str]
    """What begins calls. Where calls are restricted, nothing else does."""
    needs_marker: ClassVar[bool] = True
    """False: a reply may consist of calls without it."""
    arguments_key: ClassVar[str] = "arguments"
    after_thoughts: ClassVar[str] = ""
    """What stands between the end of the reasoning and the reply."""
    opens_content: ClassVar[str] = ""
    """What begins a reply that calls nothing."""
    allows_text_before: ClassVar[bool] = True
    """Calls may come after content, and a reply may be calls in plain JSON."""
    reader_class: ClassVar[type[ReplyReader]] = ReplyReader

    shows_tools: bool = True
    """The template has a place for tools; otherwise a system message describes them."""
    shows_calls: bool = True
    """The template writes past calls; otherwise they become text here."""
    shows_results: bool = True
    """The template has a role for results; otherwise they become the user's words."""
    thoughts: Thoughts = (THINK, THINK_END)
    """What stands around the model's reasoning."""
    may_reason: bool = False
    """The model opens its reasoning by itself where the prompt did not."""
    writes_thoughts: bool = False
    """The template has no field for the reasoning of earlier turns, and prints it with what was said."""
    special_ids: Mapping[str, int] = field(default_factory=dict)
    """All added tokens of the tokenizer."""
    parse_response: ParseResponse | None = None
    """The tokenizer's own response template, where it has one."""

    # ------------------------------------------------------------ what a family says

    @classmethod
    @abstractmethod
    def fits(cls, template: str) -> bool:
        """Whether a chat template is of this family."""

    @classmethod
    def thoughts_in(cls, template: str) -> Thoughts | None:
        """What stands around reasoning in a chat template; None: it knows no reasoning."""
        return next((pair for pair in THOUGHTS if pair[1] in template), None)

    @abstractmethod
    def openings(self, names: Collection[str]) -> tuple[str, ...]:
        """What begins calls in a reply, the marker first."""

    @abstractmethod
    def calls_rule(self, *, may_be_many: bool) -> str:
        """Right-hand side of a Lark rule: the calls after the first marker. One of them is the rule `call`."""

    def call_rule(self, name: str, arguments: str) -> str:
        """Right-hand side of a Lark rule: one call of a tool. `arguments` is the rule of its arguments."""
        head = f'{{"name": {literal(name)}, "{self.arguments_key}": '
        return f'{literal(head)} {arguments} "}}"'

    def arguments_rules(self, name: str, schema: Mapping[str, Any]) -> list[str]:
        """Lark rules, the first of this name: arguments that obey a schema."""
        return [f"{name}: {json_rule(schema)}"]

    def write(self, calls: shared.Calls, own: shared.Own = str) -> str:
        """Calls as the family writes them. `own` is applied to what is no name, no text and no number."""
        return shared.written_calls(calls, own)

    @property
    def markup(self) -> tuple[str, ...]:
        """What carries calls and thoughts: where it is a control token, it stays in the text of a reply."""
        return (*self.thoughts, self.after_thoughts, self.opens_content, self.marker)

    @abstractmethod
    def read(self, text: str, names: Collection[str]) -> tuple[list[Call], str] | None:
        """The calls of a text that begins with an opening, and what is content beside them; None: there is no call."""

    def shaped(self, messages: Messages) -> Messages:
        """Messages without what the family's templates refuse."""
        return messages

    # ------------------------------------------------------------ what all do with it

    def turn(self, conversation: Conversation | Sequence[Message]) -> Turn:
        """The assistant's next turn in a conversation, or after these messages. All of it is checked here, once."""
        checked = checked_conversation(conversation)
        return Turn(self, checked, offered_tools(checked))

    def prepare(self, conversation: Conversation) -> tuple[Messages, dict[str, Any]]:
        return self.turn(conversation).prepare()

    def grammar(self, conversation: Conversation, answer: str | None, *, starts_in_reasoning: bool) -> str | None:
        return self.turn(conversation).grammar(answer, starts_in_reasoning=starts_in_reasoning)

    def reader(self, conversation: Conversation, *, starts_in_reasoning: bool) -> ReplyReader:
        return self.turn(conversation).reader(starts_in_reasoning=starts_in_reasoning)


@dataclass(frozen=True)
class Turn:
    """The assistant's next turn: what the template is given, which replies are legal, and how one is read."""

    format: ToolFormat
    conversation: Conversation
    tools: Tools
    """The functions that may be called, by name."""

    def prepare(self, own: shared.Own = str) -> tuple[Messages, dict[str, Any]]:
        """Messages as this model's chat template wants them, and further arguments of the template. `own` is applied to
        what is written here and is no user's text."""
        form = self.format
        messages = form.shaped(shared.cleaned(cast("Sequence[ChatMessage]", self.conversation.messages)))
        if form.writes_thoughts:
            messages = shared.with_written_thoughts(messages, *form.thoughts, own)
        if not form.shows_calls:
            messages = shared.with_written_calls(messages, form.write, own)
        if not form.shows_results:
            messages = shared.with_written_results(messages, own)
        if not self.tools:
            return messages, {}
        functions = shared.functions(self.tools.values())
        if form.shows_tools:
            return messages, {"tools": functions}
        return shared.with_tools_explained(messages, functions, form.write, own), {}

    def grammar(self, answer: str | None, *, starts_in_reasoning: bool) -> str | None:
        """Lark grammar of the legal replies, or None where everything is legal.

        `answer` is the right-hand side of a Lark rule for the reply that calls nothing, None for free text. Where calls
        are restricted they are the family's own, or, where the model decides, plain JSON that is all of the reply; free
        text holds nothing that `reader` takes for either. Reasoning comes first, if it is open or allowed.
        """
        if answer is None and not self._restricts_calls:
            return None
        form, start = self.format, "reply"
        rules: list[str] = []
        if starts_in_reasoning or form.may_reason:
            opening, closing = form.thoughts
            opened = f"({marked(opening, form.special_ids)} thoughts BREAK?)? reply"
            start = "thoughts BREAK? reply" if starts_in_reasoning else opened
            rules += rules_until("thoughts", closing + form.after_thoughts, form.special_ids)
            rules.append(r"BREAK: /\n{1,2}/")
        reply, reply_rules = self._reply(answer, is_after=start != "reply")
        return "\n".join([f"start: {start}", f"reply: {' | '.join(reply)}", *rules, *reply_rules, ""])

    def reader(self, *, starts_in_reasoning: bool, is_free: bool = True, salt: str | None = None) -> ReplyReader:
        """A reader of one reply. `is_free` is False where a reply that calls nothing has a form of its own: plain JSON
        is then the answer. Calls get their ids from `salt`."""
        form = self.format
        options: dict[str, Any] = {
            "openings": form.openings(self.tools),
            "read_calls": form.read,
            "reads_plain": is_free and form.allows_text_before,
            "thoughts": form.thoughts,
            "starts_in_reasoning": starts_in_reasoning,
            "salt": salt,
        }
        if form.parse_response:
            return TemplateReader(form.parse_response, self.tools, **options)
        return form.reader_class(self.tools, **options)

    # ------------------------------------------------------------ what may be called

    @property
    def _must_call(self) -> bool:
        return bool(self.tools) and self.conversation.tool_choice != "auto"

    @property
    def _may_be_many(self) -> bool:
        is_forced = self.conversation.tool_choice not in ("auto", "none")
        parallel = self.conversation.parallel_tool_calls
        return not is_forced if parallel is None else parallel

    @property
    def _restricts_calls(self) -> bool:
        is_free = not self.conversation.strict and self.conversation.parallel_tool_calls is not False
        return self._must_call or bool(self.tools and not is_free)

    def _reply(self, answer: str | None, *, is_after: bool) -> tuple[list[str], list[str]]:
        """The alternatives of a reply, and their rules: calls, an answer, or text that holds no call."""
        form, reply, rules = self.format, [], []
        marker, ids = form.marker, form.special_ids
        openings = [opening for opening in form.openings(self.tools) if opening != marker]
        starts = [HEAD, rf"\s*{escaped(form.thoughts[0])}", *[r"\n"] * is_after]  # what a reader goes by
        if not self._must_call:
            opened = f"{marked(form.opens_content, ids)} " if form.opens_content else ""
            reply.append(opened + ("TEXT" if answer is None else "answer"))
            text = f"TEXT: {text_without(marker, *openings, starts=starts)}"
            rules.append(text if answer is None else f"answer: {answer}")
        if self.tools:
            opening = marked(marker, ids)
            if answer is None and not self._must_call and form.allows_text_before:
                rules += rules_until("lead", marker, ids, openings, starts=starts)
                opening = "lead"
                reply.append("plain")
                schemas = {name: self._arguments_schema(name) for name in self.tools}
                rules += plain_rules("plain", schemas, may_be_many=self._may_be_many, is_after=is_after)
            reply.append(f"{opening} calls")
            # where an answer may be JSON too, only the marker tells a call from it
            if not form.needs_marker and (answer is None or self._must_call):
                reply.append("calls")
            rules += self._call_rules()
        return reply, rules

    def _call_rules(self) -> list[str]:
        """The calls after the first marker."""
        choice = self.conversation.tool_choice
        names = [choice] if choice in self.tools else list(self.tools)
        call = [self.format.call_rule(name, f"arguments_{i}") for i, name in enumerate(names)]
        row = self.format.calls_rule(may_be_many=self._may_be_many)
        rules = [f"calls: {row}", f"call: {' | '.join(call)}"]
        for i, name in enumerate(names):
            rules += self.format.arguments_rules(f"arguments_{i}", self._arguments_schema(name))
        return rules

    def _arguments_schema(self, name: str) -> Mapping[str, Any]:
        """Any object, unless arguments have to obey the tool's schema. Where that declares none, there are none."""
        if not (self.conversation.strict or self._must_call):
            return {"type": "object"}
        parameters = self.tools[name].get("parameters") or {"properties": {}}
        return parameters if "$ref" in parameters else {"type": "object", **parameters}
