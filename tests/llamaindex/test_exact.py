"""The law of what LlamaIndex is answered, by every way of asking: p(x)^alpha on a model small enough to enumerate.

Each way draws N times, or ONE_BY_ONE times where it answers one call after the other, and compares every completion's
frequency with its probability by the binomial law's own tails, since some completions are rare. The model has 13 of
them: a right implementation fails one comparison with probability below 6e-7, any of the 8 * 13 with one below 7e-5.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llamaindex_power_sampling import PowerSamplingLLM
from power_sampling.testing import TableLM, completions, power_law
from power_sampling.types import Law, Termination
from tests.support import calling
from tests.support.law import ALPHA as ALPHA_OF_TABLE
from tests.support.law import HORIZON as HORIZON_OF_TABLE
from tests.support.law import LAST_LETTER, TABLE, assert_law, exact_law, law_of_a_vote_of_two, table_tokenizer

WORDS = ["a", "b", "c", "<eos>"]
HORIZON, ALPHA = 2, 2.5
N, ONE_BY_ONE = 192, 120
ONE_SIDED = 3e-7
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def words() -> PreTrainedTokenizerFast:
    """One token a word; a completion's text tells its tokens."""
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="a"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")
    fast.chat_template = TEMPLATE
    return fast


class Enumerable(TableLM):
    """Of the first 200 tables one whose p^alpha is 0.4 away from p and from low temperature, in total variation."""

    config = None

    def __init__(self) -> None:
        super().__init__(len(WORDS), seed=179, spread=1.0)


@pytest.fixture(scope="module")
def law() -> dict[str, float]:
    """Probability of every text under p^alpha."""
    lm, ending = Enumerable(), Termination(frozenset([3]))
    chains = completions(lm, (0,), ending, HORIZON, Law(1.0, 1.0, 1.0))
    assert len(chains) == 13
    found: dict[str, float] = {}
    for chain, probability in zip(chains, power_law(chains, ALPHA), strict=True):
        text = " ".join(WORDS[t] for t in chain.tokens if t != 3) + "." * (3 in chain.tokens)
        found[text] = found.get(text, 0.0) + float(probability)
    return found


@pytest.fixture(scope="module")
def llm() -> PowerSamplingLLM:
    """Draws of a chain that has forgotten where it began."""
    sampler: Any = {"name": "metropolis_hastings", "block_size": 2, "num_steps": 16, "prefetch": 0}
    return PowerSamplingLLM.from_model(Enumerable(), words(), sampler=sampler, alpha=ALPHA, max_new_tokens=HORIZON)


def told(response: Any) -> str:
    """The text, and whether it ended by itself."""
    text = response.text if hasattr(response, "text") else response.message.content
    return str(text) + "." * (response.raw["finish_reason"] == "stop")


def user() -> list[ChatMessage]:
    return [ChatMessage("a")]


