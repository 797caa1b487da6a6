"""Where states can be cut at snapshots only: which are taken, which stay, and what their absence costs."""

from __future__ import annotations

import pytest

from power_sampling.engines.stepped.engine import SteppedEngine
from power_sampling.engines.stepped.snapshots import LEAST_GAP, is_due, worth_keeping
from power_sampling.samplers import MetropolisHastings, NumpyRng, ParallelTempering, SequentialMonteCarlo
from power_sampling.samplers.base import SamplerOptions
from power_sampling.testing import TableBackend, TableLM, drive, run_draws
from power_sampling.types import Law, Termination, Tokens
from tests.support.copied import CopiedBackend

LAW = Law(2.0, 1.0, 0.5)


def test_they_are_evenly_spread_whatever_the_length() -> None:
    kept, last, most = [], 0, 8
    for length in range(1, 3000):
        if is_due(length, last, most):
            kept, last = worth_keeping([*kept, 10 + length], 10, most), length
            assert len(kept) <= most + 1 and kept[-1] == 10 + length
    gaps = [b - a for a, b in zip([10, *kept], kept, strict=False)]
    assert max(gaps) < 2 * 3000 / most and min(gaps) >= LEAST_GAP


def test_those_of_the_prompt_and_the_last_one_stay() -> None:
    assert worth_keeping([4, 10, 12, 13, 30], 10, 1) == [4, 10, 13, 30]
    assert worth_keeping([10, 12, 13, 30], 10, 0) == [10, 30]
    assert not is_due(500, 0, 0), "none is kept, so none is taken"


def fed(backend: TableBackend, sampler: SamplerOptions, horizon: int, eos: int | None) -> tuple[Tokens, int]:
    """A sampler's answer, and the tokens that went through the model for it."""
    engine = SteppedEngine(backend)
    handle = engine.open((1, 2, 3), Termination(frozenset() if eos is None else frozenset({eos})))
    run = sampler.run(LAW, horizon, NumpyRng(3), lambda: False)
    answer = drive(run, lambda current: run_draws(engine, handle, current.draws))
    return answer.chain.tokens, engine.cost.row_steps + engine.cost.prefilled_tokens


@pytest.mark.parametrize("eos", [None, 0], ids=["endless", "ending"])
@pytest.mark.parametrize("horizon", [24, 160])
def test_cuts_cost_less_than_a_third_more(horizon: int, eos: int | None) -> None:
    """One and the same chain by Metropolis-Hastings at its default settings."""
    table = TableLM(60, seed=2)
    expected, anywhere = fed(TableBackend(table), MetropolisHastings(), horizon, eos)
    found, copied = fed(CopiedBackend(table), MetropolisHastings(), horizon, eos)
    assert found == expected
    assert anywhere < copied <= 1.3 * anywhere


def test_forks_at_the_ends_of_draws_cost_nothing() -> None:
    table = TableLM(60, seed=2)
    smc = SequentialMonteCarlo(block_size=8)
    assert fed(TableBackend(table), smc, 64, 0) == fed(CopiedBackend(table), smc, 64, 0)


def test_ladders_of_powers_are_cut_too() -> None:
    table = TableLM(60, seed=2)
    expected, anywhere = fed(TableBackend(table), ParallelTempering(), 100, 0)
    found, copied = fed(CopiedBackend(table), ParallelTempering(), 100, 0)
    assert found == expected and copied <= 1.4 * anywhere
