"""Packed weights are the same linear maps, and get out of the way where they cannot be."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from power_sampling import PowerSampler, UnsupportedModelError
from power_sampling.config import ModelConfig
from power_sampling.engines.torch.cpu import packed
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.models import serve
from power_sampling.testing import check_language_model
from tests.support.tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.skipif(not packed.can_pack(), reason="this torch has no operators for packing")
# GPT-2's layers are no Linear but for the head, Qwen's have biases, and Llama's head can be tied to its embeddings
MODELS = ["llama", "qwen2", "gpt2", "gemma3", "mixtral"]


def logits(model: Any, rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        found: torch.Tensor = model(torch.randint(300, (rows, 7), generator=generator)).logits
    return found


@pytest.mark.parametrize("name", MODELS)
def test_logits_are_the_same_up_to_rounding(name: str) -> None:
    model = tiny_model(name, dtype=torch.float32)
    plain = logits(model, 4)
    assert packed.pack(model, is_required=True) > 0
    assert not list(packed.packable(model)), "nothing is packed twice"
    assert (logits(model, 4) - plain).abs().max() < 1e-4 * plain.abs().max()


@pytest.mark.parametrize("layout", ["_has_mkl", "_has_onednn"])
@pytest.mark.parametrize("has_bias", [False, True])
def test_any_number_of_rows(layout: str, has_bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not getattr(packed, layout)():
        pytest.skip(f"this torch says no to {layout}")
    monkeypatch.setattr(packed, "_has_mkl" if layout == "_has_onednn" else "_has_onednn", lambda: False)
    layer = nn.Linear(37, 53, bias=has_bias)
    model = nn.Sequential(layer)
    packed.pack(model, is_required=True)
    with torch.inference_mode():
        for rows in (*range(1, 140), 200, 500):
            x = torch.randn(rows, 1, 37)
            expected = nn.functional.linear(x, layer.weight, layer.bias)
            assert (model(x) - expected).abs().max() < 1e-5 * expected.abs().max(), rows


def test_a_layout_that_serves_only_the_rows_it_was_made_for_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    if not (packed._has_mkl() and packed._has_onednn()):
        pytest.skip("this torch has one layout only")
    call = packed._Mkl.__call__
    monkeypatch.setattr(packed._Mkl, "__call__", lambda self, x, rows: call(self, x, rows) * (1 + 0.001 * (rows == 5)))
    model = tiny_model(dtype=torch.float32)
    packed.pack(model, is_required=True)
    assert isinstance(vars(model.lm_head)["forward"].together._product, packed._OneDnn)


def test_the_engine_keeps_its_laws() -> None:
    model = tiny_model(dtype=torch.float32)
    packed.pack(model, is_required=True)
    check_language_model(TorchLM(model), (5, 6, 7), tolerance=2e-3, num_draws=200)


def test_layers_that_are_fed_one_tensor_are_one_product_and_others_are_not() -> None:
    class Model(nn.Module):
        """Its keys and queries share an input, its values do not."""

        def __init__(self) -> None:
            super().__init__()
            self.q_proj, self.k_proj, self.v_proj = nn.Linear(8, 8), nn.Linear(8, 4), nn.Linear(8, 6)

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [self.q_proj(x), self.k_proj(x), self.v_proj(x + 1), self.v_proj(x)]

    model, x = Model(), torch.randn(5, 8)
    with torch.inference_mode():
        expected = model(x)
        packed.pack(model, is_required=True)
        for _ in range(2):
            assert all(torch.allclose(y, z, atol=1e-6) for y, z in zip(model(x), expected, strict=True))
        assert torch.equal(model.k_proj(x + 1), nn.functional.linear(x + 1, model.k_proj.weight, model.k_proj.bias))
    with torch.inference_mode():
        model.q_proj(x)
        model.q_proj(x + 1)  # another engine on the same model, in between
        assert torch.allclose(model.k_proj(x), expected[1], atol=1e-6)
    together = {vars(layer)["forward"].together for layer in model.children()}
    assert len(together) == 1
    with torch.inference_mode():
        model.v_proj.bias.add_(1)
        assert torch.allclose(model(x)[3], expected[3] + 1, atol=1e-6), "a changed bias is noticed too"


def test_tied_embeddings_stay_tied() -> None:
    model = tiny_model(dtype=torch.float32)
    model.lm_head.weight = model.model.embed_tokens.weight
    plain = logits(model, 3)
    packed.pack(model, is_required=True)
    assert (logits(model, 3) - plain).abs().max() < 1e-4 * plain.abs().max()
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_changed_weights_are_noticed_and_gradients_flow() -> None:
    layer = nn.Linear(8, 4)
    model = nn.Sequential(layer)
    packed.pack(model, is_required=True)
    x = torch.randn(3, 8)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad():
        layer.weight.mul_(2)
        expected = nn.functional.linear(x, layer.weight, layer.bias)
        assert torch.equal(layer(x), expected)


def test_what_cannot_be_packed_is_left_alone_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    double = tiny_model()
    assert packed.pack(double, is_required=False) == 0
    with pytest.raises(UnsupportedModelError, match="no linear layer with float32 weights"):
        packed.pack(double, is_required=True)
    single = tiny_model(dtype=torch.float32)
    monkeypatch.setattr(packed, "MEMORY_SHARE", 0.0)
    assert packed.pack(single, is_required=False) == 0
    with pytest.raises(UnsupportedModelError, match="GiB are free"):
        packed.pack(single, is_required=True)
    monkeypatch.undo()
    monkeypatch.setattr(packed, "_has_mkl", lambda: False)
    monkeypatch.setattr(packed, "_has_onednn", lambda: False)
    with pytest.raises(UnsupportedModelError, match="no MKL or oneDNN operators"):
        packed.pack(single, is_required=True)


def test_models_loaded_here_are_packed_and_models_handed_over_only_when_asked() -> None:
    def is_packed(model: Any) -> bool:
        return not list(packed.packable(model))

    own, left, off = (tiny_model(dtype=torch.float32) for _ in range(3))
    serve(own, tiny_tokenizer(), ModelConfig(), is_own=True)
    serve(off, tiny_tokenizer(), ModelConfig(pack_weights=False), is_own=True)
    PowerSampler.from_model(left, tiny_tokenizer())
    assert [is_packed(m) for m in (own, off, left)] == [True, False, False]
    PowerSampler.from_model(left, tiny_tokenizer(), pack_weights=True, max_rows=8)
    assert is_packed(left)
