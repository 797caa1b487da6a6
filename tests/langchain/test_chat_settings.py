"""One ChatPowerSampling under many settings: by configuration, files, pickles, and told apart by the cache."""

from __future__ import annotations

import copy
import json
import pickle
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy
from langchain_core.caches import InMemoryCache
from langchain_core.load import dumpd, load
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import ConfigurableField

import power_sampling
from langchain_power_sampling import ChatPowerSampling, register_provider
from power_sampling import (
    ConfigurationError,
)
from tests.support.chat import VERDICT_SCHEMA, VERDICT_TOOL, ForceOnce, Verdict, essence, look, switch
from tests.support.langchain import MODEL, TOKENIZER
from tests.support.tiny import tiny_model

SMC = {"name": "sequential_monte_carlo", "num_particles": 2, "block_size": 16}

# ------------------------------------------------------------ switching by configuration


class Watching(ChatPowerSampling):
    """Notes under which settings each call was made."""

    def _request(self, messages: Any, stop: Any, kwargs: Any) -> Any:
        request = super()._request(messages, stop, kwargs)
        settings = request.sampler.generation
        SEEN.append((settings.sampler.name, settings.alpha, len(request.prompt.tools), settings.json_schema))
        return request


SEEN: list[tuple[str, float, int, dict[str, Any] | None]] = []


@pytest.fixture
def switchable(loads: list[str]) -> Any:
    SEEN.clear()
    watching = Watching(model="tiny", sampler=SMC, max_new_tokens=160, seed=1)
    return watching.configurable_fields(alpha=ConfigurableField(id="alpha"), sampler=ConfigurableField(id="sampler"))


def alternatives() -> Any:
    SEEN.clear()
    plain = Watching(model="tiny", sampler="ancestral", alpha=1.0, max_new_tokens=160, seed=1)
    return plain.configurable_alternatives(
        ConfigurableField(id="how"),
        default_key="plain",
        power=Watching(model="tiny", sampler=SMC, alpha=2.0, max_new_tokens=160, seed=1),
        made=lambda: Watching(model="tiny", sampler=SMC, alpha=3.0, max_new_tokens=160, seed=1),
    )


def test_configurable_fields_survive_whatever_is_bound(switchable: Any, loads: list[str]) -> None:
    config: Any = {"configurable": {"alpha": 1.5}}
    switchable.invoke("a", config, max_tokens=4)
    switchable.bind_tools([look], tool_choice="any").invoke("a", config)
    switchable.with_structured_output(Verdict).invoke("a", config)
    switchable.with_structured_output(Verdict, method="function_calling", include_raw=True).invoke("a", config)
    list(switchable.bind_tools([look], tool_choice="any").stream("a", config))
    switchable.with_config(config).bind_tools([look], tool_choice="any").invoke("a")
    switchable.bind_tools([look], tool_choice="any").batch(["a", "b"], config)
    chosen = {"configurable": {"sampler": "ancestral"}}
    (ChatPromptTemplate.from_template("{x}") | switchable).invoke({"x": "a"}, chosen, max_tokens=4)
    assert [alpha for _, alpha, _, _ in SEEN[:-1]] == [1.5] * 8
    assert [tools for _, _, tools, _ in SEEN[:-1]] == [0, 1, 0, 1, 1, 1, 1, 1]
    assert SEEN[-1][0] == "ancestral"
    assert [spec.id for spec in switchable.bind_tools([look]).config_specs] == ["alpha", "sampler"]
    assert loads == ["tiny"]


def test_configurable_alternatives_survive_whatever_is_bound(loads: list[str]) -> None:
    model = alternatives()
    for how, alpha in {"plain": 1.0, "power": 2.0, "made": 3.0}.items():
        config: Any = {"configurable": {"how": how}}
        model.invoke("a", config, max_tokens=4)
        model.bind_tools([look], tool_choice="any").invoke("a", config)
        assert isinstance(model.with_structured_output(Verdict).invoke("a", config), Verdict)
        assert model.with_structured_output(Verdict, include_raw=True).invoke("a", config)["parsed"]
        assert {alpha for _, alpha, _, _ in SEEN} == {alpha}
        SEEN.clear()
    assert loads == ["tiny"]


