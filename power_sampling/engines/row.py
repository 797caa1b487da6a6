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
        self.ticket, self.draw, self.floor = ticket, draw, draw.floor
        self.tokens: list[int] = []
        self.end: End | None = None
        self._logp: list[float] = []
        self._log_weight: list[float] = []
        self._notes: list[Sequence[float]] = []
        self._total = 0.0
        self._entropy, self._span = _cut_so_far(draw)
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

    def push(self, token: int, logp: float, logq: float, notes: Sequence[float] = ()) -> End | None:
        """Record the next token, log q after masking; how the draw ended, if it did.

        `notes` is what the draw's law asks for besides: with a `cut_exponent` the entropy of p at this position, then
        log q after masking at each temperature of `score_at`."""
        self._notes.append(notes)
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
        self._widen()
        if token in self._eos_ids:
            return "eos"
        if self.watch is not None and (end := self.watch.push(token)):
            return end
        if len(self.tokens) == draw.max_new_tokens:
            return "length"
        if self.floor > -math.inf and self._total - math.log(self._span) < self.floor:
            return "floor"
        return None

    def _widen(self) -> None:
        """Add the cut_weight of the position just filled."""
        if self.draw.law.cut_exponent is None:
            self._span += 1
            return
        before, self._entropy = self._entropy, self._notes[-1][0]
        self._span += float(self.draw.law.cut_weights(np.array([self._entropy]), before)[0])

    def continuation(self, memo: object = None) -> Continuation:
        """What a row that has ended drew."""
        assert self.end is not None, "a row that has not ended is no continuation"
        return self.so_far(memo)

    def so_far(self, memo: object = None) -> Continuation:
        """What the row has drawn, ended or not."""
        numbers = Continuation(tuple(self.tokens), np.array(self._logp), np.array(self._log_weight), self.end, memo)
        law = self.draw.law
        if law.cut_exponent is None and not law.score_at:
            return numbers
        has_entropy = law.cut_exponent is not None
        notes = np.array(self._notes, dtype=np.float64).reshape(-1, int(has_entropy) + len(law.score_at))
        entropy = notes[:, 0] if has_entropy else numbers.entropy
        return numbers._replace(entropy=entropy, logq=notes[:, int(has_entropy) :])


def _cut_so_far(draw: Draw) -> tuple[float, float]:
    """The entropy at the last position kept, and the sum of the cut_weights of all that are kept."""
    if draw.law.cut_exponent is None:
        return 0.0, float(draw.cut)
    kept = draw.chain.entropy[: draw.cut]
    return float(kept[-1]) if draw.cut else 0.0, float(draw.law.cut_weights(kept).sum())


def context_of(prompt: Sequence[int], draw: Draw) -> Tokens:
    """Everything before the first new token."""
    return (*prompt, *draw.chain.tokens[: draw.cut])
