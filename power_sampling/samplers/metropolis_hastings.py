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

Every move has a stream of chance of its own, so that proposals of later moves can be decoded in advance
(`prefetch.py`) and the chain stays the same, token for token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from functools import partial

import numpy as np

from power_sampling.config import MetropolisHastings, ParallelTempering
from power_sampling.samplers.cuts import choose_cut, log_span
from power_sampling.samplers.prefetch import Prefetcher
from power_sampling.samplers.rng import Rng
from power_sampling.types import Answer, Chain, Continuation, Draw, Exactness, Floats, Law, Progress, Round

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
    block_size = config.block_size or max(1, math.ceil(horizon / 16))
    num_tried = num_accepted = 0
    is_spent = False

    while stage_end < horizon:
        stage_end = horizon if chain.is_terminated or is_spent else min(stage_end + block_size, horizon)
        if not chain.is_terminated:
            extension = Draw(chain, len(chain.tokens), stage_end - len(chain.tokens), law, rng.seed())
            progress = _progress(chain, stage_end, block_size, horizon, 0, config.num_steps, num_tried, num_accepted)
            (continuation,) = yield Round((extension,), progress=progress)
            chain = chain.spliced(len(chain.tokens), continuation)
        ahead = Prefetcher(config.prefetch, config.num_steps, law, rng)
        for step in range(config.num_steps):
            is_spent = is_spent or is_over()
            if is_spent:
                break
            progress = _progress(chain, stage_end, block_size, horizon, step, config.num_steps, num_tried, num_accepted)
            one_move = partial(move, stage_end=stage_end, config=config, law=law, progress=progress)
            moved = yield from ahead.step(one_move, chain)
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
) -> Generator[Round, list[Continuation], Chain]:
    """One multiple-try move; the chain itself, the same object, where it is rejected."""
    cut = choose_cut(chain, law, rng)
    log_u = rng.log_uniform()
    log_w_chain = _log_w(chain, cut, law)
    # With one proposal the decision is known as soon as its running weight falls below u * w(x). With several it
    # needs every weight, so all of them are drawn in full.
    is_early = config.early_rejection and config.num_proposals == 1 and law.is_bounded
    floor = log_u + log_w_chain if is_early else -math.inf
    draws = tuple(Draw(chain, cut, stage_end - cut, law, rng.seed(), floor) for _ in range(config.num_proposals))
    continuations = yield Round(draws, progress=progress)
    if not all(c.is_complete for c in continuations):
        return chain

    proposals = [chain.spliced(cut, c) for c in continuations]
    log_w: Floats = np.array([_log_w(y, cut, law) for y in proposals])
    top = float(log_w.max())
    if top == -math.inf:  # every proposal has underflowed: none can be accepted
        return chain
    w = np.exp(log_w - top)  # in units of the heaviest proposal
    chosen = rng.categorical(w) if len(proposals) > 1 else 0
    w_others = float(w.sum() - w[chosen]) if len(proposals) > 1 else 0.0
    log_denominator = float(np.logaddexp(math.log(w_others) if w_others > 0 else -math.inf, log_w_chain - top))
    return proposals[chosen] if log_u <= math.log(float(w.sum())) - log_denominator else chain


def _log_w(chain: Chain, cut: int, law: Law) -> float:
    return float(chain.log_weight[cut:].sum()) - log_span(chain, law)


def _progress(
    chain: Chain, stage_end: int, block_size: int, horizon: int, step: int, num_steps: int, tried: int, accepted: int
) -> Progress:
    stage = math.ceil(stage_end / block_size) - 1
    total = math.ceil(horizon / block_size) * (num_steps + 1)
    stats = {"logp": float(chain.logp.sum()), "length": float(len(chain.tokens))}
    if tried:
        stats["acceptance_rate"] = accepted / tried
    return Progress(stage * (num_steps + 1) + step, total, stats)