def test_fields_and_alternatives_together(switchable: Any, loads: list[str]) -> None:
    power = Watching(model="tiny", sampler=SMC, alpha=2.0, max_new_tokens=160, seed=1)
    model = switchable.configurable_alternatives(ConfigurableField(id="how"), power=power)
    forced = model.bind_tools([look], tool_choice="any")
    forced.invoke("a", {"configurable": {"alpha": 1.5}})
    forced.invoke("a", {"configurable": {"how": "power", "alpha": 1.5}})
    assert [alpha for _, alpha, _, _ in SEEN] == [1.5, 2.0]
    fields = alternatives().configurable_fields(alpha=ConfigurableField(id="alpha"))
    fields.bind_tools([look], tool_choice="any").invoke("a", {"configurable": {"alpha": 3.5}})
    fields.bind_tools([look], tool_choice="any").invoke("a", {"configurable": {"alpha": 3.5, "how": "power"}})
    assert [alpha for _, alpha, _, _ in SEEN] == [3.5, 2.0]
    assert loads == ["tiny"]


def test_an_agent_follows_the_configuration(switchable: Any, loads: list[str]) -> None:
    agent = create_agent(switchable, tools=[switch], middleware=[ForceOnce()])
    agent.invoke(cast("Any", {"messages": [("human", "a")]}), {"configurable": {"alpha": 1.5}})
    assert [(alpha, tools) for _, alpha, tools, _ in SEEN] == [(1.5, 1)] * 2
    SEEN.clear()
    agent = create_agent(switchable, tools=[], response_format=ProviderStrategy(Verdict))
    agent.invoke(cast("Any", {"messages": [("human", "a")]}), {"configurable": {"alpha": 2.5}})
    ((sampler, alpha, tools, schema),) = SEEN
    assert (sampler, alpha, tools) == ("sequential_monte_carlo", 2.5, 0) and schema is not None
    assert loads == ["tiny"]


def test_no_path_loads_the_weights_twice(chat: ChatPowerSampling, loads: list[str]) -> None:
    for one in (
        chat,
        ChatPowerSampling(model="tiny", sampler="ancestral", max_new_tokens=2),
        copy.copy(chat),
        copy.deepcopy(chat),
        chat.model_copy(update={"alpha": 2.0}),
        pickle.loads(pickle.dumps(chat)),
        ChatPowerSampling.from_config(chat.to_config()),
        chat.with_config(tags=["t"]),
        chat.bind(model="tiny"),
    ):
        one.invoke("a")
    assert loads == ["tiny"]


def test_a_call_may_name_another_model(chat: ChatPowerSampling, loads: list[str]) -> None:
    chat.invoke("a")
    for _ in range(2):
        message = chat.invoke("a", model="other")
        assert message.response_metadata["model_name"] == "other"
        assert list(chat.stream("a", model="other"))[-1].response_metadata["model_name"] == "other"
    assert loads == ["tiny", "other"]
    assert chat._get_ls_params(model="other").get("ls_model_name") == "other"
    loaded = ChatPowerSampling.from_model(MODEL, TOKENIZER, max_new_tokens=2)
    with pytest.raises(ConfigurationError, match="model: cannot be changed"):
        loaded.invoke("a", model="other")


