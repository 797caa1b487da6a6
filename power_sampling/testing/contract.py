"""What every sampler owes its callers, as an executable check for the author of another one.

A broken promise raises AssertionError with what was found.
"""

from __future__ import annotations

import math

import numpy as np

from power_sampling.samplers import NumpyRng, SamplerOptions
from power_sampling.testing.enumeration import completions, drive, power_law
from power_sampling.testing.laws import run_draws
from power_sampling.testing.table import TableLM
from power_sampling.types import Answer, Continuation, Round, Termination, Tokens

__all__ = ["check_sampler"]

PROMPT: Tokens = (2, 1)
EOS = Termination(frozenset({0}))


def check_sampler(
    options: SamplerOptions, *, alpha: float = 1.5, horizon: int = 5, num_runs: int = 10, num_draws: int = 400
) -> None:
    """Assert the contract of `SamplerOptions.run` on a table model, over `num_runs` seeds.

    Draws stay within the horizon, rounds within `counts`; settled tokens are a beginning of the answer and are never
    taken back; every draw has a seed of its own; steps hold bare chains. The answer ends by itself or at the horizon,
    with the numbers its draws brought; it is a function of the seed; out of time, it comes after one more round at most
    and says so.

    A sampler labelled `exact` must have the law of its label: over `num_draws` seeds the frequency f of each completion
    has to satisfy num_draws * KL(f, pi) < 15 (see `check_language_model`). The law of another one is for its author to
    prove (`power_sampling.testing.outcomes`).
    """
    lm, law = TableLM(4, seed=5), options.law(alpha, 1.0)
    for seed in range(num_runs):
        answer, rounds, _ = _run(lm, options, alpha, horizon, seed)
        _check_rounds(rounds, answer, horizon)
        _check_answer(lm, answer, horizon)
        held, most = math.prod(options.counts().values()), max(len(current.draws) for current in rounds)
        assert most <= held, f"a round of {most} draws, where counts() says {held}"
        assert answer.exactness == options.exactness, f"labelled {answer.exactness}, not {options.exactness}"
        again, *_ = _run(lm, options, alpha, horizon, seed)
        assert again.chain.tokens == answer.chain.tokens, "the same seed gives another answer"
        for spent_after in range(min(4, len(rounds))):
            late, late_rounds, num_after = _run(lm, options, alpha, horizon, seed, spent_after=spent_after)
            _check_rounds(late_rounds, late, horizon)
            _check_answer(lm, late, horizon)
            assert num_after <= 1, f"{num_after} rounds after it was told to be out of time"
            if late.is_budget_spent:
                assert late.exactness == "approximate", f"cut short, but labelled {late.exactness}"
    if options.exactness == "exact":
        chains = completions(lm, PROMPT, EOS, horizon, law)
        found = [_run(lm, options, alpha, horizon, seed)[0].chain.tokens for seed in range(num_draws)]
        for x, p in zip(chains, power_law(chains, law.alpha).tolist(), strict=True):
            n, f = num_draws, found.count(x.tokens) / num_draws
            divergence = f * math.log(f / p) if f else 0.0
            divergence += (1 - f) * math.log((1 - f) / (1 - p)) if f < 1 else 0.0
            assert n * divergence < 15, f"{x.tokens} was the answer {n * f:.0f} times in {n}, expected {n * p:.1f}"


def _run(
    lm: TableLM, options: SamplerOptions, alpha: float, horizon: int, seed: int, spent_after: float = math.inf
) -> tuple[Answer, list[Round], int]:
    """An answer, its rounds, and how many of them came after the sampler was told that time is up: from `spent_after`
    rounds on."""
    rounds: list[Round] = []
    told: list[int] = []  # after how many rounds
    handle = lm.open(PROMPT, EOS)

    def is_out_of_time() -> bool:
        if len(rounds) >= spent_after:
            told.append(len(rounds))
        return len(rounds) >= spent_after

    def decoded(current: Round) -> list[Continuation]:
        rounds.append(current)
        return run_draws(lm, handle, current.draws)

    law = options.law(alpha, 1.0)
    answer = drive(options.run(law, horizon, NumpyRng(seed), is_out_of_time), decoded)
    return answer, rounds, len(rounds) - told[0] if told else 0


def _check_rounds(rounds: list[Round], answer: Answer, horizon: int) -> None:
    shown: Tokens = ()
    for current in rounds:
        assert current.draws, "a round without draws"
        for draw in current.draws:
            assert draw.cut <= len(draw.chain.tokens), f"a cut at {draw.cut} of {len(draw.chain.tokens)} tokens"
            assert 1 <= draw.max_new_tokens <= horizon - draw.cut, f"{draw.max_new_tokens} new tokens at {draw.cut}"
            assert not draw.chain.head(draw.cut).is_terminated, "a draw from a completion that has ended"
        assert not current.is_live or len(current.draws) == 1, f"{len(current.draws)} draws are live"
        assert current.settled[: len(shown)] == shown, "what was settled is taken back"
        shown = current.settled
        assert 0 <= current.progress.done <= current.progress.total, f"progress is {current.progress}"
    assert answer.chain.tokens[: len(shown)] == shown, "what was settled is not in the answer"
    for step in (*(step for current in rounds for step in current.steps), *answer.steps):
        assert all(chain.memo is None for chain in step.chains), f"{step} holds an engine's note; tell chains `bare`"
    seeds = [draw.seed for current in rounds for draw in current.draws]
    assert len(set(seeds)) == len(seeds), "two draws have one seed: they are the same, or alike, and not independent"


def _check_answer(lm: TableLM, answer: Answer, horizon: int) -> None:
    chain = answer.chain
    assert chain.is_terminated or len(chain.tokens) == horizon, f"an open answer of {len(chain.tokens)} tokens"
    off = float(np.abs(chain.logp - lm.score(PROMPT, chain.tokens, 1.0)).max())
    assert off < 1e-9, f"log p of the answer is off by {off}"
