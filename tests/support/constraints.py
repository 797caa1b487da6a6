"""A constraint that can be enumerated: the legal completions are listed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from power_sampling.engines.protocol import Rule
from power_sampling.text.rules import Rules
from power_sampling.types import Termination, Tokens

EOS_IDS = frozenset({0})
PLAIN = ["1", "12", "21", "222", "1121"]


class Words:
    """The legal completions listed. It does not look ahead: what no longer fits is found out at the horizon."""

    def __init__(self, words: Sequence[str], horizon: int, vocab: int = 3) -> None:
        self.words, self.horizon, self.vocab = [tuple(map(int, w)) for w in words], horizon, vocab

    def watch(self, tokens: Tokens) -> WordWatch:
        return WordWatch(self, tokens)


class WordWatch:
    has_masks, is_limited = True, False

    def __init__(self, words: Words, tokens: Tokens) -> None:
        self.words, self.tokens = words, list(tokens)

    def allowed(self) -> NDArray[np.bool_]:
        mask, here = np.zeros(self.words.vocab, dtype=np.bool_), tuple(self.tokens)
        for word in self.words.words:
            if word[: len(here)] == here:
                mask[word[len(here)] if len(word) > len(here) else 0] = True
        return mask

    def push(self, token: int) -> Literal["illegal"] | None:
        self.tokens.append(token)
        if len(self.tokens) == self.words.horizon:
            can_be_legal = tuple(self.tokens) in self.words.words
        else:
            can_be_legal = bool(self.allowed().any())
        return None if can_be_legal else "illegal"

    def fork(self, length: int) -> WordWatch:
        return WordWatch(self.words, tuple(self.tokens[:length]))


def legal(words: Sequence[str], horizon: int) -> Termination:
    return Termination(EOS_IDS, constraint="|".join(words), max_new_tokens=horizon)


def table_rules(termination: Termination) -> Rule | None:
    """Stop strings over the letters of a table model's tokens; a constraint lists the legal completions."""
    if termination.constraint is not None:
        assert termination.max_new_tokens is not None
        return Words(termination.constraint.split("|"), termination.max_new_tokens)
    return Rules(lambda ids: "".join(".abc"[i] for i in ids))(termination)
