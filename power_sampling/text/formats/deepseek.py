"""DeepSeek, in two forms, whose marks have bars of full width and blanks of their own.

<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>weather
```json
{"city": "Köln"}
```<｜tool▁call▁end｜><｜tool▁calls▁end｜>                                                       V3, R1
<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>weather<｜tool▁sep｜>{"city": "Köln"}...             V3.1
"""

# ruff: noqa: RUF001, RUF002 - that is how DeepSeek writes them

from __future__ import annotations

import json
from typing import Any

from power_sampling.text.formats.messages import Messages
from power_sampling.text.formats.syntax import Syntax, SyntaxFormat

__all__ = ["DeepSeek", "DeepSeek31"]

CALLS, CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
CALL, CALL_END, SEPARATOR = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>"


class DeepSeek(SyntaxFormat):
    family = "deepseek"
    syntax = Syntax(
        begin=CALLS,
        end=CALLS_END,
        head=f"{CALL}function{SEPARATOR}",
        middle="\n```json\n",
        tail=f"\n```{CALL_END}",
        between="\n",
    )

    @classmethod
    def fits(cls, template: str) -> bool:
        return CALLS in template

    def shaped(self, messages: Messages) -> Messages:
        """The templates add arguments to a text."""
        return [_with_written_arguments(message) for message in messages]


class DeepSeek31(DeepSeek):
    family = "deepseek_v31"
    syntax = Syntax(begin=CALLS, end=CALLS_END, head=CALL, middle=SEPARATOR, tail=CALL_END)

    @classmethod
    def fits(cls, template: str) -> bool:
        return CALLS in template and "```json" not in template


def _with_written_arguments(message: dict[str, Any]) -> dict[str, Any]:
    if "tool_calls" not in message:
        return message
    calls = []
    for call in message["tool_calls"]:
        given = call["function"]["arguments"]
        written = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        calls.append({**call, "function": {**call["function"], "arguments": written}})
    return {**message, "tool_calls": calls}
