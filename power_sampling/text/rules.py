"""What ends a completion and what makes it legal, as an engine that steps on the host asks for it: one watch of a row.

A watch forks with its row's chain, so that no token is watched twice.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal, Protocol

from power_sampling.errors import ConfigurationError
from power_sampling.text.grammar import Grammars
from power_sampling.text.stop import Decode, StopStrings, StopWatch
from power_sampling.text.thought import LimitedThought
from power_sampling.types import Termination, Tokens

__all__ = ["Rules"]


class Rule(Protocol):
    """What the engines call a `Rule`; the protocol is theirs, and text knows no engine."""

    def watch(self, tokens: Tokens) -> Any: ...


MOST_RULES = 64  # kept: what is asked when a request is made and when it is opened, and by equal requests


class Rules:
    """The rules of one tokenizer: a termination's stop strings, its constraint where there are `grammars`, its limit on
    reasoning where `vocab_size` is known.

    Called with a termination it returns its rule, or None where only EOS and length end a completion. A constraint is
    compiled and tried here. Raises ConfigurationError for one that cannot be compiled or followed, or that admits no
    text, NoLegalCompletionError where all it admits is too long. Rules are kept: the second call costs nothing.
    """

    def __init__(self, decode: Decode, grammars: Grammars | None = None, vocab_size: int | None = None) -> None:
        self._decode, self._grammars, self._vocab_size = decode, grammars, vocab_size
        self._rule = lru_cache(MOST_RULES)(self._make)

    def __call__(self, termination: Termination) -> Rule | None:
        return self._rule(termination)

    def _make(self, termination: Termination) -> Rule | None:
        rule = self._constrained(termination)
        if termination.thought is None:
            return rule
        if self._vocab_size is None:
            raise ConfigurationError(
                "A limit on reasoning needs the number of tokens that can be drawn (Rules: vocab_size); give it."
            )
        return LimitedThought(termination.thought, self._decode, self._vocab_size, rule)

    def _constrained(self, termination: Termination) -> Rule | None:
        stop = StopStrings(termination.stop, self._decode) if termination.stop else None
        if termination.constraint is None:
            return _Stops(stop) if stop else None
        if self._grammars is None or termination.max_new_tokens is None:
            raise ConfigurationError(
                "A constraint needs the grammars of a tokenizer and the most tokens of a completion "
                "(Termination.max_new_tokens); leave it out, or give both."
            )
        constraint = self._grammars.constraint(termination.constraint, termination.max_new_tokens, stop)
        constraint.try_out()
        return constraint


class _Stops:
    """Stop strings alone. Satisfies the engines' `Rule`."""

    def __init__(self, stop: StopStrings) -> None:
        self._stop = stop

    def watch(self, tokens: Tokens) -> _StopsWatch:
        return _StopsWatch(self._stop.watch(tokens))


class _StopsWatch:
    """Satisfies the engines' `Watch`."""

    has_masks = is_limited = False

    def __init__(self, stop: StopWatch) -> None:
        self._stop = stop

    def allowed(self) -> None:
        return None

    def push(self, token: int) -> Literal["stop"] | None:
        return "stop" if self._stop.push(token) else None

    def fork(self, length: int) -> _StopsWatch:
        return _StopsWatch(self._stop.fork(length))
