"""`num_steps: auto`: a pilot decides how many steps the chain makes, which leaves the law as it is."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any

import numpy as np
import pytest

from power_sampling import ConfigurationError, PowerSampler
from power_sampling.config import GenerationConfig, MetropolisHastings
from power_sampling.samplers import NumpyRng, metropolis_hastings, sampler_for
from power_sampling.samplers.parts.mixing import has_settled
from power_sampling.testing import Branches, TableLM, drive, run_draws
from power_sampling.types import Answer, Chain, Round, Termination
from tests.support.exact import EOS, PROMPT, World
from tests.support.tiny import tiny_model, tiny_tokenizer

AUTO = {"name": "metropolis_hastings", "num_steps": "auto", "max_steps": 2, "early_rejection": False}


# of the proposal; at 1 a move depends on where it is made from
@pytest.mark.parametrize("temperature", [pytest.param(None, marks=pytest.mark.slow), 1.0])
def test_the_law_is_left_as_it_is_and_would_not_be_by_a_chain_that_looks_at_itself(
    monkeypatch: pytest.MonkeyPatch, temperature: float | None
) -> None:
    sampler: Any = {**AUTO, "proposal_temperature": temperature}
    config = GenerationConfig(sampler=sampler, alpha=2.0, max_new_tokens=1, start="x")
    world = World(4, 1, 3, config.law(), EOS)
    likely = sorted(float(x.logp.sum()) for x in world.chains)[-2]
    monkeypatch.setattr(metropolis_hastings, "has_settled", lambda trace, num_moved: trace[-1] >= likely)
    options: Any = config.sampler

    def answered(x: Chain, rng: Branches) -> Generator[Round, Any, Chain]:
        answer = yield from sampler_for(config, 1, rng, lambda: False, start=x)
        return answer.chain

    def looking(x: Chain, rng: Branches) -> Generator[Round, Any, Chain]:
        answer = yield from options._chain(x, world.law, 1, rng, lambda: False, 2, of=1)
        return answer.chain

    assert world.gap(world.kernel(answered)) < 1e-10
    assert world.gap(world.kernel(looking)) > 1e-3


def answer(seed: int = 3, *, over: bool = False, **options: Any) -> tuple[Answer, list[Round]]:
    lm, rounds, ending = TableLM(5, seed=4, spread=1.0), list[Round](), Termination(frozenset())
    sampler: Any = {"name": "metropolis_hastings", "num_steps": "auto", "prefetch": 0, **options}
    config = GenerationConfig(sampler=sampler, alpha=1.5, max_new_tokens=8)
    handle = lm.open(PROMPT, ending)

    def run(current: Round) -> Any:
        rounds.append(current)
        return run_draws(lm, handle, current.draws)

    return drive(sampler_for(config, 8, NumpyRng(seed), lambda: over), run), rounds


def test_the_chain_makes_as_many_steps_as_its_pilot() -> None:
    lengths = set()
    for seed in range(2, 4):
        found, rounds = answer(seed)
        steps = [step for current in rounds for step in current.steps] + list(found.steps)
        pilot = [step for step in steps if getattr(step, "of", 0) == 1]
        own = [step for step in steps if getattr(step, "of", 0) == 0]
        assert [type(step).__name__ for step in pilot] == [type(step).__name__ for step in own]
        assert 8 <= len(found.trace) <= 100 and found.exactness == "asymptotic"
        assert own[-1].chain.tokens == found.chain.tokens  # type: ignore[attr-defined] # an Extended or a Moved
        assert found.chain.tokens == answer(seed)[0].chain.tokens
        lengths.add(len(found.trace))
    assert len(lengths) > 1
    assert len(answer(max_steps=5)[0].trace) == 5


def test_out_of_time_the_pilot_answers() -> None:
    found, rounds = answer(over=True)
    assert found.is_budget_spent and found.exactness == "approximate" and len(found.chain.tokens) == 8
    assert len(rounds) <= 2 and type(found.steps[-1]).__name__ == "Chosen"


def test_out_of_time_a_given_start_stays() -> None:
    lm, config = TableLM(5, seed=4, spread=1.0), GenerationConfig(sampler=AUTO, max_new_tokens=8, start="x")  # type: ignore[arg-type] # settings read a mapping
    handle, start = lm.open(PROMPT, Termination(frozenset())), (1, 2, 3, 4, 1, 2, 3, 4)
    sampler = sampler_for(config, 8, NumpyRng(1), lambda: True, start=start)
    found = drive(sampler, lambda current: run_draws(lm, handle, current.draws))
    assert found.chain.tokens == start and found.is_budget_spent and found.exactness == "approximate"


def test_what_looks_settled() -> None:
    def noise(n: int) -> Sequence[float]:
        return np.random.default_rng(n).normal(size=n).tolist()

    assert has_settled(noise(60), 40) and not has_settled(noise(6), 6)
    assert not has_settled((np.array(noise(60)) + np.linspace(0, 9, 60)).tolist(), 40)
    assert has_settled([1.0] * 9, 8) and not has_settled([1.0] * 90, 0)


@pytest.mark.slow
def test_through_the_whole_engine_and_what_is_refused() -> None:
    model = PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), max_new_tokens=5, alpha=1.2, seed=1)
    found = model.complete("hello", sampler={"name": "metropolis_hastings", "num_steps": "auto", "max_steps": 12})
    assert found.diagnostics.exactness == "asymptotic" and found.resume(2).diagnostics.exactness == "asymptotic"
    for wrong in ("other", 0):
        with pytest.raises(ConfigurationError, match="num_steps"):
            MetropolisHastings.parse({"num_steps": wrong})
