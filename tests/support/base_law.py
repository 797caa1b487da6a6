"""The base law by its definition, token by token, in plain Python: what the production code is judged by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from power_sampling.types import BaseLaw, Tokens

BASE_LAWS = (
    BaseLaw(top_k=2),
    BaseLaw(top_p=0.8),
    BaseLaw(min_p=0.3),
    BaseLaw(logit_bias=((0, 1.0), (1, -0.7))),
    BaseLaw(bad_words=((1, 2), (2, 2, 1))),
    BaseLaw(((1, 1.5),), ((2, 1),), 2, 0.95, 0.05),
)


def next_law(logits: Sequence[float], base: BaseLaw, temperature: float, before: Tokens) -> list[float]:
    """p of every token behind `before`."""
    bias = dict(base.logit_bias)
    weights = [math.exp((z + bias.get(v, 0.0)) / temperature) for v, z in enumerate(logits)]
    for word in base.bad_words:
        for v in range(len(weights)):
            if (*before, v)[-len(word) :] == word:
                weights[v] = 0.0
    p = _normalised(weights)
    if base.top_k is not None:
        least = sorted(p, reverse=True)[: base.top_k][-1]
        p = _normalised([x if x >= least else 0.0 for x in p])
    if base.top_p is not None:
        total, least = 0.0, 1.0
        for x in sorted(p, reverse=True):
            if total >= base.top_p:
                break
            total, least = total + x, x
        p = _normalised([x if x >= least else 0.0 for x in p])
    if base.min_p is not None:
        p = _normalised([x if x >= base.min_p * max(p) else 0.0 for x in p])
    return p


def _normalised(weights: Sequence[float]) -> list[float]:
    return [x / sum(weights) for x in weights]


def enumerated(
    logits: Callable[[Tokens], Any], base: BaseLaw, temperature: float, horizon: int, eos: int
) -> dict[Tokens, float]:
    """p of every completion that has any, by the definition."""
    found: dict[Tokens, float] = {}

    def grow(tokens: Tokens, p: float) -> None:
        if tokens and (tokens[-1] == eos or len(tokens) == horizon):
            found[tokens] = p
            return
        for token, each in enumerate(next_law(logits(tokens), base, temperature, tokens)):
            if each:
                grow((*tokens, token), p * each)

    grow((), 1.0)
    return found
