"""Whole programs compared: a chain, an agent or a query engine under one setting and another, on the same questions.

    table = run_programs(task, {"plain": plain.invoke, "power": power.invoke}, Path("results"))
    print(*verdict(table), sep="\\n")

A program is any callable from a question's text to an answer. It is taken as it is: what it draws, how often and with
which tools is its own matter, and its cost is what all its completions decoded together.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from power_sampling.config import GenerationConfig
from power_sampling.errors import ConfigurationError, PowerSamplingError, shortened
from power_sampling.evaluation.log import Answer, Key, Log
from power_sampling.evaluation.methods import Method
from power_sampling.evaluation.plan import make_plan
from power_sampling.evaluation.runs import Listener
from power_sampling.evaluation.table import Table, table_of
from power_sampling.evaluation.tasks import Question, Task
from power_sampling.evaluation.tasks.base import digest
from power_sampling.metering import metered

__all__ = ["Program", "answer_text", "run_programs"]

Program = Callable[[str], Any]
TEXTS = ("content", "response", "text", "output", "answer", "result")  # where frameworks' answers have their text


def run_programs(
    task: Task,
    programs: Mapping[str, Program],
    folder: Path,
    *,
    questions: int | None = None,
    samples: int = 1,
    in_flight: int = 8,
    listener: Listener | None = None,
) -> Table:
    """The answers of every program to the same questions, graded; a log in `folder`, which a later start goes on with.
    What a program does cannot be compared with what it did then: give one that has changed another name or folder.

    Programs may be coroutine functions; others run in threads, `in_flight` at once, so that their requests share the
    engine's batch. They are called `samples` times a question; draw with a seed of None if these are to differ. An
    error of this project counts as a wrong answer and is told in the table; any other one ends the run.
    """
    if not programs or not all(callable(program) for program in programs.values()):
        raise ConfigurationError(f"programs: expected names and callables, at least one, got {shortened(programs)}.")
    methods = tuple(Method(name, GenerationConfig()) for name in programs)
    plan = make_plan(task, methods, (), questions=questions, samples=samples)
    with Log(folder, {"task": task.name, "data_sha256": digest(task.source)}, {m.label: {} for m in methods}) as log:
        log.begin({"programs": list(programs), "questions": len(plan.questions), "samples": samples})
        units = list(plan.keys())
        missing = [(key, question) for key, question, _ in units if key not in log.answers]

        async def every() -> None:
            gate = asyncio.Semaphore(in_flight)

            async def one(key: Key, question: Question) -> None:
                async with gate:
                    log.add(await _answered(task, programs[key.method], key, question))
                if listener:
                    listener(len(log.answers), len(units), sum(a.tokens_decoded for a in log.answers.values()))

            async with asyncio.TaskGroup() as group:
                for key, question in missing:
                    group.create_task(one(key, question))

        try:
            asyncio.run(every())
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None  # one program's, not a group of all that were under way
        return table_of(plan, log.answers, task.name)


async def _answered(task: Task, program: Program, key: Key, question: Question) -> Answer:
    started = time.monotonic()
    given: Any = ""
    error: str | None = None
    with metered() as cost:
        try:
            if inspect.iscoroutinefunction(program):
                given = await program(_asked(question))
            else:
                given = await asyncio.to_thread(program, _asked(question))
        except PowerSamplingError as fault:
            error = f"{type(fault).__name__}: {fault}"
    text = answer_text(given)
    grade = task.grade(question, text) if error is None else None
    return Answer(
        **key._asdict(),
        text=text,
        answer=grade.answer if grade else None,
        is_right=bool(grade and grade.is_right),
        note=grade.note if grade else "",
        error=error,
        tokens_decoded=cost.tokens_decoded,
        tokens_prefilled=cost.tokens_prefilled,
        serial_steps=cost.serial_steps,
        seconds=time.monotonic() - started,
    )


def _asked(question: Question) -> str:
    """The question as a person would put it."""
    if isinstance(question.chat, str):
        return question.chat
    messages: Any = question.chat
    return str(messages[-1]["content"])


def answer_text(given: Any) -> str:
    """The text of an answer in any framework's form: a text itself, the last of several messages, or what stands in
    `content`, `response`, `text`, `output`, `answer` or `result`, as an attribute or under a key."""
    if isinstance(given, str):
        return given
    if isinstance(given, Mapping) and isinstance(given.get("messages"), list) and given["messages"]:
        return answer_text(given["messages"][-1])
    for name in TEXTS:
        found = given.get(name) if isinstance(given, Mapping) else getattr(given, name, None)
        if found is not None and not callable(found):
            return answer_text(found)
    raise ConfigurationError(
        f"A program answered {shortened(given)}; expected a text, or something with one of {', '.join(TEXTS)}."
    )
