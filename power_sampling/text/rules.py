"""What ends a completion and what makes it legal, as an engine that steps on the host asks for it: one watch of a row.

A watch forks with its row's chain, so that no token is watched twice.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from power_sampling.errors import ConfigurationError
from power_sampling.text.grammar import Grammars
from power_sampling.text.guide import GrammarConstraint, Guide
from power_sampling.text.stop import Decode, StopStrings, StopWatch
from power_sampling.types import Termination, Tokens

__all__ = ["Rules"]


MOST_RULES = 64  # kept: what is asked when a request is made and when it is opened, and by equal requests


class Rules:
    """The rules of one tokenizer: a termination's stop strings, and its constraint where there are `grammars`.

    Called with a termination it returns its rule, or None where only EOS and length end a completion. Raises
    ConfigurationError for a constraint that cannot be compiled. Rules are kept: the second call
    costs nothing.
    """

    def __init__(self, decode: Decode, grammars: Grammars | None = None) -> None:
        self._decode, self._grammars = decode, grammars
        self._rule = lru_cache(MOST_RULES)(self._make)

    def __call__(self, termination: Termination) -> _Rule | None:
        return self._rule(termination)

    def _make(self, termination: Termination) -> _Rule | None:
        stop = StopStrings(termination.stop, self._decode) if termination.stop else None
        constraint = None
        if termination.constraint is not None:
            if self._grammars is None or termination.max_new_tokens is None:
                raise ConfigurationError(
                    "A constraint needs the grammars of a tokenizer and the most tokens of a completion "
                    "(Termination.max_new_tokens); leave it out, or give both."
                )
            constraint = self._grammars.constraint(termination.constraint, termination.max_new_tokens, stop)
        return _Rule(stop, constraint) if stop or constraint else None


class _Rule:
    """Satisfies the engines' `Rule`."""

    def __init__(self, stop: StopStrings | None, constraint: GrammarConstraint | None) -> None:
        self._stop, self._constraint = stop, constraint

    def watch(self, tokens: Tokens) -> _Watch:
        return _Watch(
            self._stop.watch(tokens) if self._stop else None,
            self._constraint.watch(tokens) if self._constraint else None,
        )


class _Watch:
    """Satisfies the engines' `Watch`."""

    def __init__(self, stop: StopWatch | None, guide: Guide | None) -> None:
        self._stop, self._guide = stop, guide
        self.has_masks = guide is not None

    def allowed(self) -> NDArray[np.bool_] | None:
        return self._guide.allowed() if self._guide else None

    def push(self, token: int) -> Literal["stop", "illegal"] | None:
        can_be_legal = self._guide is None or self._guide.push(token)
        if self._stop is not None and self._stop.push(token):
            return "stop" if self._guide is None or self._guide.is_legal_at_stop() else "illegal"
        return None if can_be_legal else "illegal"

    def fork(self, length: int) -> _Watch:
        return _Watch(
            self._stop.fork(length) if self._stop else None,
            self._guide.fork(length) if self._guide else None,
        )
