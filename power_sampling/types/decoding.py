"""The words of decoding as data: laws, chains, draws, continuations, rounds, answers.

Nothing here computes a probability, knows a model, a tokenizer or a device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Answer",
    "BaseLaw",
    "Chain",
    "Continuation",
    "Draw",
    "End",
    "Exactness",
    "Floats",
    "Judged",
    "Judging",
    "Law",
    "Peek",
    "Prefetch",
    "Ranked",
    "Progress",
    "Round",
    "Step",
    "Termination",
    "ThoughtLimit",
    "Tokens",
]

Tokens: TypeAlias = tuple[int, ...]
Floats: TypeAlias = NDArray[np.float64]
End: TypeAlias = Literal["eos", "stop", "length", "floor", "illegal"]
Exactness: TypeAlias = Literal["exact", "asymptotic", "approximate"]

Judged: TypeAlias = Literal["prefix", "final"]  # by potentials of this kind; `final` is all of them

Ranked: TypeAlias = tuple[tuple[int, float], ...]  # tokens of one position with their log p, the likeliest first

_NO_FLOATS: Floats = np.zeros(0)


class BaseLaw(NamedTuple):
    """What makes p another law than softmax(logits / temperature): a function of the logits and of the completion's
    tokens so far, so that p(x) is the product of its next-token laws as ever, and every weight is exact.

    In this order: `logit_bias` is added to logits, a token that would complete one of `bad_words` is excluded, and of
    softmax(logits / temperature) those tokens are kept that are among the `top_k` likeliest, then the fewest likeliest
    ones that have `top_p` together (normalised before that), then those at least `min_p` times as likely as the
    likeliest. Tokens as likely as the last one kept are kept too. What is kept is normalised: that is p. q is its
    power, on the same tokens.
    """

    logit_bias: tuple[tuple[int, float], ...] = ()  # token, finite number; each token once
    bad_words: tuple[Tokens, ...] = ()  # none of these sequences of tokens occurs in a completion
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None

    @property
    def looks_back(self) -> bool:
        """Whether p depends on the tokens drawn in another way than through the model."""
        return any(len(word) > 1 for word in self.bad_words)

    def excluded(self, before: Tokens) -> list[int]:
        """Tokens that would complete a bad word behind these tokens of the completion."""
        return [
            word[-1]
            for word in self.bad_words
            if len(word) <= len(before) + 1 and word[:-1] == before[len(before) + 1 - len(word) :]
        ]


class Judging(NamedTuple):
    """What a sampler has to know of the potentials phi of its target p(x)^alpha * phi(x): the most that log phi can be
    by those that judge partial texts, and by all; inf where nobody has said."""

    prefix: float = 0.0
    final: float = math.inf


class Law(NamedTuple):
    """How tokens are drawn and weighed.

    p = softmax(logits / temperature) is the base law, q = softmax(logits / proposal_temperature) the law that draws,
    and every token carries log_weight = alpha * log p - log q. With `base` both are those of other logits.

    Greedy decoding is a `proposal_temperature` of 0: q is then the argmax of p. Its p stays at temperature 1, so that
    log p says something; its weights mean nothing.
    """

    alpha: float
    temperature: float
    proposal_temperature: float
    wants_entropy: bool = False  # whether the entropy of p(. | x_<t) is stored at every position
    score_at: tuple[float, ...] = ()  # further proposal temperatures at which log q of every token is stored
    base: BaseLaw | None = None  # None: logits as the model gives them
    judging: Judging | None = None  # None: no potentials

    @property
    def is_greedy(self) -> bool:
        return self.proposal_temperature == 0

    @property
    def is_plain(self) -> bool:
        """Whether q^1 = p^alpha phi, so that every weight is 1 where no constraint masks q."""
        return self.alpha == 1 and self.proposal_temperature == self.temperature and self.judging is None

    @property
    def is_bounded(self) -> bool:
        """Whether log_weight <= 0 for every token, so that a running sum can only fall.

        With b = temperature / proposal_temperature, log_weight = (alpha - b) log p + log sum_v p(v)^b: both terms are
        <= 0 for 1 <= b <= alpha.
        """
        lowest = self.temperature / self.alpha
        return lowest * (1 - 1e-12) <= self.proposal_temperature <= self.temperature


class ThoughtLimit(NamedTuple):
    """The most tokens of a completion's reasoning, after which the tokens `close_ids` have to follow. The target is
    then p(x)^alpha on the completions that obey it."""

    budget: int
    opening: str  # what opens the reasoning in a completion's text
    closing: str
    close_ids: Tokens
    is_open: bool = False  # the prompt has opened it
    recurs: bool = False  # it may be opened again; the tokens count together


class Termination(NamedTuple):
    """What ends a completion, and which completions are legal: data alone, so that a served engine can take it too.

    A stop string ends a completion like EOS does: nothing is drawn beyond the token that completes it. Under a
    constraint the target is p(x)^alpha on the completions that obey it and are complete within `max_new_tokens`.
    """

    eos_ids: frozenset[int]
    stop: tuple[str, ...] = ()
    constraint: str | None = None  # a Lark grammar in llguidance's dialect; None: every completion is legal
    max_new_tokens: int | None = None  # of the request, by which a constrained completion has to be complete
    thought: ThoughtLimit | None = None

    @property
    def is_restricted(self) -> bool:
        """Whether some completions are not legal, so that q is masked."""
        return self.constraint is not None or self.thought is not None


class Continuation(NamedTuple):
    """What a draw returns: tokens, and what p and q thought of each when it was drawn."""

    tokens: Tokens
    logp: Floats  # (T,) log p(x_t | x_<t), the base law
    log_weight: Floats  # (T,) alpha * log p - log q under the law of the draw
    # eos, stop: terminated; length: the limit of the draw; floor: abandoned, certain to be rejected;
    # illegal: a constraint admits no completion that begins like this, and the last log_weight is -inf; or a potential
    # forbids it, and log_phi is -inf;
    # None: it is still being drawn
    end: End | None
    memo: object = None  # the engine's own note on this row, so that it need not compute it again
    entropy: Floats = _NO_FLOATS  # (T,) of the base law at each position, where the law of the draw asks for it
    logq: Floats = _NO_FLOATS  # (T, len(law.score_at)), where the law of the draw asks for it
    # completions were left out that may be legal (see `Watch.is_limited`), or log q is not known well enough
    is_limited: bool = False
    # (T, 2) of an engine that is told of the likeliest tokens alone: -log of the mass of those it draws from, and by
    # how much log q may be too large
    unseen: Floats = _NO_FLOATS
    log_phi: float = 0.0  # of the chain it makes, where its draw is judged

    @property
    def is_complete(self) -> bool:
        """False where the draw was abandoned at its floors."""
        return self.end != "floor"


class Chain(NamedTuple):
    """A completion under construction. Its numbers were stored when drawn and are never computed again."""

    tokens: Tokens
    logp: Floats  # (T,)
    log_weight: Floats  # (T,)
    end: End | None
    memo: object = None
    entropy: Floats = _NO_FLOATS
    logq: Floats = _NO_FLOATS
    unseen: Floats = _NO_FLOATS
    log_phi: float = 0.0  # as far as its last draw had it judged; nan: its potentials have not answered yet

    @classmethod
    def empty(cls) -> Chain:
        return cls((), _NO_FLOATS, _NO_FLOATS, None)

    @property
    def is_terminated(self) -> bool:
        """Whether nothing is ever drawn beyond: an EOS, a stop string, or no legal way to go on."""
        return self.end in ("eos", "stop", "illegal")

    @property
    def is_judged(self) -> bool:
        """False while its potentials have not answered."""
        return self.log_phi == self.log_phi

    def spliced(self, cut: int, continuation: Continuation) -> Chain:
        """The chain with everything from `cut` on replaced by the continuation."""
        return Chain(
            self.tokens[:cut] + continuation.tokens,
            np.concatenate([self.logp[:cut], continuation.logp]),
            np.concatenate([self.log_weight[:cut], continuation.log_weight]),
            continuation.end,
            continuation.memo,
            _joined(self.entropy[:cut], continuation.entropy),
            _joined(self.logq[:cut], continuation.logq),
            _joined(self.unseen[:cut], continuation.unseen),
            continuation.log_phi,
        )

    def bare(self) -> Chain:
        """The chain without the engine's note, to be kept by others."""
        return self._replace(memo=None)

    def head(self, length: int) -> Chain:
        """Its first `length` tokens, open where that is not all of it."""
        if length >= len(self.tokens):
            return self
        return Chain(
            self.tokens[:length],
            self.logp[:length],
            self.log_weight[:length],
            None,
            self.memo,
            self.entropy[:length],
            self.logq[:length],
            self.unseen[:length],
        )


