"""The settings of adapters: where they come from, and that a call checks them once."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from llama_index.core.llms import ChatMessage

import power_sampling
from langchain_power_sampling import ChatPowerSampling
from langchain_power_sampling import PowerSamplingLLM as LangChainLLM
from llamaindex_power_sampling import PowerSamplingLLM as LlamaIndexLLM
from power_sampling import Config, ConfigurationError, MetropolisHastings
from power_sampling.integrations import (
    AdapterConfig,
    check_count,
    refuse_unknown,
    resolve_max_tokens_alias,
    resolve_settings,
    settings_around_loaded,
)
from power_sampling.settings import Settings
from tests.support.tiny import tiny_model, tiny_tokenizer

MODEL, TOKENIZER = tiny_model(layers=1), tiny_tokenizer()
ALIASES = ("max_tokens", "num_output")


class Framework(AdapterConfig):
    """An adapter's class with a field of its own."""

    title: str = "none"


# ------------------------------------------------------------ where settings come from


def test_arguments_over_environment_over_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWER_SAMPLING_ALPHA", "3")
    monkeypatch.setenv("POWER_SAMPLING_SEED", "5")
    mapping = {"alpha": 2.0, "temperature": 0.5, "max_tokens": 7, "title": "mapped"}
    found = resolve_settings(Framework, mapping, {"seed": 6}, aliases=ALIASES)
    assert found == {"alpha": 3.0, "temperature": 0.5, "max_new_tokens": 7, "title": "mapped", "seed": 6}
    found = resolve_settings(Framework, mapping, {"title": "given", "num_output": 9}, aliases=ALIASES)
    assert (found["title"], found["max_new_tokens"]) == ("given", 9)
    file = tmp_path / "settings.yaml"
    file.write_text("temperature: 0.25\n")
    assert resolve_settings(Framework, file, {})["temperature"] == 0.25
    file.write_text("title: filed\n")
    assert resolve_settings(Framework, file, {})["title"] == "filed"


def test_unknown_arguments_are_refused_with_the_closest_name() -> None:
    for source, fields in ((None, {"titel": "x"}), ({"titel": "x"}, {})):
        with pytest.raises(ConfigurationError, match=r"Framework has no argument 'titel'\. Did you mean 'title'"):
            resolve_settings(Framework, source, fields, aliases=ALIASES)
    with pytest.raises(ConfigurationError, match="Did you mean 'num_output'"):
        resolve_settings(Framework, None, {"num_outputs": 3}, aliases=ALIASES)
    with pytest.raises(ConfigurationError, match="Did you mean 'alpha'"):
        settings_around_loaded(Framework, MODEL, TOKENIZER, {"alhpa": 2})
    with pytest.raises(ConfigurationError, match=r"X has no argument 'zzz'\. Known: a, b"):
        refuse_unknown("X", ["a", "zzz"], ["b", "a"])


def test_settings_around_a_loaded_model_are_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWER_SAMPLING_DTYPE", "float16")
    monkeypatch.setenv("POWER_SAMPLING_ALPHA", "3")
    fields = {"title": "mine", "max_tokens": 4}
    sampler, found = settings_around_loaded(Framework, MODEL, TOKENIZER, fields, aliases=ALIASES)
    assert found.keys() == {*Config.model_fields, "title"}
    assert (found["title"], found["max_new_tokens"], found["alpha"], found["dtype"]) == ("mine", 4, 3.0, "auto")
    assert Framework(**found).current_config().engine_options() == sampler.config.engine_options()
    assert Framework(**found).current_config().generation_part() == sampler.generation


def test_names_of_the_horizon() -> None:
    assert resolve_max_tokens_alias({"num_output": 3, "alpha": 2}, ALIASES) == {"max_new_tokens": 3, "alpha": 2}
    assert resolve_max_tokens_alias({"num_output": 3, "max_tokens": 3, "max_new_tokens": 3}, ALIASES) == {
        "max_new_tokens": 3
    }
    with pytest.raises(ConfigurationError, match="num_output and max_new_tokens are the same setting: got 4 and 3"):
        resolve_max_tokens_alias({"max_tokens": 3, "num_output": 4}, ALIASES)


def test_counts() -> None:
    assert check_count(3) == 3
    for n in (0, None, "2", 1.5):
        with pytest.raises(ConfigurationError, match="n: expected a whole number"):
            check_count(n)


ENGINES = pytest.mark.parametrize(
    "fields", [{"max_rows": 4}, {"engine": {"name": "torch", "max_rows": 4}}], ids=["flat", "in engine"]
)


