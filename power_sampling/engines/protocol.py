"""The protocol between the worker and whatever decodes: draws in, continuations out.

Knows no sampler and no text. A stop string reaches it as a watcher, a grammar as a guide: functions of the tokens drawn
so far.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from power_sampling.types import Continuation, Draw, Floats, Tokens

__all__ = ["Constraint", "Cost", "Ending", "Guide", "LanguageModel", "PromptHandle", "StopRule"]

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

    def set_floors(self, ticket: int, floors: Floats | None) -> None:
        """Give an unfinished draw other floors (see `Draw`)."""

    @property
    def spare_rows(self) -> int:
        """Rows that could be decoded beside those queued or running; negative: so many of these wait."""

    def step(self) -> tuple[list[int], list[tuple[int, Continuation]]]:
        """One token for every row. Returns the tickets that were decoded, and the draws that finished."""

    def reset(self) -> None:
        """Drop every draw, after an error too."""

    def score(self, prompt: Tokens, tokens: Tokens, temperature: float) -> Floats:
        """log p(x_t | x_<t) of given tokens, shape (T,)."""