def _joined(head: Floats, tail: Floats) -> Floats:
    return np.concatenate([head, tail]) if len(head) and len(tail) else tail if len(tail) else head


class Draw(NamedTuple):
    """A request for one row: continue `chain` from position `cut` by at most `max_new_tokens` tokens.

    `floors`, one number per new token, permit the engine to abandon the draw: at the first t (1, 2, ...) where the sum
    of the log_weight of its t new tokens is below floors[t - 1]. The sampler says by them that such a draw is certain
    to be rejected. What ends by itself at t is not abandoned there.

    `given` are tokens that it begins with: they are weighed as if q had drawn them, and drawing goes on behind them
    unless one of them ends it. The draw fails with InputError where p gives them no probability or q excludes them.

    `judged`: the chain it makes is judged by these potentials before it is answered. A draw of no tokens has a chain
    judged as it is.
    """

    chain: Chain
    cut: int
    max_new_tokens: int
    law: Law
    seed: int  # of the draw's own stream of uniforms, one per token
    floors: Floats | None = None  # (max_new_tokens,)
    judged: Judged | None = None
    given: Tokens = ()  # only of an engine with `Capabilities.given`

    @property
    def key(self) -> tuple[Tokens, int, Law, int, Judged | None, Tokens]:
        """What the continuation is a function of, for one prompt and its ending; floors only cut it short."""
        return self.chain.tokens[: self.cut], self.max_new_tokens, self.law, self.seed, self.judged, self.given

    def undrawn(self) -> Continuation:
        """The answer to a draw of no tokens, still to be judged: the chain as it is."""
        x = self.chain
        return Continuation((), _NO_FLOATS, _NO_FLOATS, x.end or "length", x.memo, log_phi=x.log_phi)


