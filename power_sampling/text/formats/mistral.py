"""Mistral, in two forms: a list of calls, or names each followed by its arguments.

[TOOL_CALLS] [{"name": "weather", "arguments": {"city": "Köln"}}]        Mistral
[TOOL_CALLS]weather[ARGS]{"city": "Köln"}                                MistralArgs, the newer form
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from typing import Any

from power_sampling.text.calls import ARGS, TOOL_CALLS, Call, rows_of_calls
from power_sampling.text.formats.messages import Messages
from power_sampling.text.formats.syntax import Syntax, SyntaxFormat

__all__ = ["Mistral", "MistralArgs"]


class Mistral(SyntaxFormat):
    family = "mistral"
    syntax = Syntax(
        begin=TOOL_CALLS,
        open=" [",
        close="]",
        head='{"name": ',
        middle=', "arguments": ',
        tail="}",
        between=", ",
        quotes_names=True,
    )

    @classmethod
    def fits(cls, template: str) -> bool:
        return TOOL_CALLS in template

    def shaped(self, messages: Messages) -> Messages:
        """The templates refuse ids that are not nine letters and digits; equal ids stay equal."""
        return [_with_short_ids(message) for message in messages]

    def openings(self, names: Collection[str]) -> tuple[str, ...]:
        return TOOL_CALLS, '[{"name"'

    def calls_rule(self, *, may_be_many: bool) -> str:
        return '" "? "[" call (", " call)* "]"' if may_be_many else '" "? "[" call "]"'  # both are written

    def read(self, text: str, names: Collection[str]) -> tuple[list[Call], str] | None:
        return rows_of_calls(text, names, self.openings(names))


class MistralArgs(Mistral):
    family = "mistral_args"
    syntax = Syntax(begin=TOOL_CALLS, middle=ARGS, is_each=True, also=("[CALL_ID]",))

    @classmethod
    def fits(cls, template: str) -> bool:
        return TOOL_CALLS in template and ARGS in template

    def openings(self, names: Collection[str]) -> tuple[str, ...]:
        return TOOL_CALLS, *(name + mark for name in names for mark in ("{", ARGS))

    def calls_rule(self, *, may_be_many: bool) -> str:
        return self.syntax.calls_rule(self.special_ids, may_be_many=may_be_many)


def _with_short_ids(message: dict[str, Any]) -> dict[str, Any]:
    new = dict(message)
    if "tool_calls" in new:
        new["tool_calls"] = [call | {"id": _short_id(call["id"])} for call in new["tool_calls"]]
    if "tool_call_id" in new or new.get("role") == "tool":
        new["tool_call_id"] = _short_id(str(new.get("tool_call_id", "")))
    return new


def _short_id(identity: str) -> str:
    return identity if re.fullmatch(r"[a-zA-Z0-9]{9}", identity) else hashlib.sha256(identity.encode()).hexdigest()[:9]
