"""The skeleton of a task runs as it stands, and the command's help names every task. Copy this file too."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from power_sampling import ConfigurationError
from power_sampling.cli.evaluating import TASK_HELP
from power_sampling.evaluation.tasks import TASKS
from tests.support.skeletons import skeleton

your_task: Any = skeleton("task_skeleton").your_task
ROW = {"passage": "Köln lies on the Rhine.", "question": "does Köln lie on a river", "answer": True}


def written(path: Path, *rows: object) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def test_it_asks_and_grades(tmp_path: Path) -> None:
    task = your_task(written(tmp_path / "a.jsonl", ROW, {**ROW, "answer": False}))
    first, second = task.questions
    assert (first.expected, second.expected, first.id) == ("yes", "no", "your_task/0")
    assert "Rhine" in first.text and first.text in f"{first.chat[0]['content']}\nAnswer:"
    assert task.grade(first, "Yes, it does.") == (True, "yes", "")
    assert task.grade(second, "YES") == (False, "yes", "")
    assert task.grade(first, "Who knows?").answer is None  # no vote


def test_what_is_no_file_of_it_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"no file .* Nothing is downloaded by itself: .*--data"):
        your_task(tmp_path / "missing.jsonl")
    with pytest.raises(ConfigurationError, match="row 1: expected a field 'passage'"):
        your_task(written(tmp_path / "b.jsonl", {"answer": True}))
    with pytest.raises(ConfigurationError, match="row 2: expected true or false"):
        your_task(written(tmp_path / "c.jsonl", ROW, {**ROW, "answer": 3}))


def test_the_help_of_the_command_names_every_task() -> None:
    assert set(TASK_HELP.replace(" or ", ", ").rstrip(".").split(", ")) == set(TASKS)
