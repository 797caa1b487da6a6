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

    @property
    def reused_tokens(self) -> int:
        """Tokens of the prompt whose states other requests had left."""


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

    def so_far(self, ticket: int) -> Continuation:
        """An unfinished draw as it stands; its `end` is None. A chain made of it can be forked until the next step."""

    def set_floor(self, ticket: int, floor: float) -> None:
        """Let an unfinished draw have another floor."""

    @property
    def spare_rows(self) -> int:
        """Rows that could be decoded beside those queued or running; negative: so many of these wait."""

    def step(self) -> tuple[list[int], list[tuple[int, Continuation]]]:
        """One token for every row. Returns the tickets that were decoded, and the draws that finished."""

    def reset(self) -> None:
        """Drop every draw, after an error too."""

    def score(self, prompt: Tokens, tokens: Tokens, temperature: float) -> Floats:
        """log p(x_t | x_<t) of given tokens, shape (T,)."""


class Row:
    """The state of one draw while it is decoded: its uniforms, its numbers, and whether it has ended."""

    def __init__(self, ticket: int, draw: Draw, ending: Ending) -> None:
        self.ticket, self.draw, self.floor = ticket, draw, draw.floor
        self.tokens: list[int] = []
        self.end: End | None = None
        self._logp: list[float] = []
        self._log_weight: list[float] = []
        self._notes: list[Sequence[float]] = []
        self._total = 0.0
        self._entropy, self._span = _cut_so_far(draw)
        self._eos_ids = ending.eos_ids
        kept = draw.chain.tokens[: draw.cut]
        self._watch = ending.stop.watch(kept) if ending.stop else None
        self._guide = ending.constraint.watch(kept) if ending.constraint else None
        self.uniforms: Floats = np.random.Generator(np.random.Philox(draw.seed)).random(draw.max_new_tokens)

    def uniform(self) -> float:
        """The uniform on [0, 1) that decides the next token."""
        return float(self.uniforms[len(self.tokens)])

    @property
    def may_go_on(self) -> bool:
        """Whether the token after the next one can be drawn before the next one is known: no constraint has to see it,
        and the draw goes so far."""
        return self._guide is None and len(self.tokens) + 1 < self.draw.max_new_tokens

    def allowed(self) -> NDArray[np.bool_] | None:
        """Which tokens q may draw next; None: all."""
        return self._guide.allowed() if self._guide else None

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
        draw, guide = self.draw, self._guide
        log_weight = draw.law.alpha * logp - logq
        self.tokens.append(token)
        self._logp.append(logp)
        self._log_weight.append(log_weight)
        self._total += log_weight
        self._widen()
        if token in self._eos_ids:
            return "eos"
        can_be_legal = guide is None or guide.push(token)
        if self._watch is not None and self._watch(token):
            return "stop" if guide is None or guide.is_legal_at_stop() else "illegal"
        if not can_be_legal:
            return "illegal"
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
