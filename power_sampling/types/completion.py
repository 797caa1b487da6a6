"""What a request is answered with: the completion, how it was found, and the pieces of a stream."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from power_sampling.errors import InputError
from power_sampling.types.conversation import Reply
from power_sampling.types.decoding import Exactness, Progress, Tokens
from power_sampling.types.trace import Frame

__all__ = ["Chunk", "Completion", "Diagnostics", "TopToken"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostics:
    """How a completion was found and what it cost.

    `exactness`: `exact` (one draw has the target law), `asymptotic` (the chain leaves p^alpha invariant and converges
    to it with its steps), `approximate` (consistent only as particles grow, or cut short by `time_budget`).
    """

    sampler: str
    alpha: float  # the request's, or the one that the sampler chose
    exactness: Exactness
    base_law: str | None = None  # what makes p another law than the model's own, as in `top_k=40, top_p=0.9`
    acceptance_rate: float | None  # of proposals; of draws, where the sampler is `rejection`
    ess: float | None  # smallest effective sample size seen, in particles; of a vote, its effective number of votes
    log_z: float | None  # estimate of log sum_x p(x)^alpha phi(x), phi of the request's potentials
    log_phi: float | None = None  # of the completion, by the request's potentials
    is_budget_spent: bool  # `time_budget` ended the refinement early
    tokens_decoded: int  # tokens drawn, those of rejected proposals included
    tokens_prefilled: int  # prompt tokens that went through the model
    tokens_reused: int = 0  # prompt tokens whose states other requests had left
    serial_steps: int  # steps of the model this request waited for
    seconds: float
    curve: tuple[tuple[float, float], ...] | None = None  # (alpha, mean log p under p^alpha), of a ladder of alphas
    # (answer, its share, how many completions give it) of a vote, the largest share first; None as an answer: none
    answers: tuple[tuple[str | None, float, int], ...] | None = None
    support: str | None = None  # which completions the target is on, as in `top 64`; None: all of them
    mass_left_out: float | None = None  # probability that p leaves them somewhere beside this completion
    error_bound: float | None = None  # by how much log q of this completion may be off, in nats
    effective_steps: float | None = None  # independent states that the steps at full length are worth, by their log p
    r_hat: float | None = None  # split R-hat of log p over the chains of this prompt in one call
    warnings: tuple[str, ...] = ()  # what is not to be relied on, in short sentences

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values. JSON has no infinite number: None stands for it (`log_z` of a run that found nothing)."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain


class Origin(Protocol):
    """Where a completion came from, as far as it can be gone on from there."""

    def resume(self, seed: int, asked: Mapping[str, Any]) -> Completion: ...
    async def aresume(self, seed: int, asked: Mapping[str, Any]) -> Completion: ...


class TopToken(NamedTuple):
    """One of the likeliest tokens of a position."""

    token: int
    text: str
    logp: float  # under the base law


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A finished completion. `text` ends before the stop string or EOS; `tokens` include what terminated it."""

    text: str
    reply: Reply | None = None  # of a conversation: `text` taken apart
    tokens: Tokens
    logp: float  # log p(completion) under the base law
    token_logp: tuple[float, ...]
    token_text: tuple[str, ...]  # each token alone, as the tokenizer prints it
    top_logprobs: tuple[tuple[TopToken, ...], ...] = ()  # at each position, where `top_logprobs` asks for them
    finish_reason: Literal["stop", "length"]
    stop: str | None  # the stop string that ended it, if one did
    prompt_tokens: int
    seed: int
    diagnostics: Diagnostics
    origin: Origin | None = field(default=None, repr=False, compare=False)
    """What it can be gone on from; None: nobody drew it."""

    def resume(
        self,
        num_steps: int | None = None,
        *,
        seed: int | None = None,
        time_budget: float | None = None,
        timeout: float | None = None,
    ) -> Completion:
        """More steps of the sampler that drew it, from where it stands, under the settings of its request.

        `num_steps` more at full length; None: as many as the request asked for. Nothing is weighed again: the law is
        that of one request with all these steps. The diagnostics are those of the new steps. Without a seed the next
        one follows from this completion's. Raises InputError where there is nothing to go on from: the sampler makes no
        steps, this is a copy, a pickle or made by hand, or the model is gone.
        """
        return self._source().resume(self.seed, _given(num_steps, seed, time_budget, timeout))

    async def aresume(
        self,
        num_steps: int | None = None,
        *,
        seed: int | None = None,
        time_budget: float | None = None,
        timeout: float | None = None,
    ) -> Completion:
        """`resume`, without blocking the event loop; cancelling the task stops the work."""
        return await self._source().aresume(self.seed, _given(num_steps, seed, time_budget, timeout))

    def _source(self) -> Origin:
        if self.origin is None:
            raise InputError(
                "resume: no sampler drew this completion. Give its tokens to a request: start=completion.tokens."
            )
        return self.origin

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt whose states other requests had left."""
        return min(self.diagnostics.tokens_reused, self.prompt_tokens)

    @property
    def usage(self) -> dict[str, int]:
        """Tokens of the prompt and of this completion; what the sampler spent beyond is in the diagnostics."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": len(self.tokens),
            "total_tokens": self.prompt_tokens + len(self.tokens),
        }


def _given(num_steps: int | None, seed: int | None, time_budget: float | None, timeout: float | None) -> dict[str, Any]:
    asked = {"num_steps": num_steps, "seed": seed, "time_budget": time_budget, "timeout": timeout}
    return {name: value for name, value in asked.items() if value is not None}


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value


class Chunk(NamedTuple):
    """A piece of a stream: settled text, never retracted. The last one carries the completion.

    In a conversation `content` and `reasoning` are the same text taken apart, without the markup of tool calls: the
    pieces join to those of the completion's `reply`. `frames`: what the sampler did meanwhile, where it was asked for.
    """

    text: str
    completion: Completion | None = None
    progress: Progress | None = None
    content: str = ""
    reasoning: str = ""
    frames: tuple[Frame, ...] = ()
