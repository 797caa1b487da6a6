"""Which answer a text gives, in one spelling: what votes are counted by, and grades begin with. None: it gives none."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import unicodedata
from collections.abc import Callable, Hashable, Mapping
from fractions import Fraction
from typing import Any, TypeAlias

from power_sampling.errors import ConfigurationError, shortened
from power_sampling.text.answers import fenced, formula, last_boxed, last_letter, last_number, number, number_alone

__all__ = [
    "PARSERS",
    "Parser",
    "canonical",
    "choice",
    "exact",
    "folded",
    "formula_in_box",
    "numeric",
    "parser_name",
    "parser_of",
    "spelled",
    "structure",
]

Parser: TypeAlias = Callable[[str], Hashable]
REGEX = "regex:"


def exact(text: str) -> str | None:
    """The whole text, or what its last box holds, but for case, space, quotes and a full stop at the end."""
    box = last_boxed(text)
    return folded(text if box is None else box) or None


def numeric(text: str) -> str | None:
    """The number in the last box, else the last number of the text; 1/2 is 0.5, 1,000 is 1000, units do not count."""
    box = last_boxed(text)
    found = number(box) if box is not None else None
    if found is None and (last := last_number(text if box is None else box)) is not None:
        found = number(last)
    return None if found is None else spelled(found)


def choice(text: str) -> str | None:
    """The letter of a multiple choice: in a box, after "answer is", or alone on the last line."""
    return last_letter(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")


def formula_in_box(text: str) -> str | None:
    """The formula in the last box: numbers by their value, others as they are spelled, so that x + 1 and 1 + x are two.

    The grader `math` knows better, in a time that has no bound; here other requests wait."""
    box = last_boxed(text)
    if box is None:
        return None
    found = number_alone(box)
    return (formula(box) if found is None else spelled(found)) or None


def structure(text: str) -> str | None:
    """The text, or its last block of code, as JSON, whatever the order of keys; 2.0 is 2."""
    blocks = fenced(text)
    return canonical(blocks[-1] if blocks else text)


PARSERS: Mapping[str, Parser] = {
    "exact": exact,
    "numeric": numeric,
    "choice": choice,
    "math": formula_in_box,
    "json": structure,
}


def parser_of(given: str | Parser) -> Parser:
    """A function as it is, one of `PARSERS`, `regex:EXPRESSION` (its last match, or the first group of that), or
    `module:function` of the user's own. Raises ConfigurationError for what names none of them."""
    if not isinstance(given, str):
        name = parser_name(given)
        if inspect.iscoroutinefunction(given):
            raise ConfigurationError(f"parser: expected a function that answers, got the async {name}.")
        return given
    if given in PARSERS:
        return PARSERS[given]
    if given.startswith(REGEX):
        return _matching(given.removeprefix(REGEX))
    module, colon, function = given.partition(":")
    if not colon:
        raise ConfigurationError(
            f"parser: there is no {shortened(given)}. Known: {', '.join(PARSERS)}, {REGEX}EXPRESSION, or "
            "module:function of your own."
        )
    try:
        own = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError(f"parser: cannot import {shortened(given)}: {error}.") from error
    if not callable(own):
        raise ConfigurationError(f"parser: {shortened(given)} is no function, got {shortened(own)}.")
    found: Parser = own
    return found


def parser_name(given: str | Parser) -> str:
    """As a file would name it."""
    if isinstance(given, str):
        return given
    name = getattr(given, "__qualname__", type(given).__qualname__)
    return f"{getattr(given, '__module__', type(given).__module__)}:{name}"


def _matching(expression: str) -> Parser:
    try:
        compiled = re.compile(expression)
    except re.error as error:
        raise ConfigurationError(f"parser: {shortened(expression)} is no expression: {error}.") from error

    def last_match(text: str) -> str | None:
        found = list(compiled.finditer(text))
        return found[-1].group(min(1, compiled.groups)) if found else None

    return last_match


# ------------------------------------------------------------ spellings


def folded(text: str) -> str:
    """Without case, and without space, quotes and a full stop around it."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.strip("\"'`\u201c\u201d\u2018\u2019* ").rstrip(".!").strip("\"'`* ")


def canonical(text: str) -> str | None:
    """JSON with sorted keys; None where it is none."""
    try:
        value = json.loads(text, parse_float=_whole_or_float)
    except (ValueError, RecursionError):
        return None
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _whole_or_float(digits: str) -> Any:
    value = float(digits)
    return int(value) if value.is_integer() else value


def spelled(value: Fraction) -> str:
    """A number, in lowest terms."""
    return str(value.numerator) if value.denominator == 1 else f"{value.numerator}/{value.denominator}"
