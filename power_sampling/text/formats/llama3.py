"""Llama 3.1 to 3.3: calls as bare JSON, perhaps after a tag, several between semicolons.

<|python_tag|>{"name": "weather", "parameters": {"city": "Köln"}}
"""

from __future__ import annotations

from collections.abc import Collection

from power_sampling.text.calls import PYTHON_TAG, Call, rows_of_calls
from power_sampling.text.formats.messages import Messages, with_single_calls
from power_sampling.text.formats.syntax import Syntax, SyntaxFormat

__all__ = ["Llama3"]


class Llama3(SyntaxFormat):
    family = "llama3"
    syntax = Syntax(
        begin=PYTHON_TAG,
        head='{"name": ',
        middle=', "parameters": ',
        tail="}",
        between="; ",
        quotes_names=True,
        is_bare=True,
    )

    @classmethod
    def fits(cls, template: str) -> bool:
        return PYTHON_TAG in template or ("ipython" in template and "parameters" in template)

    def shaped(self, messages: Messages) -> Messages:
        """The template refuses several calls in one message."""
        return with_single_calls(messages)

    def openings(self, names: Collection[str]) -> tuple[str, ...]:
        return PYTHON_TAG, '{"name"'

    def read(self, text: str, names: Collection[str]) -> tuple[list[Call], str] | None:
        return rows_of_calls(text, names, self.openings(names))
