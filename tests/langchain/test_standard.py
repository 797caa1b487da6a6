"""LangChain's standard tests of chat models, on an engine that does what it is asked and on a real small model.

With the scripted engine everything but the weights is what users run: templates, tools, parsing, constraints, samplers,
the worker. With SmolLM2 what is marked `xfail` depends on what a model of 135 million parameters understands.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.runnables import ConfigurableField
from langchain_core.runnables.config import var_child_runnable_config
from langchain_tests.unit_tests import ChatModelUnitTests

import power_sampling.models
import power_sampling.prepared
from langchain_power_sampling import ChatPowerSampling
from power_sampling.engines.torch.load import _source
from tests.support.conformance import ChatTests, SmolLM2Tests
from tests.support.scripted import TOKENIZER, ScriptedLM
from tests.support.tiny import tiny_tokenizer

POWER = {"name": "metropolis_hastings", "block_size": 64, "num_steps": 1}
SMC = {"name": "sequential_monte_carlo", "num_particles": 2}


class _Unit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatPowerSampling

    @pytest.fixture(autouse=True)
    def _serdes_is_for_langchains_own(self, request: pytest.FixtureRequest) -> None:
        # it loads with allowed_objects="all", which means all classes of LangChain's own packages; the round trip that
        # works is tested in test_chat_settings.py
        if request.node.originalname == "test_serdes":
            pytest.skip("langchain-tests loads classes of LangChain's own packages only")


# ------------------------------------------------------------ a model that does what it is asked


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any model's name stands for the scripted one."""
    monkeypatch.setattr(power_sampling.models, "load_pretrained", lambda config: (ScriptedLM(), TOKENIZER))
    monkeypatch.setattr(power_sampling.models, "_MODELS", weakref.WeakValueDictionary())


class TestUnit(_Unit):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "scripted"}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        return {"POWER_SAMPLING_ALPHA": "2.5"}, {"model": "scripted"}, {"alpha": 2.5}


@pytest.mark.usefixtures("scripted")
class TestPower(ChatTests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "scripted", "sampler": POWER}

    @property
    def model_override_value(self) -> str:
        return "another"


class TestSequentialMonteCarlo(TestPower):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "scripted", "sampler": SMC}


class TestAlphaOne(TestPower):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "scripted", "sampler": POWER, "alpha": 1.0}


class TestWithoutToolsInTheTemplate(TestPower):
    """As SmolLM2's: tools, calls and results are put into messages."""

    @pytest.fixture(autouse=True)
    def _plain_template(self, scripted: None, monkeypatch: pytest.MonkeyPatch) -> None:
        loaded = ScriptedLM(), tiny_tokenizer()
        monkeypatch.setattr(power_sampling.models, "load_pretrained", lambda config: loaded)


class TestConfigurable(TestPower):
    """The model is plain, and the config under which each test runs makes it sequential Monte Carlo, as a graph hands
    its config down to its nodes.
    """

    @pytest.fixture
    def model(self, request: Any) -> Any:
        parameters = {**self.chat_model_params, "sampler": "ancestral", **(getattr(request, "param", None) or {})}
        model = ChatPowerSampling(**parameters)
        return model.configurable_fields(sampler=ConfigurableField(id="sampler"))

    @pytest.fixture(autouse=True)
    def _configured(self, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        samplers: list[str] = []
        make = power_sampling.prepared.sampler_for

        def sampler_for(config: Any, *args: Any, **kwargs: Any) -> Any:
            samplers.append(config.sampler.name)
            return make(config, *args, **kwargs)

        monkeypatch.setattr(power_sampling.prepared, "sampler_for", sampler_for)
        token = var_child_runnable_config.set({"configurable": {"sampler": SMC}})
        yield
        var_child_runnable_config.reset(token)
        if "model" in request.fixturenames:
            assert "ancestral" not in samplers


# ------------------------------------------------------------ a real small model


@pytest.mark.slow
@pytest.mark.usefixtures("embedded")
class TestSmolLM2(SmolLM2Tests):
    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "embedded", "sampler": "ancestral", "temperature": 0.0, "max_new_tokens": 40}

    @property
    def model_override_value(self) -> str:
        return _source("embedded")  # the same weights by another name
