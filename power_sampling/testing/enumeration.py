"""Exact laws by enumeration: every continuation of a draw, every completion, every outcome of a program of chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

import numpy as np

from power_sampling.engines.choice import chosen, log_law, next_token
from power_sampling.engines.row import Row, context_of
from power_sampling.samplers import Sampler
from power_sampling.testing.table import TableLM
from power_sampling.types import Answer, Chain, Continuation, Draw, Floats, Law, Round, Termination, Tokens

__all__ = ["Branches", "completions", "drive", "outcomes", "power_law", "suffixes"]

T = TypeVar("T")


def suffixes(
    lm: TableLM, prompt: Tokens, termination: Termination, draw: Draw, temperature: float
) -> list[tuple[Continuation, float]]:
    """Every continuation a draw can return, floors apart, with its log probability under `temperature`, masked where
    the termination's constraint forbids; of given tokens the one there is."""
    found: list[tuple[Continuation, float]] = []
    given = context_of(prompt, draw)

    def grow(tokens: Tokens, numbers: list[tuple[float, float, Sequence[float]]], log_r_all: float) -> None:
        row = _replayed(lm, draw, termination, tokens, numbers)
        laws = next_token(lm.logits((*given, *tokens)), row)
        log_r = log_law(laws.logits, temperature, laws.allowed)
        if row.given:
            log_r = np.where(np.arange(len(log_r)) == row.given[0], 0.0, -np.inf)
        for token in np.flatnonzero(log_r > -math.inf).tolist():
            choice = chosen(laws, draw.law, token)
            drawn = (*tokens, token), [*numbers, (choice.logp, choice.logq, choice.extras)]
            row = _replayed(lm, draw, termination, tokens, numbers)
            if row.push(token, *drawn[1][-1]) or row.fault is not None:
                found.append((row.continuation(), log_r_all + float(log_r[token])))  # or raises the fault
            else:
                grow(*drawn, log_r_all + float(log_r[token]))

    grow((), [], 0.0)
    return found


def _replayed(
    lm: TableLM,
    draw: Draw,
    termination: Termination,
    tokens: Tokens,
    numbers: list[tuple[float, float, Sequence[float]]],
) -> Row:
    watch = lm.watch(termination, draw.chain.tokens[: draw.cut])
    row = Row(0, draw._replace(floors=None), termination.eos_ids, watch)
    for token, given in zip(tokens, numbers, strict=True):
        row.push(token, *given)
    return row


def completions(lm: TableLM, prompt: Tokens, termination: Termination, horizon: int, law: Law) -> list[Chain]:
    """Every legal completion up to the horizon, as the chain a draw under `law` would make of it."""
    draw = Draw(Chain.empty(), 0, horizon, law, seed=0)
    every = [Chain.empty().spliced(0, c) for c, _ in suffixes(lm, prompt, termination, draw, law.temperature)]
    return [x for x in every if x.end != "illegal"]


def power_law(chains: Sequence[Chain], alpha: float) -> Floats:
    """p(x)^alpha / Z over these completions."""
    log_pi = alpha * np.array([x.logp.sum() for x in chains])
    return np.asarray(np.exp(log_pi - np.logaddexp.reduce(log_pi)))


# ---------------------------------------------------------------- every outcome of a program


class _LazyLogUniform(float):
    """log u for a uniform u that is decided by the one comparison it takes part in."""

    def __new__(cls, branches: Branches) -> _LazyLogUniform:
        self = super().__new__(cls, math.nan)
        self.branches = branches
        return self

    branches: Branches

    def __le__(self, log_ratio: float) -> bool:
        p = math.exp(min(0.0, log_ratio))
        return self.branches._one_of([1 - p, p]) == 1


class Branches:
    """An `Rng` that follows one path of a program's chance and remembers the forks. See `outcomes`.

    A continuous uniform is split at `edges`, which have to contain every value at which the program's course changes;
    without edges it decides itself in the comparison `log_u <= log_ratio`.
    """

    def __init__(self, path: list[list[int]], edges: Floats | None) -> None:
        self._path, self._depth, self._edges = path, 0, edges
        self.probability = 1.0

    def _one_of(self, weights: list[float]) -> int:
        if self._depth == len(self._path):
            self._path.append([i for i, weight in enumerate(weights) if weight])
        choice = self._path[self._depth][0]
        self._depth += 1
        self.probability *= weights[choice] / sum(weights)
        return choice

    def categorical(self, weights: Floats) -> int:
        return self._one_of(weights.tolist())

    def integers(self, high: int) -> int:
        return self._one_of([1.0] * high)

    def log_uniform(self) -> float:
        if self._edges is None:
            return _LazyLogUniform(self)
        edges = np.unique(np.concatenate([[0.0], self._edges[(self._edges > 0) & (self._edges < 1)], [1.0]]))
        piece = self.categorical(np.diff(edges))
        return math.log((edges[piece] + edges[piece + 1]) / 2)

    def seed(self) -> int:
        return 0

    def fork(self) -> Branches:
        return self

    def copy(self) -> Branches:
        """The path itself: who asks for a copy walks either that or the original, not both."""
        return self


class outcomes(Generic[T]):  # noqa: N801 - used as a function
    """Iterate over (probability, outcome) of `program(rng)` down every path of its chance: its exact law."""

    def __init__(self, program: Callable[[Branches], T], edges: Floats | None = None) -> None:
        self._program, self._edges = program, edges

    def __iter__(self) -> Iterator[tuple[float, T]]:
        path: list[list[int]] = []
        while True:
            rng = Branches(path, self._edges)
            outcome = self._program(rng)
            yield rng.probability, outcome
            while path and len(path[-1]) == 1:
                path.pop()
            if not path:
                return
            path[-1].pop(0)


def drive(sampler: Sampler, answer: Callable[[Round], list[Continuation]]) -> Answer:
    """Run a sampler to its end, its rounds answered by a function."""
    try:
        current = next(sampler)
        while True:
            current = sampler.send(answer(current))
    except StopIteration as stop:
        result: Answer = stop.value
        return result
