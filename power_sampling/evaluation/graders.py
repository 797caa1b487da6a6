"""Whether an answer is the expected one. Each takes two texts; a grade also carries the answer in its one spelling, by
which votes are counted.
"""

from __future__ import annotations

import importlib
import json
import re
import threading
import unicodedata
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, NamedTuple, TypeAlias

from power_sampling.errors import ConfigurationError, needed_for
from power_sampling.evaluation.answers import fenced, last_boxed, last_letter, last_number, number

__all__ = ["GRADERS", "Grade", "Grader", "by_name", "choice", "exact", "math", "numeric", "pattern", "structure"]

SECONDS = 5  # for one formula; sympy can take for ever


class Grade(NamedTuple):
    """What became of one answer."""

    is_right: bool
    answer: str | None  # in one spelling; None: the text gives none
    note: str = ""


Grader: TypeAlias = Callable[[str, str], Grade]


def exact(text: str, expected: str) -> Grade:
    """The whole text, or what its last box holds, but for case, space, quotes and a full stop at the end."""
    box = last_boxed(text)
    answer = _folded(text if box is None else box)
    return Grade(answer == _folded(expected), answer or None)


def numeric(text: str, expected: str) -> Grade:
    """The number in the last box, else the last number of the text; 1/2 is 0.5, 1,000 is 1000, units do not count.

    Percent signs are a unit: 50% is 50. Values are compared as fractions, without rounding.
    """
    want = number(expected)
    if want is None:
        raise ConfigurationError(f"numeric: the expected answer is no number: {expected!r:.80}.")
    box = last_boxed(text)
    found = number(box) if box is not None else None
    if found is None and (last := last_number(text if box is None else box)) is not None:
        found = number(last)
    return Grade(found == want, None if found is None else _spelled(found))


def pattern(text: str, expected: str) -> Grade:
    """A match of the expression `expected` anywhere in the text (Python's syntax, `(?i)` and the like inside it)."""
    try:
        match = re.search(expected, text)
    except re.error as error:
        raise ConfigurationError(f"regex: the expected answer is no expression: {expected!r:.80}: {error}.") from error
    return Grade(match is not None, match.group() if match else None)


def structure(text: str, expected: str) -> Grade:
    """The text, or its last block of code, is JSON of the same value, whatever the order of keys; 2.0 is 2."""
    want = _canonical(expected)
    if want is None:
        raise ConfigurationError(f"json: the expected answer is no JSON: {expected!r:.80}.")
    blocks = fenced(text)
    answer = _canonical(blocks[-1] if blocks else text)
    return Grade(answer == want, answer)


def choice(text: str, expected: str) -> Grade:
    """The letter of a multiple choice: in a box, after "answer is", or alone on the last line."""
    answer = last_letter(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZ")
    return Grade(answer == expected.strip().strip("()").upper(), answer)


def math(text: str, expected: str) -> Grade:
    r"""The formula in the last box, else the last one of the text, equal to the expected one as mathematics."""
    parse, verify = _math_verify()
    # its limits are signals, which only the main thread can have
    seconds = SECONDS if threading.current_thread() is threading.main_thread() else None
    box = last_boxed(text)
    want = parse(f"$\\boxed{{{expected}}}$", parsing_timeout=seconds)
    found = parse(text if box is None else f"$\\boxed{{{box}}}$", parsing_timeout=seconds)
    spelled = _formula(box) if box is not None else str(found[0]) if found else None
    if box is not None and _formula(box) == _formula(expected):
        return Grade(True, spelled)
    is_right = bool(found and want and verify(want, found, timeout_seconds=seconds))
    # equal answers have one spelling, as far as sympy prints them alike
    return Grade(is_right, (str(found[0]) if found else spelled) if spelled is not None else None)


def _math_verify() -> tuple[Any, Any]:
    with needed_for("Grading mathematics", "evaluation"):
        from math_verify import parse, verify
    return parse, verify


GRADERS: Mapping[str, Grader] = {
    "exact": exact,
    "numeric": numeric,
    "regex": pattern,
    "choice": choice,
    "math": math,
    "json": structure,
}


def by_name(name: str) -> Grader:
    """One of `GRADERS`, or `module:function` of the user's own: (text, expected) -> bool or Grade."""
    if name in GRADERS:
        return GRADERS[name]
    module, colon, function = name.partition(":")
    if not colon:
        raise ConfigurationError(
            f"grader: there is no {name!r}. Known: {', '.join(GRADERS)}, or module:function of your own."
        )
    try:
        own = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"grader: cannot import {name!r}: {error}.") from error
    return _as_grader(own, name)


def _as_grader(own: Callable[[str, str], Any], name: str) -> Grader:
    def grade(text: str, expected: str) -> Grade:
        given = own(text, expected)
        if isinstance(given, Grade):
            return given
        if isinstance(given, bool):
            return Grade(given, _folded(text) or None)
        raise ConfigurationError(f"grader: {name} has to answer True, False or a Grade, got {given!r:.80}.")

    return grade


def _folded(text: str) -> str:
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain.strip("\"'`\u201c\u201d\u2018\u2019* ").rstrip(".!").strip("\"'`* ")


def _canonical(text: str) -> str | None:
    try:
        value = json.loads(text, parse_float=_whole_or_float)
    except (ValueError, RecursionError):
        return None
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _whole_or_float(digits: str) -> int | float:
    value = float(digits)
    return int(value) if value.is_integer() else value


def _spelled(value: Fraction) -> str:
    return str(value.numerator) if value.denominator == 1 else f"{value.numerator}/{value.denominator}"


def _formula(text: str) -> str:
    return re.sub(r"\\left|\\right|\\[,;:! ]|\s|\$|\.$", "", text).replace("dfrac", "frac").replace("tfrac", "frac")
