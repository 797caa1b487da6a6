"""How a model writes tool calls: the family its chat template belongs to, with its prompts, grammar and reader.

    hermes    <tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>, repeated      Hermes, Qwen 2 to 3, SmolLM3
    llama3    {"name": ..., "parameters": {...}}, perhaps after <|python_tag|>           Llama 3.1 to 3.3
    mistral   [TOOL_CALLS] [{"name": ..., "arguments": {...}}], or [TOOL_CALLS]name[ARGS]{...}

A template that is of no known family, or knows no tools at all, gets the tags of Hermes, in the latter case explained
in a system message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from power_sampling.errors import InputError
from power_sampling.text import tool_grammar, tool_messages
from power_sampling.text.calls import ARGS, CALL, PYTHON_TAG, TOOL_CALLS
from power_sampling.text.reply import THINK_END, ParseResponse, Plain, ReplyReader, TemplateReader
from power_sampling.types import Conversation

__all__ = ["ToolFormat", "tool_format"]

MARKERS = {"hermes": CALL, "llama3": PYTHON_TAG, "mistral": TOOL_CALLS}


@dataclass(frozen=True, kw_only=True)
class ToolFormat:
    """One family, as one chat template has it. Raises InputError for tools that cannot be offered."""

    family: Literal["hermes", "llama3", "mistral"]
    shows_tools: bool = True
    """The template has a place for tools; otherwise a system message describes them."""
    shows_calls: bool = True
    """The template writes past calls; otherwise they become text here."""
    shows_results: bool = True
    """The template has a role for results; otherwise they become the user's words."""
    has_args_marker: bool = False
    """Mistral's newer form: a name, `[ARGS]`, the arguments."""
    may_reason: bool = False
    """The model writes `<think>` by itself where the prompt did not."""
    special_ids: Mapping[str, int] = field(default_factory=dict)
    parse_response: ParseResponse | None = None

    def prepare(self, conversation: Conversation) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Messages as this model's chat template wants them, and further arguments of the template."""
        tools = offered_tools(conversation)
        messages = tool_messages.cleaned(conversation.messages)
        if self.family == "llama3":
            messages = tool_messages.one_call_each(messages)
        elif self.family == "mistral":
            messages = tool_messages.with_short_ids(messages)
        if not self.shows_calls:
            messages = tool_messages.with_written_calls(messages)
        if not self.shows_results:
            messages = tool_messages.with_written_results(messages)
        if not tools:
            return messages, {}
        functions = tool_messages.functions(tools.values())
        if self.shows_tools:
            return messages, {"tools": functions}
        return tool_messages.with_tools_explained(messages, functions), {}

    def grammar(self, conversation: Conversation, answer: str | None, *, starts_in_reasoning: bool) -> str | None:
        """Lark grammar of the legal replies, or None where everything is legal.

        `answer` is the right-hand side of a Lark rule for the reply that calls nothing, None for free text. Where calls
        are restricted, only the family's own markup is one.
        """
        tools = offered_tools(conversation)
        calls = tool_grammar.Calls(
            family=self.family,
            marker=MARKERS[self.family],
            openings=self._openings(tools),
            has_args_marker=self.has_args_marker,
            tools=tools,
            choice=conversation.tool_choice,
            may_be_many=_may_be_many(conversation),
            is_strict=conversation.strict,
        )
        if answer is None and not (calls.is_forced or (tools and not _is_free(conversation))):
            return None
        return tool_grammar.write(
            calls,
            answer,
            self.special_ids,
            starts_in_reasoning=starts_in_reasoning,
            may_reason=self.may_reason and not starts_in_reasoning,
        )

    def reader(self, conversation: Conversation, *, starts_in_reasoning: bool) -> ReplyReader:
        """A reader of one reply to this conversation."""
        tools = offered_tools(conversation)
        plain: Plain = "none" if conversation.strict else "many" if _may_be_many(conversation) else "one"
        options: dict[str, Any] = {
            "openings": self._openings(tools),
            "plain": plain,
            "starts_in_reasoning": starts_in_reasoning,
        }
        if self.parse_response:
            return TemplateReader(self.parse_response, tuple(tools), **options)
        return ReplyReader(tuple(tools), **options)

    def _openings(self, tools: Mapping[str, Any]) -> tuple[str, ...]:
        """What begins calls in a reply. A marker that is a control token has left no trace in the text."""
        if self.family == "llama3":
            return PYTHON_TAG, '{"name"'
        if self.family == "mistral" and self.has_args_marker:
            return TOOL_CALLS, *(name + mark for name in tools for mark in ("{", ARGS))
        if self.family == "mistral":
            return TOOL_CALLS, '[{"name"'
        return (CALL,)


