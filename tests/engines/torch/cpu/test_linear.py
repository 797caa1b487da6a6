"""Packed weights are the same linear maps, and get out of the way where they cannot be."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

from power_sampling import PowerSampler, UnsupportedModelError
from power_sampling.config import ModelConfig
from power_sampling.engines.torch import prepare as preparing
from power_sampling.engines.torch.cpu import linear
from power_sampling.engines.torch.cpu.kernels import operators
from power_sampling.engines.torch.cpu.layers import LlamaForward
from power_sampling.engines.torch.cpu.linear import Linear, PackedLinear, can_pack, packable, replace_layers
from power_sampling.engines.torch.cpu.operators import Operators, has_onednn
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.engines.torch.plain import PlainForward
from power_sampling.engines.torch.prepare import prepare
from power_sampling.models import serve
from power_sampling.testing import check_language_model
from tests.support.tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.skipif(not can_pack(), reason="this machine has nothing to pack for")


def logits(model: Any, rows: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    with torch.inference_mode():
        found: torch.Tensor = model(torch.randint(300, (rows, 7), generator=generator)).logits
    return found


# layers of GPT-2 are no Linear but for the head, Qwen's have biases, and Llama's head can be tied to its embeddings
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2", "gemma3", "mixtral"])
def test_logits_are_the_same_up_to_rounding(name: str) -> None:
    model = tiny_model(name, dtype=torch.float32)
    plain = logits(model, 4)
    replace_layers(model)
    packed = [layer for layer in model.modules() if isinstance(layer, PackedLinear)]
    assert packed and not list(packable(model)), "nothing is packed twice"
    assert (logits(model, 4) - plain).abs().max() < 1e-4 * plain.abs().max()


@pytest.fixture(params=["ours", "oneDNN's"])
def _layout(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "ours" and type(operators()) is Operators:
        pytest.skip("this machine has no processor or no compiler for it")
    if request.param == "oneDNN's":
        if not has_onednn():
            pytest.skip("this torch has no operators for it")
        monkeypatch.setattr(linear, "operators", Operators)


@pytest.mark.usefixtures("_layout")
@pytest.mark.parametrize("has_bias", [False, True])
def test_any_number_of_rows(has_bias: bool) -> None:
    for width in (37, 64):
        layer = nn.Linear(width, 53, bias=has_bias)
        packed, joint = PackedLinear(layer), Linear([layer], packs=True)
        with torch.inference_mode():
            for rows in (*range(1, 140), 200, 500):
                x, onto = torch.randn(rows, width), torch.randn(rows, 53)
                expected = functional.linear(x, layer.weight, layer.bias)
                assert (packed(x) - expected).abs().max() < 1e-5 * expected.abs().max(), rows
                assert (joint(x, onto.clone()) - onto - expected).abs().max() < 2e-5 * expected.abs().max(), rows
            assert packed(x.view(5, 100, width)).shape == (5, 100, 53)
            assert packed(x[:0]).shape == (0, 53)


def test_the_engine_keeps_its_laws() -> None:
    model = tiny_model("gemma3", dtype=torch.float32)
    for layer in packable(model):
        with torch.no_grad():
            layer.weight.copy_(layer.weight.bfloat16())  # which half of the bits are enough for
    replace_layers(model)
    check_language_model(TorchLM(model), (5, 6, 7), tolerance=2e-3, num_draws=200)


@pytest.mark.parametrize("packs", [False, True])
@pytest.mark.parametrize("biases", [(True, True, True), (False, False, False), (True, False, True)])
def test_layers_that_are_fed_one_tensor_are_one_product(packs: bool, biases: tuple[bool, ...]) -> None:
    layers = [nn.Linear(32, out, bias=has) for out, has in zip((8, 4, 6), biases, strict=True)]
    joint, x = Linear(layers, packs=packs), torch.randn(5, 32)
    with torch.inference_mode():
        expected = torch.cat([layer(x) for layer in layers], -1)
        assert torch.allclose(joint(x), expected, atol=1e-6)
        assert torch.allclose(joint(x, torch.ones(5, 18)), expected + 1, atol=1e-6)
    assert (joint.nbytes > 0) == (packs and len(set(biases)) == 1)


def test_tied_embeddings_stay_tied() -> None:
    model = tiny_model(dtype=torch.float32)
    model.lm_head.weight = model.model.embed_tokens.weight
    plain = logits(model, 3)
    replace_layers(model)
    assert (logits(model, 3) - plain).abs().max() < 1e-4 * plain.abs().max()
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_changed_weights_are_noticed_and_gradients_flow() -> None:
    model = nn.Sequential(nn.Linear(32, 4))
    replace_layers(model)
    layer: Any = model[0]
    assert isinstance(layer, PackedLinear)
    x = torch.randn(3, 32)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    for changed in (layer.weight, layer.bias):
        packed = PackedLinear(layer)
        with torch.no_grad():
            changed.mul_(2)
            assert torch.equal(packed(x), functional.linear(x, layer.weight, layer.bias))


def test_inputs_that_do_not_fit_are_the_plain_layers_errors() -> None:
    """The loop reads memory where it is told to: only rows of the right width on this processor may get there."""
    layer = PackedLinear(nn.Linear(64, 48))
    with torch.inference_mode():
        elsewhere = torch.empty(2, 64, device="meta")
        for wrong in (torch.randn(2, 32), torch.randn(2, 128), torch.randn(2, 64, dtype=torch.float64), elsewhere):
            with pytest.raises(RuntimeError, match=r"shapes cannot be multiplied|same dtype|expected device"):
                layer(wrong)


def test_layers_that_other_code_is_attached_to_are_left_alone() -> None:
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(4)))
    model[0].register_forward_hook(lambda *_: None)
    model[1].register_forward_pre_hook(lambda *_: None)
    setattr(model[2], "forward", model[2].forward)  # noqa: B010
    replace_layers(model)
    assert [isinstance(layer, PackedLinear) for layer in model] == [False, False, False, True]


def test_what_cannot_be_packed_is_left_alone_or_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(model: Any, match: str) -> None:
        assert isinstance(prepare(model, is_own=True), PlainForward)
        assert not any(isinstance(layer, PackedLinear) for layer in model.modules())
        with pytest.raises(UnsupportedModelError, match=match):
            prepare(model, pack_weights=True)

    refused(tiny_model(), "no linear layer with float32 weights")
    single = tiny_model(dtype=torch.float32)
    with monkeypatch.context() as patch:
        patch.setattr(preparing, "MEMORY_SHARE", 0.0)
        refused(single, "GiB are free")
    monkeypatch.setattr(preparing, "can_pack", lambda: False)
    refused(single, "no operators for it")


@pytest.mark.parametrize("name", ["llama", "gemma3"])
def test_models_loaded_here_are_packed_and_models_handed_over_only_when_asked(name: str) -> None:
    def forward_of(load: Callable[[Any], Any]) -> Any:
        return load(tiny_model(name, dtype=torch.float32)).engine.backend._forward

    def is_packed(forward: Any) -> bool:
        if isinstance(forward, LlamaForward):
            return forward.nbytes > 0
        return any(isinstance(layer, PackedLinear) for layer in forward._model.modules())

    def handed_over(model: Any, **settings: Any) -> Any:
        return PowerSampler.from_model(model, tiny_tokenizer(), **settings)._model.load()

    own = forward_of(lambda model: serve(model, tiny_tokenizer(), ModelConfig(), is_own=True))
    off = forward_of(lambda model: serve(model, tiny_tokenizer(), ModelConfig(pack_weights=False), is_own=True))
    left, asked = forward_of(handed_over), forward_of(lambda model: handed_over(model, pack_weights=True))
    assert [is_packed(forward) for forward in (own, off, left, asked)] == [True, False, False, True]
    model = asked._model if name == "gemma3" else tiny_model(name, dtype=torch.float32)
    for rows in (8, 9):  # two engines on one model
        assert is_packed(handed_over(model, pack_weights=True, max_rows=rows).engine.backend._forward)
