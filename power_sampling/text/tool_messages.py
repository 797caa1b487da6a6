"""Messages with tool calls, put into the shape that a chat template can print. The given messages are never changed."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from power_sampling.text.calls import CALL, CALL_END
from power_sampling.types import Message

__all__ = [
    "TOOLS_PROMPT",
    "cleaned",
    "functions",
    "one_call_each",
    "with_short_ids",
    "with_tools_explained",
    "with_written_calls",
    "with_written_results",
]

Messages = list[dict[str, Any]]

TOOLS_PROMPT = """You can call these functions:

{tools}

To call one, reply with its name and its arguments as JSON between tags, and nothing after them:

<tool_call>
{"name": "function_name", "arguments": {"argument_name": "value"}}
</tool_call>

The result comes back between <tool_response> tags. Call a function only where it helps; otherwise just answer."""
"""The system message for a model whose chat template knows no tools; `{tools}` are their definitions, one a line."""

_KEYS = ("role", "content", "name", "tool_calls", "tool_call_id", "reasoning_content")


def cleaned(messages: Sequence[Message]) -> Messages:
    """Only what templates know: text as text, arguments as mappings, results with the name of their function."""
    names: dict[str, str] = {}
    result = []
    for message in messages:
        new = {key: message[key] for key in _KEYS if message.get(key) not in (None, [], ())}
        new.setdefault("content", "")
        if "tool_calls" in new:
            new["tool_calls"] = [_cleaned_call(call) for call in new["tool_calls"]]
            names.update({call["id"]: call["function"]["name"] for call in new["tool_calls"]})
        if new.get("role") == "tool":
            name = new.get("name") or names.get(new.get("tool_call_id", ""))
            new |= {"name": name} if name else {}
            if message.get("status") == "error":
                new["content"] = f"Error: {new['content']}"
        result.append(new)
    return result


def _cleaned_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments or "{}")
        except ValueError:
            parsed = None  # the model wrote it, so the model may see it as it is
        arguments = parsed if isinstance(parsed, dict) else arguments
    return {
        "id": str(call.get("id") or ""),
        "type": "function",
        "function": {"name": str(function.get("name")), "arguments": arguments},
    }


def functions(tools: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Tools in OpenAI's form, without what is none of the model's business."""
    return [
        {
            "type": "function",
            "function": {key: value for key, value in tool.items() if key != "strict"}
            | {"parameters": dict(tool.get("parameters") or {"type": "object", "properties": {}})},
        }
        for tool in tools
    ]


def one_call_each(messages: Messages) -> Messages:
    """Llama 3's template refuses several calls in one message: each gets its own, followed by its result."""
    result: Messages = []
    rest = list(messages)
    while rest:
        message = rest.pop(0)
        calls = message.get("tool_calls", ())
        if len(calls) < 2:
            result.append(message)
            continue
        for i, call in enumerate(calls):
            result.append(message | {"tool_calls": [call], "content": message["content"] if i == 0 else ""})
            results = next((n for n, m in enumerate(rest) if m.get("role") != "tool"), len(rest))
            own = next((n for n in range(results) if rest[n].get("tool_call_id") == call["id"]), None)
            if own is not None:
                result.append(rest.pop(own))
    return result


def with_short_ids(messages: Messages) -> Messages:
    """Mistral's templates refuse ids that are not nine letters and digits; equal ids stay equal."""

    def short(message: dict[str, Any]) -> dict[str, Any]:
        new = dict(message)
        if "tool_calls" in new:
            new["tool_calls"] = [call | {"id": _short_id(call["id"])} for call in new["tool_calls"]]
        if "tool_call_id" in new or new.get("role") == "tool":
            new["tool_call_id"] = _short_id(str(new.get("tool_call_id", "")))
        return new

    return [short(message) for message in messages]


def _short_id(given: str) -> str:
    return given if re.fullmatch(r"[a-zA-Z0-9]{9}", given) else hashlib.sha256(given.encode()).hexdigest()[:9]


def with_written_calls(messages: Messages) -> Messages:
    """Past calls as text between tags, in the content of their message."""
    result = []
    for message in messages:
        new = {key: value for key, value in message.items() if key != "tool_calls"}
        blocks = [
            f"{CALL}\n{json.dumps(call['function'], ensure_ascii=False)}\n{CALL_END}"
            for call in message.get("tool_calls", ())
        ]
        new["content"] = "\n".join([*([new["content"]] if new["content"] or not blocks else []), *blocks])
        result.append(new)
    return result


def with_written_results(messages: Messages) -> Messages:
    """Results as the user's words between tags; those in a row are one message, for roles must alternate."""
    result: Messages = []
    follows = False
    for message in messages:
        if is_result := message.get("role") == "tool":
            value = {key: message[key] for key in ("name", "content") if key in message}
            block = f"<tool_response>\n{json.dumps(value, ensure_ascii=False)}\n</tool_response>"
            if follows:
                result[-1]["content"] += "\n" + block
            else:
                result.append({"role": "user", "content": block})
        else:
            result.append(message)
        follows = is_result
    return result


def with_tools_explained(messages: Messages, tools: Sequence[Mapping[str, Any]]) -> Messages:
    """The tools in the system message, after what is said there."""
    lines = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in tools)
    prompt = TOOLS_PROMPT.replace("{tools}", lines)
    if messages and messages[0].get("role") == "system":
        first = messages[0] | {"content": "\n\n".join(filter(None, [messages[0]["content"], prompt]))}
        return [first, *messages[1:]]
    return [{"role": "system", "content": prompt}, *messages]
