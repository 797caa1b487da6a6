"""Settings that change the base law: where they are given, what they mean in tokens, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from langchain_power_sampling import ChatPowerSampling
from langchain_power_sampling import PowerSamplingLLM as LangChainLLM
from llamaindex_power_sampling import PowerSamplingLLM as LlamaIndexLLM
from power_sampling import ConfigurationError, NoLegalCompletionError, PowerSampler, load_config
from power_sampling.base_law import base_law, label_of
from power_sampling.config import GenerationConfig
from power_sampling.text.codec import Codec
from power_sampling.types import BaseLaw
from tests.support.tiny import tiny_model, tiny_tokenizer

FIELDS: dict[str, Any] = {"top_k": 5, "top_p": 0.9, "min_p": 0.1, "logit_bias": {1: 2.0}, "bad_words": ("ab",)}


@pytest.fixture(scope="module")
def model() -> PowerSampler:
    return PowerSampler.from_model(
        tiny_model(layers=1), tiny_tokenizer(), sampler="ancestral", max_new_tokens=12, temperature=2.0
    )


def test_files_the_environment_and_the_adapters_have_them(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("top_k: 5\ntop_p: 0.9\nmin_p: 0.1\nlogit_bias: {1: 2.0}\nbad_words: [ab]\n")
    found = load_config(file)
    for owner in (ChatPowerSampling, LangChainLLM, LlamaIndexLLM):
        made: list[Any] = [owner(**FIELDS), owner.from_config(file)]
        assert all(getattr(one, name) == value for one in made for name, value in FIELDS.items())
    assert all(getattr(found, name) == value for name, value in FIELDS.items())
    monkeypatch.setenv("POWER_SAMPLING_LOGIT_BIAS", '{"1": 2.0}')
    monkeypatch.setenv("POWER_SAMPLING_BAD_WORDS", "ab")
    monkeypatch.setenv("POWER_SAMPLING_TOP_P", "0.9")
    assert (load_config().logit_bias, load_config().bad_words, load_config().top_p) == ({1: 2.0}, ("ab",), 0.9)


def test_an_answer_names_its_base_law(model: PowerSampler) -> None:
    assert model.complete("a", seed=1).diagnostics.base_law is None
    assert model.complete("a", seed=1, top_p=1.0, min_p=0.0).diagnostics.to_dict()["base_law"] is None
    assert model.complete("a", seed=1, top_p=1.0).tokens == model.complete("a", seed=1).tokens
    told = model.complete("a", seed=1, **FIELDS).diagnostics.base_law
    assert told == "top_k=5, top_p=0.9, min_p=0.1, logit_bias=1 tokens, bad_words=1 words"


def test_what_is_left_out_is_never_drawn(model: PowerSampler) -> None:
    drawn = model.generate(["a"], n=60, seed=0, bad_words=[chr(i) for i in range(ord("a"), ord("z"))] + ["AB"])
    text = "".join(c.text + "|" for c in drawn)
    assert "AB" not in text and not any(chr(i) in text for i in range(ord("a"), ord("z")))
    favoured = model.complete("a", seed=0, logit_bias={65: 100})
    assert favoured.tokens == (65,) * 12 and favoured.logp == pytest.approx(0, abs=1e-9)
    likeliest = model.complete("a", seed=0, top_k=1)
    assert likeliest.tokens == model.complete("a", temperature=0).tokens == model.complete("a", top_p=0, seed=4).tokens
    assert likeliest.logp == pytest.approx(0, abs=1e-12), "log p is that of the law that was asked for"


def test_log_p_of_a_greedy_answer_is_of_that_law(model: PowerSampler) -> None:
    engine = model._model.load().engine
    greedy = model.complete("a", temperature=0, max_new_tokens=1, logit_bias={65: 3.0})
    logits = np.array([engine.score(model.encode("a"), (v,), 1.0)[0] for v in range(engine.vocab_size)])
    logits[65] += 3.0
    assert greedy.tokens == (int(logits.argmax()),)
    assert greedy.logp == pytest.approx(logits.max() - np.logaddexp.reduce(logits), abs=1e-9)


def test_words_are_spelled_as_the_tokenizer_spells_them() -> None:
    codec = Codec(tiny_tokenizer())
    a, b, space = codec.encode("ab ")
    found = base_law(GenerationConfig(bad_words=("ab",)), codec, 300)
    assert found == BaseLaw(bad_words=((a, b), (space, a, b)))
    assert found.excluded((a,)) == [b] and found.excluded((b,)) == [] and found.looks_back
    assert base_law(GenerationConfig(), codec, 300) is None and label_of(GenerationConfig()) is None


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"top_k": 0}, "top_k: .*greater than or equal to 1"),
        ({"top_p": 1.1}, "top_p: .*less than or equal to 1"),
        ({"min_p": -0.1}, "min_p"),
        ({"logit_bias": {-1: 1}}, "logit_bias"),
        ({"logit_bias": {1: 101}}, "logit_bias.1"),
        ({"logit_bias": {1: float("nan")}}, "logit_bias.1"),
        ({"logit_bias": {300: 1}}, "there is no token 300"),
        ({"bad_words": ["a", ""]}, "bad_words.1"),
        ({"bad_words": ["<|eos|>"]}, "could not end without it"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(model: PowerSampler, fields: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigurationError, match=match):
        model.complete("a", **fields)


def test_a_constraint_that_p_excludes_finds_no_completion(model: PowerSampler) -> None:
    """And says what may be the reason; the model goes on."""
    with pytest.raises(NoLegalCompletionError, match="What bad_words excludes may be what the constraint needs"):
        model.complete("a", choices=["xyz"], bad_words=["y"])
    for sampler in ("metropolis_hastings", "sequential_monte_carlo", "particle_gibbs"):
        c = model.complete("a", sampler=sampler, choices=["xyz", "xz"], bad_words=["y"], max_new_tokens=4)
        assert c.text == "xz" and c.diagnostics.exactness != "exact"
