"""Metropolis-Hastings over whole completions: Algorithm 1 of Karan & Du (arXiv 2510.14901), for variable length.

The target of a stage with horizon h is pi_h(x) = p(x)^alpha / Z over completions that end by EOS, by a stop string, or
at h tokens. A move cuts the current completion x at a position c, uniform over its len(x) positions or where the
entropy rises (`cuts.py`), draws K suffixes y_1..y_K independently from q up to the horizon h (never up to the length of
x), and weighs, suffixes in full,

    log w(y) = sum_{t >= c} log_weight_t(y) - log N(y)        log w(x) likewise        N(y) = len(y) for uniform cuts

The last term is there because the cut is drawn from a range that differs from x to y. Multiple-try with independent
proposals: pick J with probability w_J / W, W = sum_j w_j, accept with probability min(1, W / (W - w_J + w(x))). For
K = 1 that is the ordinary ratio w(y) / w(x). Chosen over i-SIR because it contains Metropolis-Hastings and has the
larger spectral gap at every small K (`benchmarks/multiple_try.py`).

Every move has a stream of chance of its own, so that proposals of later moves can be decoded in advance, in rows that
nothing else wants (`prefetch.py`); the chain stays the same, token for token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import NamedTuple

import numpy as np

from power_sampling.config import MetropolisHastings, ParallelTempering
from power_sampling.samplers.parts.cuts import choose_cut, floors, log_span
from power_sampling.samplers.parts.prefetch import foreseen
from power_sampling.samplers.parts.rng import Rng
from power_sampling.types import (
    Ahead,
    Answer,
    Chain,
    Continuation,
    Draw,
    Exactness,
    Floats,
    Law,
    Progress,
    Round,
    Tokens,
)

__all__ = ["metropolis_hastings", "move"]


def metropolis_hastings(
    config: MetropolisHastings, law: Law, horizon: int, rng: Rng, is_over: Callable[[], bool]
) -> Generator[Round, list[Continuation], Answer]:
    """A completion whose law tends to p^alpha with `num_steps`: the last stage leaves it invariant.

    Blocks grow the horizon; each is one extension from q and `num_steps` moves over the whole completion. A chain that
    has terminated at the end of a stage goes straight to the last stage, whose horizon is the full one. When
    `is_over()` turns true no move is begun any more, and an open chain is finished by one extension from q.
    """
    law, chain, stage_end = config.cutting(law), Chain.empty(), 0
    block_size = config.block_size or max(1, math.ceil(horizon / 4))
    num_tried = num_accepted = 0
    is_spent = False

    while stage_end < horizon:
        stage_end = horizon if chain.is_terminated or is_spent else min(stage_end + block_size, horizon)
        extension = Draw(chain, len(chain.tokens), stage_end - len(chain.tokens), law, rng.seed())
        moves = _Moves(stage_end, config, law, rng.fork())
        if not chain.is_terminated:
            progress = _progress(chain, stage_end, block_size, horizon, 0, config.num_steps, num_tried, num_accepted)
            ahead = moves.ahead(0, extension, num_tried, num_accepted)
            (continuation,) = yield Round((extension,), progress=progress, ahead=ahead)
            chain = chain.spliced(len(chain.tokens), continuation)
        for step in range(config.num_steps):
            is_spent = is_spent or is_over()
            if is_spent:
                break
            progress = _progress(chain, stage_end, block_size, horizon, step, config.num_steps, num_tried, num_accepted)
            ahead = moves.ahead(step, chain, num_tried, num_accepted)
            moved = yield from move(chain, stage_end, config, law, moves.stream(step), progress, ahead)
            num_tried += 1
            num_accepted += moved is not chain
            chain = moved

    acceptance_rate = num_accepted / num_tried if num_tried else None
    exactness: Exactness = "approximate" if is_spent else "asymptotic"
    return Answer(chain, exactness, acceptance_rate=acceptance_rate, is_budget_spent=is_spent)


def move(
    chain: Chain,
    stage_end: int,
    config: MetropolisHastings | ParallelTempering,
    law: Law,
    rng: Rng,
    progress: Progress,
    ahead: Ahead | None = None,
) -> Generator[Round, list[Continuation], Chain]:
    """One multiple-try move; the chain itself, the same object, where it is rejected."""
    chance = _chance(chain, stage_end, config, rng)
    draws = _draws(chain, chance, stage_end, config, law)
    continuations = yield Round(draws, progress=progress, ahead=ahead)
    if not all(c.is_complete for c in continuations):
        return chain
    return _decided(chain, chance, [chain.spliced(chance.cut, c) for c in continuations], config, rng)


class _Chance(NamedTuple):
    """What a move decides before it knows its proposals."""

    cut: int
    log_u: float
    seeds: tuple[int, ...]


def _chance(chain: Chain, stage_end: int, config: MetropolisHastings | ParallelTempering, rng: Rng) -> _Chance:
    """A chain that is still being drawn is taken to reach the end of the stage."""
    cut = choose_cut(chain, config, rng) if chain.end else rng.integers(stage_end)
    return _Chance(cut, rng.log_uniform(), tuple(rng.seed() for _ in range(config.num_proposals)))


def _draws(
    chain: Chain, chance: _Chance, stage_end: int, config: MetropolisHastings | ParallelTempering, law: Law
) -> tuple[Draw, ...]:
    # With one proposal the decision is known as soon as its running weight falls below u * w(x). With several it
    # needs every weight, so all of them are drawn in full.
    is_early = config.early_rejection and config.num_proposals == 1 and law.is_bounded and chain.end is not None
    length, bounds = stage_end - chance.cut, None
    if is_early:
        bounds = floors(chain, chance.cut, length, chance.log_u + _log_w(chain, chance.cut, config), config)
    return tuple(Draw(chain, chance.cut, length, law, seed, bounds) for seed in chance.seeds)


def _decided(
    chain: Chain,
    chance: _Chance,
    proposals: list[Chain],
    config: MetropolisHastings | ParallelTempering,
    rng: Rng,
) -> Chain:
    log_w_chain = _log_w(chain, chance.cut, config)
    log_w: Floats = np.array([_log_w(y, chance.cut, config) for y in proposals])
    top = float(log_w.max())
    if top == -math.inf:  # every proposal has underflowed: none can be accepted
        return chain
    w = np.exp(log_w - top)  # in units of the heaviest proposal
    chosen = rng.categorical(w) if len(proposals) > 1 else 0
    w_others = float(w.sum() - w[chosen]) if len(proposals) > 1 else 0.0
    log_denominator = float(np.logaddexp(math.log(w_others) if w_others > 0 else -math.inf, log_w_chain - top))
    return proposals[chosen] if chance.log_u <= math.log(float(w.sum())) - log_denominator else chain


class _Moves:
    """The moves of a stage, each with its own stream (see `prefetch.Moves`)."""

    def __init__(self, stage_end: int, config: MetropolisHastings, law: Law, rng: Rng) -> None:
        self._stage_end, self._config, self._law, self._rng = stage_end, config, law, rng
        self._streams: list[Rng] = []
        self._chances: dict[tuple[int, int | Tokens], _Chance] = {}

    def __len__(self) -> int:
        return self._config.num_steps

    def stream(self, number: int) -> Rng:
        """The stream of a move, at its beginning."""
        while len(self._streams) <= number:
            self._streams.append(self._rng.fork())
        return self._streams[number].copy()

    def asked(self, number: int, chain: Chain) -> tuple[Draw, ...]:
        has_entropy_cuts = self._config.cut == "entropy"
        if has_entropy_cuts and chain.end is None:
            return ()  # where the entropy will rise is not known
        length = len(chain.tokens) if chain.end else self._stage_end
        key = number, chain.tokens if has_entropy_cuts else length
        if key not in self._chances:
            self._chances[key] = self._chance(chain, self.stream(number))
        return _draws(chain, self._chances[key], self._stage_end, self._config, self._law)

    def decided(self, number: int, chain: Chain, proposals: list[Chain]) -> Chain:
        if any(proposal.end == "floor" for proposal in proposals):
            return chain
        rng = self.stream(number)
        return _decided(chain, self._chance(chain, rng), proposals, self._config, rng)

    def ahead(self, number: int, root: Chain | Draw, tried: int, accepted: int) -> Ahead | None:
        rows = self._config.prefetch
        return Ahead(rows, foreseen(self, number, root, (accepted + 1) / (tried + 2))) if rows else None

    def _chance(self, chain: Chain, rng: Rng) -> _Chance:
        return _chance(chain, self._stage_end, self._config, rng)


def _log_w(chain: Chain, cut: int, config: MetropolisHastings | ParallelTempering) -> float:
    return float(chain.log_weight[cut:].sum()) - log_span(chain, config)


def _progress(
    chain: Chain, stage_end: int, block_size: int, horizon: int, step: int, num_steps: int, tried: int, accepted: int
) -> Progress:
    stage = math.ceil(stage_end / block_size) - 1
    total = math.ceil(horizon / block_size) * (num_steps + 1)
    stats = {"logp": float(chain.logp.sum()), "length": float(len(chain.tokens))}
    if tried:
        stats["acceptance_rate"] = accepted / tried
    return Progress(stage * (num_steps + 1) + step, total, stats)
