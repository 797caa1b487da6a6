"""Moves decoded in advance (prefetching: Brockwell 2006), with forks of proposals that are still being drawn.

What a move asks for is a function of the chain it starts from and of its own stream of chance. So it is known for every
chain that the moves before it may lead to. These chains form a tree: below each node the chain as it is (a rejection)
and the chain with a proposal (an acceptance). The rejection is always known. A proposal is known as far as it has been
drawn, so a move whose cut lies in that part is forked from it while it is still being drawn. Cuts and seeds are drawn
once per move, not per node: branches that agree before the cut share one draw.

The sampler itself stays sequential. It only names these draws, the likeliest first, and the worker may decode them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NamedTuple, Protocol

from power_sampling.samplers.parts.rng import Rng
from power_sampling.types import Chain, Draw, Peek

__all__ = ["LIKELY", "Moves", "Streams", "candidates"]

LIKELY = 0.01  # the probability of being reached below which a move is not worth a row


class Streams:
    """Streams of chance by number, one for every move, whichever of them is asked for first; and `plans`, what has been
    worked out of a move by keys that begin with its number."""

    def __init__(self, rng: Rng) -> None:
        self._rng, self._num_forked = rng, 0
        self._streams: dict[int, Rng] = {}
        self.plans: dict[Any, Any] = {}

    def stream(self, number: int) -> Rng:
        """The stream of a move, at its beginning."""
        while self._num_forked <= number:
            self._streams[self._num_forked] = self._rng.fork()
            self._num_forked += 1
        return self._streams[number].copy()

    def forget(self, number: int) -> None:
        """The moves before this one are made."""
        self._streams = {k: rng for k, rng in self._streams.items() if k >= number}
        self.plans = {key: plan for key, plan in self.plans.items() if key[0] >= number}


class Moves(Protocol):
    """The moves of a stage by number, as functions of the chain they start from."""

    def __len__(self) -> int: ...

    def draws(self, number: int, chain: Chain) -> tuple[Draw, ...]:
        """The proposals of a move. A chain without an end is still being drawn; it is taken to reach the end of the
        stage. Nothing, where the move cannot be told from that."""

    def outcome(self, number: int, chain: Chain, proposals: list[Chain]) -> Chain:
        """The chain after the move, once chain and proposals are complete."""


class _Node(NamedTuple):
    chain: Chain
    number: int  # of the next move
    origin: Any  # key of the draw that made the chain


def candidates(moves: Moves, number: int, root: Chain | Draw, acceptance: float) -> Callable[[Peek], Iterator[Draw]]:
    """The draws of move `number` and of those after it, for a `Prefetch`. The first move starts from a chain, or from
    what a draw is making. A move that cannot be decided yet is guessed to accept with probability `acceptance`."""

    def likeliest_first(peek: Peek) -> Iterator[Draw]:
        start, order, seen = peek(root) if isinstance(root, Draw) else root, count(), set()
        nodes = [(-1.0, next(order), _Node(start, number, None))] if start is not None else []
        while nodes:
            weight, _, node = heapq.heappop(nodes)
            if node.number == len(moves) or (node.origin, node.number) in seen or -weight < LIKELY:
                continue
            seen.add((node.origin, node.number))
            draws = moves.draws(node.number, node.chain)
            ready = [draw for draw in draws if draw.cut <= len(node.chain.tokens)]
            yield from ready
            proposals = [(draw, peek(draw)) for draw in ready]
            for chance, chain, origin in _outcomes(moves, node, draws, proposals, acceptance):
                heapq.heappush(nodes, (weight * chance, next(order), _Node(chain, node.number + 1, origin)))

    return likeliest_first


def _outcomes(
    moves: Moves,
    node: _Node,
    draws: tuple[Draw, ...],
    proposals: list[tuple[Draw, Chain | None]],
    acceptance: float,
) -> Iterator[tuple[float, Chain, Any]]:
    """Where a move may lead: probability (a guess, where it is not decided), chain, key of the draw that made it."""
    chains = [chain for _, chain in proposals if chain is not None]
    if draws and len(chains) == len(draws) and all(x.end and x.is_judged for x in (node.chain, *chains)):
        chain = moves.outcome(node.number, node.chain, chains)
        origins = [draw.key for draw, proposal in proposals if proposal is chain]
        yield 1.0, chain, origins[0] if origins else node.origin
        return
    yield 1.0 - acceptance, node.chain, node.origin
    for draw, proposal in proposals:
        if proposal is not None and proposal.end != "floor":
            yield acceptance / len(draws), proposal, draw.key
