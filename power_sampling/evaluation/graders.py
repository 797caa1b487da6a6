"""Whether an answer is the expected one. Each takes two texts; a grade also carries the answer in its one spelling, by
which votes are counted.
"""

from __future__ import annotations

import importlib
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

from power_sampling.errors import ConfigurationError, needed_for
from power_sampling.text import parsers
from power_sampling.text.answers import formula, last_boxed, number
from power_sampling.text.parsers import canonical, folded, spelled

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
    answer = parsers.exact(text)
    return Grade((answer or "") == folded(expected), answer)


def numeric(text: str, expected: str) -> Grade:
    """The number in the last box, else the last number of the text; 1/2 is 0.5, 1,000 is 1000, units do not count.

    Percent signs are a unit: 50% is 50. Values are compared as fractions, without rounding.
    """
    want = number(expected)
    if want is None:
        raise ConfigurationError(f"numeric: the expected answer is no number: {expected!r:.80}.")
    answer = parsers.numeric(text)
    return Grade(answer == spelled(want), answer)


def pattern(text: str, expected: str) -> Grade:
    """A match of the expression `expected` anywhere in the text (Python's syntax, `(?i)` and the like inside it)."""
    try:
        match = re.search(expected, text)
    except re.error as error:
        raise ConfigurationError(f"regex: the expected answer is no expression: {expected!r:.80}: {error}.") from error
    return Grade(match is not None, match.group() if match else None)


def structure(text: str, expected: str) -> Grade:
    """The text, or its last block of code, is JSON of the same value, whatever the order of keys; 2.0 is 2."""
    want = canonical(expected)
    if want is None:
        raise ConfigurationError(f"json: the expected answer is no JSON: {expected!r:.80}.")
    answer = parsers.structure(text)
    return Grade(answer == want, answer)


def choice(text: str, expected: str) -> Grade:
    """The letter of a multiple choice: in a box, after "answer is", or alone on the last line."""
    answer = parsers.choice(text)
    return Grade(answer == expected.strip().strip("()").upper(), answer)


def math(text: str, expected: str) -> Grade:
    r"""The formula in the last box, else the last one of the text, equal to the expected one as mathematics."""
    parse, verify = _math_verify()
    # its limits are signals, which only the main thread can have
    seconds = SECONDS if threading.current_thread() is threading.main_thread() else None
    box = last_boxed(text)
    want = parse(f"$\\boxed{{{expected}}}$", parsing_timeout=seconds)
    found = parse(text if box is None else f"$\\boxed{{{box}}}$", parsing_timeout=seconds)
    spelled = formula(box) if box is not None else str(found[0]) if found else None
    if box is not None and formula(box) == formula(expected):
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
            return Grade(given, folded(text) or None)
        raise ConfigurationError(f"grader: {name} has to answer True, False or a Grade, got {given!r:.80}.")

    return grade
