"""When a row's recurrent state is copied, and which copies stay: near one another at first, evenly spread in the end.

A cut is as likely at any position of a completion, whose end nobody knows. So the gap between two snapshots grows with
the row: with at most n of them, some 1/n of its length. A draw from a cut feeds half a gap again, on average, where it
draws half of a completion: at 8, a tenth more.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["SNAPSHOTS", "is_due", "worth_keeping"]

SNAPSHOTS = 8  # of one row; benchmarks/recurrent.py counts what fewer cost
LEAST_GAP = 2  # tokens


def is_due(length: int, last: int, most: int) -> bool:
    """Whether a completion of `length` tokens, whose last snapshot is at `last`, has one taken now."""
    return bool(most) and length - last >= max(LEAST_GAP, -(-length // most))


def worth_keeping(lengths: Sequence[int], start: int, most: int) -> list[int]:
    """Of snapshots at these lengths, the first `start` tokens being the prompt: the prompt's own, the last one, and at
    most `most` between. The one between the nearest neighbours goes first."""
    prompts, kept = [n for n in lengths if n <= start], [n for n in lengths if n > start]
    while len(kept) - 1 > most:
        ends = [start, *kept]
        narrowest = min(range(1, len(kept)), key=lambda i: ends[i + 1] - ends[i - 1])
        del kept[narrowest - 1]
    return [*prompts, *kept]
