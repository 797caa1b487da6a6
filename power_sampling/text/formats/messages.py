"""Messages with tool calls, put into a shape that chat templates can print. The caller's messages are never changed.

What a template has no place for is written as text: the tools in a system message, calls and results between tags.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any, TypeAlias

from power_sampling.text.calls import CALL, CALL_END
from power_sampling.text.validation import Call, ChatMessage

__all__ = [
    "OWN_TEXTS",
    "TOOLS_PROMPT",
    "Calls",
    "Messages",
    "Own",
    "cleaned",
    "functions",
    "with_mapped_arguments",
    "with_single_calls",
    "with_tools_explained",
    "with_written_calls",
    "with_written_results",
    "with_written_thoughts",
    "written_calls",
]

Messages: TypeAlias = list[dict[str, Any]]

TOOLS_PROMPT = """You can call these functions:

{tools}

To call one, reply with its name and its arguments as JSON between tags, and nothing after them:

<tool_call>
{"name": "function_name", "arguments": {"argument_name": "value"}}
</tool_call>

The result comes back between <tool_response> tags. Call a function only where it helps; otherwise just answer."""
"""The system message for a model whose chat template knows no tools; `{tools}` are their definitions, one a line."""

EXAMPLE: tuple[str, Mapping[str, Any]] = ("function_name", {"argument_name": "value"})
SYNTAX_PROMPT = """You can call these functions:

{tools}

To call one, reply in exactly this form, and write nothing after it:

{example}

The result comes back between <tool_response> tags. Call a function only where it helps; otherwise just answer."""
"""The same for a family that does not write JSON between tags; `{example}` is a call of `EXAMPLE`."""

RESULT, RESULT_END = "<tool_response>", "</tool_response>"
OWN_TEXTS = (CALL, CALL_END, RESULT, RESULT_END)
"""What is written here into messages and may be control tokens."""

Own: TypeAlias = Callable[[str], str]
"""Tells one of `OWN_TEXTS` from the same letters written by a user, for whoever makes tokens of them."""


def cleaned(messages: Sequence[ChatMessage]) -> Messages:
    """Only what templates know. Results stand in the order of their calls, for many templates print no ids, and have
    the id and the name of their call."""
    names: dict[str, str] = {}
    calls: list[tuple[str, Call]] = []  # whose results may follow, with their ids as they came
    result: Messages = []
    for are_results, run in groupby(messages, key=lambda message: message["role"] == "tool"):
        if are_results:
            result += _results(run, calls, names)
            continue
        calls = []
        for message in run:
            new: dict[str, Any] = {key: value for key, value in message.items() if key != "status"}
            if given := message.get("tool_calls"):
                new["tool_calls"] = _told_apart(given)
                calls += zip((call["id"] for call in given), new["tool_calls"], strict=True)
                names.update({call["id"]: call["function"]["name"] for call in given})
            result.append(new)
    return result


def _told_apart(calls: Sequence[Call]) -> list[Call]:
    """The calls of a message, each with an id of its own."""
    first = {call["id"]: place for place, call in reversed([*enumerate(calls)])}
    return [
        call if call["id"] and first[call["id"]] == place else {**call, "id": f"{call['id'] or 'call'}_{place}"}
        for place, call in enumerate(calls)
    ]


def _results(run: Iterable[ChatMessage], calls: Sequence[tuple[str, Call]], names: Mapping[str, str]) -> Messages:
    """Results in a row, in the order of the calls before them; equal ids are taken in turn, others come last."""
    waiting, placed = [*enumerate(calls)], []
    for message in run:
        new: dict[str, Any] = {key: value for key, value in message.items() if key != "status"}
        identity = new.get("tool_call_id", "")
        place, name = len(calls), names.get(identity)
        if found := next((each for each in waiting if each[1][0] == identity), None):
            waiting.remove(found)
            place, (_, call) = found
            new["tool_call_id"], name = call["id"], call["function"]["name"]
        if name := new.get("name") or name:
            new["name"] = name
        if message.get("status") == "error":
            new["content"] = f"Error: {new['content']}"
        placed.append((place, new))
    return [new for _, new in sorted(placed, key=itemgetter(0))]


def functions(tools: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tools in OpenAI's form, without what the model need not know."""
    return [
        {
            "type": "function",
            "function": {key: value for key, value in tool.items() if key != "strict"}
            | {"parameters": dict(tool.get("parameters") or {"type": "object", "properties": {}})},
        }
        for tool in tools
    ]