def test_init_chat_model(loads: list[str]) -> None:
    from langchain.chat_models import init_chat_model

    register_provider()
    register_provider()
    model = init_chat_model("power_sampling:tiny", sampler="ancestral", max_tokens=4, seed=1)
    assert isinstance(model, ChatPowerSampling)
    direct = ChatPowerSampling(model="tiny", sampler="ancestral", max_tokens=4, seed=1)
    assert essence(model.invoke("a")) == essence(direct.invoke("a"))
    anything = init_chat_model("power_sampling:tiny", max_tokens=4, seed=1, configurable_fields=["sampler"])
    for _ in range(2):
        message = anything.invoke("a", {"configurable": {"sampler": "ancestral"}})
        assert essence(message) == essence(direct.invoke("a"))
    asked: Any = {"messages": [("human", "a")]}
    create_agent(init_chat_model("power_sampling:tiny", sampler="ancestral", max_tokens=4), tools=[]).invoke(asked)
    assert loads == ["tiny"]


def test_registering_without_the_table_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from langchain.chat_models import base

    monkeypatch.setattr(base, "_BUILTIN_PROVIDERS", {})
    with pytest.raises(ConfigurationError, match="keeps its providers in another way"):
        register_provider()
    monkeypatch.setitem(sys.modules, "langchain.chat_models", None)
    with pytest.raises(power_sampling.MissingDependencyError, match="pip install langchain"):
        register_provider()


def test_profile(chat: ChatPowerSampling, tmp_path: Path, loads: list[str]) -> None:
    profile = chat.profile
    assert profile is not None
    assert (profile["tool_calling"], profile["structured_output"], profile["image_inputs"]) == (True, True, False)
    assert "max_input_tokens" not in profile
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 77}')
    local = ChatPowerSampling(model=str(tmp_path), max_new_tokens=7)
    assert local.profile is not None
    assert (local.profile["max_input_tokens"], local.profile["max_output_tokens"]) == (70, 7)
    assert loads == []
    switchable = chat.configurable_fields(model=ConfigurableField(id="model"))
    rebuilt: Any = cast("Any", switchable).prepare({"configurable": {"model": str(tmp_path)}})[0]
    assert rebuilt.profile["max_input_tokens"] == 77 - 6
    own = ChatPowerSampling(profile={"tool_calling": False}).configurable_fields(model=ConfigurableField(id="model"))
    assert cast("Any", own).prepare({"configurable": {"model": "x"}})[0].profile == {"tool_calling": False}


# ------------------------------------------------------------ files, JSON, pickles


def test_config_round_trip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chat = ChatPowerSampling(model="tiny", sampler=SMC, alpha=2.5, stop=["x"], max_tokens=9, n=2, api_key="secret")
    config = chat.to_config()
    assert json.loads(json.dumps(config)) == config
    assert "secret" not in json.dumps(config)
    again = ChatPowerSampling.from_config(config)
    assert again.to_config() == config
    assert (again.sampler, again.alpha, again.stop, again.n) == (chat.sampler, 2.5, ("x",), 2)
    file = tmp_path / "settings.yaml"
    file.write_text("model: tiny\nsampler: ancestral\nalpha: 2.0\n")
    monkeypatch.setenv("POWER_SAMPLING_ALPHA", "3")
    from_file = ChatPowerSampling.from_config(file, seed=6)
    assert (from_file.sampler.name, from_file.alpha, from_file.seed) == ("ancestral", 3.0, 6)


@pytest.mark.filterwarnings("ignore:.*beta")
def test_dumpd_and_load(chat: ChatPowerSampling) -> None:
    chat = ChatPowerSampling(**{**dict(chat), "stop": ["x"], "name": "mine", "streaming": True, "n": 2})
    stored = dumpd(chat)
    assert stored["type"] == "constructor"
    assert json.loads(json.dumps(stored)) == stored
    again = load(stored, allowed_objects=[ChatPowerSampling], valid_namespaces=["langchain_power_sampling"])
    assert again == chat
    assert dumpd(again) == stored
    loaded = ChatPowerSampling.from_model(MODEL, TOKENIZER, max_new_tokens=2)
    assert dumpd(loaded)["type"] == "not_implemented"


