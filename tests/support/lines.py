"""Lines of draws that fork, stop, and are dropped, for engines whose results do not depend on when they are seen."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from power_sampling.engines.protocol import Rule
from power_sampling.engines.stepped.budget import Cached
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.types import Chain, Continuation, Draw, Law, Termination, Tokens

VOCAB = 40
PROMPTS: tuple[Tokens, ...] = ((5, 3, 7, 7, 2, 9, 1), (5,), tuple(range(3, 23)))
LAWS = (Law(2.0, 1.0, 0.5), Law(1.0, 1.0, 0.0), Law(2.0, 0.8, 0.5, wants_entropy=True, score_at=(0.7,)))
STARTED = Chain((3, 4), np.zeros(2), np.zeros(2), None, entropy=np.zeros(2), logq=np.zeros((2, 1)))


class StopAtFourths:
    """Every fourth token is a stop string."""

    has_masks = is_limited = False

    def watch(self, tokens: Tokens) -> StopAtFourths:
        return self

    def fork(self, length: int) -> StopAtFourths:
        return self

    def allowed(self) -> None:
        return None

    def push(self, token: int) -> Literal["stop"] | None:
        return "stop" if token % 4 == 1 else None


class OddAfterEven:
    """Only tokens of the other parity than the last one's."""

    has_masks, is_limited = True, False

    def __init__(self, tokens: Tokens = ()) -> None:
        self.tokens = [*tokens]

    def watch(self, tokens: Tokens) -> OddAfterEven:
        return OddAfterEven(tokens)

    def fork(self, length: int) -> OddAfterEven:
        return OddAfterEven(tuple(self.tokens[:length]))

    def allowed(self) -> NDArray[np.bool_]:
        return np.arange(VOCAB) % 2 != (self.tokens[-1] if self.tokens else 0) % 2

    def push(self, token: int) -> None:
        self.tokens.append(token)


def line_rules(termination: Termination) -> Rule | None:
    if termination.constraint:
        return OddAfterEven()
    return StopAtFourths() if termination.stop else None


ENDINGS = {
    "eos": Termination(frozenset({0, 1, 2})),
    "stop": Termination(frozenset({0}), ("fourth",)),
    "endless": Termination(frozenset()),
}


class Result(NamedTuple):
    draw: Draw
    continuation: Continuation


def run(lm: TorchLM, *, generations: int = 4, guided: bool = False) -> dict[tuple[int, int], Result]:
    """Lines of draws, each forked from the one before it in its line, by line and generation: nothing in them depends
    on when a result is seen. Beside them some draws are dropped on the way."""
    lm.rules = line_rules
    handles: list[Any] = []
    for prompt in PROMPTS:
        handles += [lm.open(prompt, ending) for ending in ENDINGS.values()]
    if guided:
        handles.append(lm.open(PROMPTS[0], Termination(frozenset({0}), constraint="odd after even")))
    results: dict[tuple[int, int], Result] = {}
    running: dict[int, tuple[int, int, Draw]] = {}

    def ask(line: int, generation: int, chain: Chain) -> None:
        rng = np.random.default_rng((line, generation))
        cut = int(rng.integers(len(chain.tokens) + 1))
        length = int(rng.integers(1, 20))
        floors = np.log(cut + np.arange(1.0, length + 1)) - 3.0 if generation % 2 else None
        draw = Draw(chain, cut, length, LAWS[line % 3], int(rng.integers(2**60)), floors)
        running[lm.add(handles[line], draw)] = line, generation, draw

    for line in range(len(handles)):
        ask(line, 0, Chain.empty())
    doomed = [lm.add(handles[2], Draw(Chain.empty(), 0, 50, LAWS[0], seed)) for seed in range(2)]
    while running:
        for ticket, continuation in lm.step().finished:
            line, generation, draw = running.pop(ticket)
            results[line, generation] = Result(draw, continuation)
            if generation + 1 < generations:
                chain = draw.chain.spliced(draw.cut, continuation) if continuation.is_complete else draw.chain
                ask(line, generation + 1, chain)
        for ticket in doomed:
            if _is_unfinished(lm, ticket) and len(lm.so_far(ticket).tokens) > 3:
                lm.drop(ticket)
    return results


def _is_unfinished(lm: TorchLM, ticket: int) -> bool:
    return ticket in lm.scheduler.waiting or lm.scheduler.place(ticket) is not None


def states(memo: object) -> list[torch.Tensor]:
    """Keys and values of a memo, layer by layer, (heads, length, dim)."""
    assert isinstance(memo, Cached)
    layers = zip(*(piece.layers for piece in memo.state.pieces), strict=True)
    return [torch.cat([pair[k] for pair in layer if pair], 1) for layer in layers for k in (0, 1)]


def assert_same(
    found: dict[tuple[int, int], Result],
    expected: dict[tuple[int, int], Result],
    tolerance: float = 1e-11,
    *,
    memos: bool = True,
) -> None:
    assert found.keys() == expected.keys()
    for key, (_, wanted) in expected.items():
        got = found[key].continuation
        assert (got.tokens, got.end) == (wanted.tokens, wanted.end), key
        for a, b in ((got.logp, wanted.logp), (got.log_weight, wanted.log_weight), (got.entropy, wanted.entropy)):
            np.testing.assert_allclose(a, b, rtol=0, atol=tolerance)
        np.testing.assert_allclose(got.logq, wanted.logq, rtol=0, atol=tolerance)
        assert (got.memo is None) == (wanted.memo is None)
        if memos and wanted.memo is not None:
            for a, b in zip(states(got.memo), states(wanted.memo), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=tolerance)
