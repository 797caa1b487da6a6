"""Nemotron Nano 2: a list of JSON objects between tags.

<TOOLCALL>[{"name": "weather", "arguments": {"city": "Köln"}}]</TOOLCALL>
"""

from __future__ import annotations

from collections.abc import Collection

from power_sampling.text.calls import Call
from power_sampling.text.formats.listed import json_between, listed
from power_sampling.text.formats.syntax import SyntaxFormat

__all__ = ["Nemotron"]


class Nemotron(SyntaxFormat):
    family = "nemotron"
    syntax = listed("<TOOLCALL>", "</TOOLCALL>")

    @classmethod
    def fits(cls, template: str) -> bool:
        return "<TOOLCALL>" in template

    def read(self, text: str, names: Collection[str]) -> tuple[list[Call], str] | None:
        return json_between(self.syntax, text, names) or super().read(text, names)
