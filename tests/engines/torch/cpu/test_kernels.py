"""Loops of our own compute what torch does, for all shapes that they take; weights in fewer bits are the same."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from power_sampling.engines.torch.cpu import build, kernels
from power_sampling.engines.torch.cpu.kernels import BITS, Kernels, PackedProduct, operators
from power_sampling.engines.torch.cpu.operators import EVERYTHING, Operators, Sight
from tests.support.native import any_target
from tests.support.tiny import tiny_model

pytestmark = pytest.mark.skipif(
    type(operators()) is Operators, reason="this machine has no processor or no compiler for it"
)
_any_target = any_target(operators)


def rounded(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Weights such as a checkpoint has them that was stored in so many bits."""
    if bits >= 16:
        return weight.bfloat16().float() if bits == 16 else weight
    gguf = pytest.importorskip("gguf")
    kind = {8: gguf.GGMLQuantizationType.Q8_0, 4: gguf.GGMLQuantizationType.Q4_1}[bits]
    stored = gguf.quants.quantize(weight.numpy(), kind)
    return torch.from_numpy(np.ascontiguousarray(gguf.quants.dequantize(stored, kind)))


def packed(weight: torch.Tensor, bias: torch.Tensor | None = None) -> PackedProduct:
    product = operators().product(weight, bias)
    assert isinstance(product, PackedProduct)
    return product


@pytest.mark.usefixtures("_any_target")
@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("has_bias", [False, True])
def test_products_of_any_number_of_rows(bits: int, has_bias: bool) -> None:
    random = torch.Generator().manual_seed(0)
    for out, width in ((1, 32), (16, 96), (200, 64), (3100, 32)):
        weight = rounded(torch.randn(out, width, generator=random), bits)
        bias = torch.randn(out, generator=random) if has_bias else None
        product = packed(weight, bias)
        assert product.bits == bits
        with torch.inference_mode():
            for rows in (*range(1, 36), 64, 97, 193, 400):
                x = torch.randn(rows, width, generator=random)
                expected = functional.linear(x, weight, bias)
                assert (product(x) - expected).abs().max() < 1e-5 * expected.abs().max(), (out, rows)
            onto = torch.randn(rows, out, generator=random)
            assert (product(x, onto.clone()) - expected - onto).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.usefixtures("_any_target")
@pytest.mark.parametrize("bits", BITS)
def test_every_weight_comes_back_bit_by_bit(bits: int) -> None:
    """The product with a unit vector is a weight and zeros."""
    weight = rounded(torch.randn(70, 64), bits)
    weight[3] = weight[7, :32] = 0.0  # blocks without a scale
    product = packed(weight)
    assert product.bits == bits
    assert torch.equal(product(torch.eye(64)), weight.T)


def test_the_embedded_model_takes_a_fifth() -> None:
    from power_sampling.config import ModelConfig
    from power_sampling.engines.torch.cpu.linear import packable
    from power_sampling.models import load_pretrained

    model = load_pretrained(ModelConfig(device="cpu", dtype="float32"))[0]
    layers = list(packable(model))
    nbytes = sum(packed(layer.weight.detach()).nbytes for layer in layers)
    assert nbytes < 0.22 * sum(layer.weight.nbytes for layer in layers)


def test_weights_that_need_all_bits_keep_them() -> None:
    weight = rounded(torch.randn(50, 64), 16)
    assert packed(weight).bits == 16
    weight[49, 63] += 2**-20 * weight[49, 63].abs()
    assert packed(weight).bits == 32, "one weight among many"
    weight[3, 5] = torch.nan
    assert packed(weight).bits == 32
    assert torch.equal(packed(weight)(torch.ones(1, 64)).isnan(), torch.arange(50)[None] == 3)


def test_what_the_loop_does_not_take_is_torchs() -> None:
    for weight, bias in (
        (torch.zeros(4, 33), None),  # no whole blocks
        (torch.zeros(0, 32), None),
        (torch.zeros(3, 32, dtype=torch.float64), None),
        (torch.zeros(3, 32), torch.zeros(3, dtype=torch.float64)),
        (torch.zeros(3, 32, device="meta"), None),
    ):
        assert not isinstance(operators().product(weight, bias), PackedProduct)
    strided = torch.arange(6.0)[::2]
    assert torch.equal(packed(torch.zeros(3, 32), strided)(torch.ones(1, 32)), strided[None])
    x = torch.randn(64, 5).T  # does not lie row by row in memory
    weight = torch.randn(8, 64)
    assert torch.allclose(packed(weight)(x), functional.linear(x, weight), atol=1e-5)


