"""Metropolis-Hastings on a table model with everything enumerated: the kernel of one move, over multisets of draws."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations_with_replacement

import numpy as np

from power_sampling.config import MetropolisHastings
from power_sampling.engines.protocol import RuleMaker
from power_sampling.samplers.metropolis_hastings import Move
from power_sampling.testing import Branches, TableLM, completions, drive, outcomes, power_law, suffixes
from power_sampling.types import BaseLaw, Chain, Continuation, Draw, Floats, Law, Progress, Round, Termination, Tokens
from tests.support.constraints import table_rules
from tests.support.exact import EOS, PROMPT


class Table:
    """A table model with everything enumerated: all completions, all suffixes of all cuts."""

    def __init__(
        self,
        vocab: int,
        horizon: int,
        seed: int,
        alpha: float,
        ending: Termination = EOS,
        tau: float | None = None,
        rules: RuleMaker = table_rules,
        lm: TableLM | None = None,
        base: BaseLaw | None = None,
    ):
        self.lm, self.horizon, self.ending = lm or TableLM(vocab, seed, rules=rules), horizon, ending
        self.law = Law(alpha, 1.0, tau or 1 / alpha, base=base)
        self.chains = completions(self.lm, PROMPT, ending, horizon, self.law)
        self.index = {x.tokens: i for i, x in enumerate(self.chains)}
        self.target = power_law(self.chains, alpha)
        self._groups: dict[tuple[Tokens, int, int], tuple[list[tuple[int, ...]], Floats]] = {}
        self._suffixes: dict[tuple[Tokens, int], list[tuple[Continuation, float]]] = {}

    def suffixes(self, draw: Draw) -> list[tuple[Continuation, float]]:
        key = (draw.chain.tokens[: draw.cut], draw.max_new_tokens)
        if key not in self._suffixes:
            found = suffixes(self.lm, PROMPT, self.ending, draw, draw.law.proposal_temperature)
            self._suffixes[key] = [(c, math.exp(log_q)) for c, log_q in found]
        return self._suffixes[key]

    def answer(self, rng: Branches) -> Callable[[Round], list[Continuation]]:
        """Answers a round by branching over its draws. They are alike, so their order does not matter: multisets."""

        def continuations(current: Round) -> list[Continuation]:
            options = self.suffixes(current.draws[0])
            groups, weights = self.groups(current.draws[0], len(current.draws))
            return [_floored(options[i][0], current.draws[0]) for i in groups[rng.categorical(weights)]]

        return continuations

    def groups(self, draw: Draw, num_proposals: int) -> tuple[list[tuple[int, ...]], Floats]:
        key = (draw.chain.tokens[: draw.cut], draw.max_new_tokens, num_proposals)
        if key not in self._groups:
            options = self.suffixes(draw)
            groups = list(combinations_with_replacement(range(len(options)), num_proposals))
            weights = [_multiplicity(group) * math.prod(options[i][1] for i in group) for group in groups]
            self._groups[key] = groups, np.array(weights)
        return self._groups[key]

    def kernel(self, config: MetropolisHastings, *, edges: bool = False) -> Floats:
        """The transition matrix of one move."""
        matrix = np.zeros((len(self.chains), len(self.chains)))
        for i, x in enumerate(self.chains):

            def one_move(rng: Branches, x: Chain = x) -> Chain:
                generator = Move(config, self.law, self.horizon).run(x, rng, Progress(0, 1, {}))
                return drive(generator, self.answer(rng))  # type: ignore[arg-type,return-value]

            for probability, y in outcomes(one_move, self.thresholds(x) if edges else None):
                matrix[i, self.index[y.tokens]] += probability
        return matrix

    def thresholds(self, x: Chain) -> Floats:
        """Every u at which the decision about some proposal from x changes, by the formula of the manual."""
        found = [
            math.exp(min(0.0, self.log_weight(y, cut) - self.log_weight(x, cut)))
            for y in self.chains
            for cut in range(len(x.tokens))
            if y.tokens[:cut] == x.tokens[:cut] and len(y.tokens) > cut
        ]
        return np.array(found)

    def log_weight(self, x: Chain, cut: int) -> float:
        return float(x.log_weight[cut:].sum()) - math.log(len(x.tokens))

    def gap(self, matrix: Floats) -> float:
        return float(np.abs(self.target @ matrix - self.target).max())


def _multiplicity(group: tuple[int, ...]) -> int:
    return math.factorial(len(group)) // math.prod(math.factorial(group.count(i)) for i in set(group))


def _floored(c: Continuation, draw: Draw) -> Continuation:
    """What an engine that honours the floors returns."""
    if draw.floors is None:
        return c
    is_below = np.cumsum(c.log_weight) < draw.floors[: len(c.tokens)]
    below = np.flatnonzero(is_below[:-1])  # at its last token a draw has ended by itself
    if not len(below):
        return c
    n = int(below[0]) + 1
    return Continuation(c.tokens[:n], c.logp[:n], c.log_weight[:n], "floor")
