"""The suites of both frameworks, as several engines are put through them."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any, ClassVar

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests
from llama_index.core.base.llms.types import ChatMessage

from langchain_power_sampling import ChatPowerSampling
from llamaindex_power_sampling import PowerSamplingLLM
from llamaindex_power_sampling.testing import LLMConformance
from power_sampling import PowerSampler
from tests.support.llamaindex import broken
from tests.support.tiny import tiny_model, tiny_tokenizer


class ChatTests(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatPowerSampling

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True


class SmolLM2Tests(ChatTests):
    """What is marked `xfail` depends on what a model of 135 million parameters understands."""

    @pytest.mark.xfail(reason="SmolLM2-135M writes a JSON object, but forgets keys that the prompt asks for")
    def test_json_mode(self, model: BaseChatModel) -> None:
        super().test_json_mode(model)

    @pytest.mark.xfail(reason="SmolLM2-135M left to decide does not call the tool")
    @pytest.mark.parametrize("model", [{}, {"output_version": "v1"}], indirect=True)
    def test_agent_loop(self, model: BaseChatModel) -> None:
        super().test_agent_loop(model)

    @pytest.mark.xfail(reason="SmolLM2-135M does not copy Chinese and Japanese names into arguments")
    def test_unicode_tool_call_integration(self, model: BaseChatModel, **options: Any) -> None:  # type: ignore[override]
        super().test_unicode_tool_call_integration(model, **options)


@cache
def objects() -> tuple[Any, Any]:
    model = tiny_model(layers=1)
    model.config.max_position_embeddings = 8192
    return model, tiny_tokenizer()


class TinyTests(LLMConformance):
    sampler: ClassVar[dict[str, Any]]
    shorter: ClassVar[dict[str, Any]] = {"max_tokens": 2}
    long: ClassVar[dict[str, Any]] = {"max_new_tokens": 4000}
    roomy: ClassVar[dict[str, Any]] = {"max_new_tokens": 90}
    too_long: ClassVar[str] = "x" * 9000

    @pytest.fixture(autouse=True, scope="class")
    def kept(self) -> PowerSampler:
        """The model's handle, so that its worker outlives each test's own LLM."""
        return PowerSampler.from_model(*objects())

    def make_llm(self, **fields: Any) -> PowerSamplingLLM:
        given = {"sampler": self.sampler, "max_new_tokens": 8, "seed": 3, **fields}
        return PowerSamplingLLM.from_model(*objects(), **given)

    def prompt_tokens(self, llm: Any, prompt: str) -> int:
        return len(llm._runtime.encode(llm._chat([ChatMessage(prompt)], {}).prompt()))

    def broken(self, llm: Any) -> AbstractContextManager[None]:
        return broken(llm._runtime._model.load().engine)
