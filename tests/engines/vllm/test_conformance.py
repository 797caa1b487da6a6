"""Both adapters' suites on a real server, with a random model of bytes: what a server cannot do is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from llama_index.core import PromptTemplate
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool

from langchain_power_sampling import ChatPowerSampling
from langchain_power_sampling import PowerSamplingLLM as LangChainLLM
from llamaindex_power_sampling import PowerSamplingLLM as LlamaIndexLLM
from llamaindex_power_sampling.testing import LLMConformance
from llamaindex_power_sampling.testing.structure import Fact, double
from power_sampling import ConfigurationError, PowerSampler
from power_sampling.engines.vllm.engine import VllmLM
from tests.support.langchain import PowerSamplingTests
from tests.support.llamaindex import WORKFLOWS, broken
from tests.support.tiny import tiny_tokenizer
from tests.support.vllm_process import needs_vllm, save_llama, vllm_processes

pytestmark = [pytest.mark.slow, needs_vllm]

WINDOW = 2048
POWER = {"name": "metropolis_hastings", "block_size": 4, "num_steps": 2}
OPTIONS = ("--max-logprobs", "65", "--enable-prompt-tokens-details", "--max-model-len", str(WINDOW))
REFUSED = "this engine cannot keep the model from drawing"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The settings that mean the server; its handle is kept for all tests."""
    folder, tokenizer = tmp_path_factory.mktemp("bytes"), tiny_tokenizer()
    size, eos = len(tokenizer), tokenizer.eos_token_id
    save_llama(folder, tokenizer, vocab_size=size, layers=1, window=WINDOW, spread=0.1, eos=eos, seed=3)
    with vllm_processes(folder, OPTIONS) as (server,):
        fields: dict[str, Any] = {"model": "tiny", "engine": {"name": "vllm", "base_url": server.url}}
        kept = PowerSampler.from_pretrained(**fields)
        kept.complete("a", max_new_tokens=1)
        yield fields


class _Served:
    """Beside each suite: where the model is."""

    @pytest.fixture(autouse=True)
    def _where(self, served: dict[str, Any]) -> None:
        self.served = served


class TestText(_Served, PowerSamplingTests):
    model: ClassVar[str] = "tiny"
    sampler: ClassVar[Any] = "ancestral"

    @property
    def llm_class(self) -> type[LangChainLLM]:
        return LangChainLLM

    @property
    def llm_params(self) -> dict[str, Any]:
        return {**super().llm_params, **self.served}

    @property
    def token_ids(self) -> tuple[str, list[int]]:
        text = "The sea, the sea: ∂²u/∂t² 🌊"
        return text, tiny_tokenizer()(text)["input_ids"]

    def broken(self, llm: Any) -> AbstractContextManager[None]:
        return _broken_engine()


class TestPowerText(TestText):
    sampler: ClassVar[Any] = POWER

    @property
    def streams_text_as_it_comes(self) -> bool:
        return False


@contextmanager
def _broken_engine() -> Iterator[None]:
    def step(self: VllmLM) -> Any:
        raise RuntimeError("broken")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VllmLM, "step", step)
        yield


class TestChat(_Served, ChatModelIntegrationTests):
    """Tools that have to be called and answers under a schema are masks, which a server cannot be told of."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatPowerSampling

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**self.served, "sampler": POWER, "max_new_tokens": 8, "seed": 1}

    @property
    def has_tool_calling(self) -> bool:
        return False

    @property
    def has_structured_output(self) -> bool:
        return False

    @property
    def supports_model_override(self) -> bool:
        return False

    def test_a_schema_is_refused(self, model: ChatPowerSampling) -> None:
        with pytest.raises(ConfigurationError, match=REFUSED):
            model.with_structured_output(Fact).invoke("Say something.")


class _LlamaIndex(_Served, LLMConformance):
    sampler: ClassVar[Any]
    shorter: ClassVar[dict[str, Any]] = {"max_tokens": 2}
    long: ClassVar[dict[str, Any]] = {"max_new_tokens": 1500}
    too_long: ClassVar[str] = "x" * 3000
    repeats_beside_others: ClassVar[bool] = False

    def make_llm(self, **fields: Any) -> LlamaIndexLLM:
        return LlamaIndexLLM(**{**self.served, "sampler": self.sampler, "max_new_tokens": 8, "seed": 3, **fields})

    def prompt_tokens(self, llm: Any, prompt: str) -> int:
        return len(llm._runtime.encode(llm._chat([ChatMessage(prompt)], {}).prompt()))

    def broken(self, llm: Any) -> AbstractContextManager[None]:
        return broken(llm._runtime._model.load().engine)

    async def test_tool_calls(self) -> None:
        with pytest.raises(ConfigurationError, match=REFUSED):
            self.make_llm().chat_with_tools([FunctionTool.from_defaults(double)], "Double 4.", tool_required=True)

    def test_predict_and_call(self) -> None:
        with pytest.raises(ConfigurationError, match=REFUSED):
            self.make_llm().predict_and_call([FunctionTool.from_defaults(double)], "Double 4.", tool_required=True)

    @pytest.mark.parametrize("mode", ["default", "function"])
    async def test_structured_predict(self, mode: str) -> None:
        llm = self.make_llm(pydantic_program_mode=mode)
        with pytest.raises(ConfigurationError, match=REFUSED):
            llm.structured_predict(Fact, PromptTemplate("Say something about {topic}."), topic="7")


@WORKFLOWS
class TestLlamaIndex(_LlamaIndex):
    sampler: ClassVar[Any] = "ancestral"


@WORKFLOWS
class TestLlamaIndexPower(_LlamaIndex):
    sampler: ClassVar[Any] = POWER
    streams_text_as_it_comes: ClassVar[bool] = False
