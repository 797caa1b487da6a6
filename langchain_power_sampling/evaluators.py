"""The graders of `power_sampling.evaluation` as LangChain's evaluators.

from langsmith import evaluate
evaluate(chain.invoke, data=examples, evaluators=[grading("numeric")])
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from power_sampling import ConfigurationError
from power_sampling.evaluation import answer_text, load_grader

__all__ = ["grading"]


def grading(
    grader: str = "exact", *, output_key: str | None = None, reference_key: str | None = None
) -> Callable[..., dict[str, Any]]:
    """An evaluator as LangSmith's `evaluate` and openevals take them: (outputs, reference_outputs) -> key, score,
    comment.

    `grader`: exact, numeric, regex, choice, math, json, or module:function of your own. The keys name the answer in
    `outputs` and the expected one in `reference_outputs`; without them `outputs` is searched as `answer_text` says, and
    `reference_outputs` has one value. Raises ConfigurationError where there is no expected answer.
    """
    grade_text = load_grader(grader)

    def evaluate(*, outputs: Any, reference_outputs: Any = None, **_: Any) -> dict[str, Any]:
        given = outputs if output_key is None else _value("outputs", outputs, output_key)
        grade = grade_text(answer_text(given), str(_value("reference_outputs", reference_outputs, reference_key)))
        return {"key": grader, "score": grade.is_right, "value": grade.answer, "comment": grade.note}

    evaluate.__name__ = f"graded_by_{grader.partition(':')[2] or grader}"
    return evaluate


def _value(what: str, held: Any, key: str | None) -> Any:
    if isinstance(held, Mapping):
        if key is None and len(held) == 1:
            return next(iter(held.values()))
        if key is not None and key in held:
            return held[key]
        raise ConfigurationError(
            f"{what}: expected {'one value' if key is None else repr(key)}, got {sorted(held)}; name its key."
        )
    if held is None or key is not None:
        raise ConfigurationError(f"{what}: expected {'an answer' if key is None else repr(key)}, got {held!r:.80}.")
    return held
