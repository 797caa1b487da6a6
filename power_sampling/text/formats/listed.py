"""Calls as a list of JSON objects, which several families write between marks of their own."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from power_sampling.text.calls import Call, calls_of, decode_json
from power_sampling.text.formats.syntax import Syntax

__all__ = ["json_between", "listed"]


def listed(begin: str, end: str = "") -> Syntax:
    """`begin[{"name": ..., "arguments": {...}}, ...]end`"""
    return Syntax(
        begin=begin,
        end=end,
        open="[",
        close="]",
        head='{"name": ',
        middle=', "arguments": ',
        tail="}",
        between=", ",
        quotes_names=True,
    )


def json_between(syntax: Syntax, text: str, names: Collection[str]) -> tuple[list[Call], str] | None:
    """The calls of a text, where all between the marks is whole JSON, in whatever order its keys are; None: it is
    something else."""
    calls: list[Call] = []
    outside, at = [], 0
    while (start := text.find(syntax.begin, at)) >= 0:
        outside.append(text[at:start])
        try:
            value, at = decode_json(text, start + len(syntax.begin))
        except ValueError:
            return None
        if not value or not all(map(_has_a_name, value if isinstance(value, list) else [value])):
            return None
        calls += calls_of(value, text[start:at], names)
        at = syntax.past_end(text, at)
    outside.append(text[at:])
    return (calls, "\n".join(piece.strip("\n") for piece in outside if piece.strip())) if calls else None


def _has_a_name(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("name"), str)
