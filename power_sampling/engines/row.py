"""One draw while it is decoded on the host: its uniforms, its numbers, and whether it has ended."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from power_sampling.engines.protocol import Watch
from power_sampling.types import Continuation, Draw, End, Floats, Tokens

__all__ = ["Row", "context_of"]


class Row:
    """The state of one draw while it is decoded: its uniforms, its numbers, and whether it has ended."""

    def __init__(self, ticket: int, draw: Draw, eos_ids: frozenset[int], watch: Watch | None = None) -> None:
        self.ticket, self.draw, self.floors = ticket, draw, draw.floors
        self.tokens: list[int] = []
        self.end: End | None = None
        self._logp: list[float] = []
        self._log_weight: list[float] = []
        self._extras: list[Sequence[float]] = []
        self._total = 0.0
        self._eos_ids = eos_ids
        self.watch = watch  # of the chain's kept tokens and the row's own
        self.uniforms: Floats = np.random.Generator(np.random.Philox(draw.seed)).random(draw.max_new_tokens)

    def uniform(self) -> float:
        """The uniform on [0, 1) that decides the next token."""
        return float(self.uniforms[len(self.tokens)])

    @property
    def may_go_on(self) -> bool:
        """Whether the token after the next one can be drawn before the next one is known: no constraint has to see it,
        and the draw goes so far."""
        return not (self.watch and self.watch.has_masks) and len(self.tokens) + 1 < self.draw.max_new_tokens

    def allowed(self) -> NDArray[np.bool_] | None:
        """Which tokens q may draw next; None: all."""
        return self.watch.allowed() if self.watch else None

    def push(self, token: int, logp: float, logq: float, extras: Sequence[float] = ()) -> End | None:
        """Record the next token, log q after masking; how the draw ended, if it did.

        `extras` are what the draw's law asks for besides: the entropy of p at this position if it wants that, then
        log q after masking at each temperature of `score_at`."""
        self._extras.append(extras)
        self.end = self._record(token, logp, logq)
        if self.end == "illegal":
            self._log_weight[-1] = -math.inf
        return self.end

    def _record(self, token: int, logp: float, logq: float) -> End | None:
        draw = self.draw
        log_weight = draw.law.alpha * logp - logq
        self.tokens.append(token)
        self._logp.append(logp)
        self._log_weight.append(log_weight)
        self._total += log_weight
        if token in self._eos_ids:
            return "eos"
        if self.watch is not None and (end := self.watch.push(token)):
            return end
        if len(self.tokens) == draw.max_new_tokens:
            return "length"
        if self.floors is not None and self._total < self.floors[len(self.tokens) - 1]:
            return "floor"
        return None

    def continuation(self, memo: object = None) -> Continuation:
        """What a row that has ended drew."""
        assert self.end is not None, "a row that has not ended is no continuation"
        return self.so_far(memo)

    def so_far(self, memo: object = None) -> Continuation:
        """What the row has drawn, ended or not."""
        numbers = Continuation(tuple(self.tokens), np.array(self._logp), np.array(self._log_weight), self.end, memo)
        law = self.draw.law
        if not law.wants_entropy and not law.score_at:
            return numbers
        extras = np.array(self._extras, dtype=np.float64).reshape(-1, int(law.wants_entropy) + len(law.score_at))
        entropy = extras[:, 0] if law.wants_entropy else numbers.entropy
        return numbers._replace(entropy=entropy, logq=extras[:, int(law.wants_entropy) :])


def context_of(prompt: Sequence[int], draw: Draw) -> Tokens:
    """Everything before the first new token."""
    return (*prompt, *draw.chain.tokens[: draw.cut])
