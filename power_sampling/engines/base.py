"""The protocol between the worker and whatever decodes: draws in, continuations out.

Knows no sampler and no text. A stop string reaches it as a watcher, a grammar as a guide: functions of the tokens drawn
so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from power_sampling.types import Continuation, Draw, End, Floats, Tokens

__all__ = ["Constraint", "Cost", "Ending", "Guide", "LanguageModel", "PromptHandle", "Row", "StopRule"]

Watcher = Callable[[int], bool]


class StopRule(Protocol):
    """Whether a completion has reached a stop string."""

    def watch(self, tokens: Tokens) -> Watcher:
        """A watcher of one row whose completion starts with `tokens`: told each next token, it says whether a stop
        string is now complete. Its answers depend on the tokens alone, not on where the row was cut."""


class Guide(Protocol):
    """Follows one row under a constraint. All its answers depend on the tokens alone, not on where the row was cut."""

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, shape (vocab_size,): those of EOS where the completion may end here."""

    def push(self, token: int) -> bool:
        """Told the next token, unless it is EOS. False: no legal completion begins like this."""

    def is_legal_at_stop(self) -> bool:
        """Told that a stop string has just become complete: whether what comes before it is legal."""


class Constraint(Protocol):
    """Which completions are legal. The target is p(x)^alpha on these: q is masked token by token, p is not, so that
    log_weight = alpha * log p - log q carries the normaliser of the masked proposal."""

    def watch(self, tokens: Tokens) -> Guide:
        """A guide of one row whose completion starts with `tokens`."""


class Ending(NamedTuple):
    """What terminates a completion besides its horizon, and which completions are legal."""

    eos_ids: frozenset[int]
    stop: StopRule | None = None
    constraint: Constraint | None = None


class PromptHandle(Protocol):
    """What an engine remembers of one prompt."""

    @property
    def prefilled_tokens(self) -> int:
        """Tokens that went through the model to get there, so far."""


class Cost(NamedTuple):
    """What an engine has done since it was made; independent of the machine."""

    forward_calls: int  # calls of the model, prefills included
    serial_steps: int  # decoding steps
    row_steps: int  # tokens decoded: rows summed over steps
    prefilled_tokens: int


class LanguageModel(Protocol):
    """p(x_t | x_<t), decoded in rows that enter and leave between any two steps. Used by one thread only.

    Laws (`power_sampling.testing.check_language_model`):

        score(prompt, tokens) == logp of a draw of these tokens   sampling and scoring agree
        log_weight == alpha * log p - log q, q as the law says    the proposal is the one that was asked for,
                                                                  masked and normalised where a constraint forbids
        a draw's law is q                                         chi-square over all completions
        a draw with a seed does not depend on its neighbours      rows do not see each other
        a draw after any history equals the draw on a fresh engine   what is remembered is invisible
    """

    @property
    def vocab_size(self) -> int:
        """Tokens that can be drawn: 0..vocab_size-1; p is normalised over them."""

    @property
    def context_window(self) -> int | None:
        """Most tokens of prompt and completion together; None: unbounded."""

    @property
    def cost(self) -> Cost: ...

    def open(self, prompt: Tokens, ending: Ending) -> PromptHandle:
        """A handle for the draws of one prompt. Nothing is computed before its first draw; what is then remembered
        lives as long as the handle and the chains drawn under it."""

    def add(self, prompt: Any, draw: Draw) -> int:
        """Queue a draw for the next free row; returns its ticket."""

    def drop(self, ticket: int) -> None:
        """Forget a draw, running or waiting. Unknown tickets are finished ones: nothing happens."""

    def drawn(self, ticket: int) -> Tokens:
        """The new tokens of an unfinished draw so far."""

    def step(self) -> tuple[list[int], list[tuple[int, Continuation]]]:
        """One token for every row. Returns the tickets that were decoded, and the draws that finished."""

    def reset(self) -> None:
        """Drop every draw, after an error too."""

    def score(self, prompt: Tokens, tokens: Tokens, temperature: float) -> Floats:
        """log p(x_t | x_<t) of given tokens, shape (T,)."""


class Row:
    """The state of one draw while it is decoded: its uniforms, its numbers, and whether it has ended."""

    def __init__(self, ticket: int, draw: Draw, ending: Ending) -> None:
        self.ticket, self.draw = ticket, draw
        self.tokens: list[int] = []
        self._logp: list[float] = []
        self._log_weight: list[float] = []
        self._total = 0.0
        self._eos_ids = ending.eos_ids
        kept = draw.chain.tokens[: draw.cut]
        self._watch = ending.stop.watch(kept) if ending.stop else None
        self._guide = ending.constraint.watch(kept) if ending.constraint else None
        self._uniforms = np.random.Generator(np.random.Philox(draw.seed)).random(draw.max_new_tokens).tolist()

    def uniform(self) -> float:
        """The uniform on [0, 1) that decides the next token."""
        value: float = self._uniforms[len(self.tokens)]
        return value

    def allowed(self) -> NDArray[np.bool_] | None:
        """Which tokens q may draw next; None: all."""
        return self._guide.allowed() if self._guide else None

    def push(self, token: int, logp: float, logq: float) -> End | None:
        """Record the next token, log q after masking; how the draw ended, if it did."""
        end = self._record(token, logp, logq)
        if end == "illegal":
            self._log_weight[-1] = -math.inf
        return end

    def _record(self, token: int, logp: float, logq: float) -> End | None:
        draw, guide = self.draw, self._guide
        log_weight = draw.law.alpha * logp - logq
        self.tokens.append(token)
        self._logp.append(logp)
        self._log_weight.append(log_weight)
        self._total += log_weight
        if token in self._eos_ids:
            return "eos"
        can_be_legal = guide is None or guide.push(token)
        if self._watch is not None and self._watch(token):
            return "stop" if guide is None or guide.is_legal_at_stop() else "illegal"
        if not can_be_legal:
            return "illegal"
        if len(self.tokens) == draw.max_new_tokens:
            return "length"
        if draw.floor > -math.inf and self._total - math.log(draw.cut + len(self.tokens)) < draw.floor:
            return "floor"
        return None

    def continuation(self, end: End, memo: object = None) -> Continuation:
        return Continuation(tuple(self.tokens), np.array(self._logp), np.array(self._log_weight), end, memo)


def context_of(prompt: Sequence[int], draw: Draw) -> Tokens:
    """Everything before the first new token."""
    return (*prompt, *draw.chain.tokens[: draw.cut])
