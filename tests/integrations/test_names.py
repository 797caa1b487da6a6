"""Names that users bring from elsewhere: hints wherever a name is given, and two that adapters share."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, cast

import pytest
from langchain_core.runnables import ConfigurableField

from langchain_power_sampling import ChatPowerSampling
from langchain_power_sampling import PowerSamplingLLM as LangChainLLM
from llamaindex_power_sampling import PowerSamplingLLM as LlamaIndexLLM
from power_sampling import Config, ConfigurationError, GenerationConfig, PowerSampler, load_config

ADAPTERS: list[Any] = [ChatPowerSampling, LangChainLLM, LlamaIndexLLM]
HINTS = {
    "max_completion_tokens": "'max_new_tokens'",
    "num_predict": "'max_new_tokens'",
    "num_ctx": "the context window is the model's own",
    "stop_sequences": "'stop'",
    "model_name": "'model'",
    "api_base": "'base_url'",
    "repetition_penalty": "a penalty is raised to the power alpha",
    "typical_p": "restrict p by `top_k`",
    "bad_words_ids": "'bad_words'",
    "num_steps": "option of metropolis_hastings and .*sampler={'name': 'metropolis_hastings', 'num_steps': ...}",
    "num_particles": "sampler={'name': 'sequential_monte_carlo', 'num_particles': ...}",
    "n_ctx": "option of llama_cpp: engine={'name': 'llama_cpp', 'n_ctx': ...}",
    "support_size": "option of vllm: engine={'name': 'vllm', 'support_size': ...}",
    "alhpa": "Did you mean 'alpha'",
}


@pytest.mark.parametrize("name", HINTS)
def test_a_name_from_elsewhere_gets_a_hint_wherever_it_is_given(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(f"{name}: 1\n")
    makers = [lambda owner=owner: owner(**{name: 1}) for owner in ADAPTERS]
    makers += [lambda owner=owner: owner.from_config(file) for owner in (*ADAPTERS, PowerSampler)]
    makers += [lambda: PowerSampler.from_pretrained(**{name: 1}), lambda: GenerationConfig.parse({name: 1})]
    for make in makers:
        with pytest.raises(ConfigurationError, match=HINTS[name]):
            make()
    with pytest.raises(ConfigurationError, match=HINTS[name]):
        ChatPowerSampling(model="tiny").bind_tools([], **{name: 1})
    monkeypatch.setenv(f"POWER_SAMPLING_{name.upper()}", "1")
    with pytest.raises(ConfigurationError, match=HINTS[name]):
        load_config()


@pytest.mark.parametrize("owner", ADAPTERS)
def test_max_tokens_is_understood_in_files_and_in_the_environment(
    owner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("max_tokens: 5\n")
    assert owner.from_config(file).max_new_tokens == load_config(file).max_new_tokens == 5
    assert owner.from_config({"max_tokens": 6}).max_new_tokens == load_config({"max_tokens": 6}).max_new_tokens == 6
    monkeypatch.setenv("POWER_SAMPLING_MAX_TOKENS", "7")
    assert owner.from_config(file).max_new_tokens == load_config(file).max_new_tokens == 7
    assert owner().max_new_tokens == 7
    assert owner(max_tokens=8).max_new_tokens == 8
    assert owner(max_new_tokens=8).max_new_tokens == 8
    monkeypatch.setenv("POWER_SAMPLING_MAX_NEW_TOKENS", "9")
    with pytest.raises(ConfigurationError, match="same setting"):
        owner()


@pytest.mark.parametrize("owner", [ChatPowerSampling, LangChainLLM])
def test_n_stands_in_files_and_in_the_environment(owner: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("n: 2\n")
    assert owner.from_config(file).n == 2
    monkeypatch.setenv("POWER_SAMPLING_N", "3")
    assert (owner.from_config(file).n, owner().n, owner(n=4).n) == (3, 3, 4)
    assert (load_config().alpha, LlamaIndexLLM().alpha) == (Config().alpha,) * 2  # who has no n is not concerned
    monkeypatch.setenv("POWER_SAMPLING_N", "0")
    with pytest.raises(ConfigurationError, match="n: expected"):
        owner()
    with pytest.raises(ConfigurationError, match="give `n` with a call"):
        load_config({"n": 2})


@pytest.mark.parametrize("owner", [ChatPowerSampling, LangChainLLM])
def test_max_tokens_and_n_are_configurable(owner: Any) -> None:
    fields = {name: ConfigurableField(id=name) for name in ("max_tokens", "n")}
    model = owner(model="tiny").configurable_fields(**fields)
    chosen = cast("Any", model).prepare({"configurable": {"max_tokens": 3, "n": 2}})[0]
    assert (chosen.max_new_tokens, chosen.n) == (3, 2)
    with pytest.raises(ConfigurationError, match="'max_new_tokens'"):
        owner(model="tiny").configurable_fields(num_predict=ConfigurableField(id="x"))


@pytest.mark.parametrize("owner", [ChatPowerSampling, LangChainLLM])
def test_what_is_nearly_a_configurable_id_is_told(owner: Any) -> None:
    model = owner(model="tiny").configurable_fields(temperature=ConfigurableField(id="temperature"))
    with pytest.warns(UserWarning, match="'temprature' is not configurable.*'temperature'"):
        cast("Any", model).prepare({"configurable": {"temprature": 0.5}})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cast("Any", model).prepare({"configurable": {"temperature": 0.5, "thread_id": "1", "checkpoint_ns": ""}})


@pytest.mark.parametrize("owner", ADAPTERS)
def test_an_unknown_name_by_assignment_gets_the_hint_too(owner: Any) -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'alpha'"):
        owner().alhpa = 2


@pytest.mark.parametrize("owner", ADAPTERS)
@pytest.mark.parametrize("text", ["alhpa: 2", "alpha: 0"])
def test_a_fault_of_a_file_is_told_with_its_name(owner: Any, text: str, tmp_path: Path) -> None:
    (file := tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=r"alpha.* \(from '.*mine\.yaml'\)$"):
        owner.from_config(file)
