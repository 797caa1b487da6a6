"""Apertus: a list of JSON objects between marks, each with the name of its tool as its only key.

<|tools_prefix|>[{"weather": {"city": "Köln"}}]<|tools_suffix|>
"""

from __future__ import annotations

from power_sampling.text.formats.syntax import Syntax, SyntaxFormat

__all__ = ["Apertus"]


class Apertus(SyntaxFormat):
    family = "apertus"
    syntax = Syntax(
        begin="<|tools_prefix|>",
        end="<|tools_suffix|>",
        open="[",
        close="]",
        head="{",
        middle=": ",
        tail="}",
        between=", ",
        quotes_names=True,
    )

    @classmethod
    def fits(cls, template: str) -> bool:
        return "<|tools_prefix|>" in template
