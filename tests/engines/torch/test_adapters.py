"""Adapters of PEFT: by `adapter:`, merged or live, and in a PeftModel handed over; what does not fit is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from power_sampling import (
    ConfigurationError,
    MissingDependencyError,
    ModelError,
    ModelNotFoundError,
    PowerSampler,
    UnsupportedModelError,
)
from tests.support.tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
SETTINGS: Any = {"sampler": "ancestral", "max_new_tokens": 6, "seed": 1, "temperature": 1.0}
FEW = len(tiny_tokenizer())


def with_adapter(model: Any, seed: int = 0, **fields: Any) -> Any:
    """The model under an adapter of LoRA that changes what it says."""
    import peft

    torch.manual_seed(seed)
    config = peft.LoraConfig(
        r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False, task_type="CAUSAL_LM", **fields
    )
    return peft.get_peft_model(model, config).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model and an adapter of it."""
    base, adapter = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("adapter")
    tiny_model(dtype=torch.float32, layers=1).save_pretrained(base)
    tiny_tokenizer().save_pretrained(base)
    with_adapter(tiny_model(dtype=torch.float32, layers=1)).save_pretrained(adapter)
    return base, adapter


def full_pass(model: Any, prompt: tuple[int, ...], tokens: tuple[int, ...]) -> Any:
    """log p of tokens by one pass of a model as it is."""
    with torch.inference_mode():
        logits = model(torch.tensor([[*prompt, *tokens]])).logits[0, len(prompt) - 1 : -1, :FEW]
    return torch.log_softmax(logits, -1).gather(-1, torch.tensor(tokens)[:, None])[:, 0].numpy()


@pytest.mark.parametrize("merge", [None, True, False])
def test_an_adapter_answers_as_it_does_in_peft(folders: tuple[Path, Path], merge: bool | None) -> None:
    base, adapter = folders
    told = PowerSampler.from_pretrained(str(base), adapter=str(adapter), merge_adapter=merge, **SETTINGS)
    plain = PowerSampler.from_pretrained(str(base), **SETTINGS)
    expected = with_adapter(tiny_model(dtype=torch.float32, layers=1))
    for c in told.generate(["ab", "c"], n=2):
        prompt = told.encode("ab" if c.prompt_tokens == 2 else "c")
        np.testing.assert_allclose(c.token_logp, full_pass(expected, prompt, c.tokens), atol=2e-4)
    other = plain._model.load().engine.score(plain.encode("ab"), c.tokens, 1.0)
    assert np.abs(other - full_pass(expected, plain.encode("ab"), c.tokens)).max() > 0.05, "it changes what is said"


def test_a_model_of_peft_is_served_and_its_switches_are_noticed() -> None:
    model = with_adapter(tiny_model(layers=1))
    sampler = PowerSampler.from_model(model, tiny_tokenizer(), **SETTINGS)
    first = sampler.complete("ab")
    np.testing.assert_allclose(first.token_logp, full_pass(model, sampler.encode("ab"), first.tokens), atol=1e-5)
    with model.disable_adapter():
        plain = sampler.complete("ab")
        expected = full_pass(tiny_model(layers=1), sampler.encode("ab"), plain.tokens)
        np.testing.assert_allclose(plain.token_logp, expected, atol=1e-9)
    assert sampler.complete("ab").token_logp == pytest.approx(first.token_logp)
    assert sampler._model is PowerSampler.from_model(model, sampler._model.load().source, **SETTINGS)._model