class Progress(NamedTuple):
    """How far a sampler is, in its own steps, with the numbers people watch."""

    done: int
    total: int
    stats: Mapping[str, float]


Peek: TypeAlias = Callable[[Draw], Chain | None]  # the chain that a draw has made so far; None if it has not begun


class Prefetch(NamedTuple):
    """Draws that later rounds may ask for. Starting them early saves time. It never changes the sampler's course,
    because a continuation is a function of its draw.

    `candidates(peek)` yields the draws worth starting now, most likely first. Draws of this round, and draws that have
    already begun, may be among them.
    """

    rows: int  # start more only while fewer rows than these are busy, with anything
    candidates: Callable[[Peek], Iterator[Draw]]


class Step(Protocol):
    """Something that a sampler did, for those who watch it. `types/trace.py` has the kinds of it."""

    @property
    def cut(self) -> int:
        """Its chains are new from here on."""

    @property
    def chains(self) -> tuple[Chain, ...]:
        """What was drawn, or stood to choice; `bare`."""

    def _asdict(self) -> dict[str, Any]: ...


class Round(NamedTuple):
    """What a sampler asks for: draws that are decoded together, all of them answered before it goes on.

    `settled` are leading tokens that no later step can change, so they may be streamed. `is_live` says that the one
    draw of the round is final token by token. `steps`: what was done since the last round.
    """

    draws: tuple[Draw, ...]
    settled: Tokens = ()
    is_live: bool = False
    progress: Progress = Progress(0, 1, {})
    prefetch: Prefetch | None = None
    steps: tuple[Step, ...] = ()


class Answer(NamedTuple):
    """What a sampler returns: the completion, and what is to be known about how it was found."""

    chain: Chain
    exactness: Exactness
    acceptance_rate: float | None = None
    ess: float | None = None
    log_z: float | None = None
    is_budget_spent: bool = False
    alpha: float | None = None  # the power of the chain's law, where the sampler chose it
    curve: tuple[tuple[float, float], ...] | None = None
    answers: tuple[tuple[str | None, float, int], ...] | None = None
    steps: tuple[Step, ...] = ()  # since the last round
    trace: tuple[float, ...] = ()  # log p of the chain after each step at full length
    num_moved: int = 0  # how many of these steps were accepted
    warnings: tuple[str, ...] = ()  # what of it a user should not rely on, in short sentences

    def facts(self) -> dict[str, Any]:
        """What is known of the chain, by the names of `Diagnostics`."""
        facts = self._asdict()
        for own in ("chain", "alpha", "steps", "trace", "num_moved"):
            del facts[own]
        return facts
