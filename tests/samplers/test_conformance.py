"""Every sampler of `ALL` keeps the contract, and does what a user asks through the whole engine. A row for each."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future
from typing import Any

import pytest

from power_sampling import PowerSampler, RequestCancelledError
from power_sampling.config import GenerationConfig
from power_sampling.samplers import ALL, BY_NAME, NumpyRng, SamplerOptions, sampler_for
from power_sampling.serving.worker import Request, Worker
from power_sampling.testing import TableLM, check_sampler
from power_sampling.types import Termination
from tests.support.tiny import tiny_model, tiny_tokenizer

EVERY = pytest.mark.parametrize("name", list(BY_NAME))


@pytest.fixture(scope="module")
def model() -> PowerSampler:
    return PowerSampler.from_model(
        tiny_model(layers=1), tiny_tokenizer(), max_new_tokens=5, seed=3, alpha=1.25, logprobs=True
    )


@EVERY
def test_it_keeps_the_contract_of_a_sampler(name: str) -> None:
    check_sampler(BY_NAME[name]())


@pytest.mark.parametrize(
    "options",
    [
        {"name": "metropolis_hastings", "num_proposals": 3, "num_steps": 3, "block_size": 2},
        {"name": "metropolis_hastings", "cut": "entropy", "proposal_temperature": 0.9, "num_steps": 3},
        {"name": "parallel_tempering", "num_proposals": 2, "num_rungs": 3, "num_steps": 2, "num_tuning_steps": 1},
        {"name": "sequential_monte_carlo", "num_runs": 3, "num_particles": 3, "block_size": 2, "ramp_tokens": 3},
        {"name": "particle_gibbs", "num_particles": 3, "num_steps": 2, "block_size": 1, "ess_threshold": 1},
        {"name": "lookahead", "num_candidates": 3, "num_rollouts": 2, "block_size": 2},
        {"name": "rejection", "num_parallel": 3},
    ],
    ids=lambda options: str(options["name"]),
)
def test_it_keeps_it_with_other_options(options: dict[str, Any]) -> None:
    check_sampler(GenerationConfig(sampler=options).sampler, num_runs=4, num_draws=150)


@EVERY
def test_one_many_batched_streamed_and_awaited_are_the_same(model: PowerSampler, name: str) -> None:
    one = model.complete("hello", sampler=name)
    assert one.diagnostics.sampler == name and one.diagnostics.exactness == BY_NAME[name].exactness
    assert model.complete("hello", sampler=name).tokens == one.tokens  # the same seed
    assert [c.tokens for c in model.complete(["hello", "other", "hello"], sampler=name)][::2] == [one.tokens] * 2
    many = model.generate(["hello"], n=6, sampler=name)
    assert many[0].tokens == one.tokens
    assert len({c.seed for c in many}) == 6 and len({c.tokens for c in many}) > 1
    chunks = list(model.stream("hello", sampler=name))
    assert "".join(chunk.text for chunk in chunks) == one.text
    assert asyncio.run(model.acomplete("hello", sampler=name)).tokens == one.tokens


@EVERY
def test_greedy_is_greedy(model: PowerSampler, name: str) -> None:
    greedy = model.complete("hello", sampler=name, temperature=0)
    assert greedy.tokens == model.complete("hello", sampler="ancestral", temperature=0, seed=8).tokens
    assert greedy.diagnostics.exactness == "exact"


@EVERY
def test_alpha_one_is_plain_sampling(model: PowerSampler, name: str) -> None:
    if not BY_NAME[name].is_plain_at_alpha_one:
        return
    for seed in range(4):
        plain = model.complete("hello", sampler=name, alpha=1, seed=seed)
        assert plain.tokens == model.complete("hello", sampler="ancestral", seed=seed).tokens
        assert plain.diagnostics.exactness == "exact"


@EVERY
def test_a_constraint_and_a_stop_string_are_kept(model: PowerSampler, name: str) -> None:
    options = BY_NAME[name]
    for alpha in (1.0, 1.25):
        legal = model.complete("hello", sampler=name, alpha=alpha, regex=r"[\x00-\x7f]*", max_new_tokens=3)
        assert legal.text.isascii()
        assert legal.diagnostics.exactness == ("approximate" if options.draws_from_q_alone else options.exactness)
    stop = [chr(i) for i in range(ord(" "), ord("~"))]
    stopped = model.generate(["hello"], n=8, sampler=name, stop=stop)
    assert any(c.stop for c in stopped)
    assert not any(mark in c.text for c in stopped for mark in stop)


@EVERY
def test_out_of_time_it_still_answers(model: PowerSampler, name: str) -> None:
    answer = model.complete("hello", sampler=name, time_budget=1e-9)
    has_refined = not answer.diagnostics.is_budget_spent
    assert answer.diagnostics.exactness == (BY_NAME[name].exactness if has_refined else "approximate")
    assert has_refined == (
        name in ("ancestral", "low_temperature", "best_of_n", "marginal")
    )  # which have nothing to refine


@pytest.mark.parametrize(
    "sampler",
    [
        {"name": "particle_gibbs", "num_particles": 3, "num_steps": 2, "block_size": 2},
        {"name": "parallel_tempering", "num_rungs": 3, "num_steps": 2, "num_tuning_steps": 1},
        {"name": "parallel_tempering", "num_rungs": 2, "num_steps": 2, "cut": "entropy"},
        {"name": "parallel_tempering", "num_rungs": 3, "num_steps": 2, "curve_tolerance": 0.5},
        {"name": "metropolis_hastings", "prefetch": 3, "cut": "entropy", "num_steps": 4},
        {"name": "sequential_monte_carlo", "num_runs": 2, "resampling": "chopthin", "block_size": 2},
        {"name": "lookahead", "block_size": 3, "num_candidates": 3, "num_rollouts": 2},
    ],
    ids=lambda s: s["name"],
)
@pytest.mark.parametrize("choices", [None, ["ab", "ba", "c"]], ids=["free", "constrained"])
def test_its_options_run_through_the_whole_engine(sampler: dict[str, Any], choices: list[str] | None) -> None:
    """In one batch with others, streamed, at alpha 1 and above; what is stored is what the model says."""
    runtime = PowerSampler.from_model(
        tiny_model(layers=1), tiny_tokenizer(), sampler=sampler, max_new_tokens=8, alpha=2.0
    )
    drawn = runtime.generate(["a", "bc"], n=2, seed=3, choices=choices, temperature=3.0)
    engine = runtime._model.load().engine
    for prompt, c in zip(["a", "a", "bc", "bc"], drawn, strict=True):
        assert choices is None or c.text in choices
        scored = engine.score(runtime.encode(prompt), c.tokens, 3.0)
        assert c.token_logp == pytest.approx(scored.tolist(), abs=1e-4)
        if sampler["name"] == "parallel_tempering":
            assert c.diagnostics.curve is not None and len(c.diagnostics.curve) == sampler["num_rungs"]
    *_, last = runtime.stream("a", seed=3, choices=choices, temperature=3.0)
    assert last.completion is not None and last.completion.tokens == drawn[0].tokens
    assert runtime.complete("a", alpha=1.0, choices=choices).diagnostics.exactness in (
        "exact",
        "asymptotic",
        "approximate",
    )


@EVERY
def test_a_cancelled_request_stops_and_leaves_the_others(name: str) -> None:
    def request(horizon: int, seed: int) -> Request:
        config = GenerationConfig(sampler=name, alpha=1.25, max_new_tokens=horizon)
        make = lambda over: sampler_for(config, horizon, NumpyRng(seed), over)  # noqa: E731
        return Request(prompt=(2, 1), termination=Termination(frozenset()), make_sampler=make)

    lm, outcomes = TableLM(9, seed=3), []
    for crowd in ([request(4, 0)], [request(4, 0), request(100_000, 1)]):
        worker = Worker(lm)
        kept, *cancelled = worker.submit_all(crowd)
        for job in cancelled:
            job.cancel()
            _raises(job.future)
        outcomes.append(kept.future.result(60).answer.chain.tokens)
        worker.close()
    assert outcomes[0] == outcomes[1]
    assert not lm._rows, "rows of a cancelled request are left"


def _raises(future: Future[Any]) -> None:
    with pytest.raises(RequestCancelledError):
        future.result(60)


def test_names_and_facts() -> None:
    assert len(BY_NAME) == len(ALL)
    for name, options in BY_NAME.items():
        assert issubclass(options, SamplerOptions) and options.__doc__
        assert options().name == name and GenerationConfig(sampler=name).sampler == options()  # type: ignore[arg-type]
        for field, info in options.model_fields.items():
            assert field == "name" or info.description, f"{name}.{field} has no docstring"
