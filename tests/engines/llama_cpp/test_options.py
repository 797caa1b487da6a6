"""Every option of the engine llama_cpp does what it says, on a random Llama and a random adapter for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from power_sampling import ConfigurationError, ModelError, PowerSampler
from power_sampling.errors import InputError
from power_sampling.types import Floats
from tests.support.gguf import EXACT, NEEDS_LLAMA_CPP, write_adapter, write_llama

pytestmark = NEEDS_LLAMA_CPP

WIDTH = 128  # heads of 64: keys and values are quantised in blocks of 32
PROMPT, TOKENS = (1, 3, 2, 4), (5, 2, 1, 3, 4, 0)
QUANTISED = {"q8_0": 34 / 32, "q5_1": 24 / 32, "q4_0": 18 / 32}  # bytes of a number


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("gguf") / "wide.gguf", width=WIDTH)


def loaded(file: Path, **options: Any) -> Any:
    """The engine with these options, all else in float32."""
    engine = {"name": "llama_cpp", "kv_memory": 4, **EXACT, **options}
    return PowerSampler.from_pretrained(str(file), engine=engine)._model.load().engine


def scores(lm: Any) -> Floats:
    return np.asarray(lm.score(PROMPT, TOKENS, 1.0))


def off(a: Floats, b: Floats) -> float:
    return float(np.abs(a - b).max())


@pytest.fixture(scope="module")
def plain(file: Path) -> Floats:
    return scores(loaded(file))


def test_adapters_are_the_merged_weights(file: Path, plain: Floats, tmp_path: Path) -> None:
    one, two = tmp_path / "one.gguf", tmp_path / "two.gguf"
    first, second = write_adapter(one, seed=1, width=WIDTH), write_adapter(two, seed=2, width=WIDTH)
    whole = scores(loaded(write_llama(tmp_path / "whole.gguf", width=WIDTH, added=first)))
    assert off(whole, plain) > 0.1
    for lora in (str(one), [str(one)], {str(one): 1.0}):
        assert off(scores(loaded(file, lora=lora)), whole) < 1e-4
    both = {name: 0.5 * first[name] - 0.25 * second[name] for name in first}
    merged = scores(loaded(write_llama(tmp_path / "both.gguf", width=WIDTH, added=both)))
    assert off(scores(loaded(file, lora={str(one): 0.5, str(two): -0.25})), merged) < 1e-4
    assert off(scores(loaded(file)), plain) == 0, "the adapter is of the engine that was asked for it"


def test_draws_of_an_adapted_model_have_its_numbers(file: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter.gguf"
    merged = write_llama(tmp_path / "merged.gguf", width=WIDTH, added=write_adapter(adapter, width=WIDTH))
    found = []
    for model, options in ((file, {"lora": str(adapter)}), (merged, {})):
        engine = {"name": "llama_cpp", "kv_memory": 4, **EXACT, **options}
        sampler = PowerSampler.from_pretrained(str(model), engine=engine, max_new_tokens=8, seed=2)
        found.append(sampler.complete("ab"))
    assert found[0].tokens == found[1].tokens
    assert found[0].token_logp == pytest.approx(found[1].token_logp, abs=1e-4)


def test_an_adapter_of_another_model_is_told(file: Path, tmp_path: Path) -> None:
    write_adapter(tmp_path / "narrow.gguf", width=32)
    with pytest.raises(ModelError, match=r"lora: llama\.cpp cannot load .*narrow\.gguf"):
        loaded(file, lora=str(tmp_path / "narrow.gguf"))


def test_keys_and_values_take_the_bits_that_are_asked_for(file: Path, plain: Floats) -> None:
    def size(**options: Any) -> int:
        return int(loaded(file, **options).backend.empty.sizes.token)

    whole = size()
    for kind, least in (("f16", 1e-6), ("bf16", 1e-5)):
        assert whole - size(type_k=kind) == whole - size(type_v=kind) == (whole - size(type_k=kind, type_v=kind)) // 2
        assert least < off(scores(loaded(file, type_k=kind, type_v=kind)), plain) < 0.1
    f16 = size(type_k="f16", type_v="f16", flash_attn=True)
    numbers = (whole - f16) // 2  # of a token
    for kind, nbytes in QUANTISED.items():
        few = {"type_k": kind, "type_v": kind, "flash_attn": True}
        assert f16 - size(**few) == numbers * (2 - nbytes)
        assert 1e-5 < off(scores(loaded(file, **few)), plain) < 1


def test_values_in_few_bits_need_flash_attention(file: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"type_v.*needs flash_attn"):
        loaded(file, type_v="q8_0")


@pytest.mark.parametrize(
    "options",
    [
        {"flash_attn": True},
        {"flash_attn": None},
        {"n_gpu_layers": 0},
        {"model_kwargs": {"check_tensors": True, "use_extra_bufts": False}},
    ],
    ids=str,
)
def test_how_it_is_computed_does_not_change_what(options: dict[str, Any], file: Path, plain: Floats) -> None:
    assert off(scores(loaded(file, **options)), plain) < 5e-3  # flash attention sums in fewer bits


def test_fields_that_cannot_be_are_told(file: Path) -> None:
    with pytest.raises(ConfigurationError, match="no_alloc, vocab_only loads no weights"):
        loaded(file, model_kwargs={"no_alloc": True, "vocab_only": True})
    with pytest.raises(ConfigurationError, match="main_gpu cannot be 'one'"):
        loaded(file, model_kwargs={"main_gpu": "one"})


def test_n_ctx_is_the_longest_text(file: Path) -> None:
    assert (loaded(file).context_window, loaded(file, n_ctx=20).context_window) == (256, 20)
    engine = {"name": "llama_cpp", "kv_memory": 4, **EXACT, "n_ctx": 20}
    sampler = PowerSampler.from_pretrained(str(file), engine=engine, max_new_tokens=8, seed=1)
    assert sampler.complete("abcdabcd").tokens
    with pytest.raises(InputError, match="20"):
        sampler.complete("abcd" * 6)
