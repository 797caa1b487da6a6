"""Marginal: power at the level of the answer, from one pool of plain samples (arXiv 2608.14420, 2605.28142).

Completions x_1..x_N are drawn from p, and a parser reads the answer a(x) that each gives. Two laws of the answer have a
power in them, and they differ:

- `power_on: completions`, the law of the answer of a power sample,

      P(a) = sum_{x: a(x) = a} p(x)^alpha / sum_x p(x)^alpha      estimated by shares of w_i = p(x_i)^alpha / q(x_i);

- `power_on: answers`, the power of the answer's own law,

      P(a) ~ (sum_{x: a(x) = a} p(x))^alpha                      estimated by powers of shares of w_i = p(x_i) / q(x_i).

Sums are over completions that give an answer, where any does. q is p; under a constraint it is p masked token by token,
and the weights are exact all the same. As N grows the shares tend to P. They are biased for every finite N, the first
ones strongly so where few samples hold the weight, so the sampler is labelled `approximate` and tells the effective
number of votes, 1 / sum of squared weights.

What is returned is the likeliest completion of the answer with the largest share, or of an answer drawn by its share.
Under `answers` the order of the shares does not depend on alpha: the winner is that of a plain majority vote.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field, PrivateAttr, WithJsonSchema, field_serializer, field_validator

from power_sampling.errors import ConfigurationError, shortened
from power_sampling.samplers.base import MOST_COMPLETIONS, IsOutOfTime, Sampler, SamplerOptions, TextOf
from power_sampling.samplers.parts.rng import Rng
from power_sampling.text.parsers import Parser, parser_name, parser_of
from power_sampling.types import Answer, Chain, Chosen, Draw, Exactness, Law, Progress, Round, Tokens
from power_sampling.vote import counted, sharpened

__all__ = ["Marginal"]


def _numbers(tokens: Tokens) -> str:
    """How tokens read where nobody can say it."""
    return " ".join(map(str, tokens))


class Marginal(SamplerOptions):
    """A weighted vote over plain samples: the power at the level of the answer that a parser reads (arXiv 2608.14420,
    2605.28142). Tends to the answer's law with the completions."""

    exactness: ClassVar[Exactness] = "approximate"
    is_plain_at_alpha_one: ClassVar[bool] = False

    name: Literal["marginal"] = "marginal"
    num_completions: int = Field(default=16, ge=1, le=MOST_COMPLETIONS)
    """Plain samples that are counted."""
    parser: Annotated[str | Callable[[str], Any], WithJsonSchema({"type": "string"})] = "exact"
    """Which answer a text gives: `exact`, `numeric`, `choice`, `math`, `json`, `regex:EXPRESSION`, `module:function`,
    or a function of a text that gives something hashable, or None for no answer. It runs on the thread that drives the
    model: it should be quick."""
    power_on: Literal["completions", "answers"] = "completions"
    """What is put to the power alpha: `completions`, summed by answer: the answer of a power sample; `answers`: the
    probability of an answer itself, whose winner is that of a majority vote for every alpha."""
    returned: Literal["winner", "drawn"] = "winner"
    """`winner`: the answer of the largest share; `drawn`: one drawn by its share, whose law tends to that of the answer
    under the power. Of either, the likeliest completion."""

    _text_of: TextOf | None = PrivateAttr(default=None)

    @field_validator("parser")
    @classmethod
    def _check_parser(cls, given: str | Parser) -> str | Parser:
        parser_of(given)
        return given

    @field_serializer("parser")
    def _named(self, given: str | Parser) -> str:
        return parser_name(given)

    def counts(self) -> dict[str, int]:
        return {"num_completions": self.num_completions}

    def law(self, alpha: float, temperature: float) -> Law:
        return Law(alpha, temperature, temperature)

    def reading(self, text_of: TextOf) -> Marginal:
        told = self.model_copy()
        told._text_of = text_of
        return told

    def run(self, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime) -> Sampler:
        """The likeliest completion of the answer that wins, or is drawn. Draws are all asked for together, so that
        there is nothing to leave out when time is up."""
        drawn = law if self.power_on == "completions" else law._replace(alpha=1.0)
        draws = tuple(Draw(Chain.empty(), 0, horizon, drawn, rng.seed()) for _ in range(self.num_completions))
        continuations = yield Round(draws, progress=Progress(0, 1, {"completions": float(len(draws))}))
        chains = [Chain.empty().spliced(0, continuation) for continuation in continuations]
        legal = [i for i, x in enumerate(chains) if x.end != "illegal"]
        told = tuple(x.bare() for x in chains)
        if not legal:
            return Answer(chains[0], self.exactness, ess=0.0, steps=(Chosen(0, told, None, 0),))
        answers = self._answers([chains[i] for i in legal])
        count = counted(
            answers,
            [float(chains[i].logp.sum()) for i in legal],
            [float(chains[i].log_weight.sum()) for i in legal],
        )
        shares = count.shares if self.power_on == "completions" else sharpened(count.shares, law.alpha)
        place = rng.categorical(np.array(list(shares.values()))) if self.returned == "drawn" else 0
        chosen = legal[count.best[list(shares)[place]]]
        weights = dict(zip(legal, count.weights, strict=True))
        return Answer(
            chains[chosen],
            self.exactness,
            ess=count.effective_votes,
            answers=tuple((_told(answer), share, count.votes[answer]) for answer, share in shares.items()),
            steps=(Chosen(0, told, tuple(weights.get(i, 0.0) for i in range(len(chains))), chosen),),
        )

    def _answers(self, chains: list[Chain]) -> list[Hashable]:
        """What each gives. Raises ConfigurationError for what cannot be compared."""
        parse, text_of = parser_of(self.parser), self._text_of or _numbers
        found = [parse(text_of(chain.tokens)) for chain in chains]
        for answer in found:
            try:
                hash(answer)
            except TypeError as error:
                raise ConfigurationError(
                    f"parser: {parser_name(self.parser)} has to give something hashable, or None for no answer, got "
                    f"{shortened(answer)}."
                ) from error
        return found


def _told(answer: Hashable) -> str | None:
    return None if answer is None else str(answer)
