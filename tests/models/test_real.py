"""A real model completes, plainly and with power: Gemma 3 270M, the base one, as a GGUF file.

GEMMA_270M=FILE.gguf pytest -m slow tests/models/test_real.py
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from power_sampling import PowerSampler

FILE = Path(os.environ.get("GEMMA_270M", ""))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FILE.is_file(), reason="GEMMA_270M names no GGUF file of Gemma 3 270M"),
]

BEGINNINGS = {"2 + 2 =": "4", "Water is made of hydrogen and": "oxygen", "Monday, Tuesday, Wednesday,": "Thursday"}


@pytest.fixture(scope="module")
def gemma() -> PowerSampler:
    return PowerSampler.from_pretrained(str(FILE), dtype="float32", max_new_tokens=12, seed=1, logprobs=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"sampler": "low_temperature", "alpha": 4.0},
        {"sampler": {"name": "metropolis_hastings", "num_steps": 3}, "alpha": 4.0},
        {"sampler": {"name": "sequential_monte_carlo", "num_particles": 8}, "alpha": 4.0},
    ],
    ids=lambda settings: str(settings["sampler"]),
)
def test_power_says_what_is_known(gemma: PowerSampler, settings: dict[str, object]) -> None:
    answers = gemma.complete(list(BEGINNINGS), **settings)
    assert [said for said, answer in zip(BEGINNINGS.values(), answers, strict=True) if said not in answer.text] == []
    assert all(answer.tokens and len(answer.tokens) <= 12 for answer in answers)


def test_power_is_likelier_than_plain_sampling(gemma: PowerSampler) -> None:
    """log p of what is drawn, over all beginnings: nats apart, not rounding."""

    def total(**settings: object) -> float:
        answers = gemma.complete(list(BEGINNINGS), **settings)
        return sum(sum(answer.token_logp or ()) for answer in answers)

    plain = total(sampler="ancestral", alpha=1.0)
    assert total(sampler={"name": "metropolis_hastings", "num_steps": 3}, alpha=4.0) > plain + 5


def test_answers_are_the_seeds(gemma: PowerSampler) -> None:
    first, again, other = (gemma.complete("Once upon a time", alpha=1.2, seed=seed) for seed in (3, 3, 4))
    assert first.tokens == again.tokens != other.tokens
