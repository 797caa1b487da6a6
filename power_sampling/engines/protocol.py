"""The protocol between the thread that serves requests and whatever decodes: draws in, continuations out.

Knows no sampler and no text. What ends a completion reaches an engine as data; an engine that steps on the host makes a
`Watch` of it for every row, a served engine passes it on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from power_sampling.errors import PowerSamplingError
from power_sampling.types import Continuation, Draw, Floats, Law, Ranked, Termination, Tokens

__all__ = [
    "Capabilities",
    "Cost",
    "LanguageModel",
    "Peeks",
    "PromptHandle",
    "Ranks",
    "Rule",
    "RuleMaker",
    "Stepped",
    "StepsOnHost",
    "Watch",
    "no_rules",
]


class Capabilities(NamedTuple):
    """What an engine can do beyond drawing whole continuations and scoring them."""

    seeded: bool = False  # a draw's tokens are a function of what lies before its cut, its law and its seed
    peek: bool = False  # unfinished draws can be looked at (`Peeks`): prefetching, token-by-token streams
    floors: bool = False  # draws are abandoned at their floors; without it they are drawn in full
    entropy: bool = False  # the entropy of p at every position: entropy cuts
    score_at: bool = False  # log q at further proposal temperatures: ladders of powers
    masks: bool = False  # `Termination.constraint`: q is masked token by token, p is not
    base: bool = False  # `Law.base`: p is another law than softmax(logits / temperature), and so is q
    given: bool = False  # `Draw.given`: tokens are weighed as if they had been drawn
    ranks: bool = False  # the likeliest tokens at every position of given ones (`Ranks`)
    temperature: bool = True  # p at other temperatures than 1
    least_temperature: float = 0.0  # of a proposal, greedy aside
    support: str | None = None  # which completions can be drawn, so that the target is on them; None: all

    @classmethod
    def every(cls) -> Capabilities:
        """All of them."""
        abilities: Any = {name: True for name, default in cls._field_defaults.items() if default is False}
        return cls(**abilities)


class Watch(Protocol):
    """Follows one row on the host: its stop strings and its constraint. All answers depend on the tokens alone, not on
    where the row was cut. What it raises ends its own request."""

    @property
    def has_masks(self) -> bool:
        """Whether `allowed` ever forbids a token, so that each token must be known before the next one is drawn."""

    @property
    def is_limited(self) -> bool:
        """Whether `allowed` has forbidden, since the watch was made or forked, a token that may begin a legal
        completion: the target is then approximate. A watch that only forbids what is proved to lead nowhere says no."""

    def allowed(self) -> NDArray[np.bool_] | None:
        """Which tokens q may draw next, shape (vocab_size,): those of EOS where the completion may end. None: all."""

    def push(self, token: int) -> Literal["stop", "illegal"] | None:
        """Told the next token, unless it is EOS. `stop`: a stop string is complete, and what comes before it is legal;
        `illegal`: no legal completion begins like this; None: go on."""

    def fork(self, length: int) -> Watch:
        """A watch of the same row's first `length` tokens, those it began with included."""


class Rule(Protocol):
    """The stop strings and the constraint of one termination."""

    def watch(self, tokens: Tokens) -> Watch:
        """A watch of a row whose completion starts with `tokens`."""


RuleMaker = Callable[[Termination], Rule | None]  # None: nothing but EOS and length ends its completions


def no_rules(termination: Termination) -> None:
    """The rules of an engine without a tokenizer: EOS and length only."""
    if termination.stop or termination.is_restricted:
        raise AssertionError("this engine was made without rules: it knows no stop strings and no constraints")


class PromptHandle(Protocol):
    """What an engine keeps of one prompt."""

    @property
    def prefilled_tokens(self) -> int:
        """Tokens that went through the model to get there, so far."""

    @property
    def reused_tokens(self) -> int:
        """Tokens of the prompt whose states other requests had left."""


class Cost(NamedTuple):
    """What an engine has done since it was made; independent of the machine."""

    forward_calls: int  # calls of the model, prefills included
    serial_steps: int  # decoding steps
    row_steps: int  # tokens decoded: rows summed over steps
    prefilled_tokens: int


class Stepped(NamedTuple):
    """What a step did."""

    decoded: Sequence[int] = ()  # tickets of the draws that got on; a draw that is served whole is in here once
    finished: Sequence[tuple[int, Continuation]] = ()
    failed: Sequence[tuple[int, PowerSamplingError]] = ()  # draws that cannot go on; nothing else is touched by that


@runtime_checkable
class LanguageModel(Protocol):
    """p(x_t | x_<t) behind draws that begin and end independently. Used by one thread only.

    Laws (`power_sampling.testing.check_language_model`):

        score(prompt, tokens) == logp of a draw of these tokens   sampling and scoring agree
        log_weight == alpha * log p - log q, q as the law says    the proposal is the one that was asked for,
                                                                  masked and normalised where a constraint forbids
        a draw's law is q                                         chi-square over all completions
        a draw after any history equals the draw on a fresh engine   what is cached is invisible
        a draw with a seed does not depend on its neighbours      rows do not see each other

    The last two are checked token by token where `capabilities.seeded`. An engine with a random generator of its own
    keeps them in law.
    """

    @property
    def vocab_size(self) -> int:
        """Tokens that can be drawn: 0..vocab_size-1; p is normalised over them."""

    @property
    def context_window(self) -> int | None:
        """Most tokens of prompt and completion together; None: unbounded."""

    @property
    def capabilities(self) -> Capabilities: ...

    def open(self, prompt: Tokens, termination: Termination) -> PromptHandle:
        """A handle for the draws of one prompt. Nothing is computed before its first draw; what is then cached lives
        as long as the handle and the chains drawn under it."""

    def add(self, prompt: Any, draw: Draw) -> int:
        """Queue a draw of an opened prompt; returns its ticket."""

    def drop(self, ticket: int) -> None:
        """Forget a draw, running or waiting. Unknown tickets are finished ones: nothing happens."""

    def step(self) -> Stepped:
        """Make progress with what is queued, for some 50 ms at most. It may return nothing. What is wrong with one draw
        (its watch raised, its logits are NaN) is returned as failed; what is raised ends every draw."""

    def reset(self) -> None:
        """Drop every draw, after an error too."""

    def score(self, prompt: Tokens, tokens: Tokens, temperature: float) -> Floats:
        """log p(x_t | x_<t) of given tokens, shape (T,)."""


@runtime_checkable
class Peeks(Protocol):
    """What an engine with `Capabilities.peek` has besides."""

    @property
    def spare_rows(self) -> int:
        """Free rows after all queued and running draws. Negative: that many draws are waiting."""

    def so_far(self, ticket: int) -> Continuation:
        """An unfinished draw as it stands; its `end` is None. A chain made of it can be forked until the next step."""

    def set_floors(self, ticket: int, floors: Floats | None) -> None:
        """Give an unfinished draw other floors (see `Draw`)."""


@runtime_checkable
class Ranks(Protocol):
    """What an engine with `Capabilities.ranks` has besides."""

    def ranked(self, prompt: Any, tokens: Tokens, law: Law, count: int) -> Iterator[Sequence[Ranked]]:
        """At every position of a completion of an opened prompt, the `count` likeliest tokens under the base law of
        `law`, fewer where it gives fewer any probability. Some positions at each `next`, by one pass of the model."""


@runtime_checkable
class StepsOnHost(Protocol):
    """An engine that watches stop strings and constraints itself. Whoever knows its tokenizer sets `rules`, before the
    first prompt is opened."""

    rules: RuleMaker
