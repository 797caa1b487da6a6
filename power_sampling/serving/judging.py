"""Potentials asked of a request's completions, off the worker's thread.

A function that is asked has a thread, for as long as somebody waits for it, and one call at a time. What comes while it
runs waits, and all of it goes into the next call, whichever requests it is of. Where a call of several fails, each of
them is asked alone, so that a fault reaches the request it comes from and no other.
"""

from __future__ import annotations

import asyncio
import math
import os
import threading
from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple, TypeAlias

from power_sampling.errors import PotentialError, PowerSamplingError, caused, described, shortened
from power_sampling.potentials import Potential
from power_sampling.types import Judged, Tokens

__all__ = ["Judge", "Verdict"]

THREAD_NAME = "power-sampling-potential"
LARGEST = 1e12  # of log phi: beyond it, sums with log p lose what p says
MOST_KEPT = 2**14  # values of a potential that a request remembers

Verdict: TypeAlias = "list[float] | PowerSamplingError"


class Judge:
    """The potentials of one request, how its completions read, and what has been said of them."""

    def __init__(self, potentials: Sequence[Potential], text_of: Callable[[Tokens], str]) -> None:
        self._potentials = [(potential, _Known(potential, text_of)) for potential in potentials]

    def ask(
        self, chains: Sequence[tuple[Tokens, Judged]], is_over: Callable[[], bool], tell: Callable[[Verdict], None]
    ) -> None:
        """`tell` is called once, on some thread: with log phi of every chain, or with what ends the request. It is not
        called where `is_over` has become true."""
        hearing = _Hearing(len(chains), [known for _, known in self._potentials], tell)
        for place, (potential, known) in enumerate(self._potentials):
            asked = [i for i, (_, by) in enumerate(chains) if by == "final" or potential.kind == "prefix"]
            hearing.asked.append(asked)
            case = _Case(potential, known, [chains[i][0] for i in asked], is_over, hearing, place)
            if asked:
                hearing.cases.append(case)
        hearing.begin()


class _Known:
    """What a potential has said to one request. Used by one thread at a time, as a request asks and waits."""

    def __init__(self, potential: Potential, text_of: Callable[[Tokens], str]) -> None:
        self._is_of_tokens, self._text_of = potential.reads == "tokens", text_of
        self.values: dict[Hashable, float] = {}

    def read(self, tokens: Tokens) -> Hashable:
        """What is judged of a completion."""
        return tokens if self._is_of_tokens else self._text_of(tokens)

    def forget(self) -> None:
        """The oldest, beyond what is kept."""
        while len(self.values) > MOST_KEPT:
            del self.values[next(iter(self.values))]


class _Hearing:
    """A round of a request before all of its potentials."""

    def __init__(self, count: int, known: Sequence[_Known], tell: Callable[[Verdict], None]) -> None:
        self._count, self._tell = count, tell
        self._lock = threading.Lock()
        self._said: dict[int, list[float]] = {}
        self.asked: list[list[int]] = []  # by each potential, the chains it is asked of
        self.cases: list[_Case] = []

    def begin(self) -> None:
        self._waiting = len(self.cases)
        if not self.cases:
            self._tell([0.0] * self._count)
        for case in self.cases:
            DOCKET.put(case)

    def said(self, place: int, values: list[float]) -> None:
        """Told by a potential. The sum is made in their order, so that it does not depend on which was first."""
        with self._lock:
            self._said[place] = values
            self._waiting -= 1
            if self._waiting:
                return
        sums = [0.0] * self._count
        for place, values in sorted(self._said.items()):
            for i, value in zip(self.asked[place], values, strict=True):
                sums[i] += value
        self._tell(sums)

    def failed(self, error: PowerSamplingError) -> None:
        with self._lock:
            if self._waiting < 0:
                return
            self._waiting = -1
        self._tell(error)


