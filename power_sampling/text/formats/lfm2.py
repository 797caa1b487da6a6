"""LFM2 and its successors: a list of calls as Python writes them.

<|tool_call_start|>[weather(city="Köln", days=3)]<|tool_call_end|>
"""

from __future__ import annotations

from collections.abc import Collection

from power_sampling.text.calls import Call
from power_sampling.text.formats.listed import json_between
from power_sampling.text.formats.pythonic import PYTHON
from power_sampling.text.formats.syntax import Syntax, SyntaxFormat

__all__ = ["Lfm2"]


class Lfm2(SyntaxFormat):
    family = "lfm2"
    syntax = Syntax(
        begin="<|tool_call_start|>",
        end="<|tool_call_end|>",
        open="[",
        close="]",
        between=", ",
        arguments=PYTHON,
    )

    @classmethod
    def fits(cls, template: str) -> bool:
        return "<|tool_call_start|>" in template or "<|tool_list_start|>" in template

    def read(self, text: str, names: Collection[str]) -> tuple[list[Call], str] | None:
        """Templates print past calls as JSON, so models may write it too."""
        return json_between(self.syntax, text, names) or super().read(text, names)
