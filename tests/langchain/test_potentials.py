"""Potentials through LangChain: the law of what a chain answers, runnables as potentials, settings that hold them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from langchain_core.runnables import RunnableLambda

from langchain_power_sampling import ChatPowerSampling, PowerSamplingLLM
from langchain_power_sampling.potentials import runnable_potential
from power_sampling import Potential, PotentialError
from tests.support.law import ALPHA, HORIZON, TABLE, assert_law, exact_law, table_tokenizer

DRAWS = 100


def taste(texts: list[str]) -> list[float]:
    """Likes the letter c, and no text that begins with b."""
    return [-math.inf if text.startswith("b") else 2.0 * text.count("c") for text in texts]


def judged(sampler: dict[str, Any], *potentials: Any) -> Any:
    return ChatPowerSampling.from_model(
        TABLE, table_tokenizer(), sampler=sampler, alpha=ALPHA, max_new_tokens=HORIZON, potentials=potentials
    )


def test_the_law_is_that_of_the_potential() -> None:
    """After 32 moves the law is 0.0013 off in total variation and a chain that began where it is forbidden is still
    there with probability 6e-8, both by powers of the transition matrix; false alarms below 2e-5 (`assert_law`)."""
    moves = {"name": "metropolis_hastings", "block_size": HORIZON, "num_steps": 32, "prefetch": 0}
    chat = judged(moves, runnable_potential(RunnableLambda(lambda text: taste([text])[0])))
    texts = [str(m.content) for m in chat.batch(["a"] * DRAWS, {"max_concurrency": 50})]
    assert_law(texts, exact_law(ALPHA, taste))
    with pytest.raises(AssertionError):  # the test can tell the two laws apart
        assert_law(texts, exact_law(ALPHA))


def test_faults_reach_the_call_and_settings_can_be_written() -> None:
    def wrong(text: str) -> str:
        return "well done"

    chat = judged({"name": "metropolis_hastings", "num_steps": 1}, runnable_potential(RunnableLambda(wrong)))
    with pytest.raises(PotentialError, match=r"runnable_potential\(wrong\) .*raised ValueError: could not convert"):
        chat.invoke("a")
    llm = PowerSamplingLLM(model="embedded", potentials=[Potential(taste, kind="prefix")])
    again = PowerSamplingLLM.from_config(llm.to_config())
    assert again.potentials == llm.potentials == (Potential(taste, kind="prefix"),)
