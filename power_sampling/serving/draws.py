"""The draws of one request: those its sampler waits for, and those begun before they are asked for.

A continuation is a function of its draw's key, so a draw that was begun early answers the sampler as well as one begun
now. What a new round can no longer lead to is dropped.

A round may ask for more than a model decodes at one time. What is asked for waits here, and is handed to the engine a
few at a time (`begin`), so that neither side is busy with what nobody can decode yet.

Where a request has potentials, what its draws have made is judged once all draws of the round have ended (`unjudged`,
`judge`), and answered after that. What was prefetched is judged when it is asked for.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from power_sampling.engines.protocol import LanguageModel, Peeks, PromptHandle
from power_sampling.types import Chain, Continuation, Draw, Judged, Peek, Prefetch, Round, Tokens

__all__ = ["Draws"]


class Draws:
    """Used by the worker's thread alone. `tokens_decoded` counts the tokens of all draws, dropped ones included."""

    def __init__(self, model: LanguageModel, handle: PromptHandle, *, is_judged: bool = False) -> None:
        self._model, self.handle, self._is_judged = model, handle, is_judged
        self._peeks: Peeks | None = model if isinstance(model, Peeks) and model.capabilities.peek else None
        self.tickets: dict[int, Draw] = {}  # of what the engine has, the youngest last
        self.tokens_decoded = 0
        self.is_limited = False  # an answer was drawn under a mask that may leave out what is legal
        self._running: dict[Any, int] = {}  # their keys
        self._known: dict[Any, Continuation] = {}
        self._asked: list[tuple[Any, Draw]] = []  # what the round asks for, with its keys
        self._open: set[Any] = set()  # those without an answer
        self._waiting: deque[tuple[Any, Draw]] = deque()  # those the engine has not been given yet

    def ask(self, current: Round) -> None:
        """Note what this round asks for and is not answered yet, and forget what it does not lead to."""
        self._asked = [(draw.key, draw) for draw in current.draws]
        asked = dict(self._asked)
        self._open.clear()
        self._waiting.clear()
        self._forget(current, asked)
        for key, draw in asked.items():
            if not draw.max_new_tokens:
                self._known[key] = self._unjudged(draw, draw.undrawn())
            if key in self._running:
                self._open.add(key)
                if self._peeks:
                    self._peeks.set_floors(self._running[key], draw.floors)
            elif not self._is_answered(key, draw):
                self._open.add(key)
                self._waiting.append((key, draw))

    @property
    def num_waiting(self) -> int:
        """Draws asked for that the engine has not been given yet."""
        return len(self._waiting)

    @property
    def num_begun(self) -> int:
        """Draws asked for that the engine has."""
        return len(self._open) - len(self._waiting)

    def begin(self, room: int) -> None:
        """Give the engine so many of them at most."""
        for _ in range(min(room, len(self._waiting))):
            self._begin(*self._waiting.popleft())

    def answers(self) -> list[Continuation] | None:
        """What the round asked for, once all of it is there and judged."""
        if self._open or self.unjudged():
            return None
        known = [self._known[key] for key, _ in self._asked]
        self.is_limited = self.is_limited or any(continuation.is_limited for continuation in known)
        return known

    def finish(self, ticket: int, continuation: Continuation) -> None:
        """Told that a draw has ended."""
        draw = self.tickets.pop(ticket)
        key = draw.key
        del self._running[key]
        self._known[key] = self._unjudged(draw, continuation)
        self._open.discard(key)
        self.tokens_decoded += max(0, len(continuation.tokens) - len(draw.given))

    def unjudged(self) -> dict[Any, tuple[Tokens, Judged]]:
        """What the round's draws have made and has to be judged, by their keys, once all of them have ended."""
        if self._open or not self._is_judged:
            return {}
        made = [(key, draw, self._known[key]) for key, draw in self._asked]
        return {
            key: (draw.chain.tokens[: draw.cut] + x.tokens, draw.judged)
            for key, draw, x in made
            if draw.judged and math.isnan(x.log_phi)
        }

    def judge(self, keys: Sequence[Any], log_phi: Sequence[float]) -> None:
        """Told how it was judged. What is forbidden is not legal."""
        for key, value in zip(keys, log_phi, strict=True):
            known = self._known[key]
            end = "illegal" if value == -math.inf else known.end
            self._known[key] = known._replace(log_phi=value, end=end)

    def _unjudged(self, draw: Draw, continuation: Continuation) -> Continuation:
        """To be judged, where its draw says so; not what was abandoned, and what has no weight anyway."""
        if not (self._is_judged and draw.judged) or continuation.end in ("floor", "illegal"):
            return continuation
        return continuation._replace(log_phi=math.nan)

    def forget(self, ticket: int) -> None:
        """Told that a draw cannot go on: the engine has it no more."""
        del self._running[self.tickets.pop(ticket).key]

    def prefetch(self, prefetch: Prefetch) -> Iterator[Draw]:
        """Begin a draw before it is asked for, at each `next`, while there is one to begin."""
        if self._peeks is None:
            return
        for draw in prefetch.candidates(self._peek()):
            if draw.key not in self._running and draw.key not in self._known and draw.key not in self._open:
                self._begin(draw.key, draw)
                yield draw

    def cancel_youngest(self) -> bool:
        """Drop the youngest draw that is not asked for. False: there is none."""
        youngest = next((t for t in reversed(self.tickets) if self.tickets[t].key not in self._open), None)
        if youngest is not None:
            self._drop(youngest)
        return youngest is not None

    def drawn(self, ticket: int) -> Tokens:
        """The new tokens of an unfinished draw so far, as far as the engine lets them be seen."""
        return self._peeks.so_far(ticket).tokens if self._peeks else ()

    def drop_all(self) -> None:
        self._waiting.clear()
        for ticket in list(self.tickets):
            self._drop(ticket)

    def _peek(self) -> Peek:
        """A function: draw -> chain so far, or None. Good until the next step: it remembers what it has seen."""
        seen: dict[Any, Chain] = {}

        def peek(draw: Draw) -> Chain | None:
            key = draw.key
            known = self._known.get(key)
            if known is None and key in self._running and key not in seen and self._peeks:
                known = self._peeks.so_far(self._running[key])
            if known is not None:
                seen.setdefault(key, draw.chain.spliced(draw.cut, known))
            return seen.get(key)

        return peek

    def _is_answered(self, key: Any, draw: Draw) -> bool:
        """A draw abandoned at its floors answers another request for it only if it is below that one's floors too."""
        known = self._known.get(key)
        if known is None or known.is_complete:
            return known is not None
        if draw.floors is None:
            return False
        return bool((np.cumsum(known.log_weight) < draw.floors[: len(known.tokens)]).any())

    def _begin(self, key: Any, draw: Draw) -> None:
        ticket = self._model.add(self.handle, draw)
        self.tickets[ticket] = draw
        self._running[key] = ticket

    def _forget(self, current: Round, asked: dict[Any, Draw]) -> None:
        useful = set(asked)
        if current.prefetch and self._peeks and (self._running or self._known):
            useful |= {draw.key for draw in current.prefetch.candidates(self._peek())}
        for ticket in [t for t, draw in self.tickets.items() if draw.key not in useful]:
            self._drop(ticket)
        self._known = {key: c for key, c in self._known.items() if key in useful}

    def _drop(self, ticket: int) -> None:
        draw = self.tickets.pop(ticket)
        del self._running[draw.key]
        self.tokens_decoded += max(0, len(self.drawn(ticket)) - len(draw.given))
        self._model.drop(ticket)
