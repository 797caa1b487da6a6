"""The likeliest tokens at every position of a finished answer, where its request asks for them."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

from power_sampling.engines.protocol import Ranks
from power_sampling.serving.job import Job, Outcome
from power_sampling.types import Ranked

__all__ = ["ranked"]


def ranked(model: Any, handle: Any, job: Job, outcome: Outcome) -> Generator[None, None, Outcome]:
    """The outcome with the likeliest tokens of every position: one pass of the model at each `next`."""
    assert isinstance(model, Ranks) and job.request.ranking is not None, "refused before it gets here"
    (law, count), found = job.request.ranking, list[Ranked]()
    for some in model.ranked(handle, outcome.answer.chain.tokens, law, count):
        found += some
        yield
    return outcome._replace(ranked=tuple(found), seconds=time.monotonic() - job.submitted)
