"""Moves decoded in advance (prefetching: Brockwell 2006), each with its own stream of chance, shared by all branches.

What a move asks for is a function of the chain it starts from and of its own stream. So the proposals of the next
moves can be asked for together, each as if all moves before it were rejected. When its turn comes, a move that asks for
the same draw (equal tokens before the cut, equal cut, limit and seed) is answered at once: after a rejection always,
after an acceptance where the later cut lies in what both chains share. Any other draw is decoded then, with those of
the moves after it. The chain is the sequential one, token for token: only the order of decoding changes.

A draw abandoned at its floor answers a later request only if its running weight is below that one's floor as well.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator
from itertools import islice
from typing import TypeAlias

from power_sampling.samplers.cuts import log_span
from power_sampling.samplers.rng import Rng
from power_sampling.types import Chain, Continuation, Draw, Law, Round, Tokens

__all__ = ["Prefetcher"]

Move: TypeAlias = Generator[Round, list[Continuation], Chain]
Key: TypeAlias = tuple[Tokens, int, int]


class Prefetcher:
    """The `num_moves` moves of a stage, `width` of them decoded together. It remembers what is decoded ahead."""

    def __init__(self, width: int, num_moves: int, law: Law, rng: Rng) -> None:
        self._width, self._law = width, law
        self._known: dict[Key, Continuation] = {}
        self._forks = (rng.fork() for _ in range(num_moves))
        self._streams: deque[Rng] = deque()  # of this move and those after it

    def step(self, make_move: Callable[..., Move], chain: Chain) -> Move:
        """The next move, from this chain."""
        self._streams.extend(islice(self._forks, self._width - len(self._streams)))
        move = make_move(chain, rng=self._streams.popleft())
        current = next(move)
        if not all(self._recall(draw) for draw in current.draws):
            later = (next(make_move(chain, rng=stream.copy())) for stream in self._streams)
            draws = (*current.draws, *(draw for ahead in later for draw in ahead.draws))
            continuations = yield current._replace(draws=draws)
            self._known = {_key(draw): c for draw, c in zip(draws, continuations, strict=True)}
        try:
            move.send([self._known[_key(draw)] for draw in current.draws])
        except StopIteration as stop:
            moved: Chain = stop.value
            return moved
        raise AssertionError("a move asks once")

    def _recall(self, draw: Draw) -> bool:
        known = self._known.get(_key(draw))
        if known is None or known.is_complete:
            return known is not None
        abandoned = draw.chain.spliced(draw.cut, known)
        return float(known.log_weight.sum()) - log_span(abandoned, self._law) < draw.floor


def _key(draw: Draw) -> Key:
    return draw.chain.tokens[: draw.cut], draw.max_new_tokens, draw.seed
