"""Worlds whose target is p(x)^alpha phi(x), phi a number for every text of tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from power_sampling.testing import Branches
from power_sampling.types import Chain, Continuation, Draw, Floats, Judging, Law, Tokens
from tests.support.exact import World

__all__ = ["JudgedWorld", "nothing", "phi"]

Phi = Callable[[Tokens], float]


def phi(seed: int, *, forbidden: Tokens = (9,), most: float = math.inf) -> Phi:
    """log phi of every text: any numbers, -inf where it has the forbidden tokens one behind the other."""

    def log_phi(tokens: Tokens) -> float:
        places = range(len(tokens) - len(forbidden) + 1)
        if any(tokens[i : i + len(forbidden)] == forbidden for i in places):
            return -math.inf
        return min(most, float(np.random.default_rng([seed, *tokens]).normal()))

    return log_phi


def nothing(tokens: Tokens) -> float:
    """No potential of a kind."""
    return 0.0


class JudgedWorld(World):
    """A table model with everything enumerated, judged by a potential of each kind. `most`: what they say they are at
    most."""

    def __init__(
        self, *args: Any, prefix: Phi = nothing, final: Phi = nothing, most: tuple[float, float] = (math.inf, math.inf)
    ) -> None:
        vocab, horizon, seed, law, *rest = args
        super().__init__(vocab, horizon, seed, law._replace(judging=Judging(*most)), *rest)
        self.prefix, self.final = prefix, final
        self._values: dict[Any, float] = {}
        self.set_target(is_last=True)

    def set_target(self, *, is_last: bool) -> None:
        """That of the last stage, or of one before it, which knows potentials of kind `prefix` alone."""
        judged: Any = "final" if is_last else "prefix"
        bare = [x._replace(log_phi=self.log_phi(x.tokens, judged)) for x in self.chains]
        self.chains = [x if x.log_phi > -math.inf else x._replace(end="illegal") for x in bare]
        self.weights: Floats = np.array([math.exp(self.law.alpha * x.logp.sum() + x.log_phi) for x in self.chains])
        self.target = self.weights / self.weights.sum()

    def log_phi(self, tokens: Tokens, judged: Any) -> float:
        if (tokens, judged) not in self._values:
            self._values[tokens, judged] = self.prefix(tokens) + (self.final(tokens) if judged == "final" else 0.0)
        return self._values[tokens, judged]

    def continuation(self, draw: Draw, rng: Branches) -> Continuation:
        c = super().continuation(draw, rng) if draw.max_new_tokens else draw.undrawn()
        if draw.judged is None or c.end in ("floor", "illegal"):
            return c
        tokens = draw.chain.tokens[: draw.cut] + c.tokens
        if draw.judged == "final":
            assert c.end in ("eos", "stop") or len(tokens) == self.horizon, "what is not complete was judged as if"
        value = self.log_phi(tokens, draw.judged)
        return c._replace(log_phi=value, end="illegal" if value == -math.inf else c.end)

    def thresholds(self, law: Law, log_w: Callable[[Chain, int], float]) -> Callable[[Chain], Floats]:
        """Every u at which the decision about some proposal from x changes."""

        def of(x: Chain) -> Floats:
            found = [
                math.exp(min(0.0, log_w(y, cut) - log_w(x, cut)))
                for y in self.chains
                for cut in range(len(x.tokens))
                if x.log_phi > -math.inf and y.tokens[:cut] == x.tokens[:cut] and len(y.tokens) > cut
            ]
            return np.array(found)

        return of
