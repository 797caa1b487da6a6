"""The suite for plain LLMs on PowerSamplingLLM, with the embedded model. Two of the samplers are slow tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from langchain_core.language_models.llms import BaseLLM

from langchain_power_sampling import PowerSamplingLLM
from langchain_power_sampling.testing import LLMIntegrationTests
from power_sampling import PowerSampler
from power_sampling.engines.torch import TorchLM


@pytest.mark.usefixtures("embedded")
class PowerSamplingTests(LLMIntegrationTests):
    sampler: Any

    @property
    def llm_class(self) -> type[BaseLLM]:
        return PowerSamplingLLM

    @property
    def llm_params(self) -> dict[str, Any]:
        return {"model": "embedded", "sampler": self.sampler, "max_new_tokens": 6, "seed": 1}

    @property
    def configurable_field(self) -> tuple[str, Any]:
        return "max_new_tokens", 2

    @property
    def token_ids(self) -> tuple[str, list[int]]:
        text = "The sea, the sea: ∂²u/∂t² 🌊"
        return text, PowerSampler.from_pretrained("embedded")._model.load().source(text)["input_ids"]

    def broken(self, llm: BaseLLM) -> AbstractContextManager[None]:
        return _broken_engine()


@contextmanager
def _broken_engine() -> Iterator[None]:
    def step(self: TorchLM) -> Any:
        raise RuntimeError("broken")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchLM, "step", step)
        yield


class TestAncestral(PowerSamplingTests):
    sampler = "ancestral"


@pytest.mark.slow
class TestMetropolisHastings(PowerSamplingTests):
    sampler = {"name": "metropolis_hastings", "block_size": 6, "num_steps": 1}  # noqa: RUF012 - never changed

    @property
    def streams_text_as_it_comes(self) -> bool:
        return False

    @property
    def stop_cuts_the_answer(self) -> bool:
        return False


@pytest.mark.slow
class TestSequentialMonteCarlo(PowerSamplingTests):
    sampler = {"name": "sequential_monte_carlo", "num_particles": 2, "block_size": 2}  # noqa: RUF012 - never changed

    @property
    def streams_text_as_it_comes(self) -> bool:
        return False  # particles of a random seed need not share a prefix before the end

    @property
    def stop_cuts_the_answer(self) -> bool:
        return False
