"""What the ways of asking share: several completions per prompt, progress, and the environment."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest

from power_sampling import Config, ConfigurationError, GenerationConfig, ModelConfig, PowerSampler
from tests.tiny import tiny_model, tiny_tokenizer

MH = {"name": "metropolis_hastings", "num_steps": 2, "block_size": 4}
TURN = [{"role": "user", "content": "hi"}]
OTHER = [{"role": "user", "content": "you"}]


@pytest.fixture(scope="module")
def sampler() -> PowerSampler:
    return PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), sampler=MH, max_new_tokens=8, seed=3)


def ask(method: Any, *args: Any, **kwargs: Any) -> Any:
    """The answer of a method or of its async twin."""
    answer = method(*args, **kwargs)
    return asyncio.run(answer) if inspect.isawaitable(answer) else answer


# ------------------------------------------------------------ n


@pytest.mark.parametrize("name", ["complete", "acomplete", "chat", "achat"])
def test_n_gives_so_many_completions_of_each_prompt(sampler: PowerSampler, name: str) -> None:
    method, (one, other) = getattr(sampler, name), ("ab", "c") if "complete" in name else (TURN, OTHER)
    single = [[ask(method, prompt, seed=3 + i).tokens for i in range(3)] for prompt in (one, other)]
    several = ask(method, one, n=3)
    assert [completion.tokens for completion in several] == single[0]
    assert [completion.seed for completion in several] == [3, 4, 5]
    assert [completion.tokens for completion in ask(method, [one, other], n=3)] == single[0] + single[1]
    assert [completion.tokens for completion in ask(method, one, n=1)] == single[0][:1]
    assert [completion.tokens for completion in ask(method, [one], n=None)] == single[0][:1]
    assert ask(method, one, n=None).tokens == single[0][0]


@pytest.mark.parametrize("name", ["complete", "acomplete", "chat", "achat", "generate", "agenerate"])
@pytest.mark.parametrize("n", [0, -1, "2", 1.5])
def test_n_is_a_number_of_completions(sampler: PowerSampler, name: str, n: Any) -> None:
    prompt: Any = TURN if "chat" in name else ["ab"]
    for show_progress in (False, True):
        with pytest.raises(ConfigurationError, match="n: expected a whole number"):
            ask(getattr(sampler, name), prompt, n=n, show_progress=show_progress)


# ------------------------------------------------------------ progress


@pytest.mark.parametrize("name", ["complete", "acomplete", "chat", "achat", "generate", "agenerate"])
def test_every_way_of_waiting_shows_progress(
    sampler: PowerSampler, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts: Any = [TURN, OTHER] if "chat" in name else ["ab", "c"]
    plain = ask(getattr(sampler, name), prompts)
    assert "%" not in capsys.readouterr().err
    shown = ask(getattr(sampler, name), prompts, show_progress=True)
    assert [completion.tokens for completion in shown] == [completion.tokens for completion in plain]
    assert "100%" in capsys.readouterr().err


def test_progress_of_a_call_that_fails_ends_without_a_full_bar(
    sampler: PowerSampler, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigurationError):
        asyncio.run(sampler.acomplete("ab", show_progress=True, alpha=0.5))
    told = capsys.readouterr().err
    assert "0%" in told and "100%" not in told


# ------------------------------------------------------------ the environment


GENERATION = {
    "sampler": ("{name: best_of_n, num_completions: 3}", {"name": "best_of_n", "num_completions": 3}),
    "alpha": ("2.5", 2.5),
    "temperature": ("0.5", 0.5),
    "max_new_tokens": ("5", 5),
    "stop": ("[x, y]", ("x", "y")),
    "seed": ("7", 7),
    "time_budget": ("50", 50.0),
    "timeout": ("60", 60.0),
    "logprobs": ("true", True),
    "json_schema": ("{type: object}", {"type": "object"}),
    "regex": ("'[ab]+'", "[ab]+"),
    "choices": ("[a, b]", ("a", "b")),
    "grammar": ("'start: \"a\"'", 'start: "a"'),
}
SERVING = {
    "max_rows": ("3", 3),
    "prompt_memory": ("2", 2),
    "kv_memory": ("64", 64),
    "pack_weights": ("false", False),
    "compile_layers": ("false", False),
    "cuda_graphs": ("true", True),
    "use_chat_template": ("false", False),
}
LOADING = {"model": "other", "dtype": "float16", "device": "cuda", "revision": "old", "trust_remote_code": "true"}


@pytest.fixture(scope="module")
def pair() -> tuple[Any, Any]:
    return tiny_model(layers=1), tiny_tokenizer()


def test_the_tables_above_are_complete() -> None:
    assert GENERATION.keys() == GenerationConfig.model_fields.keys()
    assert SERVING.keys() == ModelConfig.SERVING


@pytest.mark.parametrize("name", [*GENERATION, *SERVING])
def test_a_loaded_model_honours_the_environment(
    pair: tuple[Any, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, value = {**GENERATION, **SERVING}[name]
    monkeypatch.setenv(f"POWER_SAMPLING_{name.upper()}", text)
    found = getattr(PowerSampler.from_model(*pair).config, name)
    assert (found.model_dump() | value == found.model_dump()) if name == "sampler" else found == value


def test_what_the_environment_says_of_loading_is_meant_for_other_models(
    pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in LOADING.items():
        monkeypatch.setenv(f"POWER_SAMPLING_{name.upper()}", text)
    config = PowerSampler.from_model(*pair, alpha=3.0).config
    assert config == Config(model="LlamaForCausalLM", alpha=3.0)
    with pytest.raises(ConfigurationError, match="dtype: the model is already loaded"):
        PowerSampler.from_model(*pair, **{"dtype": "float16"})  # type: ignore[call-arg,unused-ignore]


def test_an_argument_comes_before_the_environment(pair: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POWER_SAMPLING_ALPHA", "3")
    monkeypatch.setenv("POWER_SAMPLING_MAX_ROWS", "2")
    sampler = PowerSampler.from_model(*pair, alpha=1.5, max_rows=4)
    assert (sampler.config.alpha, sampler.config.max_rows) == (1.5, 4)
    assert sampler._model.load().engine.max_rows == 4  # type: ignore[attr-defined]
    monkeypatch.setenv("POWER_SAMPLING_ALHPA", "3")
    with pytest.raises(ConfigurationError, match="POWER_SAMPLING_ALHPA names no field"):
        PowerSampler.from_model(*pair)


def test_config_tells_all_settings_in_force(pair: tuple[Any, Any]) -> None:
    sampler = PowerSampler.from_model(*pair, alpha=2.0, max_rows=4, use_chat_template=False)
    config = sampler.with_settings(seed=5, sampler=MH).config
    assert config == Config.parse(
        {"model": "LlamaForCausalLM", "alpha": 2.0, "max_rows": 4, "use_chat_template": False, "seed": 5, "sampler": MH}
    )
    assert PowerSampler.from_pretrained("no/such", dtype="float32").config == Config(model="no/such", dtype="float32")
