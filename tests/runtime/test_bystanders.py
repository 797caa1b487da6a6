"""Beside every bad input three running requests get the answers they get alone, and the engine answers afterwards."""

from __future__ import annotations

from typing import Any

import pytest

from power_sampling import PowerSampler, PowerSamplingError
from tests.support.tiny import tiny_model, tiny_tokenizer

OFTEN: list[dict[str, Any]] = [  # in the default run
    {"json_schema": {"$ref": "#"}},
    {"regex": r"[^\s\S]"},
    {"grammar": "start: start"},
    {"choices": ["<|eos|>"]},
    {"max_new_tokens": 10**12},
    {"temperature": 1e-45},
    {"timeout": 0.01, "max_new_tokens": 800},
    {"sampler": {"name": "best_of_n", "num_completions": 2**14}, "timeout": 0.2, "max_new_tokens": 200},
]
BAD: list[dict[str, Any]] = [
    {"json_schema": {"type": "array", "minItems": 10**9}},
    {"json_schema": {"enum": []}},
    {"regex": "x{99999999}"},
    {"regex": "(?=a)b"},
    {"regex": "a" * 300},
    {"grammar": 'start: start "a"'},
    {"grammar": "start: <|user|>"},
    {"grammar": "no grammar"},
    {"choices": ["a" * 300]},
    {"stop": ["\ud800"]},
    {"stop": ["a" * 100_000]},
    {"temperature": 1e-30, "alpha": 1.0},
    {"alpha": 1e30},
    {"alpha": 1e308},
    {"timeout": 1e-9},
    {"time_budget": 1e-9},
    {"seed": 10**400},
    {"sampler": {"name": "sequential_monte_carlo", "num_particles": 10**8}},
    {"sampler": {"name": "parallel_tempering", "num_rungs": 10**18}},
    {"sampler": {"name": "metropolis_hastings", "num_proposals": 10**5}},
    {"sampler": {"name": "rejection", "max_draws": 1}, "alpha": 9.0},
    {"n": 10**8},
    {"prompts": [""]},
    {"prompts": ["a" * 5000]},
]


def bystanders(model: PowerSampler) -> list[Any]:
    loaded, started = model._model.load(), []
    sampler = {"name": "metropolis_hastings", "num_steps": 2, "prefetch": 2}
    for prompt, fields in (
        ("one", {"sampler": "ancestral"}),
        ("two", {"sampler": sampler}),
        ("three", {"sampler": {"name": "sequential_monte_carlo", "num_particles": 3}, "regex": "[a-z ]*"}),
    ):
        started += model._submit([prompt], 1, {"seed": 5, "max_new_tokens": 10, **fields}, None)
    assert loaded.worker
    return started


def tokens(started: list[Any]) -> list[Any]:
    return [s.job.future.result(120).answer.chain.tokens for s in started]


@pytest.fixture(scope="module")
def model() -> PowerSampler:
    return PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), alpha=1.5)


@pytest.fixture(scope="module")
def expected(model: PowerSampler) -> list[Any]:
    return [tokens([each])[0] for each in bystanders(model)]


@pytest.mark.parametrize(
    "bad", [*OFTEN, *(pytest.param(bad, marks=pytest.mark.slow) for bad in BAD)], ids=lambda bad: repr(bad)[:70]
)
def test_bystanders(model: PowerSampler, expected: list[Any], bad: dict[str, Any]) -> None:
    fields = {"max_new_tokens": 6, "seed": 1, "timeout": 20.0, **bad}
    running = bystanders(model)
    try:
        model.generate(fields.pop("prompts", ["a prompt"]), n=fields.pop("n", 1), **fields)
    except PowerSamplingError as error:
        assert 10 < len(str(error)) < 2000
    assert tokens(running) == expected
    assert tokens(bystanders(model)[:1]) == expected[:1]
