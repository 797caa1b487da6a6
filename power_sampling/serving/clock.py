"""The thread that ends jobs at their limits, whatever the model does meanwhile.

A pass of the model cannot be interrupted, and may never return. So who waits is told here; the worker drops the work
when it comes to it.
"""

from __future__ import annotations

import heapq
import os
import threading
import time
import weakref
from collections.abc import Callable
from itertools import count
from typing import Protocol

__all__ = ["CLOCK", "Clock"]

LONGEST_SLEEP = 3600.0  # seconds; longer ones overflow on some systems


class Due(Protocol):
    """What has a limit."""

    @property
    def is_over(self) -> bool: ...
    def end_late(self) -> None:
        """Called once its limit has passed, unless it was over before."""


class Clock:
    """One thread for all, started with the first limit. Holds nothing alive."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self.forget()

    def forget(self) -> None:
        """Begin anew, without a thread: in a forked child, which has none of its parent's."""
        self._changed = threading.Condition()
        self._due: list[tuple[float, int, weakref.ref[Due]]] = []  # a heap
        self._numbers = count()
        self._tidy_at = 64  # entries at which those of jobs that are over are taken out
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        return len(self._due)

    def watch(self, job: Due, deadline: float) -> None:
        """End the job at this time of `time.monotonic`."""
        with self._changed:
            if len(self._due) >= self._tidy_at:
                self._tidy()
            heapq.heappush(self._due, (deadline, next(self._numbers), weakref.ref(job)))
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="power-sampling-clock", daemon=True)
                self._thread.start()
            if self._due[0][0] == deadline:
                self._changed.notify()

    def _tidy(self) -> None:
        self._due = [entry for entry in self._due if (job := entry[2]()) is not None and not job.is_over]
        heapq.heapify(self._due)
        self._tidy_at = 2 * len(self._due) + 64

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due or (wait := self._due[0][0] - self._now()) > 0:
                    self._changed.wait(min(wait, LONGEST_SLEEP) if self._due else None)
                job = heapq.heappop(self._due)[2]()
            if job is not None and not job.is_over:
                job.end_late()
            del job  # not held while the next one is waited for


CLOCK = Clock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CLOCK.forget)
