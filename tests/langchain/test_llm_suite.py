"""The suite for plain LLMs on PowerSamplingLLM: on a tiny random model; those on the embedded one are slow tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import pytest
from langchain_core.language_models.llms import BaseLLM

from langchain_power_sampling import PowerSamplingLLM
from langchain_power_sampling.testing import LLMIntegrationTests
from power_sampling import PowerSampler
from power_sampling.engines.torch.engine import TorchLM


class PowerSamplingTests(LLMIntegrationTests):
    model: ClassVar[str] = "embedded"
    sampler: ClassVar[Any]
    num_tokens: ClassVar[int] = 6

    @property
    def llm_class(self) -> type[BaseLLM]:
        return PowerSamplingLLM

    @property
    def llm_params(self) -> dict[str, Any]:
        return {"model": self.model, "sampler": self.sampler, "max_new_tokens": self.num_tokens, "seed": 1}

    @property
    def long_params(self) -> dict[str, Any]:
        return {"max_tokens": 900}  # with the prompt, what the tiny model's window holds

    @property
    def configurable_field(self) -> tuple[str, Any]:
        return "max_new_tokens", 2

    @property
    def token_ids(self) -> tuple[str, list[int]]:
        text = "The sea, the sea: ∂²u/∂t² 🌊"
        return text, PowerSampler.from_pretrained(self.model)._model.load().source(text)["input_ids"]

    def broken(self, llm: BaseLLM) -> AbstractContextManager[None]:
        return _broken_engine()


@contextmanager
def _broken_engine() -> Iterator[None]:
    def step(self: TorchLM) -> Any:
        raise RuntimeError("broken")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TorchLM, "step", step)
        yield


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
