"""Any expression, grammar or choices: a right answer or a typed error, and the next request is answered."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from power_sampling import PowerSampler, PowerSamplingError
from tests.support.tiny import tiny_model, tiny_tokenizer

SAMPLER = PowerSampler.from_model(
    tiny_model(layers=1), tiny_tokenizer(), sampler="ancestral", max_new_tokens=4, seed=1, timeout=20.0
)
EXPECTED = SAMPLER.complete("known").text
EXPRESSIONS = st.lists(st.sampled_from([*"ab.*+?|()[]{}^$\\,-19", r"\d", "(?i)", "(?=", "{2,}", "é"]), max_size=9)
RULES = [
    "start: ",
    "start",
    "a: ",
    '"x"',
    "/[ab]/",
    " | ",
    "(",
    ")",
    "*",
    "+",
    "a",
    "\n",
    "%json {}",
    "<|user|>",
    "{2}",
]
CONSTRAINTS = st.one_of(
    st.builds(lambda parts: {"regex": "".join(parts)}, EXPRESSIONS),
    st.builds(lambda parts: {"grammar": "start: " + " ".join(parts)}, st.lists(st.sampled_from(RULES), max_size=8)),
    st.builds(lambda texts: {"choices": texts}, st.lists(st.text(max_size=5), max_size=4)),
)


@pytest.mark.parametrize("count", [60, pytest.param(2000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_any_constraint_is_obeyed_or_refused(count: int) -> None:
    @settings(
        max_examples=count, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(CONSTRAINTS)
    def check(constraint: dict[str, Any]) -> None:
        try:
            text = SAMPLER.complete("a", **constraint).text
        except PowerSamplingError as error:
            assert len(str(error)) < 4000
        else:
            assert "choices" not in constraint or text in constraint["choices"]
            assert constraint.get("regex") != "a*" or re.fullmatch("a*", text)
        assert SAMPLER.complete("known").text == EXPECTED

    check()