@ENGINES
def test_settings_come_back_wherever_an_option_of_the_engine_stands(fields: dict[str, Any]) -> None:
    llm, chat = LlamaIndexLLM(model="no/such", **fields), ChatPowerSampling(model="no/such", **fields)
    back: list[Any] = [
        LlamaIndexLLM.from_dict(llm.to_dict()),
        LlamaIndexLLM.from_config(llm.to_dict()),
        pickle.loads(pickle.dumps(llm)),
        ChatPowerSampling.from_config(chat.to_config()),
        ChatPowerSampling(**dict(chat)),
        pickle.loads(pickle.dumps(chat)),
        Config.parse(Config.parse(fields).model_dump()),
    ]
    assert {each.engine_options().max_rows for each in back} == {4}
    twice = {"max_rows": 5, "engine": {"name": "torch", "max_rows": 4}}
    with pytest.raises(ConfigurationError, match=r"max_rows stands in engine \(4\) and beside it \(5\)"):
        ChatPowerSampling(**twice)


# ------------------------------------------------------------ when they are checked


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The settings classes that were validated."""
    seen: list[str] = []
    parse = Settings.parse.__func__  # type: ignore[attr-defined]

    def counted(cls: Any, values: Any) -> Any:
        seen.append(cls.__name__)
        return parse(cls, values)

    monkeypatch.setattr(Settings, "parse", classmethod(counted))
    return seen


def test_assigned_fields_are_checked_once_when_they_are_read(checks: list[str]) -> None:
    framework = Framework(alpha=2.0)
    assert framework.current_config().alpha == 2.0
    assert checks == []
    framework.alpha = 3.0
    assert [framework.current_config().alpha for _ in range(3)] == [3.0] * 3
    assert checks == ["Config"]
    framework.sampler = "best_of_n"  # type: ignore[assignment]
    assert framework.current_config().sampler.name == "best_of_n"
    framework.sampler = MetropolisHastings()
    framework.alpha = 0.5
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="alpha"):
            framework.current_config()
    framework.alpha = 2.0
    assert framework.generation_under({"seed": 3}).seed == 3
    assert framework.generation_under({}).alpha == 2.0
    with pytest.raises(ConfigurationError, match="dtype: a field of the object, not of a call"):
        framework.generation_under({"dtype": "float32"})


def test_what_is_changed_in_place_is_seen() -> None:
    framework = Framework(json_schema={"type": "object"})
    schema: Any = framework.json_schema
    schema["title"] = "x"
    assert framework.current_config().json_schema == {"type": "object", "title": "x"}


FIELDS: dict[str, Any] = {"sampler": "ancestral", "max_tokens": 2, "seed": 1}


def langchain_llm() -> Callable[..., Any]:
    return LangChainLLM.from_model(MODEL, TOKENIZER, **FIELDS).invoke


def langchain_llm_with_cache() -> Callable[..., Any]:
    return LangChainLLM.from_model(MODEL, TOKENIZER, cache=InMemoryCache(), **FIELDS).invoke


def langchain_chat() -> Callable[..., Any]:
    return ChatPowerSampling.from_model(MODEL, TOKENIZER, **FIELDS).invoke


def langchain_stream() -> Callable[..., Any]:
    chat = ChatPowerSampling.from_model(MODEL, TOKENIZER, **FIELDS)
    return lambda prompt, **kwargs: list(chat.stream(prompt, **kwargs))


def llamaindex_complete() -> Callable[..., Any]:
    return LlamaIndexLLM.from_model(MODEL, TOKENIZER, **FIELDS).complete


def llamaindex_chat() -> Callable[..., Any]:
    llm = LlamaIndexLLM.from_model(MODEL, TOKENIZER, **FIELDS)
    return lambda prompt, **kwargs: llm.chat([ChatMessage(prompt)], **kwargs)


WAYS = [
    langchain_llm,
    langchain_llm_with_cache,
    langchain_chat,
    langchain_stream,
    llamaindex_complete,
    llamaindex_chat,
]


@pytest.mark.parametrize("make", WAYS)
def test_a_call_checks_its_settings_once(make: Callable[[], Callable[..., Any]], checks: list[str]) -> None:
    ask = make()
    checks.clear()
    ask("ab")
    assert checks == []
    ask("ab", alpha=2.0, stop=["x"])
    assert checks == ["GenerationConfig"]
    checks.clear()
    with pytest.raises(ConfigurationError, match="alpha"):
        ask("ab", alpha=0.5)
    assert checks == ["GenerationConfig"]


# ------------------------------------------------------------ the names that were there before


def test_the_old_names_still_answer() -> None:
    with pytest.warns(DeprecationWarning, match="resolve_max_tokens_alias"):
        assert power_sampling.unaliased({"max_tokens": 3}, ["max_tokens"]) == {"max_new_tokens": 3}
    with pytest.warns(DeprecationWarning, match="normalize_tool_choice"):
        assert power_sampling.settled_choice("any", ["look"]) == "required"
