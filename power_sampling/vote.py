"""Majority vote: which of several completions gives the answer most of them give. Pure Python."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

from power_sampling.errors import InputError, shortened
from power_sampling.types import Completion

__all__ = ["vote"]


def _text(completion: Completion) -> Hashable:
    return completion.text.strip()


def vote(completions: Sequence[Completion], key: Callable[[Completion], Hashable] = _text) -> Completion:
    """A completion with the most frequent answer, the one of highest log p among them.

        vote(sampler.generate([prompt], n=8), key=lambda c: c.text.rsplit("Answer:", 1)[-1].strip())

    `key` reads the answer; None means that a completion gives none, and has no vote as long as any other gives one.
    Between equally frequent answers the one with the likeliest completion wins. Raises InputError for no completions.
    """
    if not isinstance(completions, Sequence) or not all(isinstance(one, Completion) for one in completions):
        raise InputError(f"vote: expected a list of completions, got {shortened(completions)}.")
    if not completions:
        raise InputError("vote: there are no completions to choose from; generate at least one.")
    groups: dict[Hashable, list[Completion]] = {}
    for completion in completions:
        answer = key(completion)
        try:
            groups.setdefault(answer, []).append(completion)
        except TypeError as error:
            raise InputError(f"vote: an answer must be hashable, key gave {shortened(answer)}.") from error
    if len(groups) > 1:
        groups.pop(None, None)
    winners = max(groups.values(), key=lambda group: (len(group), max(c.logp for c in group)))
    return max(winners, key=lambda c: c.logp)
