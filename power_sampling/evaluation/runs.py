"""The run: every answer that is planned and not in the log yet is a row of one batch; the log grows as they come."""

from __future__ import annotations

import asyncio
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from power_sampling.errors import (
    ContextOverflowError,
    NoLegalCompletionError,
    NothingAcceptedError,
    OutOfMemoryError,
    RequestTimeoutError,
)
from power_sampling.evaluation.contained import protection
from power_sampling.evaluation.flight import Bounds, in_flight
from power_sampling.evaluation.log import Answer, Key, Log, answer_of
from power_sampling.evaluation.methods import Method
from power_sampling.evaluation.plan import Plan, request_seed
from power_sampling.evaluation.table import Table, table_of, votes_for
from power_sampling.evaluation.tasks import Question, Task
from power_sampling.evaluation.tasks.base import digest
from power_sampling.runtime import PowerSampler
from power_sampling.types import Completion

__all__ = ["Bounds", "Listener", "run"]

# of one request, whatever the others do: it counts as a wrong answer. Any other error ends the run.
OWN_FAULTS = (
    ContextOverflowError,
    NoLegalCompletionError,
    NothingAcceptedError,
    OutOfMemoryError,
    RequestTimeoutError,
)
PACKAGES = ("torch", "transformers", "math-verify", "llama-cpp-python")
MOST_VOTES = 64

Unit = tuple[Key, Question, Method]
Listener = Callable[[int, int, int], None]
"""Told after every answer: how many there are, of how many, and the tokens decoded so far."""


def run(
    sampler: PowerSampler,
    task: Task,
    plan: Plan,
    folder: Path,
    *,
    bounds: Bounds | None = None,
    listener: Listener | None = None,
) -> Table:
    """Draw and grade what the log in `folder` lacks, and return the table of the whole run.

    Started again after a kill at any moment it gives the table of an uninterrupted run. With votes and no size of the
    pool, plain samples are added at the end until a vote can decode as many tokens as the costliest method (at most
    64). Call it from a thread without a running event loop. Raises ConfigurationError where the folder holds a run of
    other settings, and whatever stops the engine.
    """
    limits = bounds or Bounds()
    with Log(
        folder, _facts(sampler, task), {m.label: m.generation.model_dump(mode="json") for m in plan.methods}
    ) as log:
        log.begin(_session(plan, limits, task))
        work = _Run(sampler, task, log, limits, listener or (lambda done, total, tokens: None))
        is_whole = asyncio.run(work.answer(plan))
        if plan.votes and plan.pool is None and is_whole:
            plan = plan.with_pool(min(MOST_VOTES, votes_for(plan, log.answers)))
            asyncio.run(work.answer(plan))
        return table_of(plan, log.answers, task.name)


class _Run:
    """One session of a run."""

    def __init__(self, sampler: PowerSampler, task: Task, log: Log, bounds: Bounds, listener: Listener) -> None:
        self._sampler, self._task, self._log, self._bounds, self._listener = sampler, task, log, bounds, listener
        self._started = time.monotonic()
        self._tokens = sum(answer.tokens_decoded for answer in log.answers.values())
        self._samplers: dict[str, PowerSampler] = {}
        self._is_chat = False

    async def answer(self, plan: Plan) -> bool:
        """Draw what is missing. False where a bound was reached first."""
        every = list(plan.keys())
        missing = [unit for unit in every if unit[0] not in self._log.answers]
        self._is_chat = bool(missing) and await asyncio.to_thread(lambda: self._sampler.is_chat_model)  # may load it
        done = len(every) - len(missing)

        def keep(drawn: tuple[Key, Question, Completion | Exception]) -> None:
            nonlocal done
            done += 1
            self._keep(*drawn)
            self._listener(done, len(every), self._tokens)

        waiting = self._bounds.within(missing, lambda: self._tokens, self._started)
        return await in_flight(waiting, self._draw, keep, self._bounds.in_flight) == len(missing)

    async def _draw(self, unit: Unit) -> tuple[Key, Question, Completion | Exception]:
        key, question, method = unit
        if key.method not in self._samplers:
            self._samplers[key.method] = self._sampler.with_generation(method.generation)
        sampler = self._samplers[key.method]
        prompt = question.chat if self._is_chat else question.text
        stop = sampler.generation.stop or (() if self._is_chat else self._task.stop)
        try:
            (completion,) = await sampler.agenerate([prompt], seed=request_seed(key), stop=stop)
        except OWN_FAULTS as error:
            return key, question, error
        return key, question, completion

    def _keep(self, key: Key, question: Question, found: Completion | Exception) -> None:
        if isinstance(found, Exception):
            answer = Answer(**key._asdict(), error=f"{type(found).__name__}: {found}", request_seed=request_seed(key))
        else:
            answer = self._graded(key, question, found)
        self._tokens += answer.tokens_decoded
        self._log.add(answer)

    def _graded(self, key: Key, question: Question, completion: Completion) -> Answer:
        # of a conversation the content is graded, not what the model thought before it
        text = completion.reply.content if completion.reply is not None else completion.text
        grade = self._task.grade(question, text)
        return answer_of(key, completion, answer=grade.answer, is_right=grade.is_right, note=grade.note)


def _facts(sampler: PowerSampler, task: Task) -> dict[str, Any]:
    """What has to be the same whenever the run goes on."""
    model = sampler.config.model_part().model_dump(mode="json")
    return {"task": task.name, "data_sha256": digest(task.source), "model": model}


def _session(plan: Plan, bounds: Bounds, task: Task) -> dict[str, Any]:
    """What may change from one start to the next, for whoever reads the log."""
    versions = {"python": platform.python_version(), "power-sampling": _version("power-sampling")}
    versions |= {name: found for name in PACKAGES if (found := _version(name)) is not None}
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions,
        "machine": platform.platform(),
        "data": str(task.source),
        "code_runs_under": protection() if task.runs_code else None,
        "questions": len(plan.questions),
        "samples": plan.samples,
        "seeds": list(plan.seeds),
        "pool": plan.pool,
        "samplers": [*(method.label for method in plan.methods), *plan.votes],
        "bounds": {"tokens": bounds.tokens, "seconds": bounds.seconds},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