def test_a_pickle_carries_settings_and_never_weights(chat: ChatPowerSampling, loads: list[str]) -> None:
    expected = chat.invoke("a").content
    before = dict(chat.__dict__)
    stored = pickle.dumps(chat)
    assert chat.__dict__ == before
    assert len(stored) < 20_000
    assert pickle.loads(stored).invoke("a").content == expected
    assert copy.deepcopy(chat).handle is chat.handle
    bound = pickle.loads(pickle.dumps(chat.bind_tools([look])))
    assert bound.kwargs["tools"][0]["function"]["name"] == "look"
    loaded = ChatPowerSampling.from_model(MODEL, TOKENIZER, max_new_tokens=2, seed=1)
    assert copy.deepcopy(loaded).invoke("a").content == loaded.invoke("a").content
    with pytest.raises(ConfigurationError, match="from_model"):
        pickle.dumps(loaded)
    assert loads == ["tiny"]


# ------------------------------------------------------------ the cache


async def test_the_cache_key_holds_all_that_is_asked(caller: ChatPowerSampling, requests: list[Any]) -> None:
    chat = ChatPowerSampling(**{**dict(caller), "max_new_tokens": 4, "cache": InMemoryCache()})
    calls: list[dict[str, Any]] = [
        {},
        {"alpha": 1.0},
        {"seed": 2},
        {"max_tokens": 3},
        {"stop": ["never this"]},
        {"tools": [VERDICT_TOOL]},
        {"tools": [VERDICT_TOOL], "tool_choice": "Verdict", "max_tokens": 160},
        {
            "response_format": {"type": "json_schema", "json_schema": {"name": "v", "schema": VERDICT_SCHEMA}},
            "max_tokens": 160,
        },
        {"model": "other"},
    ]
    first = [chat.invoke("a", **call) for call in calls]
    assert len(requests) == len(calls)
    second = [await chat.ainvoke("a", **call) for call in calls]
    assert len(requests) == len(calls)
    assert [m.content for m in first] == [m.content for m in second]
    assert second[0].usage_metadata is not None
    assert second[0].usage_metadata["output_tokens"] > 0


def test_the_cache_sees_mutation_and_copies(chat: ChatPowerSampling, requests: list[Any]) -> None:
    cache = InMemoryCache()
    chat = ChatPowerSampling(**{**dict(chat), "cache": cache})
    chat.invoke("a")
    chat.invoke("a")
    assert len(requests) == 1
    chat.model_copy(update={"alpha": 2.0}).invoke("a")
    assert len(requests) == 2
    chat.alpha = 3.0
    chat.invoke("a")
    assert len(requests) == 3
    for seed in (0, 1):
        model = tiny_model(seed=seed)
        ChatPowerSampling.from_model(model, TOKENIZER, max_new_tokens=2, seed=1, cache=cache).invoke("a")
    assert len(requests) == 5


def test_the_cache_tells_stop_strings_of_objects_apart(loads: list[str], requests: list[Any]) -> None:
    cache, fields = InMemoryCache(), {"model": "tiny", "sampler": "ancestral", "max_new_tokens": 8, "seed": 1}
    text = ChatPowerSampling(cache=cache, **fields).invoke("a").text
    stopped = ChatPowerSampling(cache=cache, stop=[text[2]], **fields)
    assert text[2] not in stopped.invoke("a").text
    assert stopped.invoke("a", stop=[]).text == text
    assert len(requests) == 2, "the last call says what the first object says"


def test_the_cache_knows_a_setting_by_its_meaning(chat: ChatPowerSampling, requests: list[Any]) -> None:
    chat = ChatPowerSampling(**{**dict(chat), "cache": InMemoryCache()})
    for same in ({"max_tokens": 3}, {"max_new_tokens": 3}, {"max_tokens": 3, "stop": []}, {"max_tokens": 3, "n": 1}):
        chat.invoke("a", **same)
    ChatPowerSampling(**{**dict(chat), "max_new_tokens": 3}).invoke("a", sampler=chat.sampler.model_dump())
    assert len(requests) == 1
