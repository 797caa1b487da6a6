"""MATH500: 500 problems of the MATH dataset, answers compared as mathematics (`math-verify`)."""

from __future__ import annotations

from pathlib import Path

from power_sampling.evaluation import graders
from power_sampling.evaluation.graders import Grade
from power_sampling.evaluation.tasks.base import Question, Task, field, read_rows, user_turn

__all__ = ["math500"]

WHERE = "get the test split of github.com/openai/prm800k (prm800k/math_splits/test.jsonl) and give it as --data."
ASK = "Solve this problem step by step, and put the final answer into \\boxed{{}}.\n\n{problem}"
COMPLETE = "Problem: {problem}\nSolve it step by step, and put the final answer into \\boxed{{}}.\nSolution:"


def math500(path: Path) -> Task:
    """The questions of a file with `problem` (or `prompt`) and `answer`; `unique_id` or `id` names them."""
    questions = []
    for i, row in enumerate(read_rows(path, where=WHERE)):
        problem = field(row, "problem" if "problem" in row else "prompt", path, i)
        name = row.get("unique_id") or row.get("id") or i
        chat, text = user_turn(ASK.format(problem=problem)), COMPLETE.format(problem=problem)
        questions.append(Question(f"math500/{name}", chat, text, field(row, "answer", path, i), row))
    return Task(
        name="math500",
        source=path,
        questions=tuple(questions),
        grade=_grade,
        parser="math",
        stop=("\nProblem:",),
        max_new_tokens=1024,
    )


def _grade(question: Question, text: str) -> Grade:
    return graders.math(text, question.expected)
