"""Moves decoded in advance (prefetching: Brockwell 2006), with streaming forks.

What a move asks for is a function of the chain it starts from and of its own stream of chance, so it can be told for
every chain that the moves before it may lead to. These are a tree: below each node the chain as it is (a rejection),
and the chain with a proposal (an acceptance). Rejections are always known; a proposal is known as far as it has been
drawn, so that a move whose cut lies in that part is forked from it while it is still being drawn. Cuts and seeds are
drawn once per move and not per node: branches that agree before the cut share one draw.

The sampler itself stays sequential. It only names these draws, the likeliest first, and whoever decodes them may.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any, NamedTuple, Protocol, TypeAlias

from power_sampling.types import Chain, Draw

__all__ = ["Moves", "foreseen"]

LIKELY = 0.01  # the probability of being reached below which a move is not worth a row

Look: TypeAlias = Callable[[Draw], Chain | None]


class Moves(Protocol):
    """The moves of a stage by number, as functions of the chain they start from."""

    def __len__(self) -> int: ...

    def asked(self, number: int, chain: Chain) -> tuple[Draw, ...]:
        """What a move asks for. A chain without an end is still being drawn, and taken to reach the end of the stage;
        nothing, where that does not say enough."""

    def decided(self, number: int, chain: Chain, proposals: list[Chain]) -> Chain:
        """Where the move leads, once chain and proposals are complete."""


class _Node(NamedTuple):
    chain: Chain
    number: int  # of the next move
    origin: Any  # which draw has made the chain


def foreseen(moves: Moves, number: int, root: Chain | Draw, acceptance: float) -> Callable[[Look], Iterator[Draw]]:
    """The draws of move `number` and those after it, from a chain or from what a draw is making; each move is guessed
    to accept with probability `acceptance` until it can be decided. See `Ahead`."""

    def draws(look: Look) -> Iterator[Draw]:
        start, order, seen = look(root) if isinstance(root, Draw) else root, count(), set()
        nodes = [(-1.0, next(order), _Node(start, number, None))] if start is not None else []
        while nodes:
            weight, _, node = heapq.heappop(nodes)
            if node.number == len(moves) or (node.origin, node.number) in seen or -weight < LIKELY:
                continue
            seen.add((node.origin, node.number))
            asked = moves.asked(node.number, node.chain)
            is_begun = len(node.chain.tokens)
            ready = [draw for draw in asked if draw.cut <= is_begun]
            yield from ready
            proposals = [(draw, look(draw)) for draw in ready]
            for chance, chain, origin in _outcomes(moves, node, asked, proposals, acceptance):
                heapq.heappush(nodes, (weight * chance, next(order), _Node(chain, node.number + 1, origin)))

    return draws


def _outcomes(
    moves: Moves,
    node: _Node,
    asked: tuple[Draw, ...],
    proposals: list[tuple[Draw, Chain | None]],
    acceptance: float,
) -> Iterator[tuple[float, Chain, Any]]:
    """Where a move may lead, each with its probability as far as it can be guessed, and the draw that made it."""
    chains = [chain for _, chain in proposals if chain is not None]
    if asked and len(chains) == len(asked) and all(chain.end for chain in (node.chain, *chains)):
        chain = moves.decided(node.number, node.chain, chains)
        origins = [draw.key for draw, proposal in proposals if proposal is chain]
        yield 1.0, chain, origins[0] if origins else node.origin
        return
    yield 1.0 - acceptance, node.chain, node.origin
    for draw, proposal in proposals:
        if proposal is not None and proposal.end != "floor":
            yield acceptance / len(asked), proposal, draw.key
