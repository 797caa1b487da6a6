"""Potentials through LlamaIndex: the law of what is answered, and evaluators as potentials."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest
from llama_index.core.evaluation import BaseEvaluator, EvaluationResult

from llamaindex_power_sampling import PowerSamplingLLM
from llamaindex_power_sampling.evaluators import GradingEvaluator
from llamaindex_power_sampling.potentials import evaluator_potential
from power_sampling import Potential, PotentialError
from tests.support.law import ALPHA, HORIZON, TABLE, assert_law, exact_law, table_tokenizer

DRAWS, STRENGTH = 100, 2.0


class Letters(BaseEvaluator):
    """How many letters of a response are those of the reference."""

    def _get_prompts(self) -> Any:
        return {}

    def _update_prompts(self, prompts_dict: Any) -> None: ...

    async def aevaluate(self, query: Any = None, response: Any = None, contexts: Any = None, **given: Any) -> Any:
        await asyncio.sleep(0)
        if given["reference"] == "none":
            return EvaluationResult(invalid_reason="no answer")
        return EvaluationResult(score=float(sum(response.count(letter) for letter in given["reference"])))


def log_phi(texts: list[str]) -> list[float]:
    return [STRENGTH * text.count("c") for text in texts]


def judged(*potentials: Any, **sampler: Any) -> PowerSamplingLLM:
    return PowerSamplingLLM.from_model(
        TABLE,
        table_tokenizer(),
        sampler={"name": "particle_gibbs", "block_size": 1, **sampler},
        alpha=ALPHA,
        max_new_tokens=HORIZON,
        potentials=potentials,
    )


async def test_the_law_is_that_of_the_potential() -> None:
    llm = judged(
        evaluator_potential(Letters(), reference="c", strength=STRENGTH, kind="prefix"), num_particles=8, num_steps=6
    )
    texts = [r.text for r in await asyncio.gather(*[llm.acomplete("a", formatted=True) for _ in range(DRAWS)])]
    assert_law(texts, exact_law(ALPHA, log_phi))
    with pytest.raises(AssertionError):  # the test can tell the two laws apart
        assert_law(texts, exact_law(ALPHA))


def test_faults_reach_the_call_and_a_verdict_is_a_score() -> None:
    with pytest.raises(PotentialError, match=r"evaluator_potential\(Letters\) .*raised ValueError: .* no answer"):
        judged(evaluator_potential(Letters(), reference="none")).complete("a")
    right = evaluator_potential(GradingEvaluator("exact"), reference="c", strength=9.0)
    assert asyncio.run(right.function(["c", "a"])) == [9.0, 0.0]
    llm = PowerSamplingLLM(model="embedded", potentials=[Potential(log_phi)])
    assert pickle.loads(pickle.dumps(llm)).potentials == (Potential(log_phi),)