Calls: TypeAlias = Iterable[tuple[str, Mapping[str, Any] | str]]
"""Names of tools, each with its arguments, or with the text that was meant for them."""
Write: TypeAlias = Callable[[Calls, Own], str]
"""Calls as a family writes them."""


def written_calls(calls: Calls, own: Own = str) -> str:
    """Calls as JSON between tags."""
    values = [{"name": name, "arguments": arguments} for name, arguments in calls]
    return "\n".join(f"{own(CALL)}\n{json.dumps(value, ensure_ascii=False)}\n{own(CALL_END)}" for value in values)


def with_written_calls(messages: Messages, write: Write, own: Own = str) -> Messages:
    """Past calls as text, in the content of their message."""
    result = []
    for message in messages:
        new = {key: value for key, value in message.items() if key != "tool_calls"}
        calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())]
        written = [write(calls, own)] if calls else []
        new["content"] = "\n".join([*([new["content"]] if new["content"] or not calls else []), *written])
        result.append(new)
    return result


def with_written_results(messages: Messages, own: Own = str) -> Messages:
    """Results as the user's words between tags; those in a row are one message, for roles must alternate."""
    result: Messages = []
    follows = False
    for message in messages:
        if is_result := message.get("role") == "tool":
            value = {key: message[key] for key in ("name", "content") if key in message}
            block = f"{own(RESULT)}\n{json.dumps(value, ensure_ascii=False)}\n{own(RESULT_END)}"
            if follows:
                result[-1]["content"] += "\n" + block
            else:
                result.append({"role": "user", "content": block})
        else:
            result.append(message)
        follows = is_result
    return result


def with_tools_explained(
    messages: Messages, tools: Sequence[Mapping[str, Any]], write: Write = written_calls, own: Own = str
) -> Messages:
    """The tools in the system message, after what is said there."""
    lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    prompt = TOOLS_PROMPT if write([EXAMPLE], str) in TOOLS_PROMPT else SYNTAX_PROMPT
    prompt = re.sub("|".join(OWN_TEXTS), lambda found: own(found[0]), prompt)
    prompt = prompt.replace("{example}", write([EXAMPLE], own)).replace("{tools}", lines)
    if messages and messages[0].get("role") == "system":
        first = messages[0] | {"content": "\n\n".join(filter(None, [messages[0]["content"], prompt]))}
        return [first, *messages[1:]]
    return [{"role": "system", "content": prompt}, *messages]


def with_mapped_arguments(messages: Messages) -> Messages:
    """For templates that go through the arguments of past calls one by one: what the model wrote and was no mapping is
    one argument, as it stands."""
    result = []
    for message in messages:
        new = dict(message)
        if "tool_calls" in new:
            new["tool_calls"] = [_with_mapping(call) for call in new["tool_calls"]]
        result.append(new)
    return result


def _with_mapping(call: dict[str, Any]) -> dict[str, Any]:
    given = call["function"]["arguments"]
    if not isinstance(given, str):
        return call
    return {**call, "function": {**call["function"], "arguments": {"arguments": given}}}


def with_written_thoughts(messages: Messages, opening: str, closing: str, own: Own = str) -> Messages:
    """For templates that have no field for reasoning: it stands between its marks, before what is said."""
    result = []
    for message in messages:
        new = dict(message)
        if thoughts := new.pop("reasoning_content", None):
            new["content"] = f"{own(opening)}{thoughts}{own(closing)}{new['content']}"
        result.append(new)
    return result


def with_single_calls(messages: Messages) -> Messages:
    """For templates that take one call in a message: each gets its own, followed by its result."""
    result: Messages = []
    rest = list(messages)
    while rest:
        message = rest.pop(0)
        calls = message.get("tool_calls", ())
        if len(calls) < 2:
            result.append(message)
            continue
        for i, call in enumerate(calls):
            said: dict[str, Any] = {
                key: message[key] for key in ("content", "reasoning_content") if key in message and i == 0
            }
            alone = {key: value for key, value in message.items() if key != "reasoning_content"}
            result.append({**alone, "content": "", **said, "tool_calls": [call]})
            results = next((n for n, m in enumerate(rest) if m.get("role") != "tool"), len(rest))
            own = next((n for n in range(results) if rest[n].get("tool_call_id") == call["id"]), None)
            if own is not None:
                result.append(rest.pop(own))
    return result
