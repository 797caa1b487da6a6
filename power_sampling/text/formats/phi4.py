"""Phi-4-mini: a list of JSON objects between marks.

<|tool_call|>[{"name": "weather", "arguments": {"city": "Köln"}}]<|/tool_call|>
"""

from __future__ import annotations

from collections.abc import Collection

from power_sampling.text.calls import Call
from power_sampling.text.formats.listed import json_between, listed
from power_sampling.text.formats.syntax import SyntaxFormat

__all__ = ["Phi4"]


class Phi4(SyntaxFormat):
    family = "phi4"
    syntax = listed("<|tool_call|>", "<|/tool_call|>")

    @classmethod
    def fits(cls, template: str) -> bool:
        return "<|/tool_call|>" in template or "<|/tool|>" in template

    def read(self, text: str, names: Collection[str]) -> tuple[list[Call], str] | None:
        return json_between(self.syntax, text, names) or super().read(text, names)
