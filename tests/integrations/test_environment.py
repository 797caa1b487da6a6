"""`from_model`: of the environment counts what concerns generation and a model that is loaded, in all four classes."""

from __future__ import annotations

import math
from typing import Any

import pytest

from langchain_power_sampling import ChatPowerSampling
from langchain_power_sampling import PowerSamplingLLM as LangChainLLM
from llamaindex_power_sampling import PowerSamplingLLM as LlamaIndexLLM
from power_sampling import Config, ConfigurationError, GenerationConfig, ModelConfig, Potential, PowerSampler
from power_sampling.engines.options import TorchOptions
from tests.support.tiny import tiny_model, tiny_tokenizer

MH = {"name": "metropolis_hastings", "num_steps": 2, "block_size": 4}

GENERATION = {
    "sampler": ("{name: best_of_n, num_completions: 3}", {"name": "best_of_n", "num_completions": 3}),
    "alpha": ("2.5", 2.5),
    "temperature": ("0.5", 0.5),
    "max_new_tokens": ("5", 5),
    "top_k": ("40", 40),
    "top_p": ("0.9", 0.9),
    "min_p": ("0.05", 0.05),
    "logit_bias": ("{5: -1.5}", {5: -1.5}),
    "bad_words": ("[x, y]", ("x", "y")),
    "stop": ("[x, y]", ("x", "y")),
    "start": ("[5, 6]", (5, 6)),
    "seed": ("7", 7),
    "time_budget": ("50", 50.0),
    "timeout": ("60", 60.0),
    "logprobs": ("true", True),
    "top_logprobs": ("3", 3),
    "chat_template_kwargs": ("{enable_thinking: false}", {"enable_thinking": False}),
    "thinking_budget": ("40", 40),
    "potentials": ("[{function: math:fsum, kind: prefix}]", (Potential(math.fsum, kind="prefix"),)),
    "json_schema": ("{type: object}", {"type": "object"}),
    "regex": ("'[ab]+'", "[ab]+"),
    "choices": ("[a, b]", ("a", "b")),
    "grammar": ("'start: \"a\"'", 'start: "a"'),
}
SERVING = {
    "engine": ("{name: torch, max_rows: 7, dtype: float16}", TorchOptions(max_rows=7)),
    "max_rows": ("3", 3),
    "prompt_memory": ("2", 2),
    "kv_memory": ("64", 64),
    "snapshots": ("4", 4),
    "check_model": ("false", False),
    "pack_weights": ("false", False),
    "compile_layers": ("false", False),
    "cuda_graphs": ("true", True),
    "use_chat_template": ("false", False),
    "tool_format": ("hermes", "hermes"),
}
LOADING = {"model": "other", "dtype": "float16", "device": "cuda", "revision": "old", "trust_remote_code": "true"}


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    return tiny_model(layers=1), tiny_tokenizer()


def test_the_tables_above_are_complete() -> None:
    assert GENERATION.keys() == GenerationConfig.model_fields.keys()
    assert SERVING.keys() == ModelConfig.SERVING


def told(config: Config) -> dict[str, Any]:
    """What settings say, in whichever of its places an option of the engine stands."""
    options = config.engine_options()
    return {**config.model_dump(exclude={"engine", *type(options).model_fields}), "engine": options}


def runtime_of(made: Any) -> PowerSampler:
    """What an object of one of the classes asks."""
    if isinstance(made, PowerSampler):
        return made
    sampler: PowerSampler = made._under({}) if isinstance(made, LlamaIndexLLM) else made._sampler
    return sampler


CLASSES = pytest.mark.parametrize(
    "owner",
    [PowerSampler, LangChainLLM, ChatPowerSampling, LlamaIndexLLM],
    ids=["PowerSampler", "LangChain's LLM", "LangChain's chat model", "LlamaIndex's LLM"],
)


@CLASSES
@pytest.mark.parametrize("name", [*GENERATION, *SERVING])
def test_a_loaded_model_honours_the_environment(
    owner: Any, pair: tuple[Any, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, value = {**GENERATION, **SERVING}[name]
    monkeypatch.setenv(f"POWER_SAMPLING_{name.upper()}", text)
    made = owner.from_model(*pair)
    for owner_of_field in (runtime_of(made).config, runtime_of(made).config if made is runtime_of(made) else made):
        found = getattr(owner_of_field, name)
        assert (found.model_dump() | value == found.model_dump()) if name == "sampler" else found == value


@CLASSES
def test_what_is_said_of_serving_reaches_the_engine(
    owner: Any, pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POWER_SAMPLING_MAX_ROWS", "5")
    made = owner.from_model(*pair)
    assert runtime_of(made)._model.load().engine.scheduler.max_rows == 5  # type: ignore[attr-defined]


@CLASSES
def test_what_the_environment_says_of_loading_is_meant_for_other_models(
    owner: Any, pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in LOADING.items():
        monkeypatch.setenv(f"POWER_SAMPLING_{name.upper()}", text)
    made = owner.from_model(*pair, alpha=3.0)
    assert told(runtime_of(made).config) == told(Config(model="LlamaForCausalLM", alpha=3.0))
    for name in LOADING if made is not runtime_of(made) else ():
        assert getattr(made, name) == getattr(runtime_of(made).config, name)
    with pytest.raises(ConfigurationError, match="dtype: the model is already loaded"):
        owner.from_model(*pair, dtype="float16")


def test_an_argument_comes_before_the_environment(pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWER_SAMPLING_ALPHA", "3")
    monkeypatch.setenv("POWER_SAMPLING_MAX_ROWS", "2")
    sampler = PowerSampler.from_model(*pair, alpha=1.5, max_rows=4)
    assert (sampler.config.alpha, sampler.config.max_rows) == (1.5, 4)
    assert sampler._model.load().engine.scheduler.max_rows == 4  # type: ignore[attr-defined]
    monkeypatch.setenv("POWER_SAMPLING_ALHPA", "3")
    with pytest.raises(ConfigurationError, match="POWER_SAMPLING_ALHPA names no field"):
        PowerSampler.from_model(*pair)


def test_config_tells_all_settings_in_force(pair: tuple[Any, Any]) -> None:
    sampler = PowerSampler.from_model(*pair, alpha=2.0, max_rows=4, use_chat_template=False)
    config = sampler.with_settings(seed=5, sampler=MH).config
    fields = {"alpha": 2.0, "max_rows": 4, "use_chat_template": False, "seed": 5, "sampler": MH}
    assert told(config) == told(Config.parse({"model": "LlamaForCausalLM", **fields}))
    assert (config.max_rows, config.engine.max_rows) == (4, 4)
    lazy = PowerSampler.from_pretrained("no/such", engine={"name": "torch", "dtype": "float32"}).config
    assert told(lazy) == told(Config(model="no/such", dtype="float32"))
    assert (lazy.dtype, lazy.engine.dtype) == ("float32", "float32")
