"""The thread that owns a model and drives every live request in one batch.

Knows generators, deadlines and futures; no sampler by name, no text, no event loop. Requests arrive from any thread;
their samplers, their draws and the model run on the worker's thread alone. A stream is a listener called there.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import NamedTuple

from power_sampling.engines.protocol import LanguageModel, Peeks
from power_sampling.errors import (
    EngineClosedError,
    EngineError,
    PowerSamplingError,
    RequestCancelledError,
    RequestTimeoutError,
)
from power_sampling.samplers import Sampler
from power_sampling.serving.draws import Draws
from power_sampling.types import Answer, Continuation, Draw, Progress, Round, Termination, Tokens

__all__ = ["Job", "Outcome", "Request", "Worker"]

THREAD_NAME = "power-sampling"


class Outcome(NamedTuple):
    """A request's answer and what it cost."""

    answer: Answer
    tokens_decoded: int
    tokens_prefilled: int
    tokens_reused: int
    serial_steps: int
    seconds: float


class Update(NamedTuple):
    """Told to a listener: the settled tokens so far, and the sampler's progress."""

    settled: Tokens
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt to answer. `make_sampler` gets the function that says when the time budget is spent."""

    prompt: Tokens
    termination: Termination
    make_sampler: Callable[[Callable[[], bool]], Sampler]
    time_budget: float | None = None
    timeout: float | None = None
    listener: Callable[[Update], None] | None = None


@dataclass(eq=False)
class Job:
    """A submitted request. `future` ends with an Outcome or with the error; `cancel` may be called from any thread."""

    request: Request
    future: Future[Outcome] = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)
    is_cancelled: bool = False
    # the worker's own:
    sampler: Sampler | None = None
    round: Round | None = None
    draws: Draws | None = None
    serial_steps: int = 0

    def cancel(self) -> None:
        """Ask the worker to stop this request before the next step. A finished one stays finished."""
        self.is_cancelled = True

    def is_over(self) -> bool:
        """Whether the soft limit has passed."""
        budget = self.request.time_budget
        return budget is not None and time.monotonic() - self.submitted >= budget

    def verdict(self) -> PowerSamplingError | None:
        """Why the request must end now, if it must."""
        if self.is_cancelled or self.future.cancelled():
            return RequestCancelledError("The request was cancelled; its work was stopped.")
        limit = self.request.timeout
        if limit is not None and time.monotonic() - self.submitted >= limit:
            return RequestTimeoutError(
                f"No answer within timeout={limit} s; the work was stopped. Raise timeout, lower max_new_tokens, or "
                "set time_budget, which ends the refinement and still answers."
            )
        return None


class Worker:
    """Serves requests on one model until closed; the thread starts with the first request."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._peeks: Peeks | None = model if isinstance(model, Peeks) and model.capabilities.peek else None
        self._wakeup = threading.Condition()
        self._inbox: deque[Job] = deque()
        self._live: list[Job] = []
        self._is_closed = False
        self._thread: threading.Thread | None = None

    def submit(self, request: Request) -> Job:
        """Queue a request; raises EngineClosedError after `close`."""
        return self.submit_all([request])[0]

    def submit_all(self, requests: Sequence[Request]) -> list[Job]:
        """Queue requests that start together, at the same step."""
        jobs = [Job(request) for request in requests]
        with self._wakeup:
            if self._is_closed:
                raise EngineClosedError("The engine was closed; load the model again.")
            self._inbox.extend(jobs)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
                self._thread.start()
                _RUNNING.add(self)
            self._wakeup.notify()
        return jobs

    def close(self, *, wait: bool = True) -> None:
        """Stop the thread before its next step; unfinished requests end with EngineClosedError."""
        with self._wakeup:
            self._is_closed = True
            self._wakeup.notify()
        if wait and self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    # ------------------------------------------------------------ the worker's thread

    def _run(self) -> None:
        while self._collect():
            try:
                self._turn()
            except Exception as error:  # noqa: BLE001 - whatever the model raised reaches every waiter
                self._fail_all(error)

    def _collect(self) -> bool:
        """Take new requests, waiting for one if nothing is live. False when the worker is to end."""
        with self._wakeup:
            if not self._live:
                self._model.reset()  # an idle engine holds no rows
            while not (self._inbox or self._live or self._is_closed):
                self._wakeup.wait()
            self._live += self._inbox
            self._inbox.clear()
        if self._is_closed:
            self._end_all(lambda: EngineClosedError("The engine was closed before the request was answered."))
        return not self._is_closed

    def _turn(self) -> None:
        """One step of the model for everybody."""
        for job in list(self._live):
            if verdict := job.verdict():
                self._finish(job, verdict)
            elif job.sampler is None:
                self._advance(job, None)
        self._use_spare_rows()
        owners = {ticket: job for job in self._live if job.draws for ticket in job.draws.tickets}
        decoded, finished = self._model.step()
        for job in {owners[ticket] for ticket in decoded}:
            job.serial_steps += 1
        for ticket, continuation in finished:
            draws = owners[ticket].draws
            assert draws is not None, "a job is live until its answers are looked at, below"
            draws.finish(ticket, continuation)
        for job in {owners[ticket]: None for ticket, _ in finished}:
            self._advance(job, job.draws.answers() if job.draws else None)
        for job in list(self._live) if self._peeks else ():
            if job.round is not None and job.round.is_live and job.draws and job.request.listener:
                self._tell(job, job.round, job.draws.drawn(next(iter(job.draws.tickets))))

    def _advance(self, job: Job, answers: list[Continuation] | None) -> None:
        """Run the sampler until it asks for something that is not there yet. A fault here is this request's alone."""
        try:
            if job.sampler is None:
                job.draws = Draws(self._model, self._model.open(job.request.prompt, job.request.termination))
                job.sampler = job.request.make_sampler(job.is_over)
                job.round = next(job.sampler)
                answers = self._ask(job, job.round)
            while answers is not None:
                job.round = job.sampler.send(answers)
                answers = self._ask(job, job.round)
        except StopIteration as stop:
            self._finish(job, self._outcome(job, stop.value))
        except Exception as error:  # noqa: BLE001 - a fault of one request reaches its waiter and nobody else
            self._finish(job, error)

    def _ask(self, job: Job, current: Round) -> list[Continuation] | None:
        assert job.draws is not None
        job.draws.ask(current)
        if job.request.listener:
            self._tell(job, current, ())
        return job.draws.answers() if job.draws else None  # none are left of a job whose listener has raised

    def _use_spare_rows(self) -> None:
        """Begin draws ahead of being asked for in rows that nobody waits for, a row to each request in turn; give rows
        back, the youngest first, where somebody does."""
        wanting = [(j, j.draws, j.round.ahead) for j in self._live if j.draws and j.round and j.round.ahead]
        if not wanting or not self._peeks:
            return
        busy = sum(len(job.draws.tickets) for job in self._live if job.draws)
        spare = min(self._peeks.spare_rows, max(ahead.rows for _, _, ahead in wanting) - busy)
        for _, draws, _ in reversed(wanting):
            while spare < 0 and draws.give_back():
                spare += 1
        sources = deque((job, ahead.rows, draws.begin_ahead(ahead)) for job, draws, ahead in wanting)
        while sources and spare > 0:
            job, rows, source = sources.popleft()
            if busy < rows and self._begins(job, source):
                busy, spare = busy + 1, spare - 1
                sources.append((job, rows, source))

    def _begins(self, job: Job, source: Iterator[Draw]) -> bool:
        try:
            return next(source, None) is not None
        except Exception as error:  # noqa: BLE001 - a fault of one request reaches its waiter and nobody else
            self._finish(job, error)
            return False

    def _outcome(self, job: Job, answer: Answer) -> Outcome:
        assert job.draws is not None
        seconds, handle = time.monotonic() - job.submitted, job.draws.handle
        job.draws.drop_all()
        return Outcome(
            answer._replace(chain=answer.chain._replace(memo=None)),  # states are freed, however long it is kept
            job.draws.tokens_decoded,
            handle.prefilled_tokens,
            handle.reused_tokens,
            job.serial_steps,
            seconds,
        )

    def _tell(self, job: Job, current: Round, drawn: Tokens) -> None:
        assert job.request.listener is not None
        try:
            progress = current.progress._replace(done=current.progress.done + len(drawn)) if drawn else current.progress
            job.request.listener(Update(current.settled + drawn, progress))
        except Exception as error:  # noqa: BLE001 - a listener that raises ends its own request only
            self._finish(job, error)

    def _finish(self, job: Job, result: Outcome | Exception) -> None:
        if job.draws:
            job.draws.drop_all()
        if job in self._live:
            self._live.remove(job)
        job.sampler = job.draws = job.round = None
        with contextlib.suppress(InvalidStateError):  # the waiter cancelled its future: nobody is left to tell
            if isinstance(result, Outcome):
                job.future.set_result(result)
            else:
                job.future.set_exception(result)

    def _fail_all(self, error: Exception) -> None:
        """The model raised: every request with it, and the engine starts afresh."""

        def failed() -> EngineError:
            told = EngineError(f"The model raised {type(error).__name__}: {error}")
            told.__cause__ = error
            return told

        self._end_all(failed)
        self._model.reset()

    def _end_all(self, error: Callable[[], PowerSamplingError]) -> None:
        """Each waiter gets an error of its own: raising one object in several threads mixes up their tracebacks."""
        for job in list(self._live):
            job.draws = None  # nothing is dropped one by one from an engine that may be broken
            self._finish(job, error())


_RUNNING: weakref.WeakSet[Worker] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before the interpreter tears torch down under a running thread. Some threads have outlived their worker: they
    may be freeing its model just now."""
    for worker in list(_RUNNING):
        worker.close(wait=False)
    for thread in threading.enumerate():
        if thread.name == THREAD_NAME:
            thread.join()
