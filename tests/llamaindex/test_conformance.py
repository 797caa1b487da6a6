"""The suite for LlamaIndex LLMs on ours: no skip but for text that settles at the end, no expected failure."""

from __future__ import annotations

from contextlib import AbstractContextManager
from functools import cache
from typing import Any, ClassVar

import pytest
from llama_index.core.base.llms.types import ChatMessage

from llamaindex_power_sampling import PowerSamplingLLM
from llamaindex_power_sampling.testing import LLMConformance
from power_sampling import PowerSampler
from tests.support.llamaindex import WORKFLOWS, broken
from tests.support.tiny import tiny_model, tiny_tokenizer

pytestmark = WORKFLOWS


@cache
def objects() -> tuple[Any, Any]:
    model = tiny_model(layers=1)
    model.config.max_position_embeddings = 8192
    return model, tiny_tokenizer()


class OurTests(LLMConformance):
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


class TestAncestral(OurTests):
    sampler: ClassVar[dict[str, Any]] = {"name": "ancestral"}


class TestMetropolisHastings(OurTests):
    sampler: ClassVar[dict[str, Any]] = {"name": "metropolis_hastings", "block_size": 90, "num_steps": 1}
    streams_text_as_it_comes: ClassVar[bool] = False
