"""A request as it is asked and waited for. No model in here."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from power_sampling.errors import (
    OutOfMemoryError,
    PowerSamplingError,
    RequestCancelledError,
    RequestFailedError,
    RequestTimeoutError,
    caused,
    described,
    without_frames,
)
from power_sampling.samplers import Sampler
from power_sampling.serving.judging import Judge
from power_sampling.types import Answer, Event, Law, Progress, Ranked, Termination, Tokens

__all__ = ["Job", "Outcome", "Request", "Update", "told", "too_late"]


class Outcome(NamedTuple):
    """A request's answer and what it cost."""

    answer: Answer
    tokens_decoded: int
    tokens_prefilled: int
    tokens_reused: int
    serial_steps: int
    seconds: float
    ranked: tuple[Ranked, ...] = ()  # at every position of the answer, where the request asks for it

    def facts(self) -> dict[str, Any]:
        """What is known of the answer and what it cost, by the names of `Diagnostics`."""
        cost = self._asdict()
        del cost["answer"], cost["ranked"]
        return {**self.answer.facts(), **cost}


class Update(NamedTuple):
    """Told to a listener: the settled tokens so far, the sampler's progress, and what it did since the last update,
    where that was asked for."""

    settled: Tokens
    progress: Progress
    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt to answer. `make_sampler` gets the function that says when the time budget is spent.

    Its limits count from `started`, a time of `time.monotonic`; None: from when it is submitted."""

    prompt: Tokens
    termination: Termination
    make_sampler: Callable[[Callable[[], bool]], Sampler]
    time_budget: float | None = None
    timeout: float | None = None
    started: float | None = None
    listener: Callable[[Update], None] | None = None
    wants_events: bool = False  # whether the listener is told what the sampler does
    judge: Judge | None = None  # of its potentials; it asks and waits, so that each request has its own
    ranking: tuple[Law, int] | None = None
    """How many of the likeliest tokens are told at every position of the answer, and under the base law of which law;
    only of an engine that `Ranks`."""


@dataclass(eq=False)
class Job:
    """A submitted request. `future` ends with an Outcome or with an error of `power_sampling.errors`; it may be ended
    from any thread, and the first word counts."""

    request: Request
    future: Future[Outcome] = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        if self.request.started is not None:
            self.submitted = self.request.started

    @property
    def is_over(self) -> bool:
        """Whether nobody waits any more."""
        return self.future.done()

    @property
    def deadline(self) -> float | None:
        """When the hard limit passes."""
        limit = self.request.timeout
        return None if limit is None else self.submitted + limit

    def cancel(self) -> None:
        """End this request; its work stops before the next step. A finished one stays finished."""
        self.finish(RequestCancelledError("The request was cancelled; its work was stopped."))

    def end_late(self) -> None:
        """The hard limit has passed."""
        assert self.request.timeout is not None
        self.finish(too_late(self.request.timeout))

    def is_out_of_time(self) -> bool:
        """Whether the soft limit has passed."""
        budget = self.request.time_budget
        return budget is not None and time.monotonic() - self.submitted >= budget

    def finish(self, result: Outcome | PowerSamplingError) -> None:
        """Tell the waiter, if there is one left."""
        with contextlib.suppress(InvalidStateError):  # it has been told, or has cancelled its future
            if isinstance(result, Outcome):
                self.future.set_result(result)
            else:
                self.future.set_exception(result)


def too_late(limit: float) -> RequestTimeoutError:
    """What a waiter is told whose limit has passed."""
    return RequestTimeoutError(
        f"No answer within timeout={limit} s; the work was stopped. Raise timeout, lower max_new_tokens, or "
        "set time_budget, which ends the refinement and still answers."
    )


def told(error: BaseException) -> PowerSamplingError:
    """What a waiter is told when something of its own request raised: an error of the project, whatever came."""
    if isinstance(error, PowerSamplingError):
        return without_frames(error)
    if isinstance(error, MemoryError):
        typed: PowerSamplingError = OutOfMemoryError(
            "What this request keeps does not fit into memory. Lower max_new_tokens or the number of completions that "
            "its sampler holds."
        )
    else:
        typed = RequestFailedError(f"This request's own work raised {described(error)}")
    return caused(typed, error)
