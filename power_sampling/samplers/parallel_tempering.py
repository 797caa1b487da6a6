"""Parallel tempering: a ladder of powers, one chain each, that swap their completions (after arXiv 2609.38104).

The chains x_1..x_K have the joint target prod_k p(x_k)^{a_k} / Z_k, 1 <= a_1 < ... < a_K = alpha. A step leaves it
invariant: every rung makes one suffix move of `metropolis_hastings.py` for its own power, all proposals in one round;
then neighbours swap, from the hottest pair to the coldest, each with probability

    min(1, exp((a_{k+1} - a_k) (log p(x_k) - log p(x_{k+1})))),

which needs nothing but the stored log p. The answer is the coldest chain.

A chain that comes to rung k is weighed there, alpha_k log p - log q_k per token, though another rung's q drew it: the
reverse move has to know what q_k would have thought of it. That is why every draw stores log q of its tokens under the
proposals of all rungs (`Law.score_at`): the logits are there, a rung costs one more log-normaliser per token. One q
for all rungs would be exact as well and needs no such numbers, but it fits one rung and is far from the others, and
beyond the mildest power its weights are unbounded: no early rejection, chains that stick.

Tuning moves the powers between the first and the last so that swaps succeed equally often, before the steps that
count; then they are frozen, since a kernel that adapts for ever has no fixed target. Proposals keep the temperatures
they began with, so the stored numbers stay right: weights are exact for any pair of power and proposal.

The curve, the mean log p of every rung over its legal states at the full horizon, can choose the power
(`curve_tolerance`): the smallest a_k whose mean is at most that many nats below that of alpha. The answer is then the
chain of rung k, which costs nothing more. The means tend to E[log p] under p^{a_k}, so the choice settles with the
steps (unless a mean lies just at the tolerance) and the law of the answer tends to p^{a_k} of the chosen k; before, the
choice depends on the states that it chooses from. Whether a power helps, no curve of log p can tell: that is the
covariance of log p with being right (arXiv 2610.08563).

Every step has a stream of chance of its own, so that proposals of later steps can be decoded in advance: what a step
asks for is a function of the chains it starts from. These are known for the step that follows if every move that is
not decided yet is rejected, its swaps included, and so on from there. (A tree of all outcomes, as one chain has it in
`parts/prefetch.py`, would branch by the rungs too.)
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from itertools import pairwise
from typing import Annotated, ClassVar, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from power_sampling.errors import ConfigurationError
from power_sampling.samplers.base import IsOutOfTime, Sampler
from power_sampling.samplers.metropolis_hastings import Move, Plan, SuffixMoves
from power_sampling.samplers.parts.lockstep import lockstep, with_rounds
from power_sampling.samplers.parts.notes import Notes
from power_sampling.samplers.parts.prefetch import LIKELY, Streams
from power_sampling.samplers.parts.rng import Rng
from power_sampling.types import (
    Answer,
    Chain,
    Chosen,
    Continuation,
    Draw,
    Exactness,
    Extended,
    Floats,
    Law,
    Peek,
    Prefetch,
    Progress,
    Round,
    Swapped,
)

__all__ = ["ParallelTempering", "Step", "ladder_of", "mildest", "respaced", "step", "sweep"]


class ParallelTempering(SuffixMoves):
    """A ladder of powers, one chain each, that swap their completions (arXiv 2609.38104). Converges to p^alpha; tells
    the mean log p at every power from the same run."""

    exactness: ClassVar[Exactness] = "asymptotic"

    name: Literal["parallel_tempering"] = "parallel_tempering"
    num_rungs: int = Field(default=4, ge=2, le=64)
    """Powers in geometric progression from 1 to alpha, both included."""
    ladder: tuple[Annotated[float, Field(ge=1)], ...] | None = Field(default=None, min_length=1, max_length=63)
    """The powers below alpha themselves, ascending; None: `num_rungs` decides."""
    block_size: int | None = Field(default=None, ge=1)
    """Tokens by which the horizon grows from stage to stage; None: a quarter of `max_new_tokens`."""
    num_steps: int = Field(default=10, ge=1, le=10**9)
    """Moves of every rung per block, each followed by a sweep of swaps."""
    num_tuning_steps: int = Field(default=0, ge=0, le=10**9)
    """Experimental. Further steps at the start of the last stage that space the powers for equal rates of swaps; then
    frozen."""
    proposal_temperature: float | None = Field(default=None, gt=0)
    """Temperature of the proposal q of every rung; None: temperature / power, each rung its own."""
    prefetch: int = Field(default=0, ge=0)
    """Rows up to which proposals of later steps are decoded in advance, in rows that nothing else wants. Saves time,
    costs tokens, never changes the chains. 0: none."""
    curve_tolerance: float | None = Field(default=None, ge=0)
    """Experimental, and an approximation. A power for each prompt: the answer is that of the smallest power whose mean
    log p in this run is at most so many nats below that of alpha. `diagnostics.alpha` tells it; the other diagnostics
    are those of alpha's chain. A run that `time_budget` ends chooses none. None: alpha."""

    @model_validator(mode="after")
    def _check_ladder(self) -> Self:
        if self.ladder is not None and any(a >= b for a, b in pairwise(self.ladder)):
            raise ConfigurationError(f"ladder: expected ascending powers, got {list(self.ladder)}.")
        return self

    def counts(self) -> dict[str, int]:
        rungs = {"ladder": len(self.ladder) + 1} if self.ladder else {"num_rungs": self.num_rungs}
        return {**rungs, "num_proposals": self.num_proposals}

    def powers(self, alpha: float) -> tuple[float, ...]:
        """Of all rungs, the coldest last."""
        if self.ladder is None:
            return tuple(alpha ** (k / (self.num_rungs - 1)) for k in range(self.num_rungs))
        if self.ladder[-1] >= alpha:
            raise ConfigurationError(f"ladder: expected powers below alpha = {alpha:g}, got {list(self.ladder)}.")
        return (*self.ladder, alpha)

    def law(self, alpha: float, temperature: float) -> Law:
        """Of the coldest rung."""
        return ladder_of(self, Law(alpha, temperature, temperature / alpha, self.cut == "entropy"))[-1]

    def run(self, law: Law, horizon: int, rng: Rng, is_out_of_time: IsOutOfTime) -> Sampler:
        """A completion whose law tends to p^alpha with `num_steps`, and the mean log p at every power of the ladder.

        Blocks grow the horizon as in `metropolis_hastings`; the last stage, at the full horizon, leaves the target
        invariant. Out of time, no step is begun any more, and the coldest chain is finished from q: no power is chosen.
        """
        laws = ladder_of(self, law)
        chains, stage_end = [Chain.empty()] * len(laws), 0
        block_size = self.block_size or max(1, math.ceil(horizon / 4))
        total = math.ceil(horizon / block_size) * (self.num_steps + 1) + self.num_tuning_steps
        num_tried = num_accepted = num_moved = 0
        is_spent, notes = False, Notes()
        rates, logp, trace = np.zeros(len(laws) - 1), np.zeros((0, len(laws))), list[float]()

        while stage_end < horizon and not is_spent:
            is_done = all(x.is_terminated for x in chains)
            stage_end = horizon if is_done else min(stage_end + block_size, horizon)
            num_tuning = self.num_tuning_steps if stage_end == horizon else 0
            done = (math.ceil(stage_end / block_size) - 1) * (self.num_steps + 1)
            chains = yield from _extended(chains, stage_end, laws, rng, Progress(done, total, {}), notes)
            steps = _Steps(self, laws, stage_end, rng.fork())
            for i in range(num_tuning + self.num_steps):
                is_spent = is_spent or is_out_of_time()
                if is_spent:
                    break
                stats = {"logp": float(chains[-1].logp.sum()), "swap_rate": float(rates.mean())}
                before = chains[-1]
                steps.forget(i)
                is_frozen, acceptance = i >= num_tuning, (num_accepted + 1) / (num_tried + 2)
                prefetch = steps.prefetch(i, num_tuning + self.num_steps, chains, acceptance) if is_frozen else None
                progress = Progress(done + i, total, stats)
                coldest, chains, rates = yield from step(
                    chains, stage_end, self, laws, steps.stream(i), progress, notes, prefetch
                )
                num_tried, num_accepted = num_tried + 1, num_accepted + (coldest is not before)
                if i < num_tuning:
                    steps.laws = laws = respaced(laws, rates, 1 / math.sqrt(i + 1))
                    chains = [_weighed(x, laws, k) for k, x in enumerate(chains)]
                elif stage_end == horizon:
                    num_moved += chains[-1] is not before
                    logp = np.vstack([logp, [_logp(x) for x in chains]])
                    trace.append(float(chains[-1].logp.sum()))

        (chain,) = yield from _extended(chains[-1:], horizon, laws[-1:], rng, Progress(1, 1, {}), notes)
        curve = np.ma.masked_invalid(logp).mean(0).filled(-math.inf)  # over legal states
        answer = Answer(
            chain,
            "approximate" if is_spent else self.exactness,
            acceptance_rate=num_accepted / num_tried if num_tried else None,
            is_budget_spent=is_spent,
            curve=tuple(zip([x.alpha for x in laws], curve.tolist(), strict=True)) if len(logp) else None,
            steps=notes.take(),
            trace=tuple(trace),
            num_moved=num_moved,
        )
        if self.curve_tolerance is None or is_spent:
            return answer
        k = mildest(curve, np.isfinite(logp[-1]), self.curve_tolerance)
        taken = Chosen(0, tuple(x.bare() for x in reversed(chains)), None, len(chains) - 1 - k)
        return answer._replace(
            chain=chains[k], exactness="approximate", alpha=laws[k].alpha, steps=(*answer.steps, taken)
        )


