"""What the tests of both LangChain adapters share: a tiny model, samplers, looks at the engine, a suite."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import pytest
from langchain_core.language_models.llms import BaseLLM

from langchain_power_sampling import PowerSamplingLLM, testing
from langchain_power_sampling._base import BasePowerSampling
from langchain_power_sampling.testing import LLMIntegrationTests
from power_sampling import PowerSampler
from power_sampling.engines.torch.engine import TorchLM
from tests.support.tiny import tiny_model, tiny_tokenizer

MODEL, TOKENIZER = tiny_model(layers=1), tiny_tokenizer()
POWER = {"name": "metropolis_hastings", "block_size": 4, "num_steps": 2}
SMC = {"name": "sequential_monte_carlo", "num_particles": 3, "block_size": 3}
SAMPLERS = pytest.mark.parametrize("sampler", ["ancestral", "low_temperature", POWER, SMC], ids=str)
LONG: dict[str, Any] = {"sampler": "ancestral", "max_new_tokens": 900}


class Recorder(testing.Recorder):
    """What callbacks are told, those of chat models too."""

    def __init__(self) -> None:
        super().__init__()
        self.chunks: list[Any] = []

    def on_chat_model_start(self, serialized: dict[str, Any], messages: Any, **kwargs: Any) -> None:
        self.starts.append({"serialized": serialized, **kwargs})

    def on_llm_new_token(self, token: Any, **kwargs: Any) -> None:
        super().on_llm_new_token(token, **kwargs)
        self.chunks.append(kwargs["chunk"])


def engine(model: BasePowerSampling[Any]) -> TorchLM:
    assert model.handle is not None
    found = model.handle.sampler._model.load().engine
    assert isinstance(found, TorchLM)
    return found


def comes_to_rest(model: BasePowerSampling[Any]) -> bool:
    """Whether the engine stops well before 900 slow steps are done."""
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        before = engine(model).cost
        time.sleep(0.1)
        if engine(model).cost == before:
            return True
    return False


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
