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
from typing import Any, NamedTuple

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

    def facts(self) -> dict[str, Any]:
        """What is known of the answer and what it cost, by the names of `Diagnostics`."""
        cost = self._asdict()
        del cost["answer"]
        return {**self.answer.facts(), **cost}


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

    def cancel(self) -> None:
        """Ask the worker to stop this request before the next step. A finished one stays finished."""
        self.is_cancelled = True

    def is_out_of_time(self) -> bool:
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

    def finish(self, result: Outcome | Exception) -> None:
        """Tell the waiter, if there is one left."""
        with contextlib.suppress(InvalidStateError):  # the waiter cancelled its future
            if isinstance(result, Outcome):
                self.future.set_result(result)
            else:
                self.future.set_exception(result)


class _Live:
    """A job whose sampler is running."""

    def __init__(self, job: Job, model: LanguageModel) -> None:
        self.job = job
        self.draws = Draws(model, model.open(job.request.prompt, job.request.termination))
        self.sampler = job.request.make_sampler(job.is_out_of_time)
        self.round = Round(())  # none has been asked for yet
        self.serial_steps = 0

    def outcome(self, answer: Answer) -> Outcome:
        """The answer with what it cost. Draws that are still running are dropped."""
        seconds, handle = time.monotonic() - self.job.submitted, self.draws.handle
        self.draws.drop_all()
        return Outcome(
            answer._replace(chain=answer.chain._replace(memo=None)),  # states are freed, however long it is kept
            self.draws.tokens_decoded,
            handle.prefilled_tokens,
            handle.reused_tokens,
            self.serial_steps,
            seconds,
        )


class Worker:
    """Serves requests on one model until closed; the thread starts with the first request."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._peeks: Peeks | None = model if isinstance(model, Peeks) and model.capabilities.peek else None
        self._wakeup = threading.Condition()
        self._inbox: deque[Job] = deque()
        self._new: deque[Job] = deque()  # taken from the inbox, and not begun yet
        self._live: dict[Job, _Live] = {}
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
            self._new += self._inbox
            self._inbox.clear()
        if self._is_closed:
            self._end_all(lambda: EngineClosedError("The engine was closed before the request was answered."))
        return not self._is_closed

    def _turn(self) -> None:
        """One step of the model for everybody."""
        for live in list(self._live.values()):
            if verdict := live.job.verdict():
                self._finish(live, verdict)
        while self._new:
            self._begin(self._new.popleft())
        if self._peeks:
            self._prefetch(self._peeks)
        owners = {ticket: live for live in self._live.values() for ticket in live.draws.tickets}
        decoded, finished = self._model.step()
        for live in {owners[ticket] for ticket in decoded}:
            live.serial_steps += 1
        for ticket, continuation in finished:
            owners[ticket].draws.finish(ticket, continuation)
        for live in {owners[ticket]: None for ticket, _ in finished}:
            self._advance(live)
        if self._peeks:
            for live in list(self._live.values()):
                if live.round.is_live and live.job.request.listener:
                    self._tell(live, live.draws.drawn(next(iter(live.draws.tickets))))

    def _begin(self, job: Job) -> None:
        if verdict := job.verdict():
            job.finish(verdict)
            return
        try:
            live = self._live[job] = _Live(job, self._model)
        except Exception as error:  # noqa: BLE001 - a fault of one request reaches its waiter and nobody else
            job.finish(error)
            return
        self._advance(live, begins=True)

    def _advance(self, live: _Live, *, begins: bool = False) -> None:
        """Run the sampler until it asks for something that is not there yet. A fault here is this request's alone."""
        try:
            answers = None if begins else live.draws.answers()
            while begins or answers is not None:
                live.round = next(live.sampler) if begins else live.sampler.send(answers or [])
                begins, answers = False, self._ask(live)
        except StopIteration as stop:
            self._finish(live, live.outcome(stop.value))
        except Exception as error:  # noqa: BLE001 - a fault of one request reaches its waiter and nobody else
            self._finish(live, error)

    def _ask(self, live: _Live) -> list[Continuation] | None:
        live.draws.ask(live.round)
        if live.job.request.listener:
            self._tell(live, ())
        return live.draws.answers() if live.job in self._live else None  # a listener that raises ends the request

    def _prefetch(self, model: Peeks) -> None:
        """Prefetch in rows that nobody waits for, a row to each request in turn. Where somebody waits, cancel what was
        prefetched, the youngest first."""
        wanting = [(live, live.round.prefetch) for live in self._live.values() if live.round.prefetch]
        if not wanting:
            return
        busy = sum(len(live.draws.tickets) for live in self._live.values())
        spare = min(model.spare_rows, max(prefetch.rows for _, prefetch in wanting) - busy)
        for live, _ in reversed(wanting):
            while spare < 0 and live.draws.cancel_youngest():
                spare += 1
        sources = deque((live, prefetch.rows, live.draws.prefetch(prefetch)) for live, prefetch in wanting)
        while sources and spare > 0:
            live, rows, source = sources.popleft()
            if busy < rows and self._begins(live, source):
                busy, spare = busy + 1, spare - 1
                sources.append((live, rows, source))

    def _begins(self, live: _Live, source: Iterator[Draw]) -> bool:
        try:
            return next(source, None) is not None
        except Exception as error:  # noqa: BLE001 - a fault of one request reaches its waiter and nobody else
            self._finish(live, error)
            return False

    def _tell(self, live: _Live, drawn: Tokens) -> None:
        listener, current = live.job.request.listener, live.round
        assert listener is not None
        try:
            progress = current.progress._replace(done=current.progress.done + len(drawn)) if drawn else current.progress
            listener(Update(current.settled + drawn, progress))
        except Exception as error:  # noqa: BLE001 - a listener that raises ends its own request only
            self._finish(live, error)

    def _finish(self, live: _Live, result: Outcome | Exception) -> None:
        live.draws.drop_all()
        self._live.pop(live.job, None)
        live.job.finish(result)

    def _fail_all(self, error: Exception) -> None:
        """The model raised: every request with it, and the engine starts afresh."""

        def failed() -> EngineError:
            told = EngineError(f"The model raised {type(error).__name__}: {error}")
            told.__cause__ = error
            return told

        self._end_all(failed)
        self._model.reset()

    def _end_all(self, error: Callable[[], PowerSamplingError]) -> None:
        """Each waiter gets an error of its own: raising one object in several threads mixes up their tracebacks.
        Nothing is dropped one by one from an engine that may be broken."""
        for job in [*self._live, *self._new]:
            job.finish(error())
        self._live.clear()
        self._new.clear()


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
