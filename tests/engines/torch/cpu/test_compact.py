"""Weights in fewer bits are the same weights, and are left alone where they are not."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from power_sampling.engines.torch.cpu import compact as compact_weights
from power_sampling.engines.torch.cpu import packed
from power_sampling.engines.torch.cpu.compact import BITS, Compact, compact
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.testing import check_language_model
from tests.support.native import any_target
from tests.support.tiny import tiny_model

pytestmark = pytest.mark.skipif(
    compact_weights._library() is None, reason="this machine has no processor or no compiler for it"
)
_any_target = any_target(compact_weights._library)


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Weights such as a checkpoint has them that was stored in so many bits."""
    if bits == 16:
        return weight.bfloat16().float()
    gguf = pytest.importorskip("gguf")
    kind = {8: gguf.GGMLQuantizationType.Q8_0, 4: gguf.GGMLQuantizationType.Q4_1}[bits]
    stored = gguf.quants.quantize(weight.numpy(), kind)
    return torch.from_numpy(np.ascontiguousarray(gguf.quants.dequantize(stored, kind)))


@pytest.mark.usefixtures("_any_target")
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("has_bias", [False, True])
def test_products_of_any_number_of_rows(bits: int, has_bias: bool) -> None:
    random = torch.Generator().manual_seed(0)
    for out, width in ((1, 32), (16, 96), (200, 64), (3100, 32)):
        weight = rounded(torch.randn(out, width, generator=random), bits)
        bias = torch.randn(out, generator=random) if has_bias else None
        product = compact(weight, bias)
        assert product is not None
        assert product._bits == bits
        with torch.inference_mode():
            for rows in (*range(1, 36), 64, 97):
                x = torch.randn(rows, 1, width, generator=random)
                expected = functional.linear(x, weight, bias)
                assert (product(x, rows) - expected).abs().max() < 1e-5 * expected.abs().max(), (out, rows)


@pytest.mark.usefixtures("_any_target")
@pytest.mark.parametrize("bits", BITS)
def test_every_weight_comes_back_bit_by_bit(bits: int) -> None:
    """The product with a unit vector is a weight and zeros."""
    weight = rounded(torch.randn(70, 64), bits)
    weight[3] = weight[7, :32] = 0.0  # blocks without a scale
    product = compact(weight, None)
    assert product is not None
    assert product._bits == bits
    assert torch.equal(product(torch.eye(64), 64), weight.T)


def test_the_embedded_model_takes_a_fifth() -> None:
    from power_sampling.config import ModelConfig
    from power_sampling.models import load_pretrained

    model = load_pretrained(ModelConfig(device="cpu", dtype="float32"))[0]
    layers = list(packed.packable(model))
    found = [compact(layer.weight.detach(), None) for layer in layers]
    assert all(found)
    nbytes = sum(product.nbytes for product in found if product)
    assert nbytes < 0.22 * sum(layer.weight.nbytes for layer in layers)


def test_weights_that_need_all_bits_are_left_alone() -> None:
    weight = rounded(torch.randn(50, 64), 16)
    assert compact(weight, None) is not None
    weight[49, 63] += 2**-20 * weight[49, 63].abs()
    assert compact(weight, None) is None, "one weight among many"
    assert compact(torch.full((4, 64), torch.nan), None) is None
    assert compact(torch.zeros(4, 33), None) is None, "no whole blocks"


def test_few_rows_take_compact_weights_and_many_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    call = Compact.__call__

    def counting(self: Compact, x: torch.Tensor, rows: int) -> torch.Tensor:
        asked.append(rows)
        return call(self, x, rows)

    monkeypatch.setattr(Compact, "__call__", counting)
    layer = nn.Linear(64, 48)
    with torch.no_grad():
        layer.weight.copy_(rounded(layer.weight, 16))
    model = nn.Sequential(layer)
    packed.pack(model, is_required=True)
    with torch.inference_mode():
        for rows in (1, Compact.most, Compact.most + 1):
            x = torch.randn(rows, 64)
            expected = functional.linear(x, layer.weight, layer.bias)
            assert (model(x) - expected).abs().max() < 1e-5 * expected.abs().max()
            # what does not lie row by row in memory
            assert torch.allclose(model(x.T.contiguous().T), expected, atol=1e-5)
    assert asked == [1, 1, Compact.most, Compact.most]


def test_inputs_that_do_not_fit_are_the_plain_layers_errors() -> None:
    """The loop reads memory where it is told to: only rows of the right width on this processor may get there."""
    layer = nn.Linear(64, 48)
    with torch.no_grad():
        layer.weight.copy_(rounded(layer.weight, 16))
    model = nn.Sequential(layer)
    packed.pack(model, is_required=True)
    with torch.inference_mode():
        elsewhere = torch.empty(2, 64, device="meta")
        for wrong in (torch.randn(2, 32), torch.randn(2, 128), torch.randn(2, 64, dtype=torch.float64), elsewhere):
            with pytest.raises(RuntimeError, match=r"shapes cannot be multiplied|same dtype|expected device"):
                model(wrong)
        assert model(torch.empty(0, 64)).shape == (0, 48)
    strided = torch.arange(6.0)[::2]
    product = compact(torch.zeros(3, 32), strided)
    assert product is not None
    assert torch.equal(product(torch.ones(1, 32), 1), strided[None])
    assert compact(torch.zeros(3, 32), torch.zeros(3, dtype=torch.float64)) is None
    assert compact(torch.zeros(0, 32), None) is None


def test_the_engine_keeps_its_laws() -> None:
    model = tiny_model(dtype=torch.float32)
    for layer in packed.packable(model):
        with torch.no_grad():
            layer.weight.copy_(rounded(layer.weight, 16))
    packed.pack(model, is_required=True)
    assert any(vars(layer)["forward"].together._compact for layer in model.modules() if "forward" in vars(layer))
    check_language_model(TorchLM(model), (5, 6, 7), tolerance=2e-3, num_draws=200)


@pytest.mark.usefixtures("_any_target")
def test_a_build_that_fails_is_said_and_done_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    weight = rounded(torch.randn(50, 64), 16)
    monkeypatch.setenv("POWER_SAMPLING_CACHE", str(tmp_path))
    broken = tmp_path / "compact.cpp"
    broken.write_text("no C++")
    monkeypatch.setattr(compact_weights, "SOURCE", broken)
    with caplog.at_level(logging.WARNING):
        assert compact(weight, None) is None
    assert "compact.cpp could not be built" in caplog.text
    assert not list(tmp_path.glob("*.so"))


@pytest.mark.usefixtures("_any_target")
def test_a_library_that_computes_something_else_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    call = Compact.__call__
    monkeypatch.setattr(Compact, "__call__", lambda self, x, rows: call(self, x, rows) + 0.01 * (self._bits == 8))
    with caplog.at_level(logging.WARNING):
        assert compact(torch.zeros(4, 32), None) is None
    assert "failed its trial" in caplog.text


@pytest.mark.usefixtures("_any_target")
def test_without_a_compiler_weights_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert compact(torch.zeros(4, 32), None) is None
    model = tiny_model(dtype=torch.float32)
    assert packed.pack(model, is_required=True) > 0
