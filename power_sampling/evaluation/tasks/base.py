"""What a task is: questions from a local file, how they are put to a model, how an answer is graded."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from power_sampling.errors import ConfigurationError, shortened
from power_sampling.evaluation.graders import Grade
from power_sampling.runtime import Prompt

__all__ = [
    "Question",
    "Row",
    "Task",
    "digest",
    "field",
    "letters",
    "multiple_choice",
    "read_rows",
    "read_text",
    "user_turn",
]

Row: TypeAlias = Mapping[str, Any]
EXPECTED = "Expected one JSON object on each line, or a JSON array of them."


@dataclass(frozen=True, slots=True)
class Question:
    """One question. `id` is its name in the log and never changes."""

    id: str
    chat: Prompt  # for a model with a chat template
    text: str  # for a base model
    expected: str
    row: Row  # as it stands in the file


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Questions and their grader. `grade` is given a question and the text of an answer."""

    name: str
    source: Path
    questions: tuple[Question, ...]
    grade: Callable[[Question, str], Grade]
    is_votable: bool = True
    """Whether equal answers can be told to be equal, so that a majority can be counted."""
    parser: str = "exact"
    """How the sampler `marginal` reads answers to be voted on, where its settings do not say it."""
    stop: tuple[str, ...] = ()
    """Where the answer of a base model ends; a chat model ends its turn by itself."""
    is_labelled: bool = True
    """Whether the right answers are known; else answers can be drawn, for another judge or for their agreement."""
    max_new_tokens: int = 512
    runs_code: bool = False


def read_text(path: Path, *, where: str) -> str:
    """What a file of UTF-8 says, with or without a byte order mark. `where` says where a missing file is to be had."""
    try:
        data = path.read_bytes()
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigurationError(
            f"{str(path)!r} is not UTF-8 (line {line}, at byte {error.start} of the file); convert it first."
        ) from error
    except OSError as error:
        raise ConfigurationError(
            f"There is no file {str(path)!r} ({error.strerror}). Nothing is downloaded by itself: {where}"
        ) from error


def read_rows(path: Path, *, where: str) -> list[Row]:
    """The objects of a JSON Lines file, or of a JSON array. `where` says where a missing file is to be had."""
    text = read_text(path, where=where)
    if text.lstrip().startswith("["):
        rows = {f"row {i}": row for i, row in enumerate(_json(text, path, 1), 1)}
    else:
        lines = {i: line for i, line in enumerate(re.split("\r\n?|\n", text), 1) if line.strip()}
        rows = {f"line {i}": _json(line, path, i) for i, line in lines.items()}
    for place, row in rows.items():
        if not isinstance(row, dict):
            raise ConfigurationError(f"{str(path)!r}, {place}: expected a JSON object, got {shortened(row)}.")
    if not rows:
        raise ConfigurationError(f"{str(path)!r} holds no rows. {EXPECTED}")
    return list(rows.values())


def _json(text: str, path: Path, line: int) -> Any:
    """The value of a text that begins in this line of the file."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        came = text.split("\n")[error.lineno - 1].strip()
        what = f"line {line + error.lineno - 1}, column {error.colno}: {error.msg} in {shortened(came)}"
        raise ConfigurationError(f"{str(path)!r}, {what}. {EXPECTED}") from error
    except (ValueError, RecursionError) as error:  # numbers of too many digits, too many brackets
        raise ConfigurationError(f"{str(path)!r}, line {line}: {error}. {EXPECTED}") from error


def field(row: Row, name: str, path: Path, i: int) -> str:
    """A field of the i-th row that has to be there."""
    if name not in row:
        raise ConfigurationError(f"{str(path)!r}, row {i + 1}: expected a field {name!r}, got {sorted(row)}.")
    return row[name] if isinstance(row[name], str) else json.dumps(row[name])


def multiple_choice(question: str, choices: Sequence[str]) -> str:
    """A question with its choices as letters, and how to answer it."""
    shown = "\n".join(f"({letter}) {text}" for letter, text in zip(letters(len(choices)), choices, strict=True))
    return f"{question}\n\n{shown}\n\nThink it over, then end with: The answer is (letter)."


def letters(number: int) -> list[str]:
    """A, B, C, ..."""
    return [chr(ord("A") + k) for k in range(number)]


def user_turn(text: str) -> Prompt:
    """A conversation of one message."""
    return [{"role": "user", "content": text}]


def digest(path: Path) -> str:
    """What a log keeps of a file, so that another file is not taken for the same."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
