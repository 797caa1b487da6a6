"""Votes: which of several completions gives the answer most of them give, each counting one or by its weight.

Of plain samples, votes weighed by p(x)^(alpha - 1) estimate the law of the *answer* under p(x)^alpha by importance
sampling: the winner tends to the answer that most power samples would give, at the price of plain ones. The sampler
`marginal` counts the same way. Pure Python.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from power_sampling.errors import InputError, shortened
from power_sampling.types import Completion

__all__ = ["Count", "OneVoteDecidesWarning", "Tally", "counted", "sharpened", "tally", "vote"]

Key = Callable[[Completion], Hashable]


class OneVoteDecidesWarning(UserWarning):
    """One completion outweighs all others together, so its answer wins whatever they say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """A vote counted."""

    winner: Completion
    answer: Hashable  # the winner's; None: no completion gives one
    shares: Mapping[Hashable, float]  # of the weight, by answer, the largest first; they sum to 1
    weights: tuple[float, ...]  # of the completions in the order given; they sum to 1, and are 0 where there is no vote
    effective_votes: float  # 1 / sum of squared weights: as many equal votes would be as sure

    @property
    def is_decided_by_one(self) -> bool:
        """Whether one of several votes outweighs all others together."""
        return sum(weight > 0 for weight in self.weights) > 1 and max(self.weights) > 0.5


def _text(completion: Completion) -> Hashable:
    return completion.text.strip()


def vote(completions: Sequence[Completion], key: Key = _text, *, alpha: float = 1.0) -> Completion:
    """A completion with the answer of most votes, the one of highest log p among them.

        vote(sampler.generate([prompt], n=8), key=lambda c: c.text.rsplit("Answer:", 1)[-1].strip())

    `key` reads the answer; None means that a completion gives none, and has no vote as long as any other gives one.
    Between answers of equally many votes the one with the likeliest completion wins. With `alpha` above 1 every vote
    weighs p(x)^(alpha - 1): see `tally`. Warns (OneVoteDecidesWarning) where one vote outweighs all others together.
    Raises InputError for no completions.
    """
    found = tally(completions, key, alpha=alpha)
    if found.is_decided_by_one:
        warnings.warn(
            f"One of {len(completions)} votes holds {max(found.weights):.0%} of the weight and decides alone "
            f"(effective votes {found.effective_votes:.1f}): draw more completions, or lower alpha ({alpha:g}).",
            OneVoteDecidesWarning,
            stacklevel=2,
        )
    return found.winner


def tally(completions: Sequence[Completion], key: Key = _text, *, alpha: float = 1.0) -> Tally:
    """`vote`, with the shares of the answers and how many votes they rest on. Never warns.

    With `alpha` above 1 a vote weighs p(x)^(alpha - 1), normalised: the weight of a plain sample under p(x)^alpha. The
    completions then have to be plain samples (`ancestral`, or any sampler at alpha 1), else they would be sharpened
    twice: others raise InputError. Under a constraint plain samples are drawn token by token among the legal ones, and
    the weights are approximate.
    """
    if not isinstance(completions, Sequence) or not all(isinstance(one, Completion) for one in completions):
        raise InputError(f"vote: expected a list of completions, got {shortened(completions)}.")
    if not completions:
        raise InputError("vote: there are no completions to choose from; generate at least one.")
    if not isinstance(alpha, (int, float)) or not (math.isfinite(alpha) and alpha >= 1):
        raise InputError(f"vote: alpha must be a number of at least 1 (1 counts heads), got {shortened(alpha)}.")
    if alpha > 1:
        _check_plain(completions)
    answers, logps = [_read(completion, key) for completion in completions], [one.logp for one in completions]
    found = counted(answers, logps, [(alpha - 1) * logp for logp in logps] if alpha > 1 else [0.0] * len(logps))
    answer = next(iter(found.shares))
    return Tally(
        winner=completions[found.best[answer]],
        answer=answer,
        shares=found.shares,
        weights=found.weights,
        effective_votes=found.effective_votes,
    )


class Count(NamedTuple):
    """Ballots counted; they are known by their places."""

    shares: Mapping[Hashable, float]  # of the weight, by answer; of equals the likelier first. They sum to 1
    best: Mapping[Hashable, int]  # the likeliest ballot of every answer
    votes: Mapping[Hashable, int]  # how many ballots have the answer
    weights: tuple[float, ...]  # of all ballots; they sum to 1, and are 0 where there is no vote
    effective_votes: float


def counted(answers: Sequence[Hashable], logps: Sequence[float], log_weights: Sequence[float]) -> Count:
    """Ballots with these answers, log p and log weights. None as an answer has no vote as long as there is another."""
    is_answered = any(answer is not None for answer in answers)
    voting = [i for i, answer in enumerate(answers) if answer is not None or not is_answered]
    weights = _weights([log_weights[i] for i in voting])
    parts: dict[Hashable, list[float]] = {}
    best: dict[Hashable, int] = {}
    for i, weight in zip(voting, weights, strict=True):
        parts.setdefault(answers[i], []).append(weight)
        if answers[i] not in best or logps[i] > logps[best[answers[i]]]:
            best[answers[i]] = i
    shares = {answer: math.fsum(part) for answer, part in parts.items()}  # of equal parts they are equal, to the bit
    ranked = sorted(shares, key=lambda answer: (shares[answer], logps[best[answer]]), reverse=True)
    by_place = dict(zip(voting, weights, strict=True))
    return Count(
        shares={answer: shares[answer] for answer in ranked},
        best=best,
        votes={answer: len(parts[answer]) for answer in ranked},
        weights=tuple(by_place.get(i, 0.0) for i in range(len(answers))),
        effective_votes=1 / math.fsum(weight**2 for weight in weights),
    )


def sharpened(shares: Mapping[Hashable, float], alpha: float) -> dict[Hashable, float]:
    """Each to the power alpha, their sum 1."""
    top = max(shares.values())
    raw = {answer: (share / top) ** alpha for answer, share in shares.items()}
    total = math.fsum(raw.values())
    return {answer: part / total for answer, part in raw.items()}


def _read(completion: Completion, key: Key) -> Hashable:
    answer = key(completion)
    try:
        hash(answer)
    except TypeError as error:
        raise InputError(f"vote: an answer must be hashable, key gave {shortened(answer)}.") from error
    return answer


def _weights(logs: Sequence[float]) -> list[float]:
    """In proportion to their exponentials, their sum 1. Logs of the size of thousands neither overflow nor vanish."""
    top = max(logs)
    raw = [math.exp(log - top) for log in logs]
    total = math.fsum(raw)
    return [weight / total for weight in raw]


def _check_plain(completions: Sequence[Completion]) -> None:
    for completion in completions:
        found = completion.diagnostics
        if found.sampler != "ancestral" and (found.alpha != 1 or found.exactness == "approximate"):
            how = "sharpened already" if found.alpha != 1 else "chosen among others"
            raise InputError(
                "vote: weights p^(alpha - 1) are those of plain samples, and a completion was drawn by "
                f"{found.sampler} at alpha {found.alpha}, {how}. Generate with sampler='ancestral', or leave alpha out."
            )
