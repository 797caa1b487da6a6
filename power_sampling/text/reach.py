"""Whether a legal completion is left within so many tokens: proved by walking through all of them, where that is cheap.

The walk goes level by level over tokens. Two ways of spelling one text lead to one state.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from power_sampling.text.stop import StopStrings
from power_sampling.text.vocabulary import Units, Vocabulary, is_too_complex
from power_sampling.types import Tokens

__all__ = ["Fuel", "State"]


class Fuel:
    """What may still be tried. Counted, not timed: what is found out is a function of what is asked."""

    def __init__(self, left: int, searches: int = 0) -> None:
        self.left = left  # tokens
        self._searches = searches  # for endings

    def searches(self) -> bool:
        """Whether one more ending may be searched for."""
        self._searches -= 1
        return self._searches >= 0


class State:
    """Where a text stands under a constraint. `tail` is as much of its end as a stop string may begin in."""

    __slots__ = ("matcher", "step", "tail", "tokens")

    def __init__(self, matcher: Any, tail: Units, tokens: Tokens, step: Tokens = ()) -> None:
        self.matcher, self.tail, self.tokens = matcher, tail, tokens
        self.step = step  # what a walk has gone so far, as it tells states apart

    def within(self, limit: int, rules: Rules, fuel: Fuel) -> bool | None:
        """Whether at most `limit` more tokens complete a legal text; None: the fuel ran out first, or the
        parser gave up."""
        if limit < 0:
            return False
        level: list[State] = [self]
        seen: set[Tokens] = set()
        for left in range(limit, -1, -1):
            if any(state.matcher.is_accepting() for state in level):
                return True
            if not left or not level:
                return False
            following: list[State] = []
            for at, state in enumerate(level):
                ids = np.flatnonzero(rules.vocabulary.allowed_by(state.matcher))
                # where the next level would be too much, this one is not begun
                if len(ids) > fuel.left or (left > 1 and at == 0 and len(level) * len(ids) ** 2 > fuel.left):
                    return None
                fuel.left -= len(ids)
                for token in ids.tolist():
                    child = rules.then(state, token)
                    if child is True or child is None:
                        return child
                    if child and child.step not in seen:
                        seen.add(child.step)
                        following.append(child)
            level = following
        raise AssertionError("the last level returns")


class Rules:
    """What a walk has to know of a constraint. `start` is the compiled grammar, at its beginning."""

    def __init__(self, vocabulary: Vocabulary, start: Any, stop: StopStrings | None, *, by_text: bool) -> None:
        self.vocabulary, self.start, self.stop = vocabulary, start, stop
        self._stops = [tuple(s.encode()) for s in stop.strings] if stop else []
        self._reach = max(map(len, self._stops), default=1) - 1
        self._by_text = by_text  # a state is a function of its text; else the grammar counts tokens

    def tail(self, tokens: Tokens) -> Units:
        """The end of a text, as long as it matters to stop strings."""
        tail: Units = ()
        for token in reversed(tokens):
            if len(tail) >= self._reach:
                break
            tail = self._text_of(token) + tail
        return self._cut(tail)

    def completes_a_stop(self, tail: Units, more: Units) -> bool:
        """Whether a stop string ends in what comes after a tail."""
        if not self._stops:
            return False
        text = bytes(unit for unit in tail + more if unit < 256)
        return any(bytes(stop) in text for stop in self._stops)

    def then(self, state: State, token: int) -> State | bool | None:
        """The state after a token; True or False where that completes a stop string, legally or not; None: the parser
        gave up, which proves nothing."""
        tokens = (*state.tokens, token)
        units = self.vocabulary.units_of(token)
        if self.completes_a_stop(state.tail, units):
            return self.is_legal_at_stop(tokens)
        matcher = state.matcher.deep_copy()
        if not matcher.consume_token(token):
            return None if is_too_complex(matcher) else False
        tail = self._cut(state.tail + self._text_of(token))
        return State(matcher, tail, tokens, state.step + (units if self._by_text else (token,)))

    def _text_of(self, token: int) -> Units:
        return tuple(unit for unit in self.vocabulary.units_of(token) if unit < 256)  # control tokens are no text

    def _cut(self, tail: Units) -> Units:
        return tail[len(tail) - self._reach :] if len(tail) > self._reach else tail

    def is_legal_at_stop(self, tokens: Tokens) -> bool:
        """Whether the text before the stop string, which is complete now, is in the language."""
        text = self.vocabulary.decode(tokens)
        found = self.stop.find(text) if self.stop else None
        return found is not None and self.accepts(text[: found[0]])

    def accepts(self, text: str) -> bool:
        """Whether a whole text is in the language."""
        matcher = self.start.deep_copy()
        return bool(matcher.consume_tokens(self.vocabulary.tokens_of(text)) and matcher.is_accepting())
