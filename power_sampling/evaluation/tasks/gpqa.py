"""GPQA: four choices, written by experts to be hard to look up. The file is `gpqa_diamond.csv` of idavidrein/gpqa (its
archive is protected by a password that stands in its README, so that no crawler reads it)."""

from __future__ import annotations

import csv
import io
import random
from pathlib import Path

from power_sampling.errors import ConfigurationError
from power_sampling.evaluation import graders
from power_sampling.evaluation.graders import Grade
from power_sampling.evaluation.tasks.base import Question, Task, letters, multiple_choice, read_text, user_turn

__all__ = ["gpqa"]

WHERE = "get dataset.zip from github.com/idavidrein/gpqa, unpack gpqa_diamond.csv, and give it as --data."
COLUMNS = ("Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3")


def gpqa(path: Path) -> Task:
    """The questions of a table with the columns of the published files. The right answer stands first there; here each
    question's choices have an order of their own, always the same."""
    questions = []
    for i, row in enumerate(_rows(path)):
        asked, right, *wrong = (str(row[name]).strip() for name in COLUMNS)
        name = row.get("Record ID") or str(i)
        choices = [right, *wrong]
        random.Random(f"gpqa/{name}").shuffle(choices)  # noqa: S311 - an order, no secret
        text = multiple_choice(asked, choices)
        answer = letters(len(choices))[choices.index(right)]
        questions.append(Question(f"gpqa/{name}", user_turn(text), text, answer, row))
    return Task(
        name="gpqa", source=path, questions=tuple(questions), grade=_grade, max_new_tokens=1024, parser="choice"
    )


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        rows = list(csv.DictReader(io.StringIO(read_text(path, where=WHERE), newline="")))
    except csv.Error as error:
        raise ConfigurationError(f"{str(path)!r} is no table of comma-separated values: {error}.") from error
    if not rows or any(not row.get(name) for row in rows for name in COLUMNS):
        found = sorted(name for name in rows[0] if isinstance(name, str)) if rows else []
        raise ConfigurationError(f"{str(path)!r}: expected filled columns {list(COLUMNS)}, got {found!s:.200}.")
    return rows


def _grade(question: Question, text: str) -> Grade:
    return graders.choice(text, question.expected)
