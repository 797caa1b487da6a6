"""The graders of `power_sampling.evaluation` as a LlamaIndex evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llama_index.core.evaluation import BaseEvaluator, EvaluationResult
from llama_index.core.prompts.mixin import PromptDictType

from power_sampling import ConfigurationError
from power_sampling.evaluation import load_grader

__all__ = ["GradingEvaluator"]


class GradingEvaluator(BaseEvaluator):
    """Whether a response has the expected answer (`reference`), by one of the graders; no model is asked.

    `grader`: exact, numeric, regex, choice, math, json, or module:function of your own. Passes with score 1 or 0;
    `feedback` says what was read as the answer. Raises ConfigurationError without a reference.
    """

    def __init__(self, grader: str = "exact") -> None:
        self._grade = load_grader(grader)

    def _get_prompts(self) -> PromptDictType:
        return {}

    def _update_prompts(self, prompts_dict: PromptDictType) -> None:
        """There are none."""

    async def aevaluate(
        self,
        query: str | None = None,
        response: str | None = None,
        contexts: Sequence[str] | None = None,
        reference: str | None = None,
        **kwargs: Any,
    ) -> EvaluationResult:
        if reference is None or response is None:
            raise ConfigurationError("GradingEvaluator compares a response with a reference; give both.")
        grade = self._grade(response, reference)
        read = f"The answer was read as {grade.answer!r}." if grade.answer is not None else "No answer was found."
        return EvaluationResult(
            query=query,
            response=response,
            contexts=contexts,
            passing=grade.is_right,
            score=float(grade.is_right),
            feedback=" ".join(filter(None, [read, grade.note])),
        )
