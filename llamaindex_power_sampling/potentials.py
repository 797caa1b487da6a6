"""A LlamaIndex evaluator as a potential: a factor of the target from which completions are drawn.

evaluator = FaithfulnessEvaluator(llm=judge)
llm.complete(prompt, potentials=[evaluator_potential(evaluator, contexts=[note], strength=3.0)])
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Literal

from llama_index.core.evaluation import BaseEvaluator, EvaluationResult

from power_sampling import Potential

__all__ = ["evaluator_potential"]


def evaluator_potential(
    evaluator: BaseEvaluator,
    *,
    query: str | None = None,
    contexts: Sequence[str] | None = None,
    reference: str | None = None,
    strength: float = 1.0,
    kind: Literal["final", "prefix"] = "final",
) -> Potential:
    """The potential log phi(x) = strength * score(x), the score that of the evaluator for the completion as the
    response to `query`; where it has none, 1 for what passes and 0 for what does not. All texts that wait are evaluated
    side by side. `reference` goes to evaluators that take one."""
    further = {} if reference is None else {"reference": reference}

    async def judge(texts: list[str]) -> list[float]:
        asked = [evaluator.aevaluate(query=query, response=text, contexts=contexts, **further) for text in texts]
        return [strength * _score(result) for result in await asyncio.gather(*asked)]

    judge.__qualname__ = f"evaluator_potential({type(evaluator).__name__})"
    return Potential(judge, kind=kind)


def _score(result: EvaluationResult) -> float:
    if result.score is not None:
        return float(result.score)
    if result.passing is None:
        raise ValueError(f"the evaluator has neither a score nor a verdict: {result.invalid_reason or result.feedback}")
    return float(result.passing)
