"""AlpacaEval: instructions whose answers another judge compares. The file is `alpaca_eval.json` of
tatsu-lab/alpaca_eval, or any list of objects with `instruction`."""

from __future__ import annotations

from pathlib import Path

from power_sampling.evaluation.graders import Grade
from power_sampling.evaluation.tasks.base import Question, Task, field, read_rows, user_turn

__all__ = ["alpaca"]

WHERE = "get alpaca_eval.json from the data set tatsu-lab/alpaca_eval and give it as --data."
COMPLETE = "Instruction: {instruction}\nAnswer:"


def alpaca(path: Path) -> Task:
    """The instructions of a file. They have no right answers: `evaluate` writes outputs for a judge."""
    questions = []
    for i, row in enumerate(read_rows(path, where=WHERE)):
        asked = field(row, "instruction", path, i)
        questions.append(Question(f"alpaca/{i}", user_turn(asked), COMPLETE.format(instruction=asked), "", row))
    return Task(
        name="alpaca",
        source=path,
        questions=tuple(questions),
        grade=_grade,
        is_votable=False,
        is_labelled=False,
        stop=("\nInstruction:",),
        max_new_tokens=1024,
    )


def _grade(question: Question, text: str) -> Grade:
    return Grade(False, None, "for another judge")