def ladder_of(options: ParallelTempering, law: Law) -> list[Law]:
    """The law of every rung, the coldest last."""
    powers = options.powers(law.alpha)
    temperatures = tuple(options.proposal_temperature or law.temperature / a for a in powers)
    base = law._replace(score_at=temperatures)
    return [base._replace(alpha=a, proposal_temperature=t) for a, t in zip(powers, temperatures, strict=True)]


class Step(NamedTuple):
    """What a step led to."""

    coldest: Chain  # before the swaps; the chain it was, the same object, where its move was rejected
    chains: list[Chain]
    rates: Floats  # the probability of each swap


def step(
    chains: list[Chain],
    stage_end: int,
    options: ParallelTempering,
    laws: list[Law],
    rng: Rng,
    progress: Progress,
    notes: Notes | None = None,
    prefetch: Prefetch | None = None,
) -> Generator[Round, list[Continuation], Step]:
    """A move of every rung, then a sweep of swaps."""
    notes, coldest = notes or Notes(), len(chains) - 1
    moves = [
        Move(options, law, stage_end, coldest - k).run(x, rng.fork(), progress, notes=notes)
        for k, (x, law) in enumerate(zip(chains, laws, strict=True))
    ]
    moved = yield from with_rounds(lockstep(moves, progress), lambda asked: asked._replace(prefetch=prefetch))
    return Step(moved[-1], *sweep(moved, laws, rng, notes))