def attention(
    rows: int, heads: int, groups: int, slots: int, dim: int, *, new: int = 1, dtype: Any = torch.float32
) -> dict[str, Any]:
    """New positions at the end of so many slots, in buffers that have room for more."""
    random = torch.Generator().manual_seed(slots)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=dtype)

    keys, values = normal(2, rows + 1, groups, slots + 12, dim)
    return {
        "states": normal(rows, new, heads + 2 * groups, dim),
        "turns": (normal(rows, new, dim), normal(rows, new, dim)),
        "keys": keys,
        "values": values,
        "sight": Sight(rows, new, 5, 5 + slots - new, torch.zeros(rows, dtype=torch.long), hides=False),
        "window": EVERYTHING,
        "scale": dim**-0.5,
    }


def by(side: Any, problem: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Answers, and what the buffers hold then."""
    copies = {name: problem[name].clone() for name in ("states", "keys", "values")}
    return side.attend(**problem | copies), copies["keys"], copies["values"]


def assert_torchs(problem: dict[str, Any]) -> None:
    ours = operators()
    assert isinstance(ours, Kernels)
    assert ours._takes(*(problem[x] for x in ("states", "turns", "keys", "values", "sight")))
    for found, expected in zip(by(ours, problem), by(Operators(), problem), strict=True):
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 1e-5


@pytest.mark.usefixtures("_any_target")
@pytest.mark.parametrize("hides", [False, True])
@pytest.mark.parametrize("new", [1, 3])
def test_attention_of_any_shape_is_as_torch_has_it(hides: bool, new: int) -> None:
    for rows, heads, groups, slots, dim in (
        (1, 1, 1, 3, 16),
        (1, 9, 3, 15, 64),
        (5, 4, 4, 16, 32),
        (8, 9, 3, 100, 64),
        (3, 8, 1, 300, 96),
        (2, 16, 2, 65, 128),
        (4, 4, 2, 1000, 256),
    ):
        problem = attention(rows, heads, groups, slots, dim, new=new)
        problem["sight"].hidden = torch.arange(rows) * (slots - new) // rows
        problem["sight"]._hides = hides
        if not hides:
            problem["sight"].hidden *= 0
        assert_torchs(problem)
        assert_torchs(problem | {"window": 1 + slots // 2})


@pytest.mark.usefixtures("_any_target")
def test_hidden_slots_count_for_nothing_and_large_scores_do_not_overflow() -> None:
    problem = attention(2, 2, 1, 40, 16)
    problem["sight"] = Sight(2, 1, 5, 44, torch.tensor([0, 20]), hides=True)
    expected = by(operators(), problem)[0]
    for states in (problem["keys"], problem["values"]):
        states[1, :, :25], states[:, :, :5], states[:, :, 45:] = torch.nan, torch.nan, torch.nan
    assert torch.equal(by(operators(), problem)[0], expected)
    for scale in (1e3, -1e3):  # one slot has all the weight
        assert_torchs(attention(3, 2, 1, 50, 16) | {"scale": scale})


def test_torch_computes_the_attention_that_the_loop_does_not_take() -> None:
    ours, fine = operators(), attention(2, 4, 2, 10, 16)
    assert isinstance(ours, Kernels)
    cos, sin = (torch.randn(2, 1, 32)[..., ::2] for _ in range(2))
    for problem in (
        attention(2, 4, 2, 10, 20),
        attention(2, 4, 2, 10, 16, dtype=torch.float64),
        fine | {"keys": fine["keys"].transpose(2, 3).contiguous().transpose(2, 3)},
        fine | {"turns": (cos, sin)},
        fine | {"turns": (cos[:1].contiguous(), sin[:1].contiguous())},  # those of one row, for all
    ):
        assert not ours._takes(*(problem[x] for x in ("states", "turns", "keys", "values", "sight")))
        assert torch.equal(by(ours, problem)[0], by(Operators(), problem)[0])


@pytest.mark.usefixtures("_any_target")
def test_norms_and_gates_are_as_torch_has_them() -> None:
    for shape in ((1, 32), (3, 5, 64), (600, 160)):
        x, weight = 3 * torch.randn(*shape), torch.randn(shape[-1])
        assert torch.allclose(operators().norm(x, weight, 1e-5), Operators().norm(x, weight, 1e-5), atol=1e-5)
        wide = 30 * x.flatten(0, -2)
        assert torch.allclose(operators().gate(wide), Operators().gate(wide), rtol=1e-5, atol=1e-5)
    for dtype, width in ((torch.float64, 32), (torch.float32, 36)):
        x, weight = torch.randn(3, width, dtype=dtype), torch.randn(width, dtype=dtype)
        assert torch.equal(operators().norm(x, weight, 1e-5), Operators().norm(x, weight, 1e-5))
        assert torch.equal(operators().gate(x), Operators().gate(x))


@pytest.mark.usefixtures("_any_target")
def test_a_build_that_fails_is_said_and_done_without(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("POWER_SAMPLING_CACHE", str(tmp_path))
    broken = tmp_path / "kernels.cpp"
    broken.write_text("no C++")
    monkeypatch.setattr(kernels, "SOURCE", broken)
    with caplog.at_level(logging.WARNING):
        assert type(operators()) is Operators
    assert "kernels.cpp could not be built" in caplog.text
    assert not list(tmp_path.rglob("*.so"))


C_SOURCE = 'extern "C" int vector() { return 8; }'


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a small library; the cache is a new one."""
    monkeypatch.setenv("POWER_SAMPLING_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "kernels.cpp"
    file.write_text(C_SOURCE)
    return file


def library_file(tmp_path: Path) -> Path:
    (file,) = (tmp_path / "cache" / "code").glob("kernels-*.so")
    return file


def test_a_library_is_built_once_and_again_where_it_is_damaged(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[Any] = []
    run = build._run
    monkeypatch.setattr(build, "_run", lambda command: (runs.append(command), run(command)))
    for _ in range(2):
        assert build.built(source) is not None
    file = library_file(tmp_path)
    assert len(runs) == 1 and file.stat().st_mode & 0o777 == 0o700
    content = file.read_bytes()
    file.unlink()  # it is open in this process, and must not be written over
    file.write_bytes(content[: len(content) // 2])  # would end the process
    assert build.built(source) is not None
    assert len(runs) == 2 and library_file(tmp_path).read_bytes() == content


@pytest.mark.parametrize("mode", [0o777, 0o770])
def test_no_code_is_run_from_a_folder_where_others_may_write(
    mode: int, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "cache" / "code"
    assert build.built(source) is not None
    folder.chmod(mode)
    caplog.clear()
    assert build.built(source) is None
    assert "others may write to" in caplog.text and "POWER_SAMPLING_CACHE" in caplog.text


def test_a_planted_library_is_not_run(source: Path, tmp_path: Path) -> None:
    assert build.built(source) is not None
    file = library_file(tmp_path)
    file.chmod(0o777)  # anyone's work by now
    assert build.built(source) is not None
    assert library_file(tmp_path).stat().st_mode & 0o777 == 0o700


def test_a_library_without_its_functions_is_not_used(
    source: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    operators.cache_clear()
    monkeypatch.setattr(kernels, "SOURCE", source)
    assert type(operators()) is Operators
    assert "kernels.cpp is not whole" in caplog.text
    operators.cache_clear()


def test_a_compiler_that_hangs_is_ended_with_all_it_has_started(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\nsleep 1000 &\necho $! > {tmp_path}/pid\nwait\n")
    compiler.chmod(0o700)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setattr(build, "LIMIT", 2.0)
    assert build.built(source) is None
    assert "gave no answer" in caplog.text
    pid = int((tmp_path / "pid").read_text())
    with suppress(OSError):  # it is gone
        while Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z":
            time.sleep(0.01)


@pytest.mark.parametrize("place", ["file", "no home"])
def test_a_cache_that_cannot_be_had_is_said_and_done_without(
    place: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if place == "file":
        monkeypatch.setenv("POWER_SAMPLING_CACHE", str(source))
        assert build.built(source) is None
        assert "could not be built: The cache folder" in caplog.text
    else:
        monkeypatch.delenv("POWER_SAMPLING_CACHE")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
        monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
        assert build.built(source) is not None


@pytest.mark.usefixtures("_any_target")
@pytest.mark.parametrize("method", ["norm", "gate", "attend", "product"])
def test_a_library_that_computes_something_else_is_not_used(
    method: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    if method == "product":
        call = PackedProduct.__call__
        monkeypatch.setattr(PackedProduct, "__call__", lambda self, *x: call(self, *x) * (1 + 0.001 * (self.bits == 8)))
    else:
        right = getattr(Kernels, method)
        monkeypatch.setattr(Kernels, method, lambda *arguments: right(*arguments) * 1.001)
    with caplog.at_level(logging.WARNING):
        assert type(operators()) is Operators
    assert "kernels.cpp failed its trial" in caplog.text


@pytest.mark.usefixtures("_any_target")
def test_without_a_compiler_torch_computes_everything_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from power_sampling.engines.torch.cpu.operators import has_onednn
    from power_sampling.engines.torch.prepare import prepare

    monkeypatch.setenv("CXX", "no-such-compiler")
    assert type(operators()) is Operators
    assert "no compiler 'no-such-compiler'. Install g++" in caplog.text
    if has_onednn():
        prepare(tiny_model(dtype=torch.float32), pack_weights=True)
