"""Votes: which of several completions gives the answer most of them give, each counting one or by its weight.

Of plain samples, votes weighed by p(x)^(alpha - 1) estimate the law of the *answer* under p(x)^alpha by importance
sampling: the winner tends to the answer that most power samples would give, at the price of plain ones. Pure Python.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

from power_sampling.errors import InputError, shortened
from power_sampling.types import Completion

__all__ = ["OneVoteDecidesWarning", "Tally", "tally", "vote"]

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
    counted = tally(completions, key, alpha=alpha)
    if counted.is_decided_by_one:
        warnings.warn(
            f"One of {len(completions)} votes holds {max(counted.weights):.0%} of the weight and decides alone "
            f"(effective votes {counted.effective_votes:.1f}): draw more completions, or lower alpha ({alpha:g}).",
            OneVoteDecidesWarning,
            stacklevel=2,
        )
    return counted.winner


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
    answers = [_read(completion, key) for completion in completions]
    has_vote = (
        [answer is not None for answer in answers] if any(a is not None for a in answers) else [True] * len(answers)
    )
    voting = [i for i in range(len(answers)) if has_vote[i]]
    weights = _weights([completions[i].logp for i in voting], alpha)
    sums: dict[Hashable, list[float]] = {}
    best: dict[Hashable, Completion] = {}
    for i, weight in zip(voting, weights, strict=True):
        answer, completion = answers[i], completions[i]
        sums.setdefault(answer, []).append(weight)
        if answer not in best or completion.logp > best[answer].logp:
            best[answer] = completion
    shares = {answer: math.fsum(parts) for answer, parts in sums.items()}
    # heads are counted as whole numbers: shares of them could differ by rounding
    count = {answer: len(sums[answer]) if alpha == 1 else shares[answer] for answer in sums}
    ranked = sorted(shares, key=lambda answer: (count[answer], best[answer].logp), reverse=True)
    by_place = dict(zip(voting, weights, strict=True))
    return Tally(
        winner=best[ranked[0]],
        answer=ranked[0],
        shares={answer: shares[answer] for answer in ranked},
        weights=tuple(by_place.get(i, 0.0) for i in range(len(answers))),
        effective_votes=1 / math.fsum(weight**2 for weight in weights),
    )


def _read(completion: Completion, key: Key) -> Hashable:
    answer = key(completion)
    try:
        hash(answer)
    except TypeError as error:
        raise InputError(f"vote: an answer must be hashable, key gave {shortened(answer)}.") from error
    return answer


def _weights(logps: Sequence[float], alpha: float) -> list[float]:
    """Proportional to p^(alpha - 1), their sum 1. Log p of the size of thousands neither overflows nor vanishes."""
    if alpha == 1:
        return [1 / len(logps)] * len(logps)
    top = max(logps)
    raw = [math.exp((alpha - 1) * (logp - top)) for logp in logps]
    total = math.fsum(raw)
    return [weight / total for weight in raw]


def _check_plain(completions: Sequence[Completion]) -> None:
    for completion in completions:
        found = completion.diagnostics
        if found.sampler != "ancestral" and found.alpha != 1:
            raise InputError(
                "vote: weights p^(alpha - 1) are those of plain samples, and a completion was drawn by "
                f"{found.sampler} at alpha {found.alpha}, sharpened already. Generate with sampler='ancestral', or "
                "leave alpha out."
            )
