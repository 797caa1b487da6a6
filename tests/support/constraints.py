"""A constraint that can be enumerated: the legal completions are listed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from power_sampling.engines.protocol import Ending
from power_sampling.types import Tokens

EOS_IDS = frozenset({0})
PLAIN = ["1", "12", "21", "222", "1121"]


class Words:
    """The legal completions listed. It does not look ahead: what no longer fits is found out at the horizon."""

    def __init__(self, words: Sequence[str], horizon: int, vocab: int = 3) -> None:
        self.words, self.horizon, self.vocab = [tuple(map(int, w)) for w in words], horizon, vocab

    def watch(self, tokens: Tokens) -> WordGuide:
        return WordGuide(self, tokens)


class WordGuide:
    def __init__(self, words: Words, tokens: Tokens) -> None:
        self.words, self.tokens = words, list(tokens)

    def allowed(self) -> NDArray[np.bool_]:
        mask, here = np.zeros(self.words.vocab, dtype=np.bool_), tuple(self.tokens)
        for word in self.words.words:
            if word[: len(here)] == here:
                mask[word[len(here)] if len(word) > len(here) else 0] = True
        return mask

    def push(self, token: int) -> bool:
        self.tokens.append(token)
        if len(self.tokens) == self.words.horizon:
            return tuple(self.tokens) in self.words.words
        return bool(self.allowed().any())

    def is_legal_at_stop(self) -> bool:
        return False


def legal(words: Sequence[str], horizon: int) -> Ending:
    return Ending(EOS_IDS, None, Words(words, horizon))