class _Steps(Streams):
    """The steps of a stage by number, as functions of the chains they start from."""

    def __init__(self, options: ParallelTempering, laws: list[Law], stage_end: int, rng: Rng) -> None:
        super().__init__(rng)
        self.laws = laws
        self._options, self._stage_end = options, stage_end

    def prefetch(self, number: int, end: int, chains: list[Chain], acceptance: float) -> Prefetch | None:
        """The proposals of this step and of those after it, up to `end`, as long as they are likely to be asked for and
        there may be a row for them."""
        rows = self._options.prefetch

        def likeliest_first(peek: Peek) -> Iterator[Draw]:
            state, likely, num_open, n = chains, 1.0, 0, number
            while n < end and likely >= LIKELY and num_open < rows:
                asked = [self._draws(n, k, x) for k, x in enumerate(state)]
                yield from (draw for draws in asked for draw in draws)
                drawn = [[peek(draw) for draw in draws] for draws in asked]
                num_open += sum(x is None or x.end is None for proposals in drawn for x in proposals)
                state, num_guessed = self._after(n, state, drawn)
                likely, n = likely * (1 - acceptance) ** num_guessed, n + 1

        return Prefetch(rows, likeliest_first) if rows else None

    def _draws(self, number: int, k: int, chain: Chain) -> tuple[Draw, ...]:
        return self._move(k).draws(chain, self._plan(number, k, chain))

    def _after(self, number: int, chains: list[Chain], drawn: list[list[Chain | None]]) -> tuple[list[Chain], int]:
        """The chains after a step, and in how many moves that is a guess: what is not decided yet is rejected."""
        moved, num_guessed = list(chains), 0
        for k, chain in enumerate(chains):
            proposals = [x for x in drawn[k] if x is not None and x.end is not None]
            if len(proposals) < len(drawn[k]):
                num_guessed += 1
                continue
            plan, rng = self._plan(number, k, chain), self._streams_of(number)[0][k].copy()
            move = self._move(k)
            move.plan(chain, rng)  # the decision draws behind it
            accepted, _ = move.decide(chain, plan, proposals, rng)
            moved[k] = chain if accepted is None else proposals[accepted]
        swept, _ = sweep(moved, self.laws, self._streams_of(number)[1].copy())
        return swept, num_guessed

    def _move(self, k: int) -> Move:
        return Move(self._options, self.laws[k], self._stage_end)

    def _plan(self, number: int, k: int, chain: Chain) -> Plan:
        key = number, k, chain.tokens
        if key not in self.plans:
            self.plans[key] = self._move(k).plan(chain, self._streams_of(number)[0][k].copy())
        plan: Plan = self.plans[key]
        return plan

    def _streams_of(self, number: int) -> tuple[list[Rng], Rng]:
        """Of the moves of a step and of its swaps, as `step` forks them."""
        if (number,) not in self.plans:
            rng = self.stream(number)
            self.plans[number,] = [rng.fork() for _ in self.laws], rng
        streams: tuple[list[Rng], Rng] = self.plans[number,]
        return streams


