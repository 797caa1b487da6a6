"""Calls as Python writes them, which several families do between marks of their own."""

from __future__ import annotations

from power_sampling.text.arguments import LiteralArguments, Notation

__all__ = ["PYTHON"]

PYTHON = LiteralArguments(
    Notation(
        true="True",
        false="False",
        null="None",
        quote='"',
        comma=", ",
        colon=": ",
        opening="(",
        closing=")",
        equals="=",
        quotes_keys=True,
    )
)