class _Case(NamedTuple):
    """What one request asks one potential."""

    potential: Potential
    known: _Known
    chains: list[Tokens]
    is_over: Callable[[], bool]
    hearing: _Hearing
    place: int  # of the potential among those of the request

    @property
    def key(self) -> Hashable:
        """Cases of one key go into one call."""
        return id(self.potential.function), self.potential.reads

    def answer(self, read: Sequence[Hashable], new: dict[Hashable, float]) -> None:
        """Told what was read of its chains, and the values that were not known. Raises PotentialError."""
        values = self.known.values
        values.update({one: self._checked(new[one], one) for one in read if one not in values})
        self.hearing.said(self.place, [values[one] for one in read])
        self.known.forget()

    def _checked(self, value: float, of: Hashable) -> float:
        most = LARGEST if self.potential.at_most is None else min(LARGEST, self.potential.at_most)
        if value == -math.inf or -LARGEST <= value <= most:
            return value
        raise PotentialError(
            f"The potential {self.potential.name} answered {value} of {shortened(of)}; expected log phi, a number from "
            f"{-LARGEST:g} to {most:g}{'' if most == LARGEST else ' (at_most)'}, or -inf for what is forbidden."
        )


class Docket:
    """What waits for each function, and the threads that ask them."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begin anew, without a thread: in a forked child, which has none of its parent's."""
        self._lock = threading.Lock()
        self._waiting: dict[Hashable, list[_Case]] = {}  # of the functions that have a thread

    def put(self, case: _Case) -> None:
        with self._lock:
            has_thread = case.key in self._waiting
            self._waiting.setdefault(case.key, []).append(case)
        if has_thread:
            return
        try:
            threading.Thread(target=self._run, args=(case.key,), name=THREAD_NAME, daemon=True).start()
        except BaseException:
            with self._lock:
                del self._waiting[case.key]
            raise

    def _run(self, key: Hashable) -> None:
        while True:
            with self._lock:
                cases = [case for case in self._waiting[key] if not case.is_over()]
                if not cases:
                    del self._waiting[key]
                    return
                self._waiting[key] = []
            _answer(cases)


def _answer(cases: list[_Case]) -> None:
    """One call for all of them; one for each where that fails."""
    try:
        read = [[case.known.read(tokens) for tokens in case.chains] for case in cases]
        pairs = [(one, case) for case, seen in zip(cases, read, strict=True) for one in seen]
        unknown = {one: None for one, case in pairs if one not in case.known.values}
        new = dict(zip(unknown, _asked(cases[0].potential, list(unknown)), strict=True)) if unknown else {}
    except BaseException as error:  # noqa: BLE001 - whatever it raised reaches its request and no other
        if len(cases) == 1:
            cases[0].hearing.failed(_told(cases[0].potential, error))
        for case in cases if len(cases) > 1 else ():
            _answer([case])
        return
    for case, seen in zip(cases, read, strict=True):
        try:
            case.answer(seen, new)
        except BaseException as error:  # noqa: BLE001 - as above: the thread has others to answer
            case.hearing.failed(_told(case.potential, error))


def _asked(potential: Potential, judged: list[Any]) -> list[float]:
    given = [list(tokens) for tokens in judged] if potential.reads == "tokens" else judged
    returned = potential.function(given)
    if asyncio.iscoroutine(returned):
        returned = asyncio.run(returned)
    try:
        values = [float(value) for value in returned]
    except (TypeError, ValueError):
        values = []
    if len(values) != len(judged):
        raise PotentialError(
            f"The potential {potential.name} was asked of {len(judged)} completions; expected a list of as many "
            f"numbers, got {shortened(returned)}."
        )
    return values


def _told(potential: Potential, error: BaseException) -> PowerSamplingError:
    if isinstance(error, PotentialError):
        return error
    return caused(PotentialError(f"The potential {potential.name} raised {described(error)}"), error)


DOCKET = Docket()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=DOCKET.forget)
