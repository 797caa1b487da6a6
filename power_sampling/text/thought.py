"""A limit on reasoning: once its tokens are spent, the thought is closed by the family's own tokens.

A completion is legal if, wherever its thought has had `budget` tokens and is not closed, it goes on with the tokens
that close it. The target is p(x)^alpha on the legal completions, and the mask on q is exact: a completion whose thought
was closed in time is untouched. An end inside of the thought is legal only before the budget is spent.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from power_sampling.text.detokenizer import Detokenizer
from power_sampling.text.stop import Decode
from power_sampling.text.vocabulary import missing_bytes
from power_sampling.types import ThoughtLimit, Tokens

__all__ = ["LimitedThought"]

MOST_MISSING = 3  # bytes that a character that has begun can lack


class _Place(NamedTuple):
    """Where a row stands."""

    stage: Literal["before", "inside", "closing", "after"]
    spent: int = 0  # tokens of thought
    closed: int = 0  # tokens of the closing that have come
    begins: int = 0  # where the thought begins in the text


class LimitedThought:
    """The rule of a limit, with the stop strings and the constraint of the same termination (`inner`), if any.

    `size` is the number of tokens that can be drawn. Satisfies the engines' `Rule`."""

    def __init__(self, limit: ThoughtLimit, decode: Decode, size: int, inner: Any = None) -> None:
        self.limit, self.decode, self.size, self.inner = limit, decode, size, inner

    def watch(self, tokens: Tokens) -> _Watch:
        watch = _Watch(self)
        for token in tokens:
            watch.push(token)
        return watch


class _Watch:
    """Follows one row. Satisfies the engines' `Watch`."""

    has_masks = True

    def __init__(self, rule: LimitedThought) -> None:
        self._rule, self._detokenizer = rule, Detokenizer(rule.decode)
        self._inner = rule.inner.watch(()) if rule.inner else None
        self._places = [self._settled(_Place("inside" if rule.limit.is_open else "before"))]  # after 0, 1, ... tokens

    @property
    def is_limited(self) -> bool:
        return self._inner is not None and bool(self._inner.is_limited)

    def allowed(self) -> NDArray[np.bool_] | None:
        mask: NDArray[np.bool_] | None = self._inner.allowed() if self._inner else None
        if (forced := self._forced) is None:
            return mask if mask is None else self._finishing(mask)
        only = np.zeros(self._rule.size, dtype=np.bool_)
        only[forced] = mask is None or bool(mask[forced])
        return only

    def push(self, token: int) -> Literal["stop", "illegal"] | None:
        forced = self._forced
        self._places.append(self._next(token))
        end: Literal["stop", "illegal"] | None = self._inner.push(token) if self._inner else None
        if forced not in (None, token):
            return "illegal"
        if end is None and self._is_ending and not self._may_go_on():
            return "illegal"
        return end

    def fork(self, length: int) -> _Watch:
        fork = _Watch.__new__(_Watch)
        fork._rule, fork._detokenizer = self._rule, self._detokenizer.fork(length)
        fork._inner = self._inner.fork(length) if self._inner else None
        fork._places = self._places[: length + 1]
        return fork

    def _finishing(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Without tokens that begin a character which the budget cannot finish: a grammar knows whole characters, and
        the thought could not be closed."""
        place = self._places[-1]
        if place.stage != "inside" or not self._is_ending:
            return mask
        left = self._rule.limit.budget - place.spent - 1
        vocabulary = self._rule.inner.vocabulary
        pending = missing_bytes(vocabulary.parser.decode_bytes(list(self._detokenizer.last(MOST_MISSING))))
        missing, longest = vocabulary.characters
        missing = np.where(missing < 0, pending + missing, missing)
        finishing: NDArray[np.bool_] = mask & (missing <= left * longest)
        return finishing

    @property
    def _forced(self) -> int | None:
        place = self._places[-1]
        return self._rule.limit.close_ids[place.closed] if place.stage == "closing" else None

    @property
    def _is_ending(self) -> bool:
        """The budget is spent, or what is left of it may not suffice for a character."""
        place = self._places[-1]
        return place.stage in ("inside", "closing") and place.spent >= self._rule.limit.budget - MOST_MISSING

    def _may_go_on(self) -> bool:
        mask = self.allowed()
        return mask is None or bool(mask.any())

    def _next(self, token: int) -> _Place:
        limit, place = self._rule.limit, self._places[-1]
        self._detokenizer.push(token)
        text = self._detokenizer.text
        if place.stage == "closing":
            is_over = place.closed + 1 == len(limit.close_ids)
            return (
                place._replace(stage="after", begins=len(text)) if is_over else place._replace(closed=place.closed + 1)
            )
        if place.stage == "inside":
            if limit.closing in text[place.begins :]:
                return place._replace(stage="after", begins=len(text))
            return self._settled(place._replace(spent=place.spent + 1))
        if place.stage == "before":
            said = text.lstrip()
            if said.startswith(limit.opening):
                return self._settled(place._replace(stage="inside", begins=len(text) - len(said) + len(limit.opening)))
            return place if limit.opening.startswith(said) else place._replace(stage="after", begins=len(text))
        if limit.recurs and limit.opening in text[place.begins :]:
            return self._settled(place._replace(stage="inside", begins=len(text)))
        return place

    def _settled(self, place: _Place) -> _Place:
        """A thought whose tokens are spent is closed."""
        if place.stage == "inside" and place.spent >= self._rule.limit.budget:
            return place._replace(stage="closing", closed=0)
        return place
