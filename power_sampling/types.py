"""The words of the project as data: laws, chains, draws, continuations, rounds, completions.

Nothing here computes a probability, knows a model, a tokenizer or a device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Answer",
    "Chain",
    "Chunk",
    "Completion",
    "Continuation",
    "Diagnostics",
    "Draw",
    "Law",
    "Progress",
    "Round",
]

Tokens: TypeAlias = tuple[int, ...]
Floats: TypeAlias = NDArray[np.float64]
End: TypeAlias = Literal["eos", "stop", "length", "floor"]
Exactness: TypeAlias = Literal["exact", "asymptotic", "approximate"]

_NO_FLOATS: Floats = np.zeros(0)


class Law(NamedTuple):
    """How tokens are drawn and weighed.

    p = softmax(logits / temperature) is the base law, q = softmax(logits / proposal_temperature) the law that draws
    (its argmax where `proposal_temperature` is 0), and every token carries log_weight = alpha * log p - log q.
    """

    alpha: float
    temperature: float
    proposal_temperature: float

    @property
    def is_bounded(self) -> bool:
        """Whether log_weight <= 0 for every token, so that a running sum can only fall.

        With b = temperature / proposal_temperature, log_weight = (alpha - b) log p + log sum_v p(v)^b: both terms are
        <= 0 for 1 <= b <= alpha.
        """
        lowest = self.temperature / self.alpha
        return lowest * (1 - 1e-12) <= self.proposal_temperature <= self.temperature


class Continuation(NamedTuple):
    """What a draw returns: tokens, and what p and q thought of each when it was drawn."""

    tokens: Tokens
    logp: Floats  # (T,) log p(x_t | x_<t), the base law
    log_weight: Floats  # (T,) alpha * log p - log q under the law of the draw
    end: End  # eos, stop: terminated; length: the limit of the draw; floor: abandoned, certain to be rejected
    memo: object = None  # the engine's own note on this row, so that it need not compute it again

    @property
    def is_complete(self) -> bool:
        """False where the draw was abandoned at its floor."""
        return self.end != "floor"


class Chain(NamedTuple):
    """A completion under construction. Its numbers were stored when drawn and are never computed again."""

    tokens: Tokens
    logp: Floats  # (T,)
    log_weight: Floats  # (T,)
    end: End | None
    memo: object = None

    @classmethod
    def empty(cls) -> Chain:
        return cls((), _NO_FLOATS, _NO_FLOATS, None)

    @property
    def is_terminated(self) -> bool:
        """Whether the chain ends by EOS or a stop string: nothing is ever drawn beyond."""
        return self.end in ("eos", "stop")

    def spliced(self, cut: int, continuation: Continuation) -> Chain:
        """The chain with everything from `cut` on replaced by the continuation."""
        return Chain(
            self.tokens[:cut] + continuation.tokens,
            np.concatenate([self.logp[:cut], continuation.logp]),
            np.concatenate([self.log_weight[:cut], continuation.log_weight]),
            continuation.end,
            continuation.memo,
        )


class Draw(NamedTuple):
    """A request for one row: continue `chain` from position `cut` by at most `max_new_tokens` tokens.

    `floor` permits the engine to abandon the draw at the first t with
    sum(log_weight of the new tokens so far) - log(cut + t) < floor: with a bounded law neither term can rise again.
    """

    chain: Chain
    cut: int
    max_new_tokens: int
    law: Law
    seed: int  # of the draw's own stream of uniforms, one per token
    floor: float = -math.inf


class Progress(NamedTuple):
    """How far a sampler is, in its own steps, with the numbers people watch."""

    done: int
    total: int
    stats: Mapping[str, float]


class Round(NamedTuple):
    """What a sampler asks for: draws that are decoded together, all of them answered before it goes on.

    `settled` are leading tokens that no later step can change, so they may be streamed. `is_live` says that the one
    draw of the round is final token by token.
    """

    draws: tuple[Draw, ...]
    settled: Tokens = ()
    is_live: bool = False
    progress: Progress = Progress(0, 1, {})


class Answer(NamedTuple):
    """What a sampler returns: the completion, and what is to be known about how it was found."""

    chain: Chain
    exactness: Exactness
    acceptance_rate: float | None = None
    ess: float | None = None
    log_z: float | None = None
    is_budget_spent: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostics:
    """How a completion was found and what it cost.

    `exactness`: `exact` (one draw has the target law), `asymptotic` (the chain leaves p^alpha invariant and converges
    to it with its steps), `approximate` (consistent only as particles grow, or cut short by `time_budget`).
    """

    sampler: str
    alpha: float
    exactness: Exactness
    acceptance_rate: float | None  # of Metropolis-Hastings proposals
    ess: float | None  # smallest effective sample size seen, in particles
    log_z: float | None  # estimate of log sum_x p(x)^alpha
    is_budget_spent: bool  # `time_budget` ended the refinement early
    tokens_decoded: int  # tokens drawn, those of rejected proposals included
    tokens_prefilled: int  # prompt tokens that went through the model
    serial_steps: int  # steps of the model this request waited for
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A finished completion. `text` ends before the stop string or EOS; `tokens` include what terminated it."""

    text: str
    tokens: Tokens
    logp: float  # log p(completion) under the base law
    token_logp: tuple[float, ...]
    token_text: tuple[str, ...]  # each token alone, as the tokenizer prints it
    finish_reason: Literal["stop", "length"]
    stop: str | None  # the stop string that ended it, if one did
    prompt_tokens: int
    seed: int
    diagnostics: Diagnostics

    @property
    def usage(self) -> dict[str, int]:
        """Tokens of the prompt and of this completion; what the sampler spent beyond is in the diagnostics."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": len(self.tokens),
            "total_tokens": self.prompt_tokens + len(self.tokens),
        }


class Chunk(NamedTuple):
    """A piece of a stream: settled text, never retracted. The last one carries the completion."""

    text: str
    completion: Completion | None = None
    progress: Progress | None = None
