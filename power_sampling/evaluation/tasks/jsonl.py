"""Questions of your own: a JSON Lines file and a grader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from power_sampling.errors import ConfigurationError, shortened
from power_sampling.evaluation.graders import GRADERS, Grade, by_name
from power_sampling.evaluation.tasks.base import (
    Question,
    Row,
    Task,
    field,
    letters,
    multiple_choice,
    read_rows,
    user_turn,
)
from power_sampling.text.parsers import PARSERS

__all__ = ["jsonl"]

WHERE = 'write one JSON object per line: {"question": "...", "answer": "..."} and give the file as --data.'
ANY = {"numeric": "0", "choice": "A", "math": "0"}  # stands for an answer that is not known, so that others are read


def jsonl(path: Path, grader: str = "exact") -> Task:
    """The questions of a file with `answer` and one of `question` (text) or `messages` (a conversation).

    `choices` (a list) are shown with letters; the answer is then a letter, or the number of a choice from 0. `id` names
    a question, else its line does. `grader` is one of `graders.GRADERS` or `module:function`. The whole text is graded.
    Where no row has an `answer`, the questions are unlabelled, and the grader only reads what was answered.
    """
    grade_text = by_name(grader)
    rows = read_rows(path, where=WHERE)
    is_labelled = any("answer" in row for row in rows)
    if not is_labelled:
        rows = [{**row, "answer": ANY.get(grader, "")} for row in rows]
    questions = [_question(row, path, i) for i, row in enumerate(rows)]
    names = [question.id for question in questions]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigurationError(f"{str(path)!r}: the id {twice[0]!r} stands twice; give every question its own.")

    def grade(question: Question, text: str) -> Grade:
        return grade_text(text, question.expected)

    return Task(
        name=f"jsonl ({path.name}, {grader})",
        source=path,
        questions=tuple(questions),
        grade=grade,
        is_votable=grader in GRADERS and grader != "regex",
        parser=grader if grader in PARSERS else "exact",
        is_labelled=is_labelled,
    )


def _question(row: Row, path: Path, i: int) -> Question:
    name, answer = str(row.get("id", f"line {i + 1}")), field(row, "answer", path, i)
    if "messages" in row:
        messages: Any = row["messages"]
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise ConfigurationError(
                f"{str(path)!r}, row {i + 1}: messages has to be a list of objects, got {shortened(messages)}."
            )
        text = "\n\n".join(str(message.get("content", "")) for message in messages)
        return Question(name, messages, text, answer, row)
    asked = field(row, "question", path, i)
    if choices := row.get("choices"):
        if not isinstance(choices, list):
            raise ConfigurationError(f"{str(path)!r}, row {i + 1}: choices has to be a list, got {shortened(choices)}.")
        known = letters(len(choices))
        place = row["answer"]
        answer = known[place] if isinstance(place, int) and 0 <= place < len(known) else answer
        if answer not in known:
            raise ConfigurationError(f"{str(path)!r}, row {i + 1}: the answer {answer!r:.80} is none of {known}.")
        asked = multiple_choice(asked, choices)
    return Question(name, user_turn(asked), asked, answer, row)
