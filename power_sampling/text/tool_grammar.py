"""Lark grammars of the replies a conversation allows, in the dialect of llguidance.

A marker may be one token or the letters it is spelled with, and where the tokenizer has the token both are allowed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from power_sampling.text.calls import ARGS, CALL_END
from power_sampling.text.grammar import json_rule
from power_sampling.text.reply import THINK, THINK_END

__all__ = ["Calls", "write"]


@dataclass(frozen=True, kw_only=True)
class Calls:
    """What calls are legal, and how they are written."""

    family: str
    marker: str
    openings: tuple[str, ...]  # what a reader takes for the beginning of calls
    has_args_marker: bool
    tools: Mapping[str, Mapping[str, Any]]
    choice: str
    may_be_many: bool
    is_strict: bool

    @property
    def is_forced(self) -> bool:
        return bool(self.tools) and self.choice != "auto"


def write(
    calls: Calls, answer: str | None, ids: Mapping[str, int], *, starts_in_reasoning: bool, may_reason: bool
) -> str:
    """Reasoning, if it is open or allowed; then calls, an answer, or text that holds no call."""
    rules: list[str] = []
    start = "reply"
    if starts_in_reasoning or may_reason:
        start = "thoughts BREAK? reply" if starts_in_reasoning else f"({_either(THINK, ids)} thoughts BREAK?)? reply"
        rules += [*_rules_until("thoughts", THINK_END, ids), r"BREAK: /\n{1,2}/"]
    reply: list[str] = []
    openings = [opening for opening in calls.openings if opening != calls.marker]
    if not calls.is_forced:
        reply.append("TEXT" if answer is None else "answer")
        text = f"TEXT: {_text_without(calls.marker, *openings, is_after=start != 'reply')}"
        rules.append(text if answer is None else f"answer: {answer}")
    if calls.tools:
        opening = _either(calls.marker, ids)
        if answer is None and not calls.is_forced:
            rules += _rules_until("lead", calls.marker, ids, openings, is_after=(start != "reply"))
            opening = "lead"
        reply.append(f"{opening} calls")
        # where an answer may be JSON too, only the marker tells a call from it
        if calls.family == "llama3" and (answer is None or calls.is_forced):
            reply.append("calls")
        rules += _call_rules(calls, ids)
    return "\n".join([f"start: {start}", f"reply: {' | '.join(reply)}", *rules, ""])


def _text_without(*texts: str, is_after: bool = False, up_to: str = "") -> str:
    """A terminal: text, up to a marker, that holds none of the texts, for a reader would take them for what they are.

    After reasoning it does not begin like what stands there. One negation does it all: llguidance gives up on several.
    """
    held = [f"(?s:.*){_escaped(text)}" for text in texts] + [r"\n", rf"\s*{_escaped(THINK)}"] * is_after
    anything = f"/(?s:.*){_escaped(up_to)}/"
    return f"{anything} & ~/({'|'.join(held)})(?s:.*)/" if held else anything


def _rules_until(
    name: str, marker: str, ids: Mapping[str, int], without: Sequence[str] = (), *, is_after: bool = False
) -> list[str]:
    """Text up to the first marker, with it. Spelled out it is lazy: greedy text would run into the marker."""
    terminal = name.upper()
    rules = [
        f"{name}: {name}_spelled" + (f" | {terminal} <[{ids[marker]}]>" if marker in ids else ""),
        f"{name}_spelled[lazy]: {terminal}_SPELLED",
        f"{terminal}_SPELLED: {_text_without(*without, is_after=is_after, up_to=marker)}",
    ]
    if marker in ids:
        rules.append(f"{terminal}: {_text_without(marker, *without, is_after=is_after)}")
    return rules


def _call_rules(calls: Calls, ids: Mapping[str, int]) -> list[str]:
    """The calls after the first marker."""
    names = [calls.choice] if calls.choice in calls.tools else list(calls.tools)
    key = "parameters" if calls.family == "llama3" else "arguments"
    opening, ending = _either(calls.marker, ids), _either(CALL_END, ids)
    rules, call = [], []
    for i, name in enumerate(names):
        quoted = json.dumps(name, ensure_ascii=False)
        if calls.family == "mistral" and calls.has_args_marker:
            call.append(f"{_literal(name)} {_either(ARGS, ids)} arguments_{i}")
        else:
            call.append(f'{_literal(f"""{{"name": {quoted}, "{key}": """)} arguments_{i} "}}"')
        schema = calls.tools[name].get("parameters") or {} if calls.is_strict or calls.is_forced else None
        rules.append(f"arguments_{i}: {json_rule(_arguments_schema(schema))}")
    if calls.family == "hermes":
        one, more = rf'"\n" call "\n" {ending}', rf'"\n" {opening} "\n" call "\n" {ending}'
    elif calls.family == "llama3":
        one, more = "call", '"; " call'
    elif calls.has_args_marker:
        one, more = "call", f"{opening} call"
    else:
        one, more = '" "? "[" call', '", " call'
    row = f"{one} ({more})*" if calls.may_be_many else one
    if calls.family == "mistral" and not calls.has_args_marker:
        row += ' "]"'
    return [f"calls: {row}", f"call: {' | '.join(call)}", *rules]


def _arguments_schema(schema: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """The schema of the arguments: where none are declared there are none. None: any object."""
    if schema is None:
        return {"type": "object"}
    return schema or {"type": "object", "properties": {}}


def _either(marker: str, ids: Mapping[str, int]) -> str:
    """A marker as a token, where it is one, or spelled out."""
    return f"(<[{ids[marker]}]> | {_literal(marker)})" if marker in ids else _literal(marker)


def _literal(text: str) -> str:
    """A Lark string."""
    return json.dumps(text, ensure_ascii=False)


def _escaped(text: str) -> str:
    """Between slashes, every character for itself."""
    return re.sub(r"([^\w\s<>\"'=!%&,:;@`~-])", r"\\\1", text)
