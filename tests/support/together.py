"""Samplers run together on one engine, and the completions that they can end in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from power_sampling.engines.protocol import LanguageModel
from power_sampling.types import Chain, Floats, Tokens


def every_completion(log_p: Callable[[Tokens], Floats], vocab_size: int, horizon: int) -> list[Chain]:
    """Every completion of a model with so many tokens, 0 the EOS, with its log p."""
    found: list[Tokens] = []

    def grow(tokens: Tokens) -> None:
        for token in range(vocab_size):
            extended = (*tokens, token)
            if token == 0 or len(extended) == horizon:
                found.append(extended)
            else:
                grow(extended)

    grow(())
    return [Chain(x, log_p(x), np.zeros(len(x)), None) for x in found]


def drive_together(lm: LanguageModel, handle: Any, samplers: list[Any]) -> list[Any]:
    """Run samplers on one engine, their rounds decoded together."""
    answers: list[Any] = []
    owners: dict[int, tuple[Any, dict[int, Any]]] = {}

    def ask(sampler: Any, results: list[Any] | None) -> None:
        try:
            current = next(sampler) if results is None else sampler.send(results)
        except StopIteration as stop:
            answers.append(stop.value)
            return
        slots: dict[int, Any] = {}
        for draw in current.draws:
            ticket = lm.add(handle, draw)
            slots[ticket] = None
            owners[ticket] = sampler, slots

    for sampler in samplers:
        ask(sampler, None)
    while len(answers) < len(samplers):
        for ticket, continuation in lm.step().finished:
            sampler, slots = owners.pop(ticket)
            slots[ticket] = continuation
            if all(c is not None for c in slots.values()):
                ask(sampler, list(slots.values()))
    return answers
