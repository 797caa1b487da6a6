"""One draw while it is decoded on the host: its uniforms, its numbers, and whether it has ended."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from power_sampling.engines.protocol import Watch
from power_sampling.errors import (
    EngineError,
    InputError,
    NoLegalCompletionError,
    PowerSamplingError,
    RequestFailedError,
    caused,
    described,
)
from power_sampling.types import Continuation, Draw, End, Floats, Tokens

__all__ = ["Row", "context_of"]


class Row:
    """The state of one draw while it is decoded: its uniforms, its numbers, and whether it has ended.

    What is wrong with one row is kept as its `fault` and raised by nothing that serves the whole batch: its watch
    raised, or the model's numbers are NaN.
    """

    def __init__(self, ticket: int, draw: Draw, eos_ids: frozenset[int], watch: Watch | None = None) -> None:
        self.ticket, self.draw, self.floors = ticket, draw, draw.floors
        self.tokens: list[int] = []
        self.end: End | None = None
        self.fault: PowerSamplingError | None = None  # why it cannot go on
        self._logp: list[float] = []
        self._log_weight: list[float] = []
        self._extras: list[Sequence[float]] = []
        self._total = 0.0
        self._eos_ids = eos_ids
        self.watch = watch  # of the chain's kept tokens and the row's own

    @functools.cached_property
    def uniforms(self) -> Floats:
        """One for each token. A row that waits has none yet."""
        return np.random.Generator(np.random.Philox(self.draw.seed)).random(self.draw.max_new_tokens)

    def uniform(self) -> float:
        """The uniform on [0, 1) that decides the next token."""
        return float(self.uniforms[len(self.tokens)])

    @property
    def given(self) -> Tokens:
        """The tokens that come next because they are given, not drawn."""
        return self.draw.given[len(self.tokens) :]

    @property
    def is_over(self) -> bool:
        """Whether no token follows: it has ended, or it cannot go on."""
        return self.end is not None or self.fault is not None

    @property
    def may_go_on(self) -> bool:
        """Whether the token after the next one can be drawn before the next one is known: no constraint and no bad word
        has to see it, and the draw goes so far."""
        looks_back = self.draw.law.base is not None and self.draw.law.base.looks_back
        return (
            not (looks_back or (self.watch and self.watch.has_masks))
            and len(self.tokens) + 1 < self.draw.max_new_tokens
        )

    def allowed(self) -> NDArray[np.bool_] | None:
        """Which tokens q may draw next; None: all. Nothing is said of a row that cannot go on."""
        if self.watch is None or self.fault is not None:
            return None
        try:
            return self.watch.allowed()
        except BaseException as error:  # noqa: BLE001 - a parser in another language may panic; it is this row's alone
            self.fault = _raised(error)
            return None

    def excluded(self) -> Sequence[int]:
        """Tokens that the base law gives no probability next, whatever the logits are: they would complete a bad
        word."""
        base = self.draw.law.base
        if base is None or not base.bad_words:
            return ()
        return base.excluded((*self.draw.chain.tokens[: self.draw.cut], *self.tokens) if base.looks_back else ())

    def push(self, token: int, logp: float, logq: float, extras: Sequence[float] = ()) -> End | None:
        """Record the next token, log q after masking; how the draw ended, if it did.

        A log q of +inf says that p gives no allowed token any probability: the token is some other one, and the
        completion is illegal, so that it weighs nothing.

        `extras` are what the draw's law asks for besides: the entropy of p at this position if it wants that, then
        log q after masking at each temperature of `score_at`. Nothing is recorded of a row that cannot go on."""
        is_given = bool(self.given)
        if self.fault is None and not (logp > -math.inf and logq > -math.inf):  # nor are NaN
            is_excluded = is_given and not math.isnan(logp)
            self.fault = self._excluded(token) if is_excluded else self._no_number(logp, logq)
        if self.fault is not None:
            return None
        self._extras.append(extras)
        try:
            self.end = self._record(token, logp, logq)
        except BaseException as error:  # noqa: BLE001 - as above
            self.fault = _raised(error)
            return None
        if self.end == "illegal":
            self._log_weight[-1] = -math.inf
            if is_given:
                self.fault = self._excluded(token)
        return self.end

    def _record(self, token: int, logp: float, logq: float) -> End | None:
        draw = self.draw
        log_weight = draw.law.alpha * logp - logq
        self.tokens.append(token)
        self._logp.append(logp)
        self._log_weight.append(log_weight)
        self._total += log_weight
        if logq == math.inf:
            return "illegal"
        if token in self._eos_ids:
            return "eos"
        if self.watch is not None and (end := self.watch.push(token)):
            return end
        if len(self.tokens) == draw.max_new_tokens:
            return "length"
        if self.floors is not None and self._total < self.floors[len(self.tokens) - 1]:
            return "floor"
        return None

    def _excluded(self, token: int) -> PowerSamplingError:
        """Of a given token."""
        return InputError(
            f"start: no completion under these settings begins like it. Token {token} behind {len(self.tokens)} of its "
            "tokens is excluded by the constraint, by the base law (top_k, top_p, min_p, logit_bias, bad_words) or by "
            "what the engine draws from. Give another start, or leave that setting out."
        )

    def _no_number(self, logp: float, logq: float) -> PowerSamplingError:
        if self.draw.law.base is not None and self.draw.law.base.bad_words:
            return NoLegalCompletionError(
                f"After {len(self.tokens)} tokens of a draw no token has a finite log p ({logp}): bad_words exclude "
                "every one, or the model's logits are NaN or infinite. Leave words out, or load the model in float32."
            )
        allowed = self.allowed()
        if allowed is not None and not allowed.any():
            return RequestFailedError(f"The constraint allows no token after {len(self.tokens)} tokens, not even EOS.")
        return EngineError(
            f"The model's logits are NaN or infinite after {len(self.tokens)} tokens of a draw (log p = {logp}, "
            f"log q = {logq}). Its weights are broken or overflow their type: load it in float32, or load it again."
        )

    def continuation(self, memo: object = None) -> Continuation:
        """What a row that has ended drew. Raises its fault where it could not go on."""
        if self.fault is not None:
            raise self.fault
        assert self.end is not None, "a row that has not ended is no continuation"
        return self.so_far(memo)

    def so_far(self, memo: object = None) -> Continuation:
        """What the row has drawn, ended or not."""
        numbers = Continuation(
            tuple(self.tokens),
            np.array(self._logp),
            np.array(self._log_weight),
            self.end,
            memo,
            is_limited=self.watch is not None and self.watch.is_limited,
        )
        law = self.draw.law
        if not law.wants_entropy and not law.score_at:
            return numbers
        extras = np.array(self._extras, dtype=np.float64).reshape(-1, int(law.wants_entropy) + len(law.score_at))
        entropy = extras[:, 0] if law.wants_entropy else numbers.entropy
        return numbers._replace(entropy=entropy, logq=extras[:, int(law.wants_entropy) :])


def _raised(error: BaseException) -> PowerSamplingError:
    told = RequestFailedError(f"A stop rule or constraint raised {described(error)}")
    return caused(told, error)


def context_of(prompt: Sequence[int], draw: Draw) -> Tokens:
    """Everything before the first new token."""
    return (*prompt, *draw.chain.tokens[: draw.cut])
