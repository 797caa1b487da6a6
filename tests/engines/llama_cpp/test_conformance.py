"""Both adapters' suites on the embedded model in its own bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import pytest

from langchain_power_sampling import PowerSamplingLLM as LangChainLLM
from llamaindex_power_sampling import PowerSamplingLLM as LlamaIndexLLM
from power_sampling import PowerSampler
from power_sampling.engines.embedded import embedded_file
from power_sampling.engines.stepped.engine import SteppedEngine
from tests.support.conformance import SmolLM2Tests, TinyTests
from tests.support.gguf import NEEDS_LLAMA_CPP
from tests.support.langchain import PowerSamplingTests
from tests.support.llamaindex import WORKFLOWS

pytestmark = [NEEDS_LLAMA_CPP, pytest.mark.slow]

FIELDS: dict[str, Any] = {"model": "embedded", "engine": {"name": "llama_cpp", "n_threads": 1}}
POWER = {"name": "metropolis_hastings", "block_size": 6, "num_steps": 1}


@pytest.fixture(autouse=True, scope="module")
def kept() -> PowerSampler:
    """The model's handle, so that it is loaded once."""
    sampler = PowerSampler.from_pretrained(**FIELDS)
    sampler.complete("a", max_new_tokens=1)
    return sampler


class TestChat(SmolLM2Tests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**FIELDS, "sampler": "ancestral", "temperature": 0.0, "max_new_tokens": 40}

    @property
    def model_override_value(self) -> str:
        return str(embedded_file())  # the same weights by another name


class TestText(PowerSamplingTests):
    sampler = "ancestral"

    @property
    def llm_class(self) -> type[LangChainLLM]:
        return LangChainLLM

    @property
    def llm_params(self) -> dict[str, Any]:
        return {**super().llm_params, **FIELDS}

    def broken(self, llm: Any) -> AbstractContextManager[None]:
        return _broken_engine()


@contextmanager
def _broken_engine() -> Iterator[None]:
    def step(self: SteppedEngine) -> Any:
        raise RuntimeError("broken")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SteppedEngine, "step", step)
        yield


class _LlamaIndex(TinyTests):
    long: ClassVar[dict[str, Any]] = {"max_new_tokens": 3000}
    too_long: ClassVar[str] = "x y " * 5000
    repeats_beside_others: ClassVar[bool] = False

    @pytest.fixture(autouse=True, scope="class")
    def kept(self) -> PowerSampler:
        return PowerSampler.from_pretrained(**FIELDS)

    def make_llm(self, **fields: Any) -> LlamaIndexLLM:
        return LlamaIndexLLM(**{**FIELDS, "sampler": self.sampler, "max_new_tokens": 8, "seed": 3, **fields})


@WORKFLOWS
class TestLlamaIndex(_LlamaIndex):
    sampler: ClassVar[dict[str, Any]] = {"name": "ancestral"}


@WORKFLOWS
class TestLlamaIndexPower(_LlamaIndex):
    sampler: ClassVar[dict[str, Any]] = POWER
    streams_text_as_it_comes: ClassVar[bool] = False
