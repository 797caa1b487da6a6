"""PowerSamplingLLM keeps LangChain's contract and the project's: on tiny random models, then on the embedded one."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import re
import threading
import warnings
from contextlib import aclosing, closing
from pathlib import Path
from typing import Any

import pytest
from langchain_core.caches import InMemoryCache
from langchain_core.language_models.llms import BaseLLM
from langchain_core.load import dumpd, load
from langchain_core.output_parsers import StrOutputParser
from langchain_core.outputs import GenerationChunk
from langchain_core.prompts import PromptTemplate
from langchain_core.runnables import ConfigurableField
from pydantic import BaseModel

import power_sampling.models
from langchain_power_sampling import PowerSamplingLLM
from power_sampling import (
    ConfigurationError,
    ContextOverflowError,
    EngineError,
    MetropolisHastings,
    PowerSampler,
    PowerSamplingError,
    RequestTimeoutError,
    __version__,
)
from power_sampling.engines.torch.engine import TorchLM
from tests.support.langchain import LONG, MODEL, POWER, SAMPLERS, SMC, TOKENIZER, Recorder, comes_to_rest, engine
from tests.support.tiny import gather, tiny_model


def info(llm: PowerSamplingLLM, prompt: str = "a", **overrides: Any) -> dict[str, Any]:
    return llm.generate([prompt], **overrides).generations[0][0].generation_info or {}


# ------------------------------------------------------------ construction


def test_public_names() -> None:
    import langchain_power_sampling

    names = ["ChatPowerSampling", "PowerSamplingLLM", "__version__", "register_provider"]
    assert langchain_power_sampling.__all__ == names
    assert langchain_power_sampling.__version__ == __version__


def test_unknown_fields_are_refused_and_langchains_own_pass(loads: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'alpha'"):
        PowerSamplingLLM(alhpa=2.0)
    with pytest.raises(ConfigurationError, match="no argument 'repetition_penalty'"):
        PowerSamplingLLM(repetition_penalty=1.1)
    llm = PowerSamplingLLM(
        cache=False,
        verbose=False,
        callbacks=[Recorder()],
        tags=["t"],
        metadata={"m": 1},
        custom_get_token_ids=lambda text: [len(text)],
        name="mine",
    )
    assert (llm.tags, llm.name, llm.get_num_tokens("abc"), llm.get_token_ids("abc")) == (["t"], "mine", 1, [3])
    assert llm.metadata is not None
    assert llm.metadata["m"] == 1
    assert llm.metadata["lc_versions"]["power-sampling"] == __version__
    assert loads == []


@pytest.mark.parametrize(
    "fields",
    [
        {"alpha": 0.5},
        {"sampler": "metropolis"},
        {"sampler": {"name": "ancestral", "num_steps": 3}},
        {"temperature": -1},
        {"n": 0},
        {"device": "cpu", "device_map": "auto"},
        {"max_tokens": 3, "max_new_tokens": 4},
        {"model_kwargs": {"dtype": object()}},
    ],
)
def test_values_that_cannot_be_honoured_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        PowerSamplingLLM(**fields)


def test_max_tokens_is_max_new_tokens(llm: PowerSamplingLLM) -> None:
    assert PowerSamplingLLM(max_tokens=3).max_new_tokens == 3
    assert PowerSamplingLLM(max_tokens=3, max_new_tokens=3).max_new_tokens == 3
    assert info(llm, max_tokens=2)["completion_tokens"] == 2
    with pytest.raises(ConfigurationError, match="same setting"):
        llm.invoke("a", max_tokens=2, max_new_tokens=3)


def test_explicit_before_environment_before_file_before_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("model: tiny\nalpha: 2.0\nseed: 5\nsampler: {name: metropolis_hastings, num_steps: 3}\n")
    llm = PowerSamplingLLM.from_config(file, tags=["t"], max_tokens=9)
    assert (llm.model, llm.alpha, llm.seed, llm.sampler, llm.tags, llm.max_new_tokens) == (
        "tiny",
        2.0,
        5,
        MetropolisHastings(num_steps=3),
        ["t"],
        9,
    )
    assert PowerSamplingLLM.from_config({"alpha": 2.0, "dtype": "float32"}).dtype == "float32"
    monkeypatch.setenv("POWER_SAMPLING_ALPHA", "3")
    monkeypatch.setenv("POWER_SAMPLING_SAMPLER", "ancestral")
    llm = PowerSamplingLLM.from_config(file, seed=6)
    assert (llm.alpha, llm.sampler.name, llm.seed) == (3.0, "ancestral", 6)
    assert PowerSamplingLLM().alpha == 3.0
    assert PowerSamplingLLM(alpha=1.5).alpha == 1.5
    monkeypatch.setenv("POWER_SAMPLING_DTYPE", "float16")
    monkeypatch.setenv("POWER_SAMPLING_USE_CHAT_TEMPLATE", "false")
    loaded = PowerSamplingLLM.from_model(MODEL, TOKENIZER)
    assert (loaded.alpha, loaded.dtype, loaded.use_chat_template) == (3.0, "auto", False)
    with pytest.raises(ConfigurationError, match="Did you mean 'alpha'"):
        PowerSamplingLLM.from_config({"alhpa": 2.0})


def test_from_model() -> None:
    llm = PowerSamplingLLM.from_model(MODEL, TOKENIZER, sampler="ancestral", max_new_tokens=4, seed=1)
    assert llm.model == "LlamaForCausalLM"
    assert llm.invoke("a") == llm.invoke("a")
    with pytest.raises(ConfigurationError, match="dtype: cannot be changed"):
        llm.configurable_fields(dtype=ConfigurableField(id="dtype")).invoke("a", {"configurable": {"dtype": "float32"}})


# ------------------------------------------------------------ invoke, batch, stream


@SAMPLERS
async def test_every_way_of_asking_gives_the_same_text(llm: PowerSamplingLLM, sampler: Any) -> None:
    llm = PowerSamplingLLM(model="tiny", sampler=sampler, max_new_tokens=6, seed=1)
    expected = [llm.invoke("a"), llm.invoke("bc")]
    assert llm.batch(["a", "bc"]) == expected
    assert llm.batch(["a", "bc"], {"max_concurrency": 1}) == expected
    assert await llm.abatch(["a", "bc"]) == expected
    assert await llm.ainvoke("bc") == expected[1]
    assert "".join(llm.stream("a")) == expected[0]
    assert "".join([text async for text in llm.astream("bc")]) == expected[1]


def test_the_completion_is_the_runtimes(llm: PowerSamplingLLM) -> None:
    sampler = PowerSampler.from_model(MODEL, TOKENIZER, sampler=POWER, max_new_tokens=6, seed=1)
    assert llm.invoke("a") == sampler.chat([{"role": "user", "content": "a"}]).text
    raw = PowerSamplingLLM(model="tiny", use_chat_template=False, sampler=POWER, max_new_tokens=6, seed=1)
    assert raw.invoke("a") == sampler.complete("a").text
    assert info(raw)["prompt_tokens"] == 1


def test_a_batch_is_decoded_together(
    llm: PowerSamplingLLM, requests: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    llm = PowerSamplingLLM(model="tiny", sampler="ancestral", max_new_tokens=16)
    before = engine(llm).cost
    gather(engine(llm), 6, monkeypatch)
    llm.batch(["a", "b", "c", "d", "e", "f"])
    assert len(requests) == 6
    assert engine(llm).cost.serial_steps - before.serial_steps <= 16


async def test_an_abatch_is_decoded_together(llm: PowerSamplingLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = PowerSamplingLLM(model="tiny", sampler="ancestral", max_new_tokens=16)
    before = engine(llm).cost
    gather(engine(llm), 6, monkeypatch)
    await llm.abatch(["a", "b", "c", "d", "e", "f"])
    assert engine(llm).cost.serial_steps - before.serial_steps <= 16


def test_generation_info(llm: PowerSamplingLLM) -> None:
    result = llm.generate(["a", "b"], logprobs=True)
    for (generation,) in result.generations:
        about = generation.generation_info
        assert about is not None
        assert json.loads(json.dumps(about)) == about
        assert about["finish_reason"] == ("length" if about["completion_tokens"] == 6 else "stop")
        assert (about["stop"], about["seed"]) == (None, 1)
        assert about["power_sampling"]["sampler"] == "metropolis_hastings"
        assert 0 <= about["power_sampling"]["acceptance_rate"] <= 1
        assert sum(token["logprob"] for token in about["logprobs"]) == pytest.approx(about["logp"])
        assert len(about["logprobs"]) == about["completion_tokens"]
    infos = [g[0].generation_info or {} for g in result.generations]
    assert result.llm_output == {
        "model_name": "tiny",
        "token_usage": {
            name: sum(i[name] for i in infos) for name in ("prompt_tokens", "completion_tokens", "total_tokens")
        },
    }
    assert "logprobs" not in info(llm)


@SAMPLERS
def test_a_stream_tells_callbacks_each_text_and_ends_with_the_facts(llm: PowerSamplingLLM, sampler: Any) -> None:
    whole = info(llm, sampler=sampler, logprobs=True)
    recorder = Recorder()
    chunks = list(llm._stream("a", sampler=sampler, logprobs=True))
    assert [chunk.generation_info is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert all(chunk.text for chunk in chunks[:-1])
    assert sampler != "ancestral" or len(chunks) > 2
    texts = list(llm.stream("a", {"callbacks": [recorder]}, sampler=sampler, logprobs=True))
    assert recorder.tokens == [chunk.text for chunk in recorder.chunks] == [text for text in texts if text]
    ((merged,),) = recorder.ends[0].generations
    assert isinstance(merged, GenerationChunk)
    assert merged.text == "".join(texts)
    assert merged.generation_info is not None
    for facts in (whole, merged.generation_info):
        for own in ("seconds", "tokens_prefilled", "tokens_reused"):  # of the call, not of the answer
            facts["power_sampling"][own] = 0
        del facts["prompt_tokens_details"]  # of the call, too
    assert merged.generation_info == whole


async def test_call_and_acall_give_the_text_of_one_prompt(llm: PowerSamplingLLM) -> None:
    assert llm._call("hello") == await llm._acall("hello") == llm.invoke("hello")


async def test_an_async_stream_tells_callbacks(llm: PowerSamplingLLM) -> None:
    recorder = Recorder()
    texts = [text async for text in llm.astream("a", {"callbacks": [recorder]}, sampler="ancestral")]
    assert recorder.tokens == [text for text in texts if text]
    chain = llm.bind(sampler="ancestral") | StrOutputParser()
    events = [event async for event in chain.astream_events("a", version="v2")]
    streamed = [event["data"]["chunk"].text for event in events if event["event"] == "on_llm_stream"]
    assert streamed == recorder.tokens


def test_a_chain(llm: PowerSamplingLLM) -> None:
    chain = PromptTemplate.from_template("Q: {question}") | llm | StrOutputParser()
    assert chain.invoke({"question": "x"}) == llm.invoke("Q: x")
    assert "".join(chain.stream({"question": "x"})) == llm.invoke("Q: x")
    assert chain.batch([{"question": "x"}, {"question": "y"}]) == llm.batch(["Q: x", "Q: y"])


def test_token_counts_are_the_models_own(llm: PowerSamplingLLM) -> None:
    assert llm.get_token_ids("ab<|eos|>") == TOKENIZER("ab<|eos|>", add_special_tokens=False)["input_ids"]
    assert llm.get_num_tokens("ab") == 2
    assert llm.get_num_tokens("") == 0


# ------------------------------------------------------------ the settings of a call


def test_stop(loads: list[str]) -> None:
    llm = PowerSamplingLLM(model="tiny", sampler="ancestral", max_new_tokens=24)
    texts = ((seed, llm.invoke("a", seed=seed)) for seed in range(50))
    seed, text, word = next((s, t, m.group()) for s, t in texts if (m := re.search(r"(?<=.)[!-~]{2}", t)))
    cut = text[: text.index(word)]
    about = info(llm, seed=seed, stop=[word])
    assert (about["finish_reason"], about["stop"]) == ("stop", word)
    assert llm.invoke("a", seed=seed, stop=[word]) == cut
    assert llm.bind(stop=[word]).invoke("a", seed=seed) == cut
    assert llm.batch(["a"], seed=seed, stop=[word]) == [cut]
    assert "".join(llm.stream("a", seed=seed, stop=[word])) == cut
    stopping = PowerSamplingLLM(model="tiny", sampler="ancestral", max_new_tokens=24, seed=seed, stop=word)
    assert stopping.invoke("a") == cut
    assert stopping.invoke("a", stop=[]) == text
    assert "".join(stopping.stream("a", stop=[])) == text
    assert stopping.invoke("a", stop=["never this"]) == text


def test_every_generation_field_can_be_overridden_per_call(llm: PowerSamplingLLM) -> None:
    overrides: dict[str, Any] = {
        "sampler": "low_temperature",
        "alpha": 2.0,
        "temperature": 0.7,
        "max_new_tokens": 3,
        "stop": ["never this"],
        "seed": 7,
        "time_budget": 50.0,
        "timeout": 60.0,
        "logprobs": True,
    }
    about = info(llm, **overrides)
    assert (about["power_sampling"]["sampler"], about["power_sampling"]["alpha"], about["seed"]) == (
        "low_temperature",
        2.0,
        7,
    )
    assert (about["completion_tokens"], len(about["logprobs"])) == (3, 3)
    same = PowerSamplingLLM(model="tiny", **overrides)
    assert llm.bind(**overrides).invoke("a") == same.invoke("a") == "".join(llm.stream("a", **overrides))


def test_a_call_may_name_another_model(llm: PowerSamplingLLM, loads: list[str]) -> None:
    expected = llm.invoke("a")
    for ask in (llm.invoke, llm.bind(model="other").invoke, lambda prompt, **kw: "".join(llm.stream(prompt, **kw))):
        assert ask("a", model="other") == expected
    assert llm.generate(["a"], model="other").llm_output["model_name"] == "other"  # type: ignore[index]
    assert llm._get_ls_params(model="other").get("ls_model_name") == "other"
    assert loads == ["tiny", "other"]
    loaded = PowerSamplingLLM.from_model(MODEL, TOKENIZER, max_new_tokens=2)
    with pytest.raises(ConfigurationError, match="model: cannot be changed"):
        loaded.invoke("a", model="other")


async def test_n(llm: PowerSamplingLLM) -> None:
    expected = [llm.invoke("a", seed=1 + i) for i in range(3)]
    several = PowerSamplingLLM(model="tiny", sampler=POWER, max_new_tokens=6, seed=1, n=3)
    for result in (llm.generate(["b", "a"], n=3), await several.agenerate(["b", "a"])):
        assert [len(generations) for generations in result.generations] == [3, 3]
        assert [generation.text for generation in result.generations[1]] == expected
        assert result.llm_output is not None
        prompts = [g[0].generation_info or {} for g in result.generations]
        assert result.llm_output["token_usage"]["prompt_tokens"] == sum(p["prompt_tokens"] for p in prompts)
    assert several.invoke("a") == expected[0]
    with pytest.raises(ConfigurationError, match="a stream carries one"):
        list(several.stream("a"))
    with pytest.raises(ConfigurationError, match="n: expected"):
        llm.invoke("a", n=0)


def test_settings_go_out_and_come_back(llm: PowerSamplingLLM, loads: list[str]) -> None:
    again = PowerSamplingLLM.from_config(llm.to_config())
    assert again == llm
    assert json.loads(json.dumps(llm.to_config())) == llm.to_config()
    stored = dumpd(llm)
    with warnings.catch_warnings(action="ignore"):  # load is beta
        read = load(stored, allowed_objects=[PowerSamplingLLM], valid_namespaces=["langchain_power_sampling"])
    assert read == llm
    llm.alpha = 2.0
    assert llm._serialized["kwargs"]["alpha"] == 2.0
    assert dumpd(PowerSamplingLLM.from_model(MODEL, TOKENIZER))["type"] == "not_implemented"
    assert loads == []


async def test_a_call_with_unknown_settings_is_refused(llm: PowerSamplingLLM) -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'alpha'"):
        llm.invoke("a", alhpa=2.0)
    with pytest.raises(ConfigurationError, match="Did you mean 'alpha'"):
        await llm.ainvoke("a", alhpa=2.0)
    with pytest.raises(ConfigurationError, match="Did you mean 'alpha'"):
        list(llm.stream("a", alhpa=2.0))
    with pytest.raises(ConfigurationError, match="alpha"):
        llm.bind(alpha=0.5).batch(["a"])


def test_assigned_fields_count_and_are_checked(llm: PowerSamplingLLM) -> None:
    llm.max_new_tokens = 2
    assert info(llm)["completion_tokens"] == 2
    llm.alpha = 0.5
    with pytest.raises(ConfigurationError, match="alpha"):
        llm.invoke("a")


# ------------------------------------------------------------ one copy of the weights


def test_configurable_fields_switch_without_a_reload(llm: PowerSamplingLLM, loads: list[str]) -> None:
    switchable = llm.configurable_fields(
        alpha=ConfigurableField(id="alpha"),
        sampler=ConfigurableField(id="sampler"),
        max_new_tokens=ConfigurableField(id="max_new_tokens"),
    )
    expected = {
        "ancestral": PowerSamplingLLM(model="tiny", sampler="ancestral", max_new_tokens=6, seed=1).invoke("a"),
        "power": llm.invoke("a"),
        "alpha": llm.invoke("a", alpha=1.5),
    }
    assert switchable.invoke("a") == expected["power"]
    assert switchable.invoke("a", {"configurable": {"sampler": "ancestral"}}) == expected["ancestral"]
    assert switchable.with_config(configurable={"alpha": 1.5}).invoke("a") == expected["alpha"]
    assert switchable.invoke("a", {"configurable": {"sampler": SMC, "alpha": 2.0}}) == llm.invoke(
        "a", sampler=SMC, alpha=2.0
    )
    assert len(switchable.batch(["a", "b"], {"configurable": {"max_new_tokens": 2}})) == 2
    with pytest.raises(ConfigurationError, match="no sampler 'none'"):
        switchable.invoke("a", {"configurable": {"sampler": "none"}})
    assert loads == ["tiny"]


def test_a_configurable_model_is_loaded_once(llm: PowerSamplingLLM, loads: list[str]) -> None:
    switchable = llm.configurable_fields(model=ConfigurableField(id="model"))
    for model in ("tiny", "other", "tiny", "other"):
        switchable.invoke("a", {"configurable": {"model": model}})
    assert loads == ["tiny", "other"]


def test_configurable_fields_keep_a_loaded_model(loads: list[str]) -> None:
    llm = PowerSamplingLLM.from_model(MODEL, TOKENIZER, sampler=POWER, max_new_tokens=4, seed=1)
    switchable = llm.configurable_fields(alpha=ConfigurableField(id="alpha"))
    assert switchable.invoke("a", {"configurable": {"alpha": 1.5}}) == llm.invoke("a", alpha=1.5)
    assert loads == []


def test_equal_model_settings_share_the_weights(llm: PowerSamplingLLM, loads: list[str]) -> None:
    other = PowerSamplingLLM(model="tiny", sampler="ancestral", use_chat_template=False, max_new_tokens=2)
    copies = [other, copy.copy(llm), copy.deepcopy(llm), llm.model_copy(update={"alpha": 2.0})]
    for one in copies:
        one.invoke("a")
    llm.bind(alpha=2.0).invoke("a")
    assert loads == ["tiny"]
    llm.model = "other"
    llm.invoke("a")
    assert loads == ["tiny", "other"]


def test_a_pickle_carries_settings_and_never_weights(llm: PowerSamplingLLM, loads: list[str]) -> None:
    expected = llm.invoke("a")
    stored = pickle.dumps(llm)
    assert len(stored) < 10_000
    assert pickle.loads(stored).invoke("a") == expected
    assert loads == ["tiny"]
    loaded = PowerSamplingLLM.from_model(MODEL, TOKENIZER, max_new_tokens=2, seed=1)
    assert copy.deepcopy(loaded).invoke("a") == loaded.invoke("a")
    with pytest.raises(ConfigurationError, match="from_model"):
        pickle.dumps(loaded)


# ------------------------------------------------------------ the cache


async def test_the_cache_key_holds_the_settings_of_the_call(llm: PowerSamplingLLM, requests: list[Any]) -> None:
    llm = PowerSamplingLLM(model="tiny", sampler=POWER, max_new_tokens=6, seed=1, cache=InMemoryCache())
    plain = PowerSamplingLLM(model="tiny", sampler=POWER, max_new_tokens=6, seed=1)
    power, bound = llm.invoke("a"), llm.bind(alpha=1.0).invoke("a")
    assert bound == plain.invoke("a", alpha=1.0) != power
    assert llm.bind(alpha=1.0, max_tokens=2).invoke("a") == plain.invoke("a", alpha=1.0, max_tokens=2)
    assert await llm.ainvoke("a", seed=2) == await plain.ainvoke("a", seed=2)
    asked = len(requests)
    assert (llm.invoke("a"), llm.invoke("a", alpha=1.0), await llm.ainvoke("a", seed=2)) == (
        power,
        bound,
        plain.invoke("a", seed=2),
    )
    assert len(requests) == asked + 1
    assert llm.batch(["a", "b"])[0] == power
    assert len(requests) == asked + 2


def test_the_cache_tells_objects_apart(llm: PowerSamplingLLM, requests: list[Any]) -> None:
    cache = InMemoryCache()
    fields: dict[str, Any] = {"sampler": "ancestral", "max_new_tokens": 4, "seed": 1, "cache": cache}
    objects = [
        PowerSamplingLLM(model="tiny", **fields),
        PowerSamplingLLM(model="tiny", **fields, stop=["never this"]),
        PowerSamplingLLM(model="tiny", **fields, use_chat_template=False),
        PowerSamplingLLM.from_model(MODEL, TOKENIZER, **fields),
        PowerSamplingLLM.from_model(tiny_model(seed=1), TOKENIZER, **fields),
    ]
    for one in objects:
        one.invoke("a")
    assert len(requests) == len(objects)
    assert objects[1].invoke("a", stop=[]) == objects[0].invoke("a")
    assert len(requests) == len(objects)


def test_identifying_params_are_all_fields_as_json(llm: PowerSamplingLLM) -> None:
    params = dict(llm._identifying_params)
    assert json.loads(json.dumps(params)) == params
    assert set(params) == {*power_sampling.Config.model_fields, "n"}
    assert params["sampler"]["num_steps"] == 2
    assert llm.asdict()["_type"] == llm._llm_type == "power-sampling"


def test_traces_show_the_settings_of_the_call(llm: PowerSamplingLLM) -> None:
    recorder = Recorder()
    llm.invoke("a", {"callbacks": [recorder]}, alpha=1.5, stop=["never this"])
    assert recorder.starts[0]["invocation_params"]["alpha"] == 1.5
    assert llm._get_ls_params(stop=["x"], max_tokens=3, temperature=0.5) == {
        "ls_provider": "power_sampling",
        "ls_model_type": "llm",
        "ls_model_name": "tiny",
        "ls_temperature": 0.5,
        "ls_max_tokens": 3,
        "ls_stop": ["x"],
    }
    assert "ls_stop" not in llm._get_ls_params()


# ------------------------------------------------------------ errors, cancellation, the event loop


def test_errors_are_the_projects(llm: PowerSamplingLLM, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    with pytest.raises(ContextOverflowError):
        llm.invoke("a" * 2000, {"callbacks": [recorder]})
    with pytest.raises(RequestTimeoutError):
        llm.invoke("a", timeout=1e-6)
    with pytest.raises(RequestTimeoutError):
        list(llm.stream("a", {"callbacks": [recorder]}, timeout=1e-6))
    outcomes = llm.batch(["a", "b" * 2000], return_exceptions=True)
    assert all(isinstance(outcome, ContextOverflowError) for outcome in outcomes)
    llm.invoke("a")
    monkeypatch.setattr(TorchLM, "step", lambda self: 1 / 0)
    with pytest.raises(EngineError, match="ZeroDivisionError") as caught:
        llm.invoke("a")
    monkeypatch.undo()
    assert not isinstance(caught.value, (ValueError, TypeError))
    assert all(isinstance(error, PowerSamplingError) for error in recorder.errors)
    assert len(recorder.errors) == 2


def test_a_closed_stream_stops_the_work(llm: PowerSamplingLLM, slow_steps: None) -> None:
    expected = llm.invoke("a")
    for open_stream in (llm.stream, llm._stream):
        with closing(open_stream("a", **LONG)) as stream:
            next(stream)
        assert comes_to_rest(llm)
    assert llm.invoke("a") == expected


async def test_a_closed_async_stream_stops_the_work(llm: PowerSamplingLLM, slow_steps: None) -> None:
    expected = llm.invoke("a")
    for open_stream in (llm.astream, llm._astream):
        async with aclosing(open_stream("a", **LONG)) as stream:
            await anext(stream)
        assert await asyncio.to_thread(comes_to_rest, llm)
    assert await llm.ainvoke("a") == expected


async def test_cancelling_the_task_stops_the_work(llm: PowerSamplingLLM, slow_steps: None) -> None:
    expected = llm.invoke("a")
    before = engine(llm).cost
    task = asyncio.create_task(llm.ainvoke("a", **LONG))
    while engine(llm).cost == before:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(comes_to_rest, llm)
    assert await llm.ainvoke("a") == expected


async def test_the_event_loop_stays_free(loads: list[str], monkeypatch: pytest.MonkeyPatch, slow_steps: None) -> None:
    ticks, is_free, load = 0, threading.Event(), power_sampling.models.load_pretrained

    def slow_load(config: Any) -> Any:
        assert is_free.wait(60), "the loop does not go on while it loads"
        return load(config)

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.005)
            ticks += 1
            if ticks == 20:
                is_free.set()

    monkeypatch.setattr(power_sampling.models, "load_pretrained", slow_load)
    llm = PowerSamplingLLM(model="tiny", sampler="ancestral", max_new_tokens=20)

    async def stream() -> None:
        assert [text async for text in llm.astream("d")]

    ticking = asyncio.create_task(tick())
    await asyncio.gather(llm.ainvoke("a"), llm.abatch(["b", "c"]), stream())
    ticking.cancel()
    assert ticks > 25
    assert loads == ["tiny"]


# ------------------------------------------------------------ the embedded model


def test_the_embedded_model_answers(embedded: PowerSampler) -> None:
    llm = PowerSamplingLLM(model="embedded", max_new_tokens=8, sampler={**POWER, "num_steps": 1}, seed=0, alpha=4.0)
    assert isinstance(llm, BaseLLM)
    question = "What is the capital of France? Answer with one word."
    result = llm.generate([question])
    text = result.generations[0][0].text
    assert "Paris" in text
    assert "".join(llm.stream(question)) == text
    assert llm.get_num_tokens("The capital of France is") == len(embedded.token_ids("The capital of France is"))
    assert result.llm_output is not None
    assert result.llm_output["token_usage"]["completion_tokens"] <= 8


async def test_the_embedded_model_in_a_chain(embedded: PowerSampler) -> None:
    llm = PowerSamplingLLM(sampler="ancestral", temperature=0.0, max_new_tokens=8)
    chain = PromptTemplate.from_template("What is the capital of {country}? One word.") | llm | StrOutputParser()
    answers = await chain.abatch([{"country": "France"}, {"country": "Italy"}])
    assert "Paris" in answers[0]
    assert "Rome" in answers[1]


# ------------------------------------------------------------ schemas


class Mark(BaseModel):
    """A mark."""

    good: bool


async def test_structured_output_is_always_valid(llm: PowerSamplingLLM) -> None:
    schema = {"title": "Mark", "type": "object", "properties": {"good": {"type": "boolean"}}, "required": ["good"]}
    llm = llm.model_copy(update={"max_new_tokens": 20})
    for kind, name in ((Mark, Mark), (schema, dict)):
        model: Any = llm.with_structured_output(kind)  # type: ignore[arg-type]
        assert isinstance(model.invoke("a"), name)
        assert isinstance(await model.ainvoke("a"), name)
    assert llm.with_structured_output({"enum": [7]}).invoke("a") == 7
    raw = llm.with_structured_output(Mark, include_raw=True).invoke("a")
    assert (json.loads(raw["raw"])["good"], raw["parsing_error"]) == (raw["parsed"].good, None)
    with pytest.raises(ConfigurationError, match="chat models have"):
        llm.with_structured_output(Mark, method="function_calling")
