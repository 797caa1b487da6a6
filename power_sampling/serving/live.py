"""A request that has begun: its sampler, its draws, and what it waits for. Used by the worker's thread alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

from power_sampling.engines.protocol import LanguageModel
from power_sampling.errors import PowerSamplingError
from power_sampling.samplers import Sampler
from power_sampling.serving.draws import Draws
from power_sampling.serving.job import Job, Outcome
from power_sampling.serving.judging import Verdict
from power_sampling.types import Answer, Round

__all__ = ["Live"]


class Live:
    """A job that has begun."""

    draws: Draws
    sampler: Sampler

    def __init__(self, job: Job) -> None:
        self.job = job
        self.round = Round(())  # none has been asked for yet
        self.serial_steps = 0
        self.ranking: Generator[None, None, Outcome] | None = None  # of its answer, once there is one
        self.verdict: tuple[list[Any], Verdict] | None = None  # that it has not heard yet
        self.is_waiting = False  # for a verdict

    def open(self, model: LanguageModel) -> None:
        request = self.job.request
        handle = model.open(request.prompt, request.termination)
        self.draws = Draws(model, handle, is_judged=request.judge is not None)
        self.sampler = request.make_sampler(self.job.is_out_of_time)

    @property
    def is_busy(self) -> bool:
        """Whether there is something to do for it."""
        return not self.is_waiting or self.verdict is not None or self.job.is_over or bool(self.draws.tickets)

    def judge(self, wake: Callable[[], None]) -> None:
        """Have judged what its draws have made, once they have ended; once, though prefetched draws end meanwhile."""
        if self.is_waiting or not (made := self.draws.unjudged()):
            return
        assert self.job.request.judge is not None
        self.is_waiting, keys = True, list(made)

        def tell(verdict: Verdict) -> None:
            self.verdict = keys, verdict
            wake()

        self.job.request.judge.ask(list(made.values()), lambda: self.job.is_over, tell)

    def hear(self) -> None:
        """The verdict, where there is one. Raises the error that it may be."""
        if self.verdict is not None:
            (keys, verdict), self.verdict, self.is_waiting = self.verdict, None, False
            if isinstance(verdict, PowerSamplingError):
                raise verdict
            self.draws.judge(keys, verdict)

    def outcome(self, answer: Answer) -> Outcome:
        """The answer with what it cost. Draws that are still running are dropped."""
        seconds, handle = time.monotonic() - self.job.submitted, self.draws.handle
        if self.draws.is_limited:
            answer = answer._replace(exactness="approximate")
        self.draws.drop_all()
        return Outcome(
            answer._replace(chain=answer.chain.bare(), steps=()),  # states are freed, however long it is kept
            self.draws.tokens_decoded,
            handle.prefilled_tokens,
            handle.reused_tokens,
            self.serial_steps,
            seconds,
        )
