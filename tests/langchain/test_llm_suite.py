"""The suite for plain LLMs on PowerSamplingLLM: on a tiny random model; those on the embedded one are slow tests."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.support.langchain import PowerSamplingTests


class SettledAtTheEnd:
    streams_text_as_it_comes: ClassVar[bool] = False  # particles need not share a prefix before the end
    stop_cuts_the_answer: ClassVar[bool] = False


# ------------------------------------------------------------ a tiny random model


@pytest.mark.usefixtures("loads")
class TinyTests(PowerSamplingTests):
    model = "tiny"
    num_tokens = 16  # most are a byte that is no character alone


class TestTinyAncestral(TinyTests):
    sampler = "ancestral"


class TestTinyMetropolisHastings(SettledAtTheEnd, TinyTests):
    sampler = {"name": "metropolis_hastings", "block_size": 16, "num_steps": 1}  # noqa: RUF012 - never changed


class TestTinySequentialMonteCarlo(SettledAtTheEnd, TinyTests):
    sampler = {"name": "sequential_monte_carlo", "num_particles": 2, "block_size": 4}  # noqa: RUF012 - never changed


# ------------------------------------------------------------ the embedded one


@pytest.mark.slow
@pytest.mark.usefixtures("embedded")
class TestAncestral(PowerSamplingTests):
    sampler = "ancestral"


@pytest.mark.slow
@pytest.mark.usefixtures("embedded")
class TestMetropolisHastings(SettledAtTheEnd, PowerSamplingTests):
    sampler = {"name": "metropolis_hastings", "block_size": 6, "num_steps": 1}  # noqa: RUF012 - never changed


@pytest.mark.slow
@pytest.mark.usefixtures("embedded")
class TestSequentialMonteCarlo(SettledAtTheEnd, PowerSamplingTests):
    sampler = {"name": "sequential_monte_carlo", "num_particles": 2, "block_size": 2}  # noqa: RUF012 - never changed
