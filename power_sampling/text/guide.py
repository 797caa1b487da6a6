"""Which tokens may come next, so that a row obeys a compiled grammar and is complete within the horizon.

A completion is legal if its text, up to EOS or a stop string, is in the language, and if it gets there within the
horizon. The mask forbids a token where no legal completion begins like this, and among those that are left it chooses
nothing: the law is p^alpha on the legal completions. Three things are known of a token, in this order:

- an ending that fits: it may come;
- a walk through all that could follow (`reach.py`) shows that nothing fits: it may not;
- neither, for there is too much to walk through. Far from the horizon it may come. Near it, where another token has an
  ending that fits, it may not: else texts that can always go on, such as strings of JSON, would not be closed in time.

The last is a limit on the law, and the guide says so (`is_limited`). A token that was allowed and leads nowhere costs
nothing but the row: its completion has weight zero.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from power_sampling.errors import ConfigurationError, NoLegalCompletionError, RequestFailedError
from power_sampling.text.endings import Endings
from power_sampling.text.reach import Fuel, Rules, State
from power_sampling.text.stop import StopStrings
from power_sampling.text.vocabulary import Units, Vocabulary, is_too_complex
from power_sampling.types import Tokens

__all__ = ["GrammarConstraint", "Guide"]

FEW = 64  # tokens: where no more are allowed, each is looked at wherever it stands
MANY = 512  # where more are allowed, none is looked at by itself
SPARE = 6  # tokens by which one token may put the end off: an escape takes five more to complete
SPARE_JSON = 12  # the same for brackets and items
FUEL = 4096  # tokens tried for one mask
FUEL_FAR = 512  # the same where no ending is known at all
SEARCHES = 24  # for endings, for one mask
MOST_LOOKS = 2048  # kept for one constraint


class _Look(NamedTuple):
    """What is known about the next token beyond the grammar: `forbidden`, or the `only` ones."""

    forbidden: NDArray[np.intp]
    only: NDArray[np.intp] | None = None
    is_limited: bool = False


_FREE = _Look(np.zeros(0, dtype=np.intp))


class GrammarConstraint:
    """The legal completions of at most `horizon` tokens. Its guides are used by one thread at a time.

    `start` is the compiled grammar: a matcher that has seen no token, and never will.
    """

    def __init__(self, vocabulary: Vocabulary, lark: str, start: Any, horizon: int, stop: StopStrings | None) -> None:
        self.vocabulary, self.start, self.horizon, self.stop = vocabulary, start, horizon, stop
        self.is_json = "%json" in lark
        self.rules = Rules(vocabulary, start, stop, by_text="max_tokens" not in lark)
        self.endings = Endings(self.rules, lark, horizon)
        self.looks: dict[Tokens, _Look] = {}

    def watch(self, tokens: Tokens) -> Guide:
        """The guide of a row whose completion starts with `tokens`."""
        return Guide(self, tokens)

    def accepts(self, text: str) -> bool:
        """Whether a whole text is in the language."""
        return self.rules.accepts(text)

    @cached_property
    def first_ending(self) -> Units | None:
        return self.endings.search(())

    def try_out(self) -> None:
        """Raises ConfigurationError for a grammar that admits no text or cannot be followed, NoLegalCompletionError
        where it is proved that no text fits within the horizon."""
        guide = self.watch(())
        try:
            is_possible = guide.allowed().any() or self.fits(self.first_ending, self.horizon)
            if not is_possible and not self._begins():
                raise ConfigurationError(
                    "The constraint admits no text at all: nothing can come first, and it is not complete. A rule that "
                    "refers to itself without an end, or a class that excludes everything, does that."
                )
        except RequestFailedError as error:
            raise ConfigurationError(f"The constraint cannot be followed: {error}") from error
        if not is_possible or guide.state.within(self.horizon, self.rules, Fuel(FUEL)) is False:
            least = (
                ""
                if self.first_ending is None
                else f" About {len(self.vocabulary.spelled(self.first_ending))} will do."
            )
            raise NoLegalCompletionError(
                f"No completion of at most {self.horizon} tokens (max_new_tokens) obeys the constraint. Raise "
                f"max_new_tokens, or shorten what has to be written.{least}"
            )

    def _begins(self) -> bool:
        """Whether the grammar, of whatever length, has a first token."""
        return bool(self.vocabulary.allowed_by(self.start.deep_copy()).any())

    def fits(self, ending: Units | None, limit: int) -> bool:
        """Whether an ending is known that takes no more tokens than that."""
        return ending is not None and len(self.vocabulary.spelled(ending)) <= limit


class Guide:
    """Follows one row under a constraint. All it answers is a function of the row's tokens. Satisfies `Watch`."""

    has_masks = True

    def __init__(self, constraint: GrammarConstraint, tokens: Tokens) -> None:
        self._constraint, self._matcher = constraint, constraint.start.deep_copy()
        self._stop = constraint.stop.watch(()) if constraint.stop else None
        self._tokens: list[int] = []
        self._endings = [constraint.first_ending]  # after 0, 1, ... tokens
        self._mask: NDArray[np.bool_] | None = None  # of this position, once it is asked for
        self._is_followed = True  # False: a token came that the grammar does not allow
        self.is_limited = False
        for token in tokens:
            self._advance(token)

    def allowed(self) -> NDArray[np.bool_]:
        """Which tokens may come next, shape (vocab_size,): those of EOS where the completion may end."""
        if self._mask is None and not self._is_followed:
            self._mask = np.zeros(self._constraint.vocabulary.size, dtype=np.bool_)
        if self._mask is None:
            mask = self._constraint.vocabulary.allowed_by(self._matcher)
            self._check()
            look = self._look(np.flatnonzero(mask))
            if look.only is not None:
                kept = look.only[mask[look.only]]
                mask = np.zeros_like(mask)
                mask[kept] = True
            mask[look.forbidden] = False
            if self._matcher.is_accepting():
                mask[self._constraint.vocabulary.eos_ids] = True
            self._mask, self.is_limited = mask, self.is_limited or look.is_limited
        return self._mask

    def push(self, token: int) -> Literal["stop", "illegal"] | None:
        """Told the next token, unless it is EOS."""
        if self._advance(token):
            return "stop" if self._constraint.rules.is_legal_at_stop(tuple(self._tokens)) else "illegal"
        if not self._is_followed or (not self._left and not self._matcher.is_accepting()):
            return "illegal"
        if not self._left:
            return None
        return None if self.allowed().any() else "illegal"

    def fork(self, length: int) -> Guide:
        """A guide of the same row's first `length` tokens. None of them is parsed again."""
        matcher = self._matcher.deep_copy()
        if not self._is_followed or matcher.is_error() or not matcher.rollback(len(self._tokens) - length):
            return self._constraint.watch(tuple(self._tokens[:length]))  # what is broken cannot be taken back
        fork = Guide.__new__(Guide)
        fork._constraint, fork._matcher, fork._mask = self._constraint, matcher, None
        fork._is_followed = True
        fork._stop = self._stop.fork(length) if self._stop else None
        fork._tokens, fork._endings = self._tokens[:length], self._endings[: length + 1]
        fork.is_limited = False
        return fork

    @property
    def state(self) -> State:
        """Where the row stands, as a walk ahead begins with it."""
        tokens = tuple(self._tokens)
        return State(self._matcher, self._constraint.rules.tail(tokens), tokens)

    @property
    def _left(self) -> int:
        return self._constraint.horizon - len(self._tokens)

    def _advance(self, token: int) -> bool:
        """Whether a stop string is complete now."""
        if not self._is_followed or not self._matcher.validate_tokens([token]):
            self._is_followed = False  # nothing legal begins like this
        elif not self._matcher.consume_token(token):
            self._check()
        self._tokens.append(token)
        self._mask = None
        before, ending = self._endings[-1], None
        if self._is_followed:
            ending = self._constraint.endings.next(before, tuple(self._tokens), self._matcher)
        self._endings.append(ending)
        return self._stop is not None and self._stop.push(token)

    def _check(self) -> None:
        if is_too_complex(self._matcher):
            raise RequestFailedError(
                f"The constraint became too complex to follow after {len(self._tokens)} tokens "
                f"({self._matcher.stop_reason()}): bound its repetitions, or write it in fewer alternatives."
            )

    # ------------------------------------------------------------ the horizon

    def _look(self, ids: NDArray[np.intp]) -> _Look:
        """`ids` are the tokens that the grammar alone allows, EOS excepted."""
        constraint, vocabulary, left = self._constraint, self._constraint.vocabulary, self._left
        ending = self._endings[-1]
        spare = SPARE_JSON if constraint.is_json and len(ids) > MANY else SPARE
        is_near = ending is not None and not constraint.fits(ending, left - 1 - spare)
        if len(ids) <= FEW or (is_near and len(ids) <= MANY):
            if not is_near and vocabulary.begin_one_text(ids):
                return _FREE
            return self._each(ids)
        if ending is None or not is_near or not constraint.fits(ending, left):
            return _FREE
        return self._at_large(ids, ending)

    def _each(self, ids: NDArray[np.intp]) -> _Look:
        """Every token by itself; remembered, for other rows come to the same place."""
        tokens, looks = tuple(self._tokens), self._constraint.looks
        if tokens not in looks:
            while len(looks) >= MOST_LOOKS:
                del looks[next(iter(looks))]
            looks[tokens] = self._judged(ids)
        return looks[tokens]

    def _judged(self, ids: NDArray[np.intp]) -> _Look:
        forbidden, unknown = list[int](), list[int]()
        fuel = Fuel(FUEL if self._endings[-1] is not None else FUEL_FAR, SEARCHES)
        state, known = self.state, dict[bytes, Units]()
        for token in ids.tolist():
            verdict = self._may_come(state, token, fuel, known)
            if verdict is False:
                forbidden.append(token)
            elif verdict is None:
                unknown.append(token)
        is_limited = bool(unknown) and self._constraint.fits(self._endings[-1], self._left)
        return _Look(np.array(forbidden + unknown * is_limited, dtype=np.intp), None, is_limited)

    def _may_come(self, state: State, token: int, fuel: Fuel, known: dict[bytes, Units]) -> bool | None:
        """`known` are endings by what a state allows next: what looks alike often ends alike."""
        constraint, limit, tokens = self._constraint, self._left - 1, (*state.tokens, token)
        endings, rules, before = constraint.endings, constraint.rules, self._endings[-1]
        if rules.completes_a_stop(state.tail, constraint.vocabulary.units_of(token)):
            return rules.is_legal_at_stop(tokens)
        if constraint.fits(endings.kept(before, tokens, state.matcher, (token,)), limit):
            return True
        then = rules.then(state, token)
        if then is None or isinstance(then, bool):
            return then
        looks = then.matcher.compute_bitmask()
        ending = known.get(looks)
        if ending is None or not endings.ends(tokens, then.matcher, ending):
            # where no ending is known from here, none is sought from each of its tokens
            ending = endings.search(tokens) if before is not None and fuel.searches() else None
        if ending is not None:
            known[looks] = ending
            if constraint.fits(ending, limit):
                return True
        return then.within(limit, rules, fuel)

    def _at_large(self, ids: NDArray[np.intp], ending: Units) -> _Look:
        """Too many tokens to look at each, near the horizon: of most it is not known how long they put the end off."""
        vocabulary, constraint = self._constraint.vocabulary, self._constraint
        if self._matcher.is_accepting():  # most go on with what may end anywhere; control tokens begin something
            odd = np.intersect1d(ids, vocabulary.control_ids)
            return self._each(odd) if len(odd) <= FEW else _FREE
        first = vocabulary.spelled(ending)[0]
        is_string = len(ids) > vocabulary.size // 4
        if constraint.is_json and not is_string:  # nothing new is opened
            closed = ids[~vocabulary.openers[ids]]
            if constraint.fits(ending, self._left - 1):
                return _Look(_FREE.forbidden, np.append(closed, first), True)
        elif constraint.fits(ending, self._left - 1 - SPARE):
            return _FREE
        return _Look(_FREE.forbidden, np.array([first], dtype=np.intp), True)
