"""GSM8K: word problems with a whole number as answer. The file is `test.jsonl` of openai/grade-school-math (MIT)."""

from __future__ import annotations

from pathlib import Path

from power_sampling.errors import ConfigurationError
from power_sampling.evaluation import graders
from power_sampling.evaluation.graders import Grade
from power_sampling.evaluation.tasks.base import Question, Task, field, read_rows, user_turn
from power_sampling.text.answers import after

__all__ = ["gsm8k"]

WHERE = "get grade_school_math/data/test.jsonl from github.com/openai/grade-school-math and give it as --data."
ASK = "Solve this step by step, and put the final number into \\boxed{{}}.\n\n{question}"
COMPLETE = "Question: {question}\nSolve this step by step, and put the final number into \\boxed{{}}.\nAnswer:"


def gsm8k(path: Path) -> Task:
    """The questions of a file with `question` and `answer`, whose last line is `#### N`."""
    questions = []
    for i, row in enumerate(read_rows(path, where=WHERE)):
        question, solution = field(row, "question", path, i), field(row, "answer", path, i)
        answer = after("####", solution)
        if answer is None:
            raise ConfigurationError(f"{str(path)!r}, row {i + 1}: the answer has no line '#### N': {solution!r:.80}.")
        chat, text = user_turn(ASK.format(question=question)), COMPLETE.format(question=question)
        questions.append(Question(f"gsm8k/{i}", chat, text, answer, row))
    return Task(
        name="gsm8k", source=path, questions=tuple(questions), grade=_grade, stop=("\nQuestion:",), parser="numeric"
    )


def _grade(question: Question, text: str) -> Grade:
    said = after("####", text)  # the file's own way, which base models know
    return graders.numeric(text if said is None else said, question.expected)