async def gathered(llm: PowerSamplingLLM, ask: Callable[[], Any], together: int) -> list[Any]:
    return [r for _ in range(N // together) for r in await asyncio.gather(*[ask() for _ in range(together)])]


async def last(opening: Any) -> Any:
    *_, response = [chunk async for chunk in await opening]
    return response


def tail(count: int, n: int, p: float) -> float:
    """The probability of a count that lies as far out on the same side."""
    binomial = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    return min(sum(binomial[count:]), sum(binomial[: count + 1]))


def check(responses: list[Any], law: dict[str, float]) -> None:
    counts, n = Counter(told(response) for response in responses), len(responses)
    assert set(counts) <= set(law)
    for text, p in law.items():
        assert tail(counts[text], n, p) > ONE_SIDED, f"{text!r}: {counts[text]}, expected {n * p:.1f}"
    distance = 0.5 * sum(abs(counts[text] / n - p) for text, p in law.items())
    assert distance < 0.5 * sum(5 * math.sqrt(p / n) for p in law.values())


async def test_the_law_is_p_to_the_alpha(llm: PowerSamplingLLM, law: dict[str, float]) -> None:
    check([llm.complete("a") for _ in range(ONE_BY_ONE)], law)
    check([llm.chat(user()) for _ in range(ONE_BY_ONE)], law)
    check([list(llm.stream_complete("a"))[-1] for _ in range(ONE_BY_ONE)], law)
    check([list(llm.stream_chat(user()))[-1] for _ in range(ONE_BY_ONE)], law)


async def test_the_law_of_async_and_gathered_calls(llm: PowerSamplingLLM, law: dict[str, float]) -> None:
    check([await llm.acomplete("a") for _ in range(ONE_BY_ONE)], law)
    check(await gathered(llm, lambda: llm.acomplete("a"), 32), law)
    check(await gathered(llm, lambda: llm.achat(user()), 32), law)
    check(await gathered(llm, lambda: last(llm.astream_chat(user())), 32), law)


async def test_alpha_1_is_plain_sampling(llm: PowerSamplingLLM) -> None:
    lm, ending = Enumerable(), Termination(frozenset([3]))
    chains = completions(lm, (0,), ending, HORIZON, Law(1.0, 1.0, 1.0))
    plain: dict[str, float] = {}
    for chain, probability in zip(chains, power_law(chains, 1.0), strict=True):
        text = " ".join(WORDS[t] for t in chain.tokens if t != 3) + "." * (3 in chain.tokens)
        plain[text] = plain.get(text, 0.0) + float(probability)
    check(await gathered(llm, lambda: llm.acomplete("a", sampler="ancestral"), 32), plain)


def test_the_check_tells_the_laws_apart(llm: PowerSamplingLLM, law: dict[str, float]) -> None:
    """Had the power no effect, or were it a temperature, the check would fail."""
    for sampler in ("ancestral", "low_temperature"):
        with pytest.raises(AssertionError, match="expected"):
            check([llm.complete("a", sampler=sampler) for _ in range(ONE_BY_ONE)], law)
    assert np.isclose(sum(law.values()), 1.0)


def test_a_vote_has_the_law_of_the_vote() -> None:
    """By settings alone; false alarms below 1e-4 (`assert_law`). The settings can be written, parser included."""
    settings: Any = {"sampler": {"name": "marginal", "num_completions": 2, "parser": LAST_LETTER}}
    llm = PowerSamplingLLM.from_model(
        TABLE, table_tokenizer(), max_new_tokens=HORIZON_OF_TABLE, alpha=ALPHA_OF_TABLE, **settings
    )
    assert_law([llm.complete("a").text for _ in range(ONE_BY_ONE)], law_of_a_vote_of_two())
    assert "".join(str(part.delta) for part in llm.stream_complete("a", seed=3)) == llm.complete("a", seed=3).text
    given = PowerSamplingLLM(sampler={"name": "marginal", "parser": told})
    assert PowerSamplingLLM.from_json(given.to_json()).sampler.parser == f"{__name__}:told"


async def test_what_a_curve_chooses_has_the_law_of_the_power_it_tells() -> None:
    """By settings alone: any curve is near enough, so plain sampling is chosen; false alarms below 1e-4."""
    moves: Any = {"name": "parallel_tempering", "num_rungs": 2, "num_steps": 8, "block_size": HORIZON_OF_TABLE}
    llm = PowerSamplingLLM.from_model(
        TABLE,
        table_tokenizer(),
        max_new_tokens=HORIZON_OF_TABLE,
        alpha=ALPHA_OF_TABLE,
        sampler={**moves, "curve_tolerance": 1e6},
    )
    said = await asyncio.gather(*[llm.acomplete("a", formatted=True) for _ in range(ONE_BY_ONE)])
    assert_law([each.text for each in said], exact_law(1.0))
    told = [(each.raw or {})["power_sampling"] for each in said]
    assert {(each["alpha"], each["exactness"]) for each in told} == {(1.0, "approximate")}


@pytest.mark.parametrize("is_forced", [False, True])
async def test_the_law_of_what_may_call_tools_is_p_to_the_alpha(is_forced: bool) -> None:
    """On all replies where the model decides, on the valid calls where one is forced; false alarms below 1e-6 each."""
    case, law = (calling.FORCED, calling.forced_law()) if is_forced else (calling.FREE, calling.free_law())
    llm = PowerSamplingLLM.from_model(*calling.calling_model(case["seed"]), **calling.settings_of(case))
    tools = [FunctionTool.from_defaults(tail, name=name, description="", fn_schema=Chosen) for name in "fg"]
    asked: Any = {"tools": tools, "user_msg": calling.PROMPT, "tool_required": is_forced}
    asked |= {} if is_forced else {"allow_parallel_tool_calls": True}  # one alone would be a constraint
    said = await asyncio.gather(*[llm.achat_with_tools(**asked) for _ in range(calling.DRAWS)])
    found = []
    for response in said:
        chosen = llm.get_tool_calls_from_response(response, error_on_no_tool_call=False)
        calls = [(one.tool_name, one.tool_kwargs) for one in chosen]
        found.append(calling.answer_of(response.message.content or "", calls, 0))
    calling.assert_tv(found, law)


class Chosen(BaseModel):
    """The arguments of both tools."""

    x: Literal[1, 2]