def broken(adapter: Path, folder: Path, change: Any) -> str:
    """A copy of an adapter whose tensors and configuration are changed."""
    from safetensors.torch import load_file, save_file

    tensors = load_file(adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    change(tensors, config)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return str(folder)


def without_one(tensors: Any, config: Any) -> None:
    del tensors[sorted(tensors)[0]]


def with_one_more(tensors: Any, config: Any) -> None:
    tensors["base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"] = torch.zeros(4, 32)


def of_other_modules(tensors: Any, config: Any) -> None:
    config["target_modules"] = ["c_attn"]


def of_another_size(tensors: Any, config: Any) -> None:
    for name in tensors:
        tensors[name] = torch.zeros(5, 7)


def of_no_kind(tensors: Any, config: Any) -> None:
    config["peft_type"] = "MAGIC"


def that_starts_at_a_token(tensors: Any, config: Any) -> None:
    config["alora_invocation_tokens"] = [1, 2]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (without_one, ModelError, "no weights for"),
        (with_one_more, ModelError, "which the model has not"),
        (of_other_modules, ModelError, "does not fit LlamaForCausalLM"),
        (of_another_size, ModelError, "does not fit LlamaForCausalLM"),
        (of_no_kind, ModelNotFoundError, "No adapter at"),
        (that_starts_at_a_token, UnsupportedModelError, "aLoRA"),
    ],
)
def test_an_adapter_of_something_else_is_refused(
    folders: tuple[Path, Path], tmp_path: Path, change: Any, error: type[Exception], match: str
) -> None:
    with pytest.raises(error, match=match):
        PowerSampler.from_pretrained(str(folders[0]), adapter=broken(folders[1], tmp_path, change)).complete("a")


def test_an_adapter_before_the_prompt_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    import peft

    config = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    wrapped = peft.get_peft_model(tiny_model(dtype=torch.float32, layers=1), config)
    with pytest.raises(UnsupportedModelError, match="PROMPT_TUNING"):
        PowerSampler.from_model(wrapped, tiny_tokenizer())
    wrapped.save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="stands before the prompt"):
        PowerSampler.from_pretrained(str(folders[0]), adapter=str(tmp_path)).complete("a")


def test_what_cannot_be_is_said(folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, adapter = map(str, folders)
    with pytest.raises(ModelNotFoundError, match=r"folder with adapter_config\.json"):
        PowerSampler.from_pretrained(base, adapter=str(tmp_path)).complete("a")
    with pytest.raises(ConfigurationError, match="no adapter to merge"):
        PowerSampler.from_pretrained(base, merge_adapter=True)
    with pytest.raises(ConfigurationError, match="would round"):
        PowerSampler.from_pretrained(base, adapter=adapter, merge_adapter=True, quantization_config={})
    with pytest.raises(ConfigurationError, match="already loaded"):
        PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), adapter=adapter)  # type: ignore[call-arg]
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingDependencyError, match=r"power-sampling\[peft\]"):
        PowerSampler.from_pretrained(base, adapter=adapter, max_rows=3).complete("a")


INT8: dict[str, Any] = {
    "quant_method": "torchao",
    "quant_type": {"default": {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {}}},
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_torchao_s_int8_is_served_with_and_without_an_adapter(folders: tuple[Path, Path]) -> None:
    """Every sampler's numbers are those of full passes of the quantised model. Where torchao is installed, transformers
    imports it in every process, which takes seconds: it is no dependency of these tests. Tried with 0.18."""
    pytest.importorskip("torchao", reason="torchao is not installed")
    for fields in ({}, {"adapter": str(folders[1])}):
        sampler = PowerSampler.from_pretrained(str(folders[0]), quantization_config=INT8, **fields, **SETTINGS)
        engine: Any = sampler._model.load().engine
        kinds = {type(x).__name__ for x in engine.backend.model.parameters()}
        assert "Int8Tensor" in kinds
        assert any("lora" in name for name, _ in engine.backend.model.named_parameters()) == bool(fields)
        for name in ("ancestral", "metropolis_hastings", "sequential_monte_carlo"):
            for c in sampler.generate(["ab"], n=2, sampler=name, alpha=1.5):
                expected = full_pass(engine.backend.model, sampler.encode("ab"), c.tokens)
                np.testing.assert_allclose(c.token_logp, expected, atol=2e-4)
