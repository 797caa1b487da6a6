"""Calls in plain JSON, in a Markdown fence or not, as models write them that learned no markup for calls.

    {"name": "weather", "arguments": {"city": "Köln"}}
    {"name": "weather", "arguments": {"city": "Bonn"}}

`HEAD` is what such a reply begins with. A reader takes no other text for plain calls; where calls are restricted, a
grammar forbids free text to begin so, and admits the calls of `plain_rules` instead.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from power_sampling.text.calls import (
    CALL,
    CALL_END,
    Call,
    broken_call,
    call_of,
    decode_json,
    looks_like_a_call,
    name_in,
    starts_like_a_call,
)
from power_sampling.text.lark import escaped
from power_sampling.text.schema import json_rule

__all__ = ["HEAD", "MAY_BEGIN", "plain_calls", "plain_rules"]

# an object, perhaps in a list or a fence, whose keys before its arguments have texts; in the syntax of Python and Rust
_TEXT = r'"(?:[^"\\]|\\.)*"'
HEAD = rf'\s*(?:```(?:json)?\s*)?(?:\[\s*)*\{{\s*(?:{_TEXT}\s*:\s*{_TEXT}\s*,\s*)*"(?:arguments|parameters)"\s*:'
_HEAD = re.compile(HEAD)
# the beginning of what may turn out to begin so: a brace, a bracket, or a fence around one
MAY_BEGIN = re.compile(r"\s*(?:\Z|[{\[]|`{1,3}\Z|```(?:j|js|jso|json)?\s*(?:\Z|[{\[]))")

# what stands around calls and is none: brackets, fences, separators, tags that were half written
_AROUND = re.compile(rf"(?:[\s;,\[\]>]|`{{1,3}}(?:json)?|{CALL}|{CALL_END}|</?(?:tool_call)?\Z)*")

SPACE = r"[ \n\t]{0,16}"  # between the pieces of a call: bounded, for a model could spend its horizon on blanks


def plain_calls(text: str, names: Collection[str]) -> list[Call]:
    """The calls a text consists of, whole or cut short; none where it is anything else, or none of them has a tool."""
    calls: list[Call] = []
    at = _around(text, 0)
    while at < len(text):
        try:
            value, end = decode_json(text, at)
        except ValueError as error:
            if not (starts_like_a_call(text, at) if calls else name_in(text, at) in names):
                return []
            calls.append(broken_call(text[at:].strip(), error))
            break
        if not looks_like_a_call(value) or not (calls or _HEAD.match(text)):
            return []
        calls.append(call_of(value, text[at:end], names))
        at = _around(text, end)
    return calls if any(call.name in names for call in calls) else []


def _around(text: str, at: int) -> int:
    found = _AROUND.match(text, at)
    return found.end() if found else at


def plain_rules(name: str, schemas: Mapping[str, Mapping[str, Any]], *, may_be_many: bool, is_after: bool) -> list[str]:
    """Lark rules: `name` is a reply of plain calls under the schemas of their tools' arguments, by their names. After
    reasoning it does not begin with a line break, which belongs to what was before."""
    loose = {"x-guidance": {"whitespace_pattern": SPACE}}
    opened = (
        r"\n?" * (not is_after) + rf"(```(json)?\n)?(\[{SPACE})?"
    )  # one terminal with the head: free text is one up to there
    firsts = [f"/{opened}{_head(tool)}/ {name}_{i}" for i, tool in enumerate(schemas)]
    others = [rf"/[;,]?[ \n\t]{{1,16}}{_head(tool)}/ {name}_{i}" for i, tool in enumerate(schemas)]
    row = f" ({name}_other)*" * may_be_many
    return [
        rf"{name}: {name}_first{row} /{SPACE}\]?(\n?```)?\n?/",
        f"{name}_first: ({' | '.join(firsts)}) /{SPACE}\\}}/",
        *[f"{name}_other: ({' | '.join(others)}) /{SPACE}\\}}/"] * may_be_many,
        *(f"{name}_{i}: {json_rule({**loose, **schema})}" for i, schema in enumerate(schemas.values())),
    ]


def _head(tool: str) -> str:
    """A call up to its arguments: what HEAD fits on."""
    named = f'"name": ?{escaped(json.dumps(tool, ensure_ascii=False))}'
    return rf'\{{{SPACE}("type": ?"function",{SPACE})?{named},{SPACE}"(arguments|parameters)":[ \n]{{0,2}}'
