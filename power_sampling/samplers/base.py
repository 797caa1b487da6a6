"""What every sampler is: options that a file or a call can give, and a generator that answers one prompt with them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator
from typing import ClassVar, TypeAlias

from power_sampling.errors import ConfigurationError
from power_sampling.samplers.parts.rng import Rng
from power_sampling.settings import Settings
from power_sampling.types import Answer, Chain, Continuation, Exactness, Law, Round, Tokens

__all__ = ["MOST_COMPLETIONS", "IsOutOfTime", "Sampler", "SamplerOptions", "TextOf"]

MOST_COMPLETIONS = 2**14  # that a request holds at one time: what is done for each of them stays below a second
Sampler: TypeAlias = Generator[Round, list[Continuation], Answer]
IsOutOfTime: TypeAlias = Callable[[], bool]
TextOf: TypeAlias = Callable[[Tokens], str]  # how a completion with these tokens reads


class SamplerOptions(Settings, ABC):
    """The options of one method, and the method: `samplers.ALL` lists its classes.

    A subclass gives `name` (a `Literal` with a default), its options as fields with a docstring each, and `run`.
    """

    exactness: ClassVar[Exactness]
    """How an answer is labelled that nothing has cut short (see `Diagnostics`)."""
    draws_from_q_alone: ClassVar[bool] = False
    """Whether the answer is one draw from q, never weighed. Under a constraint such a draw needs help to end legally,
    and its law is not p on the legal completions; weights correct for that."""
    is_plain_at_alpha_one: ClassVar[bool] = True
    """Whether the sampler is plain sampling where every weight is 1. It is then run as such."""
    takes_potentials: ClassVar[bool] = False
    """Whether its weights have the potentials of a request in them (`parts/judging.py`)."""

    name: str

    def counts(self) -> dict[str, int]:
        """The options whose product is the number of completions it holds at one time, by their names; no round has
        more draws. Settings that ask for more than can be held are refused by them."""
        return {}

    def law(self, alpha: float, temperature: float) -> Law:
        """How its tokens are drawn and weighed, at a temperature above 0; with all that its draws ask of an engine
        besides (entropies, further log q). Raises ConfigurationError where the options and alpha do not go together."""
        return Law(alpha, temperature, temperature / alpha)

    def refine(self, chain: Chain, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime) -> Sampler:
        """As `run`, from a given completion on, which ends by itself or at the horizon: no other one is made first.
        Only of samplers that say so (`takes_start`): their steps leave the law p^alpha as it is, so that a completion
        of that law goes on to have it."""
        raise ConfigurationError(f"start: {self.name} makes no steps from a completion.")

    @classmethod
    def takes_start(cls) -> bool:
        """Whether there is `refine`."""
        return cls.refine is not SamplerOptions.refine

    def reading(self, text_of: TextOf) -> SamplerOptions:
        """The same, told how completions read. Only a method that looks at texts takes note of it."""
        return self

    @abstractmethod
    def run(self, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime) -> Sampler:
        """Answer one prompt with a completion of at most `horizon` tokens.

        The generator yields `Round`s of draws, is sent their continuations in the same order, and returns an `Answer`.
        All chance comes from `rng`. Once `is_out_of_time()` is true, nothing is refined any more: the sampler finishes
        what it has by one extension from q at most, and labels it `approximate` with `is_budget_spent`.
        """
