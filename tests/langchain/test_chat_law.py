"""The law of what ChatPowerSampling answers, by every way of asking: p(x)^alpha on a model that is enumerated."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from langchain_power_sampling import ChatPowerSampling
from tests.support import calling
from tests.support.chat import merged
from tests.support.law import (
    ALPHA,
    HORIZON,
    LAST_LETTER,
    TABLE,
    assert_law,
    exact_law,
    law_of_a_vote_of_two,
    table_tokenizer,
)

DRAWS, ONE_BY_ONE = 200, 120


@pytest.fixture(scope="module")
def enumerable() -> ChatPowerSampling:
    sampler = {"name": "metropolis_hastings", "block_size": HORIZON, "num_steps": 12, "prefetch": 0}
    return ChatPowerSampling.from_model(TABLE, table_tokenizer(), sampler=sampler, alpha=ALPHA, max_new_tokens=HORIZON)


async def test_every_way_of_asking_has_the_law(enumerable: ChatPowerSampling) -> None:
    chat, law = enumerable, exact_law(ALPHA)
    assert sum(law.values()) == pytest.approx(1)
    assert_law([str(chat.invoke("a").content) for _ in range(ONE_BY_ONE)], law)
    assert_law([str(merged(list(cast("Any", chat.stream("a")))).content) for _ in range(ONE_BY_ONE)], law)
    assert_law(drawn(chat), law)
    assert_law([str(m.content) for m in await asyncio.gather(*[chat.ainvoke("a") for _ in range(DRAWS)])], law)


def drawn(chat: Any, number: int = DRAWS) -> list[str]:
    return [str(m.content) for m in chat.batch(["a"] * number, {"max_concurrency": 16})]


def test_alpha_one_is_plain_sampling(enumerable: ChatPowerSampling) -> None:
    plain = enumerable.bind(sampler="ancestral")
    for one in (plain, enumerable.bind(alpha=1.0)):
        assert_law(drawn(one), exact_law(1.0))
    with pytest.raises(AssertionError):  # the tests can tell the two laws apart
        assert_law(drawn(plain, ONE_BY_ONE), exact_law(ALPHA))


def test_a_vote_has_the_law_of_the_vote() -> None:
    """By settings alone; false alarms below 1e-4 (`assert_law`)."""
    settings: Any = {"sampler": {"name": "marginal", "num_completions": 2, "parser": LAST_LETTER}, "alpha": ALPHA}
    chat = ChatPowerSampling.from_model(TABLE, table_tokenizer(), max_new_tokens=HORIZON, **settings)
    assert_law(drawn(chat), law_of_a_vote_of_two())
    *_, last = chat.stream("a")
    told = chat.invoke("a").response_metadata["power_sampling"]
    assert last.response_metadata["power_sampling"]["exactness"] == told["exactness"] == "approximate"
    assert sum(votes for _, _, votes in told["answers"]) in (1, 2)


def test_what_a_curve_chooses_has_the_law_of_the_power_it_tells() -> None:
    """By settings alone: any curve is near enough, so plain sampling is chosen; false alarms below 1e-4."""
    moves: Any = {"name": "parallel_tempering", "num_rungs": 2, "num_steps": 8, "block_size": HORIZON}
    chat = ChatPowerSampling.from_model(
        TABLE, table_tokenizer(), max_new_tokens=HORIZON, alpha=ALPHA, sampler={**moves, "curve_tolerance": 1e6}
    )
    said = chat.batch(["a"] * ONE_BY_ONE, {"max_concurrency": 16})
    assert_law([str(m.content) for m in said], exact_law(1.0))
    told = [m.response_metadata["power_sampling"] for m in said]
    assert {(each["alpha"], each["exactness"]) for each in told} == {(1.0, "approximate")}


def answers(case: dict[str, Any], **bound: Any) -> list[calling.Answer]:
    chat = ChatPowerSampling.from_model(*calling.calling_model(case["seed"]), **calling.settings_of(case))
    said = chat.bind_tools(calling.TOOLS, **bound).batch([calling.PROMPT] * calling.DRAWS, {"max_concurrency": 32})
    read = [(str(m.content), [(c["name"], c["args"]) for c in m.tool_calls], len(m.invalid_tool_calls)) for m in said]
    return [calling.answer_of(*one) for one in read]


def test_the_law_of_what_may_call_tools_is_p_to_the_alpha() -> None:
    """On all replies where the model decides, on the valid calls where one is forced; false alarms below 1e-6 each."""
    calling.assert_tv(answers(calling.FREE), calling.free_law())
    calling.assert_tv(answers(calling.FORCED, tool_choice="any"), calling.forced_law())
    for sampler in ("ancestral", "low_temperature"):  # the tests can tell the laws apart
        with pytest.raises(AssertionError):
            calling.assert_tv(answers(calling.FORCED, tool_choice="any", sampler=sampler), calling.forced_law())
