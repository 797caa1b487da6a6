"""The thread that owns a model and drives every live request in one batch.

Knows generators and jobs; no sampler by name, no text, no event loop. Requests arrive from any thread; their samplers,
their draws and the model run on the worker's thread alone. A stream is a listener called there.

Whatever a request brings along (sampler, listener, stop rule, constraint) may raise anything: its waiter is told, and
nobody else. What the model raises reaches every waiter, and the engine starts afresh. A waiter does not depend on the
thread: limits, cancellations and the end of the worker are told by whoever notices them.

Where a request has potentials, its draws are judged elsewhere (`judging.py`), while the others go on; the thread sleeps
where nobody else has work for it.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial

from power_sampling.engines.protocol import LanguageModel, Peeks
from power_sampling.errors import EngineClosedError, EngineError, PowerSamplingError, caused, described
from power_sampling.serving.clock import CLOCK
from power_sampling.serving.job import Job, Outcome, Request, Update, told
from power_sampling.serving.live import Live
from power_sampling.serving.ranking import ranked
from power_sampling.types import Continuation, Event, Round, Step, Tokens

__all__ = ["Job", "Outcome", "Request", "Update", "Worker"]

THREAD_NAME = "power-sampling"
MOST_LIVE = 1024  # requests that have begun; the others wait, in the order they came
MOST_DRAWS = 1024  # that an engine is given where it has no row to spare; beyond, one of each request
PATIENCE = 5.0  # seconds that an end waits for threads whose model does not return


class Worker:
    """Serves requests on one model until closed; the thread starts with the first request."""

    def __init__(self, model: LanguageModel) -> None:
        self._model = model
        self._peeks: Peeks | None = model if isinstance(model, Peeks) and model.capabilities.peek else None
        self._is_closed = False
        self._forget()

    def _forget(self) -> None:
        """Begin without a request and without a thread."""
        self._wakeup = threading.Condition()
        self._inbox: deque[Job] = deque()  # not begun yet
        self._live: dict[Job, Live] = {}
        self._thread: threading.Thread | None = None

    def submit(self, request: Request) -> Job:
        """Queue a request; raises EngineClosedError after `close`."""
        return self.submit_all([request])[0]

    def submit_all(self, requests: Sequence[Request]) -> list[Job]:
        """Queue requests that start together, at the same step, as far as there is room for them."""
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
        for job in jobs:
            if (deadline := job.deadline) is not None:
                CLOCK.watch(job, deadline)
        return jobs

    def close(self, *, wait: bool = True) -> None:
        """Stop the thread before its next step; unfinished requests end with EngineClosedError, now. Waits for the
        thread, some seconds at most: a model that does not return cannot be stopped."""
        with self._wakeup:
            self._is_closed = True
            self._wakeup.notify()
        self._end_all(lambda: EngineClosedError("The engine was closed before the request was answered."))
        if wait and self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(PATIENCE)

    def _end_all(self, error: Callable[[], PowerSamplingError]) -> None:
        """Each waiter gets an error of its own: raising one object in several threads mixes up their tracebacks."""
        with self._wakeup:
            waiting, self._inbox = self._inbox, deque()
        for job in (*self._live.copy(), *waiting):
            job.finish(error())

    # ------------------------------------------------------------ the worker's thread

    def _run(self) -> None:
        while not self._is_closed:
            try:
                if not self._live:
                    self._model.reset()  # an idle engine holds no rows
                self._wait()
                if not self._is_closed:
                    self._turn()
                continue
            except BaseException as error:  # noqa: BLE001 - whatever the model raised reaches every waiter
                was_idle = not self._live
                self._fail_all(error)
            if was_idle:  # not even `reset` succeeds: it is tried again when somebody asks, not all the time
                self._wait()
        self._live.clear()

    def _wait(self) -> None:
        with self._wakeup:
            while not self._is_closed and not self._has_work:
                self._wakeup.wait()

    @property
    def _has_work(self) -> bool:
        """Whether a request can begin, or one that has begun does not only wait for a verdict."""
        has_room = len(self._live) < MOST_LIVE
        return (bool(self._inbox) and has_room) or any(live.is_busy for live in self._live.values())

    def _turn(self) -> None:
        """One step of the model for everybody."""
        for live in [live for live in self._live.values() if live.job.is_over]:
            self._drop(live)
        for live in [live for live in self._live.values() if live.verdict is not None]:
            self._advance(live)
        self._begin()
        self._feed()
        if self._peeks:
            self._prefetch(self._peeks)
        owners = {ticket: live for live in self._live.values() for ticket in live.draws.tickets}
        self._rank()
        decoded, finished, failed = self._model.step()
        for live in {owners[ticket] for ticket in decoded}:
            live.serial_steps += 1
        for ticket, continuation in finished:
            owners[ticket].draws.finish(ticket, continuation)
        for ticket, _ in failed:
            owners[ticket].draws.forget(ticket)
        for ticket, error in failed:
            self._fail(owners[ticket], error)
        for live in {owners[ticket]: None for ticket, _ in finished}:
            if live.job in self._live:
                self._advance(live)
        if self._peeks:
            for live in list(self._live.values()):
                if live.round.is_live and live.job.request.listener and live.draws.tickets:
                    self._tell(live, drawn=live.draws.drawn(next(iter(live.draws.tickets))))

    def _begin(self) -> None:
        """Begin what has come, the first come first, while there is room."""
        for _ in range(MOST_LIVE - len(self._live)):
            with self._wakeup:  # `close` finds it in one place or in the other
                if not self._inbox:
                    return
                job = self._inbox.popleft()
                if job.is_over:
                    continue
                live = self._live[job] = Live(job)
            try:
                live.open(self._model)
                if job.request.judge is not None:  # who goes away while it is judged wakes the thread
                    job.future.add_done_callback(partial(_notify, self._wakeup))
            except BaseException as error:  # noqa: BLE001 - a fault of one request reaches its waiter and nobody else
                self._live.pop(job, None)
                job.finish(told(error))
            else:
                self._advance(live, begins=True)

    def _feed(self) -> None:
        """Give the engine draws that were asked for, as many as it may decode soon, and at least one of each request:
        it is fair between requests, but only knows those that it has draws of."""
        hungry = [live for live in self._live.values() if live.draws.num_waiting]
        if not hungry:
            return
        given = sum(len(live.draws.tickets) for live in self._live.values())
        room = max(MOST_DRAWS - given, self._peeks.spare_rows if self._peeks else 0)
        for live in hungry:
            begun = max(room, 0 if live.draws.num_begun else 1)
            room -= min(begun, live.draws.num_waiting)
            try:
                live.draws.begin(begun)
            except BaseException as error:  # noqa: BLE001 - a fault of one request reaches its waiter and nobody else
                self._fail(live, error)

    def _advance(self, live: Live, *, begins: bool = False) -> None:
        """Run the sampler until it asks for something that is not there yet. A fault here is this request's alone."""
        try:
            live.hear()
            answers = None if begins else live.draws.answers()
            while begins or answers is not None:
                live.round = next(live.sampler) if begins else live.sampler.send(answers or [])
                begins, answers = False, self._ask(live)
            if live.job in self._live:
                live.judge(partial(_notify, self._wakeup))
        except StopIteration as stop:
            outcome = live.outcome(stop.value)
            if live.job.request.listener and live.job.request.wants_events:
                self._tell(live, steps=stop.value.steps, tokens_decoded=outcome.tokens_decoded)
            self._finish(live, outcome)
        except BaseException as error:  # noqa: BLE001 - a fault of one request reaches its waiter and nobody else
            self._fail(live, error)

    def _rank(self) -> None:
        """One more pass over an answer whose likeliest tokens are asked for. One at a step, so that rows in decoding do
        not wait for more."""
        live = next((live for live in self._live.values() if live.ranking), None)
        if live is None or live.ranking is None:
            return
        try:
            next(live.ranking)
        except StopIteration as stop:
            self._finish(live, stop.value)
        except BaseException as error:  # noqa: BLE001 - a fault of one request reaches its waiter and nobody else
            self._fail(live, error)

    def _ask(self, live: Live) -> list[Continuation] | None:
        live.draws.ask(live.round)
        if live.job.request.listener:
            self._tell(live, steps=live.round.steps, tokens_decoded=live.draws.tokens_decoded)
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
            try:
                has_begun = busy < rows and next(source, None) is not None
            except BaseException as error:  # noqa: BLE001 - a fault of one request reaches its waiter and nobody else
                self._fail(live, error)
                continue
            if has_begun:
                busy, spare = busy + 1, spare - 1
                sources.append((live, rows, source))

    def _tell(self, live: Live, *, drawn: Tokens = (), steps: Sequence[Step] = (), tokens_decoded: int = 0) -> None:
        request, current = live.job.request, live.round
        assert request.listener is not None
        events = [Event(step, tokens_decoded, live.serial_steps) for step in steps] if request.wants_events else []
        try:
            progress = current.progress._replace(done=current.progress.done + len(drawn)) if drawn else current.progress
            request.listener(Update(current.settled + drawn, progress, tuple(events)))
        except BaseException as error:  # noqa: BLE001 - a listener that raises ends its own request only
            self._fail(live, error)

    # ------------------------------------------------------------ ends

    def _drop(self, live: Live) -> None:
        """Nobody waits for it any more."""
        self._live.pop(live.job, None)
        live.draws.drop_all()

    def _finish(self, live: Live, outcome: Outcome) -> None:
        """Answer it, once the likeliest tokens are there that it asks for."""
        if live.job.request.ranking is not None and live.ranking is None:
            live.ranking, live.round = ranked(self._model, live.draws.handle, live.job, outcome), Round(())
            return
        self._drop(live)
        live.job.finish(outcome)

    def _fail(self, live: Live, error: BaseException) -> None:
        self._drop(live)
        live.job.finish(told(error))

    def _fail_all(self, error: BaseException) -> None:
        """The model raised: every request that had begun ends with it, and the engine starts afresh before the next one
        begins. Nothing is dropped one by one from an engine that may be broken. Where it raises even then, with no
        request begun, those that wait end."""

        def failed() -> EngineError:
            return caused(EngineError(f"The model raised {described(error)}"), error)

        if not self._live:
            self._end_all(failed)
        for job in self._live:
            job.finish(failed())
        self._live.clear()


def _notify(condition: threading.Condition, _: object = None) -> None:
    with condition:
        condition.notify()


# ---------------------------------------------------------------- ends of the process

_RUNNING: weakref.WeakSet[Worker] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Before the interpreter tears torch down under a running thread. Some threads have outlived their worker: they
    may be freeing its model just now. One whose model does not return is left behind."""
    for worker in list(_RUNNING):
        worker.close(wait=False)
    until = time.monotonic() + PATIENCE
    for thread in threading.enumerate():
        if thread.name == THREAD_NAME:
            thread.join(max(0.0, until - time.monotonic()))


def _forget_all() -> None:
    """A forked child has no thread of its parent's: the parent's requests are answered there."""
    for worker in list(_RUNNING):
        worker._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
