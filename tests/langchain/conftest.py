"""Fixtures of the tests of both LangChain adapters: their models are the tiny one, under any name."""

from __future__ import annotations

import time
import weakref
from typing import Any

import pytest

import power_sampling.models
from langchain_power_sampling import ChatPowerSampling, PowerSamplingLLM
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.serving.worker import Worker
from tests.support.langchain import MODEL, POWER, TOKENIZER


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that were loaded. Any name stands for the tiny one."""
    names: list[str] = []

    def load_pretrained(config: Any) -> tuple[Any, Any]:
        names.append(config.model)
        return MODEL, TOKENIZER

    monkeypatch.setattr(power_sampling.models, "load_pretrained", load_pretrained)
    monkeypatch.setattr(power_sampling.models, "_MODELS", weakref.WeakValueDictionary())
    return names


@pytest.fixture
def llm(loads: list[str]) -> PowerSamplingLLM:
    return PowerSamplingLLM(model="tiny", sampler=POWER, max_new_tokens=6, seed=1)


@pytest.fixture
def chat(loads: list[str]) -> ChatPowerSampling:
    return ChatPowerSampling(model="tiny", sampler=POWER, max_new_tokens=6, seed=1)


@pytest.fixture
def caller(loads: list[str]) -> ChatPowerSampling:
    """Room for a call of a tool or an answer under a schema."""
    return ChatPowerSampling(model="tiny", sampler="ancestral", max_new_tokens=160, seed=1)


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What reached the engine."""
    seen: list[Any] = []
    submit_all = Worker.submit_all
    monkeypatch.setattr(Worker, "submit_all", lambda self, asked: (seen.extend(asked), submit_all(self, asked))[1])
    return seen


@pytest.fixture
def slow_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    step = TorchLM.step
    monkeypatch.setattr(TorchLM, "step", lambda self: (time.sleep(0.005), step(self))[1])
