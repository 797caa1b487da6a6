"""Graders against awkward pairs."""

from __future__ import annotations

import threading
from fractions import Fraction

import pytest

from power_sampling import ConfigurationError
from power_sampling.evaluation import graders
from power_sampling.evaluation.graders import Grade
from power_sampling.text import answers

# grader, text, expected, whether it is right
PAIRS: list[tuple[str, str, str, bool]] = [
    ("numeric", "The answer is 18.", "18", True),
    ("numeric", "#### 1,234", "1234", True),
    ("numeric", "so 1,234,567 in all", "1234567", True),
    ("numeric", "It costs $18.00", "18", True),
    ("numeric", "It costs \\$18", "18", True),
    ("numeric", "She has -$5 left", "-5", True),
    ("numeric", "She has $-5 left", "-5", True),
    ("numeric", "A loss of \u22127 dollars", "-7", True),
    ("numeric", "50%", "50", True),
    ("numeric", "0.5", "50", False),
    ("numeric", "1/2", "0.5", True),
    ("numeric", "\\boxed{\\frac{3}{4}}", "0.75", True),
    ("numeric", "\\boxed{\\dfrac{-3}{4}}", "-0.75", True),
    ("numeric", "2 1/2 cups", "2.5", True),
    ("numeric", "\\boxed{2\\frac{1}{2}}", "2.5", True),
    ("numeric", "\\boxed{5} because 5 is 2 + 3, and not 7", "5", True),
    ("numeric", "first \\boxed{5}, no: \\boxed{6}", "6", True),
    ("numeric", "first \\boxed{5}, no: \\boxed{6}", "5", False),
    ("numeric", "\\boxed{12\\text{ apples}}", "12", True),
    ("numeric", "\\boxed{10{,}000}", "10000", True),
    ("numeric", "\\boxed{10\\,000}", "10000", True),
    ("numeric", "12\u202f000 people", "12000", True),
    ("numeric", "1.5e3 grams", "1500", True),
    ("numeric", ".5 litres", "0.5", True),
    ("numeric", "7.0000000001", "7", False),
    ("numeric", "There are 3 dogs and 4 cats", "4", True),
    ("numeric", "no number here", "4", False),
    ("numeric", "", "4", False),
    ("numeric", "5/0", "5", False),
    ("numeric", "Step 1: 10-3=7", "7", True),
    ("numeric", "the years 2010-2015", "2015", True),
    ("numeric", "**42**", "42", True),
    ("numeric", "1e999999999", "1", False),  # could not be written down
    ("numeric", "1e-999999999", "0", False),
    ("numeric", "\\boxed{\\frac{" + "9" * 5000 + "}{3}}", "3", False),
    ("numeric", "9" * 5000, "9" * 400, False),
    ("numeric", "- \\frac{1}{2}", "-0.5", True),
    ("numeric", "2  \\frac{1}{2}", "2.5", True),
    ("exact", " Paris. ", "paris", True),
    ("exact", '"Paris"', "Paris", True),
    ("exact", "**Paris**", "Paris", True),
    ("exact", "The city is \\boxed{Paris}", "Paris", True),
    ("exact", "Paris, France", "Paris", False),
    ("exact", "\uff30aris", "Paris", True),
    ("exact", "new\n  york", "New York", True),
    ("regex", "The id is AB-123.", r"\bAB-\d{3}\b", True),
    ("regex", "the ID is ab-123", r"(?i)\bAB-\d{3}\b", True),
    ("regex", "AB-12", r"\bAB-\d{3}\b", False),
    ("json", '{"a": 1, "b": [true, null]}', '{"b":[true,null],"a":1}', True),
    ("json", '{"a": 2.0}', '{"a": 2}', True),
    ("json", '{"a": true}', '{"a": 1}', False),
    ("json", '{"a": "1"}', '{"a": 1}', False),
    ("json", 'Here it is:\n```json\n{"a": 1}\n```', '{"a": 1}', True),
    ("json", '{"a": 1} and more', '{"a": 1}', False),
    ("json", '{"a": 1e999}', '{"a": 1}', False),
    ("json", "[" * 100000, "[]", False),
    ("json", "", "{}", False),
    ("choice", "The answer is (C).", "C", True),
    ("choice", "Answer: B", "B", True),
    ("choice", "**Answer:** **B**", "B", True),
    ("choice", "\\boxed{D}", "D", True),
    ("choice", "\\boxed{\\text{D}}", "D", True),
    ("choice", "\\boxed{\\text{(D)}}", "D", True),
    ("choice", "A is wrong since it is a trap.\nB", "B", True),
    ("choice", "A) a dog", "A", True),
    ("choice", "The answer is a matter of taste", "A", False),
    ("choice", "The answer is A. No, the answer is B.", "B", True),
    ("choice", "I think it rains", "I", False),
    ("choice", "", "A", False),
    ("math", "\\boxed{\\frac{14}{3}}", "14/3", True),
    ("math", "\\boxed{\\dfrac{14}{3}}", "\\frac{14}{3}", True),
    ("math", "\\boxed{p-q}", "p - q", True),
    ("math", "\\boxed{(3, \\pi/2)}", "\\left( 3, \\frac{\\pi}{2} \\right)", True),
    ("math", "\\boxed{(\\pi/2, 3)}", "\\left( 3, \\frac{\\pi}{2} \\right)", False),
    ("math", "\\boxed{10\\%}", "0.1", True),
    ("math", "\\boxed{1,000}", "1000", True),
    ("math", "\\boxed{90}", "90^\\circ", True),
    ("math", "\\boxed{x = 5}", "5", True),
    ("math", "\\boxed{\\sqrt{52}}", "2\\sqrt{13}", True),
    ("math", "\\boxed{2\\sqrt{13}}", "3\\sqrt{13}", False),
    ("math", "\\boxed{5\\text{ cm}}", "5", True),
    ("math", "\\boxed{\\text{Evelyn}}", "\\text{Evelyn}", True),
    ("math", "\\boxed{\\$32.50}", "32.5", True),
    ("math", "\\boxed{4210_5}", "4210_{5}", True),
    ("math", "\\boxed{\\{1, 2\\}}", "\\{2, 1\\}", True),
    ("math", "\\boxed{1} and then \\boxed{2}", "2", True),
    ("math", "\\boxed{\\frac{1}{2", "1/2", False),
    ("math", "I do not know", "2", False),
    ("math", "\\boxed{}", "2", False),
]


