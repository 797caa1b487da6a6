"""Stop strings and constraints as one watch of a row. (Interim: forks by replay; the text side brings forks.)"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from power_sampling.errors import ConfigurationError
from power_sampling.text.grammar import GrammarConstraint, Grammars
from power_sampling.text.stop import Decode, StopStrings
from power_sampling.types import Termination, Tokens

__all__ = ["Rules"]


class Rules:
    def __init__(self, decode: Decode, grammars: Grammars | None = None) -> None:
        self._decode, self._grammars = decode, grammars

    def __call__(self, termination: Termination) -> _Rule | None:
        stop = StopStrings(termination.stop, self._decode) if termination.stop else None
        constraint = None
        if termination.constraint is not None:
            if self._grammars is None or termination.max_new_tokens is None:
                raise ConfigurationError("no grammars")
            constraint = self._grammars.constraint(termination.constraint, termination.max_new_tokens, stop)
        return _Rule(stop, constraint) if stop or constraint else None


class _Rule:
    def __init__(self, stop: StopStrings | None, constraint: GrammarConstraint | None) -> None:
        self.stop, self.constraint = stop, constraint

    def watch(self, tokens: Tokens) -> _Watch:
        return _Watch(self, tokens)


class _Watch:
    def __init__(self, rule: _Rule, tokens: Tokens) -> None:
        self._rule, self._tokens = rule, list(tokens)
        self._stop: Callable[[int], bool] | None = rule.stop.watch(tokens) if rule.stop else None
        self._guide: Any = rule.constraint.watch(tokens) if rule.constraint else None
        self.has_masks = self._guide is not None

    def allowed(self) -> NDArray[np.bool_] | None:
        return self._guide.allowed() if self._guide else None

    def push(self, token: int) -> Literal["stop", "illegal"] | None:
        self._tokens.append(token)
        can_be_legal = self._guide is None or self._guide.push(token)
        if self._stop is not None and self._stop(token):
            return "stop" if self._guide is None or self._guide.is_legal_at_stop() else "illegal"
        return None if can_be_legal else "illegal"

    def fork(self, length: int) -> _Watch:
        return _Watch(self._rule, tuple(self._tokens[:length]))
