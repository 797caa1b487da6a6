"""Granite 3: a list of JSON objects after a mark.

<|tool_call|>[{"name": "weather", "arguments": {"city": "Köln"}}]
"""

from __future__ import annotations

from collections.abc import Collection

from power_sampling.text.calls import Call
from power_sampling.text.formats.listed import json_between, listed
from power_sampling.text.formats.syntax import SyntaxFormat

__all__ = ["Granite"]


class Granite(SyntaxFormat):
    family = "granite"
    syntax = listed("<|tool_call|>")

    @classmethod
    def fits(cls, template: str) -> bool:
        return "<|tool_call|>" in template

    def read(self, text: str, names: Collection[str]) -> tuple[list[Call], str] | None:
        return json_between(self.syntax, text, names) or super().read(text, names)
