"""What the enumeration tests share: a table model with all its completions, and the exact law of a program on it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from power_sampling.engines.row import Row
from power_sampling.testing import Branches, TableLM, completions, drive, outcomes, power_law, suffixes
from power_sampling.types import Chain, Continuation, Draw, Floats, Law, Round, Termination, Tokens
from tests.support.constraints import table_rules

PROMPT: Tokens = (2, 0, 1)  # contains the EOS: only the completion's own may end it
EOS = Termination(frozenset({0}))
STOP = Termination(frozenset({0}), ("ab", "bb"))


class World:
    """A table model with everything enumerated. `law` may ask for more than the usual numbers."""

    def __init__(self, vocab: int, horizon: int, seed: int, law: Law, ending: Termination = EOS) -> None:
        self.lm, self.horizon, self.ending, self.law = TableLM(vocab, seed, rules=table_rules), horizon, ending, law
        self.chains = completions(self.lm, PROMPT, ending, horizon, law)
        self.index = {x.tokens: i for i, x in enumerate(self.chains)}
        self.target = power_law(self.chains, law.alpha)
        self._suffixes: dict[Any, tuple[list[Continuation], Floats]] = {}

    def answer(self, rng: Branches) -> Callable[[Round], list[Continuation]]:
        """Answers a round by branching over every draw."""
        return lambda current: [self.continuation(draw, rng) for draw in current.draws]

    def continuation(self, draw: Draw, rng: Branches) -> Continuation:
        key = draw.chain.tokens[: draw.cut], draw.max_new_tokens, draw.law, draw.given
        if key not in self._suffixes:
            found = suffixes(self.lm, PROMPT, self.ending, draw, draw.law.proposal_temperature)
            self._suffixes[key] = [c for c, _ in found], np.exp([log_q for _, log_q in found])
        options, q = self._suffixes[key]
        return self.floored(options[rng.categorical(q)], draw)

    def floored(self, c: Continuation, draw: Draw) -> Continuation:
        """What an engine that honours the floors returns."""
        if draw.floors is None:
            return c
        row = Row(0, draw, self.ending.eos_ids, self.lm.watch(self.ending, draw.chain.tokens[: draw.cut]))
        for t, token in enumerate(c.tokens):
            notes = [*([c.entropy[t]] if draw.law.wants_entropy else []), *(c.logq[t] if len(c.logq) else ())]
            if row.push(token, c.logp[t], draw.law.alpha * c.logp[t] - c.log_weight[t], notes):
                return row.continuation()
        raise AssertionError("a row ends with its continuation")

    def kernel(
        self, program: Callable[[Chain, Branches], Generator[Any, Any, Any]], thresholds: Callable[[Chain], Any] = id
    ) -> Floats:
        """The transition matrix of a program that takes a chain to a chain."""
        matrix = np.zeros((len(self.chains), len(self.chains)))
        for i, x in enumerate(self.chains):
            edges = None if thresholds is id else thresholds(x)

            def run(rng: Branches, x: Chain = x) -> Chain:
                return drive(program(x, rng), self.answer(rng))  # type: ignore[return-value]

            for probability, y in outcomes(run, edges):
                if y.tokens in self.index:
                    matrix[i, self.index[y.tokens]] += probability
        return matrix

    def gap(self, matrix: Floats) -> float:
        """How far a kernel is from leaving the target invariant."""
        return float(np.abs(self.target @ matrix - self.target).max())


def label(value: object) -> str:
    """The name of a test's parameter."""
    if isinstance(value, Termination):
        return "constraint" if value.constraint else "stop" if value.stop else "eos"
    return str(value)
