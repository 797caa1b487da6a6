"""Llama 4, and Llama 3.2 where it is told so: a list of calls as Python writes them, mostly without any mark.

[weather(city="Köln", days=3), weather_now()]
"""

from __future__ import annotations

from collections.abc import Collection

from power_sampling.text.calls import Call
from power_sampling.text.formats.listed import json_between
from power_sampling.text.formats.messages import Messages, with_single_calls
from power_sampling.text.formats.pythonic import PYTHON
from power_sampling.text.formats.syntax import Syntax, SyntaxFormat

__all__ = ["Llama4"]


class Llama4(SyntaxFormat):
    family = "llama4"
    syntax = Syntax(
        begin="<|python_start|>",
        open="[",
        close="]",
        between=", ",
        is_bare=True,
        also=("<|python_end|>",),
        arguments=PYTHON,
    )

    @classmethod
    def fits(cls, template: str) -> bool:
        marks = ("<|python_start|>", "<|header_start|>", "func_name1(")  # the last is how many a template explains it
        return any(mark in template for mark in marks)

    def shaped(self, messages: Messages) -> Messages:
        """Templates of Llama refuse several calls in one message."""
        return with_single_calls(messages)

    def read(self, text: str, names: Collection[str]) -> tuple[list[Call], str] | None:
        """Templates print past calls as JSON, so models may write it too."""
        return json_between(self.syntax, text, names) or super().read(text, names)
