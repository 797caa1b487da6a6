"""NAME: what is asked, and how it is answered. The file is `dev.jsonl` of its-repository.

A skeleton to copy to `power_sampling/evaluation/tasks/your_task.py`; CONTRIBUTING.md has the checklist. It runs, and is
tested. As it stands: questions that are answered by yes or no.
"""

from __future__ import annotations

import re
from pathlib import Path

from power_sampling.errors import ConfigurationError
from power_sampling.evaluation.graders import Grade
from power_sampling.evaluation.tasks.base import Question, Task, field, read_rows, user_turn

__all__ = ["your_task"]

# nothing is downloaded by itself: the error says where the file is to be had, and that it is given as --data
WHERE = "get dev.jsonl from its-repository and give it as --data."


def your_task(path: Path) -> Task:
    """The questions of a file with a passage, a question and an answer (true or false) in every row."""
    questions = []
    for i, row in enumerate(read_rows(path, where=WHERE)):
        text = f"{field(row, 'passage', path, i)}\n\n{field(row, 'question', path, i)}? Answer yes or no."
        answer = field(row, "answer", path, i)  # what is no text comes as JSON
        if answer not in ("true", "false"):
            raise ConfigurationError(f"{str(path)!r}, row {i + 1}: expected true or false as answer, got {answer}.")
        # The id is the question's name in the log and never changes. A chat model is asked by a conversation, a base
        # model by a text to go on with.
        expected = "yes" if answer == "true" else "no"
        questions.append(Question(f"your_task/{i}", user_turn(text), f"{text}\nAnswer:", expected, row))
    return Task(
        name="your_task",
        source=path,
        questions=tuple(questions),
        grade=_grade,
        stop=("\n",),  # where a base model's answer ends
        max_new_tokens=16,
    )


def _grade(question: Question, text: str) -> Grade:
    """`graders` has the usual ones. The answer comes in one spelling, so that equal ones can be counted in a vote."""
    found = re.search(r"\b(yes|no)\b", text, re.IGNORECASE)
    answer = found[1].lower() if found else None
    return Grade(answer == question.expected, answer)
