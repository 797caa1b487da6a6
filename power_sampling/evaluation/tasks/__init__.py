"""The tasks, one file each. To add one, write such a file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from power_sampling.errors import ConfigurationError
from power_sampling.evaluation.tasks.alpaca import alpaca
from power_sampling.evaluation.tasks.base import Question, Task
from power_sampling.evaluation.tasks.gpqa import gpqa
from power_sampling.evaluation.tasks.gsm8k import gsm8k
from power_sampling.evaluation.tasks.humaneval import humaneval
from power_sampling.evaluation.tasks.jsonl import jsonl
from power_sampling.evaluation.tasks.math500 import math500
from power_sampling.settings import hint

__all__ = ["TASKS", "Question", "Task", "load_task"]

TASKS: Mapping[str, Callable[[Path], Task]] = {
    "alpaca": alpaca,
    "gpqa": gpqa,
    "gsm8k": gsm8k,
    "humaneval": humaneval,
    "jsonl": jsonl,
    "math500": math500,
}


def load_task(name: str, data: Path, *, grader: str | None = None, allow_code_execution: bool = False) -> Task:
    """A task by name over a local file. Raises ConfigurationError where the file is missing or of another form, and for
    a task that runs code without leave to do so."""
    if name not in TASKS:
        raise ConfigurationError(f"There is no task {name!r}.{hint(name, list(TASKS))}")
    if grader is not None and name != "jsonl":
        raise ConfigurationError(f"grader: {name} has a grader of its own; only jsonl takes one.")
    task = TASKS[name](data) if grader is None else jsonl(data, grader)
    if task.runs_code and not allow_code_execution:
        raise ConfigurationError(
            f"{name} runs code that the model has written, in a contained process (see docs/evaluation.md). Give "
            "--allow-code-execution (allow_code_execution=True) if you want that."
        )
    return task
