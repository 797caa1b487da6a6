"""Kimi K2 and its successors: JSON after the name of a function and the number of the call.

<|tool_calls_section_begin|><|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>{"city": "Köln"}
<|tool_call_end|><|tool_calls_section_end|>

(without the line breaks). Calls are numbered through the whole conversation, and this head is their id.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

from power_sampling.text.formats.messages import Messages
from power_sampling.text.formats.syntax import Syntax, SyntaxFormat

__all__ = ["Kimi"]

CALLS, CALLS_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
CALL, CALL_END, ARGUMENTS = "<|tool_call_begin|>", "<|tool_call_end|>", "<|tool_call_argument_begin|>"


class Kimi(SyntaxFormat):
    family = "kimi"
    syntax = Syntax(
        begin=CALLS,
        end=CALLS_END,
        head=f"{CALL}functions.",
        middle=ARGUMENTS,
        tail=CALL_END,
        is_numbered=True,
    )

    @classmethod
    def fits(cls, template: str) -> bool:
        return CALLS in template

    def shaped(self, messages: Messages) -> Messages:
        """The templates print ids, and models go on with what they see."""
        ids: dict[str, str] = {}
        numbers = count()
        return [_with_numbered_ids(message, ids, numbers) for message in messages]


def _with_numbered_ids(message: dict[str, Any], ids: dict[str, str], numbers: Iterator[int]) -> dict[str, Any]:
    """A message whose ids name their functions. `ids` are the new ones of earlier calls, by the old ones."""
    new = dict(message)
    if "tool_calls" in new:
        for call in new["tool_calls"]:
            ids[call["id"]] = f"functions.{call['function']['name']}:{next(numbers)}"
        new["tool_calls"] = [call | {"id": ids[call["id"]]} for call in new["tool_calls"]]
    if "tool_call_id" in new:
        new["tool_call_id"] = ids.get(new["tool_call_id"], new["tool_call_id"])
    return new
