"""Llama 3.1 to 3.3: calls as bare JSON, perhaps after a tag, several between semicolons.

<|python_tag|>{"name": "weather", "parameters": {"city": "Köln"}}
"""

from __future__ import annotations

from collections.abc import Collection

from power_sampling.text.calls import PYTHON_TAG
from power_sampling.text.formats.base import ToolFormat
from power_sampling.text.formats.messages import Messages

__all__ = ["Llama3"]


class Llama3(ToolFormat):
    family = "llama3"
    marker = PYTHON_TAG
    needs_marker = False
    arguments_key = "parameters"

    @classmethod
    def fits(cls, template: str) -> bool:
        return PYTHON_TAG in template or ("ipython" in template and "parameters" in template)

    def shaped(self, messages: Messages) -> Messages:
        """The template refuses several calls in one message: each gets its own, followed by its result."""
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

    def openings(self, names: Collection[str]) -> tuple[str, ...]:
        return PYTHON_TAG, '{"name"'

    def calls_rule(self, *, may_be_many: bool) -> str:
        return 'call ("; " call)*' if may_be_many else "call"
