"""Answers read from texts: by a name, an expression, a function of one's own."""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from power_sampling import ConfigurationError
from power_sampling.text.parsers import PARSERS, parser_name, parser_of


@pytest.mark.parametrize(
    ("parser", "text", "answer"),
    [
        ("exact", " Paris. ", "paris"),
        ("exact", "It is \\boxed{Paris}", "paris"),
        ("numeric", "so 36/2", "18"),
        ("numeric", "none", None),
        ("choice", "The answer is (C).", "C"),
        ("json", '{"b": 1.0, "a": 2}', '{"a": 2, "b": 1}'),
        ("math", "\\boxed{\\frac12}", "1/2"),
        ("math", "\\boxed{0.5}", "1/2"),
        ("math", "\\boxed{1,000}", "1000"),
        ("math", "\\boxed{2x}", "2x"),
        ("math", "\\boxed{\\dfrac{x}{2} }", "\\frac{x}{2}"),
        ("math", "\\boxed{10^{10^{10^{10}}}}", "10^{10^{10^{10}}}"),
        ("math", "\\boxed{}", None),
        ("math", "x = 5", None),
        ("regex:[0-9]+", "1 and 22", "22"),
        ("regex:is ([a-z]+)", "it is a, or it is b", "b"),
        ("regex:x", "none", None),
        (f"{__name__}:first", "ab", "a"),
    ],
)
def test_the_answer_of_a_text(parser: str, text: str, answer: Hashable) -> None:
    assert parser_of(parser)(text) == answer


def first(text: str) -> str:
    return text[0]


def test_names_lead_back() -> None:
    assert parser_of(first) is first and parser_of(parser_name(first)) is first
    assert [parser_name(name) for name in PARSERS] == list(PARSERS)

    class Callable:
        def __call__(self, text: str) -> int:
            return len(text)

    assert parser_name(Callable()).endswith("Callable")


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize(
    "text",
    [
        "\\boxed{" * 50_000,
        "{" * 50_000 + "}" * 50_000,
        " " * 50_000 + "x",
        "." * 50_000,
        "\"'* " * 20_000,
        "1e" + "9" * 50,
    ],
    ids=["boxes", "braces", "space", "dots", "quotes", "exponent"],
)
def test_no_text_takes_long(parser: str, text: str) -> None:
    """With a search that goes back and forth, or a number written down, each of these takes minutes: the suite's limit
    ends it."""
    hash(parser_of(parser)(text))


def test_an_async_function_is_no_parser() -> None:
    async def late(text: str) -> str:
        return text

    with pytest.raises(ConfigurationError, match="got the async"):
        parser_of(late)
