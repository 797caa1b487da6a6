"""A pickle holds settings; a copy shares the weights."""

from __future__ import annotations

import copy
import pickle

import pytest

from power_sampling import ConfigurationError, PowerSampler
from power_sampling.testing import TableLM
from tests.support.tiny import tiny_tokenizer


def test_a_pickle_holds_the_settings_and_finds_the_weights_again() -> None:
    sampler = PowerSampler.from_pretrained("some/model", alpha=2.0, seed=5, use_chat_template=False, dtype="float32")
    back = pickle.loads(pickle.dumps(sampler))
    assert back.config == sampler.config
    assert back.generation.model_fields_set == sampler.generation.model_fields_set
    assert back._model is sampler._model  # nothing is loaded twice
    assert back.is_chat_model is False
    assert len(pickle.dumps(sampler)) < 10_000


def test_a_copy_is_on_the_same_weights() -> None:
    tokenizer = tiny_tokenizer()
    sampler = PowerSampler.from_model(TableLM(len(tokenizer), seed=0), tokenizer, max_new_tokens=4, seed=3)
    for same in (copy.deepcopy(sampler), copy.copy(sampler), copy.deepcopy([sampler])[0]):
        assert same._model is sampler._model and same.config == sampler.config
        assert same.complete("a").text == sampler.complete("a").text


def test_a_model_that_was_handed_over_is_not_pickled() -> None:
    tokenizer = tiny_tokenizer()
    sampler = PowerSampler.from_model(TableLM(len(tokenizer), seed=0), tokenizer)
    with pytest.raises(ConfigurationError, match="handed over"):
        pickle.dumps(sampler)
