"""Apriel 1.5 and later, Hunyuan A13B: a list of JSON objects between tags.

<tool_calls>[{"name": "weather", "arguments": {"city": "Köln"}}]</tool_calls>
"""

from __future__ import annotations

from collections.abc import Collection

from power_sampling.text.calls import Call
from power_sampling.text.formats.listed import json_between, listed
from power_sampling.text.formats.syntax import SyntaxFormat

__all__ = ["Apriel"]


class Apriel(SyntaxFormat):
    family = "apriel"
    syntax = listed("<tool_calls>", "</tool_calls>")

    @classmethod
    def fits(cls, template: str) -> bool:
        return "<tool_calls>[" in template

    def read(self, text: str, names: Collection[str]) -> tuple[list[Call], str] | None:
        return json_between(self.syntax, text, names) or super().read(text, names)