def sweep(
    chains: Sequence[Chain], laws: Sequence[Law], rng: Rng, notes: Notes | None = None
) -> tuple[list[Chain], Floats]:
    """The chains after one swap of each pair of neighbours in turn, and each swap's probability."""
    swept, rates = list(chains), np.zeros(len(chains) - 1)
    for k in range(len(chains) - 1):
        hot, cold = _logp(swept[k]), _logp(swept[k + 1])
        log_ratio = (laws[k + 1].alpha - laws[k].alpha) * (hot - cold) if hot > -math.inf else -math.inf
        rates[k] = math.exp(min(0.0, log_ratio))
        log_u = rng.log_uniform()
        if log_u <= log_ratio:
            swept[k], swept[k + 1] = _weighed(swept[k + 1], laws, k), _weighed(swept[k], laws, k + 1)
        if notes is not None:
            pair = swept[k + 1].bare(), swept[k].bare()
            notes.add(Swapped(log_ratio, log_u, log_u <= log_ratio, pair, len(chains) - 2 - k))
    return swept, rates


def respaced(laws: Sequence[Law], rates: Floats, gain: float) -> list[Law]:
    """The ladder with gaps wider where swaps succeed more often than on average; its ends stay."""
    powers = np.array([law.alpha for law in laws])
    gaps = np.diff(powers) * np.exp(gain * (rates - rates.mean()))
    if gaps.sum() > 0:
        powers[1:-1] = powers[0] + (powers[-1] - powers[0]) * np.cumsum(gaps)[:-1] / gaps.sum()
    return [law._replace(alpha=float(a)) for law, a in zip(laws, powers, strict=True)]


ROUNDING = 1e-3  # nats that the same completions may differ by from batch to batch


def mildest(curve: Floats, is_legal: NDArray[np.bool_], tolerance: float) -> int:
    """The first rung whose completion is legal and whose mean log p is at most `tolerance` below that of the last one,
    but for rounding; the last one, where it has no mean or there is no such rung."""
    is_near = is_legal & (curve >= curve[-1] - tolerance - ROUNDING) & (curve[-1] > -math.inf)
    return int(np.argmax(is_near)) if is_near.any() else len(curve) - 1


def _extended(
    chains: Sequence[Chain], stage_end: int, laws: Sequence[Law], rng: Rng, progress: Progress, notes: Notes
) -> Generator[Round, list[Continuation], list[Chain]]:
    """Chains that are open and shorter than the stage, continued from the q of their rungs to its end."""
    extended = list(chains)
    lengths = {k: len(x.tokens) for k, x in enumerate(chains) if not x.is_terminated and len(x.tokens) < stage_end}
    if lengths:
        draws = tuple(Draw(chains[k], n, stage_end - n, laws[k], rng.seed()) for k, n in lengths.items())
        continuations = yield Round(draws, progress=progress, steps=notes.take())
        for (k, n), continuation in zip(lengths.items(), continuations, strict=True):
            extended[k] = chains[k].spliced(n, continuation)
            notes.add(Extended(n, extended[k].bare(), len(chains) - 1 - k))
    return extended


def _weighed(chain: Chain, laws: Sequence[Law], k: int) -> Chain:
    """A chain as rung k weighs it, whichever rung drew it."""
    log_weight = laws[k].alpha * chain.logp - chain.logq[:, k]
    if chain.end == "illegal":
        log_weight[-1] = -math.inf
    return chain._replace(log_weight=log_weight)


def _logp(chain: Chain) -> float:
    return float(chain.logp.sum()) if chain.end != "illegal" else -math.inf