@pytest.mark.parametrize(("grader", "text", "expected", "is_right"), PAIRS)
def test_awkward_pairs(grader: str, text: str, expected: str, is_right: bool) -> None:
    assert graders.by_name(grader)(text, expected).is_right is is_right


@pytest.mark.parametrize(
    ("grader", "texts"),
    [
        ("numeric", ["18", "$18.00", "so it is 36/2", "\\boxed{18\\text{ eggs}}"]),
        ("numeric", ["0.5", "1/2", "\\boxed{\\frac12}", "\\boxed{\\frac{1}{2}}"]),
        ("choice", ["B", "The answer is (B).", "\\boxed{B}"]),
        ("exact", ["Paris", " paris. ", "\\boxed{Paris}"]),
        ("math", ["\\boxed{\\frac{14}{3}}", "\\boxed{14/3}", "$\\frac{28}{6}$"]),
    ],
)
def test_equal_answers_have_one_spelling_for_the_vote(grader: str, texts: list[str]) -> None:
    assert len({graders.by_name(grader)(text, "2").answer for text in texts}) == 1


def test_no_answer_is_none() -> None:
    for name in ("numeric", "choice", "math", "exact"):
        assert graders.by_name(name)("", "1") == Grade(False, None)


def test_boxes_are_balanced() -> None:
    assert answers.last_boxed("\\boxed{a{b}c}") == "a{b}c"
    assert answers.last_boxed("\\boxed{\\{1\\}}") == "\\{1\\}"
    assert answers.last_boxed("\\boxed 5.") == "5"
    assert answers.last_boxed("\\boxed{1} \\boxed{2") == "1"
    assert answers.last_boxed("none") is None


def test_a_text_with_two_numbers_is_no_number() -> None:
    assert answers.number("3 dogs") == Fraction(3)
    assert answers.number("3 dogs, 4 cats") is None
    assert answers.number("none") is None


def test_mathematics_is_graded_on_any_thread() -> None:
    found: list[Grade] = []
    thread = threading.Thread(target=lambda: found.append(graders.math("\\boxed{1/2}", "0.5")))
    thread.start()
    thread.join()
    assert found[0].is_right


def own(text: str, expected: str) -> bool:
    return expected in text


def odd(text: str, expected: str) -> str:
    return "yes"


def test_a_grader_of_ones_own() -> None:
    assert graders.by_name(f"{__name__}:own")("a b", "b") == Grade(True, "a b")
    with pytest.raises(ConfigurationError, match="has to answer True, False"):
        graders.by_name(f"{__name__}:odd")("a", "b")
    with pytest.raises(ConfigurationError, match=r"cannot import 'no\.module:x'"):
        graders.by_name("no.module:x")
    with pytest.raises(ConfigurationError, match="Known: exact, numeric"):
        graders.by_name("nearly")
    with pytest.raises(ConfigurationError, match="is no number"):
        graders.numeric("1", "one")
    with pytest.raises(ConfigurationError, match="no expression"):
        graders.pattern("1", "(")