def tool_format(
    chat_template: str | None, special_ids: Mapping[str, int], *, parse_response: ParseResponse | None = None
) -> ToolFormat:
    """The family a chat template belongs to, from its text.

    `special_ids` are all added tokens of the tokenizer. `parse_response` takes a whole reply apart where the tokenizer
    has a response template of its own: `{"content", "reasoning_content", "tool_calls"}`, every key optional.
    """
    template = chat_template or ""
    family: Literal["hermes", "llama3", "mistral"] = "hermes"
    if CALL in template:
        pass
    elif TOOL_CALLS in template:
        family = "mistral"
    elif PYTHON_TAG in template or ("ipython" in template and "parameters" in template):
        family = "llama3"
    return ToolFormat(
        family=family,
        shows_tools=_uses_tools(template),
        shows_calls="tool_calls" in template,
        shows_results=bool(re.search(r"""["'](?:tool|tool_results|ipython)["']""", template)),
        has_args_marker=ARGS in template,
        may_reason=THINK_END in template,
        special_ids=dict(special_ids),
        parse_response=parse_response,
    )


def _uses_tools(template: str) -> bool:
    """Whether a template reads a variable `tools`."""
    from jinja2 import Environment, TemplateSyntaxError, meta

    try:
        parsed = Environment(extensions=["jinja2.ext.loopcontrols"], autoescape=True).parse(template)
    except TemplateSyntaxError:  # it has tags of its own, such as `generation`
        return bool(re.search(r"\btools\b", template))
    return "tools" in meta.find_undeclared_variables(parsed)


def _may_be_many(conversation: Conversation) -> bool:
    is_forced = conversation.tool_choice not in ("auto", "none")
    return conversation.parallel_tool_calls is True or (conversation.parallel_tool_calls is None and not is_forced)


def _is_free(conversation: Conversation) -> bool:
    return not conversation.strict and conversation.parallel_tool_calls is not False


def offered_tools(conversation: Conversation) -> dict[str, Mapping[str, Any]]:
    """The functions the model may call, by name. Raises InputError for tools and choices that make no sense."""
    tools: dict[str, Mapping[str, Any]] = {}
    for tool in conversation.tools:
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
            raise InputError(f'A tool is {{"type": "function", "function": {{"name": ..., ...}}}}, got {tool!r}.')
        if name in tools:
            raise InputError(f"Two tools are named {name!r}; give every tool a name of its own.")
        parameters = function.get("parameters") or {}
        if not isinstance(parameters, Mapping) or parameters.get("type", "object") != "object":
            raise InputError(
                f"The parameters of tool {name!r} must be a JSON schema of type object, got {parameters!r}; wrap a "
                "single value in an object with one property."
            )
        tools[name] = function
    choice = conversation.tool_choice
    if not isinstance(choice, str):
        raise InputError(f"tool_choice must be 'auto', 'none', 'required' or the name of a tool, got {choice!r}.")
    if choice == "none":
        return {}
    if choice not in ("auto", "required", *tools):
        known = ", ".join(tools) or "none were given"
        raise InputError(f"tool_choice must be 'auto', 'none', 'required' or a tool ({known}), got {choice!r}.")
    if choice == "required" and not tools:
        raise InputError("tool_choice is 'required', but there are no tools; give some, or choose 'auto'.")
    return tools
