"""Generators of rounds, put together: several in lockstep, or one with other rounds shown."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TypeVar

from power_sampling.types import Continuation, Progress, Round, Tokens

__all__ = ["common_prefix", "lockstep", "with_rounds"]

T = TypeVar("T")


def lockstep(
    generators: Sequence[Generator[Round, list[Continuation], T]], progress: Progress | None = None
) -> Generator[Round, list[Continuation], list[T]]:
    """What each of them returns. Their rounds become one, so that all draws are rows of one batch. Tokens are settled
    when they are settled in all of them."""
    results: dict[int, T] = {}
    rounds: dict[int, Round] = {}
    settled: list[Tokens] = [()] * len(generators)
    answers: dict[int, list[Continuation] | None] = dict.fromkeys(range(len(generators)))
    while answers:
        rounds = {}
        for i, answer in answers.items():
            try:
                rounds[i] = next(generators[i]) if answer is None else generators[i].send(answer)
                settled[i] = rounds[i].settled
            except StopIteration as stop:
                results[i] = stop.value
        answers = {}
        if rounds:
            draws = tuple(draw for current in rounds.values() for draw in current.draws)
            shown = progress or next(iter(rounds.values())).progress
            steps = tuple(step for current in rounds.values() for step in current.steps)
            continuations = iter((yield Round(draws, settled=common_prefix(settled), progress=shown, steps=steps)))
            answers = {i: [next(continuations) for _ in current.draws] for i, current in rounds.items()}
    return [results[i] for i in range(len(generators))]


def with_rounds(
    generator: Generator[Round, list[Continuation], T], change: Callable[[Round], Round]
) -> Generator[Round, list[Continuation], T]:
    """What the generator returns. Each of its rounds is changed before it is asked for."""
    continuations: list[Continuation] | None = None
    while True:
        try:
            current = next(generator) if continuations is None else generator.send(continuations)
        except StopIteration as stop:
            result: T = stop.value
            return result
        continuations = yield change(current)


def common_prefix(texts: Sequence[Tokens]) -> Tokens:
    """The longest beginning that all of them share."""
    first, last = min(texts), max(texts)  # in lexicographic order these two differ earliest
    length = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return first[:length]
