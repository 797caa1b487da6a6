"""What no engine can hold is refused at once, with the number that would do; limits hold while a call is set up."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pytest

from power_sampling import ConfigurationError, PowerSampler, RequestTimeoutError, runtime
from power_sampling.config import LEAST_TEMPERATURE, MOST_TOKENS, GenerationConfig
from power_sampling.samplers import ALL
from power_sampling.samplers.base import MOST_COMPLETIONS
from power_sampling.types import Diagnostics
from tests.support.tiny import tiny_model, tiny_tokenizer

COUNTS = [
    (options.model_fields["name"].default, name)
    for options in ALL
    for name in options.model_fields
    if name.startswith(("num_", "max_"))
]


@pytest.fixture(scope="module")
def model() -> PowerSampler:
    return PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), max_new_tokens=5, seed=3)


@pytest.mark.parametrize(("sampler", "name"), COUNTS)
@pytest.mark.parametrize("count", [10**10, 10**40])
def test_a_count_without_bound_is_refused(sampler: str, name: str, count: int) -> None:
    with pytest.raises(ConfigurationError, match=rf"{name}.* less than or equal to \d+"):
        GenerationConfig.parse({"sampler": {"name": sampler, name: count}})


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"max_new_tokens": 10**12}, f"max_new_tokens: .* less than or equal to {MOST_TOKENS}"),
        ({"sampler": {"name": "sequential_monte_carlo", "num_particles": 100_000}}, f"equal to {MOST_COMPLETIONS}"),
        (
            {"sampler": {"name": "sequential_monte_carlo", "num_particles": 1000, "num_runs": 20}},
            "num_particles=1000 times num_runs=20 .* Lower num_particles to 819",
        ),
        (
            {"sampler": {"name": "lookahead", "num_candidates": 9000, "num_rollouts": 9000}},
            "Lower num_candidates to 1.",
        ),
        (
            {"sampler": {"name": "best_of_n", "num_completions": 10_000}, "max_new_tokens": 1000},
            "with num_completions=10000 .* Lower max_new_tokens to 419",
        ),
        ({"sampler": {"name": "parallel_tempering", "ladder": [1 + i / 100 for i in range(70)]}}, "ladder"),
    ],
)
def test_what_would_do_is_said(fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        GenerationConfig.parse(fields)


def test_the_number_that_would_do_does() -> None:
    smc = {"name": "sequential_monte_carlo", "num_particles": 819, "num_runs": 20}
    assert GenerationConfig.parse({"sampler": smc, "max_new_tokens": MOST_TOKENS // (819 * 20)})
    assert GenerationConfig.parse({"sampler": "ancestral", "max_new_tokens": MOST_TOKENS})


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 1e-45},
        {"temperature": 5e-324},
        {"temperature": 1e300},
        {"alpha": 1e60},
        {"alpha": 1e308},
        {"sampler": {"name": "metropolis_hastings", "proposal_temperature": 1e-40}},
        {"sampler": {"name": "parallel_tempering", "proposal_temperature": 1e35}},
    ],
)
def test_temperatures_that_float32_cannot_divide_by_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=r"draw at a temperature of .* temperature=0 is greedy"):
        GenerationConfig.parse(fields)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["alpha", "temperature", "timeout", "time_budget"])
def test_settings_that_are_no_numbers_are_refused(name: str, value: float) -> None:
    with pytest.raises(ConfigurationError, match=name):
        GenerationConfig.parse({name: value})


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "sampler", ["ancestral", {"name": "parallel_tempering", "num_rungs": 2, "num_steps": 1}], ids=["plain", "ladder"]
)
def test_the_smallest_temperature_answers_with_numbers(dtype: str, sampler: Any) -> None:
    """Such a law has one completion, the greedy one."""
    import torch

    model = PowerSampler.from_model(tiny_model(layers=1, dtype=getattr(torch, dtype)), tiny_tokenizer())
    greedy = model.complete("a", temperature=0, max_new_tokens=4)
    for fields in ({"temperature": 2.1e-30, "alpha": 2.0}, {"alpha": 0.99 / LEAST_TEMPERATURE}):
        cold = model.complete("a", sampler=sampler, max_new_tokens=4, seed=1, **fields)
        assert all(abs(logp) < 1e35 for logp in cold.token_logp)
        if sampler != "ancestral" or "temperature" in fields:
            assert cold.tokens == greedy.tokens


def test_the_requests_of_a_call_are_bounded(model: PowerSampler) -> None:
    for n in (10**6, 10**8, 10**5000):
        with pytest.raises(ConfigurationError, match=r"n: 2 prompts .* lower n to 50000"):
            model.generate(["a", "b"], n=n)
    with pytest.raises(ConfigurationError, match="make several calls"):
        model.generate(["a"] * 100_001)


def test_a_timeout_holds_while_prompts_are_made_ready(model: PowerSampler, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    prepare = runtime.prepare
    monkeypatch.setattr(runtime, "prepare", lambda *args: made.append(args) or prepare(*args))  # type: ignore[func-returns-value]
    with pytest.raises(RequestTimeoutError, match="timeout=1e-09"):
        model.generate(["a"] * 1000, timeout=1e-9)
    assert not made


async def test_a_call_cancelled_while_prompts_are_made_ready_makes_no_more(
    model: PowerSampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, made, cancelled = asyncio.get_running_loop(), [], asyncio.Event()
    prepare = runtime.prepare

    def slow(*args: Any) -> Any:
        made.append(args)
        if len(made) == 3:
            loop.call_soon_threadsafe(task.cancel)
            asyncio.run_coroutine_threadsafe(cancelled.wait(), loop).result(30)
        return prepare(*args)

    monkeypatch.setattr(runtime, "prepare", slow)
    task = asyncio.create_task(model.agenerate(["a"] * 1000))
    with pytest.raises(asyncio.CancelledError):
        await task
    cancelled.set()
    await loop.shutdown_default_executor()
    assert len(made) == 3


def test_diagnostics_are_json_whatever_was_found() -> None:
    """JSON has no infinity: `--json` and the adapters' metadata say null."""
    found = Diagnostics(
        sampler="particle_gibbs",
        alpha=2.0,
        exactness="asymptotic",
        acceptance_rate=float("nan"),
        ess=0.0,
        log_z=-math.inf,
        is_budget_spent=False,
        tokens_decoded=3,
        tokens_prefilled=2,
        serial_steps=3,
        seconds=0.5,
        curve=((1.0, -3.5), (2.0, -math.inf)),
    )
    plain = found.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False))["curve"] == [[1.0, -3.5], [2.0, None]]
    assert (plain["log_z"], plain["acceptance_rate"], plain["ess"]) == (None, None, 0.0)
