"""Gemma 4 and FunctionGemma: JSON without quotes around names, and marks of their own around texts.

<|tool_call>call:weather{city:<|"|>Köln<|"|>,days:3}<tool_call|>                               Gemma 4
<start_function_call>call:weather{city:<escape>Köln<escape>}<end_function_call>               FunctionGemma
"""

from __future__ import annotations

from dataclasses import replace

from power_sampling.text.arguments import LiteralArguments, Notation
from power_sampling.text.formats.syntax import Syntax, SyntaxFormat

__all__ = ["FunctionGemma", "Gemma4"]

NOTATION = Notation(
    true="true",
    false="false",
    null="null",
    quote='<|"|>',
    comma=",",
    colon=":",
    opening="{",
    closing="}",
    equals=":",
    quotes_keys=False,
)


class Gemma4(SyntaxFormat):
    family = "gemma4"
    syntax = Syntax(
        begin="<|tool_call>",
        end="<tool_call|>",
        head="call:",
        is_each=True,
        arguments=LiteralArguments(NOTATION),
    )

    @classmethod
    def fits(cls, template: str) -> bool:
        return "<|tool_call>" in template or "<|channel>" in template


class FunctionGemma(SyntaxFormat):
    family = "functiongemma"
    syntax = Syntax(
        begin="<start_function_call>",
        end="<end_function_call>",
        head="call:",
        is_each=True,
        arguments=LiteralArguments(replace(NOTATION, quote="<escape>")),
    )

    @classmethod
    def fits(cls, template: str) -> bool:
        return "<start_function_call>" in template
