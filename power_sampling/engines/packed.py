"""Weights of linear layers laid out once for the processor, so that eight rows cost little more than one.

With few rows, torch's `linear` on a CPU leaves most of the arithmetic unused, because it lays the weights out anew in
every call. MKL and oneDNN can do it once; the operators are those of torch's own compiler, which freezes weights in
this way. They are no public interface, so their absence is no error unless packing was asked for.

torch's compiler lets MKL's layout serve only as many rows as it was made for. It is the same for any number, which is
not documented: it is used only where a trial with several numbers of rows agrees with `linear`, and oneDNN's otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psutil
import torch
from torch import nn
from torch.nn import functional

from power_sampling.errors import UnsupportedModelError

__all__ = ["can_pack", "pack", "packable"]

MEMORY_SHARE = 0.5  # of what is free, for the copies
TRIED = (1, 2, 3, 5, 8, 16, 31, 64, 128)  # numbers of rows
TOLERANCE = 1e-4  # of the largest output, for sums in another order; a layout that does not serve is off by all of it


class _Mkl:
    """One layer's weights as MKL lays them out."""

    fewest, most = 1, TRIED[-1]  # rows it is faster for than `linear`

    def __init__(self, layer: nn.Linear) -> None:
        self._layer = layer
        self._weight = torch.ops.mkl._mkl_reorder_linear_weight(layer.weight.detach(), TRIED[-1])

    def __call__(self, x: torch.Tensor, rows: int) -> torch.Tensor:
        layer = self._layer
        y: torch.Tensor = torch.ops.mkl._mkl_linear(x, self._weight, layer.weight, layer.bias, rows)
        return y


class _OneDnn:
    """One layer's weights as oneDNN lays them out."""

    fewest, most = 4, 1 << 62

    def __init__(self, layer: nn.Linear) -> None:
        self._layer = layer
        self._weight = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)

    def __call__(self, x: torch.Tensor, rows: int) -> torch.Tensor:
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._layer.bias, "none", [], "")
        return y


Product = _Mkl | _OneDnn


class _Packed:
    """The forward of one layer. It reads the plain weights again whenever they have changed since."""

    def __init__(self, layer: nn.Linear, product: Callable[[nn.Linear], Product]) -> None:
        self._layer, self._product = layer, product(layer)
        self._version = layer.weight._version

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        layer, product = self._layer, self._product
        rows = x.numel() // layer.in_features
        is_plain = not product.fewest <= rows <= product.most or x.dtype != torch.float32
        if is_plain or layer.weight._version != self._version or torch.is_grad_enabled():
            return functional.linear(x, layer.weight, layer.bias)
        return product(x, rows)


def packable(model: nn.Module) -> Iterator[nn.Linear]:
    """The layers that can be packed: plain linear layers with float32 weights on a CPU, whoever else holds the weights.
    Quantised layers, adapters around a layer and layers whose forward is already another one are left alone."""
    for layer in model.modules():
        if not isinstance(layer, nn.Linear) or type(layer) is not nn.Linear:
            continue
        is_plain = "forward" not in vars(layer) and not hasattr(layer, "_hf_hook")
        if is_plain and layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu":
            yield layer


def can_pack() -> bool:
    """Whether this torch has operators for it."""
    return _has_mkl() or _has_onednn()


def _has_mkl() -> bool:
    has_mkl: bool = torch.backends.mkl.is_available()  # type: ignore[no-untyped-call] # torch has no types here
    return has_mkl and all(hasattr(torch.ops.mkl, name) for name in ("_mkl_reorder_linear_weight", "_mkl_linear"))


def _has_onednn() -> bool:
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call] # torch has no types here
    return has_onednn and all(hasattr(torch.ops.mkldnn, n) for n in ("_reorder_linear_weight", "_linear_pointwise"))


def _fastest(layers: list[nn.Linear]) -> type[Product] | None:
    """What serves these layers: MKL's layout where it holds what is asked of it, on a layer of each shape."""
    shapes = {(layer.in_features, layer.out_features, layer.bias is None): layer for layer in layers}
    if _has_mkl() and all(map(_serves_any_rows, shapes.values())):
        return _Mkl
    return _OneDnn if _has_onednn() else None


@torch.inference_mode()
def _serves_any_rows(layer: nn.Linear) -> bool:
    product = _Mkl(layer)
    random = torch.Generator().manual_seed(0)
    for rows in TRIED:
        x = torch.randn(rows, layer.in_features, generator=random)
        expected = functional.linear(x, layer.weight, layer.bias)
        if (product(x, rows) - expected).abs().max() > TOLERANCE * expected.abs().max():
            return False
    return True


def pack(model: nn.Module, *, is_required: bool) -> int:
    """Pack what can be packed. Returns the bytes of new copies; 0 where the operators or the memory are missing.
    Raises UnsupportedModelError instead of returning 0 if `is_required`."""
    if any(isinstance(vars(layer).get("forward"), _Packed) for layer in model.modules()):
        return 0  # it is packed already
    layers = list(packable(model))
    size = sum(layer.weight.numel() * 4 for layer in layers)
    free = psutil.virtual_memory().available
    if not layers:
        reason = "it has no linear layer with float32 weights on a CPU"
    elif size > MEMORY_SHARE * free:
        reason = f"the copies take {size / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free"
    elif product := _fastest(layers):
        for layer in layers:
            # of this object alone, which types have no word for
            setattr(layer, "forward", _Packed(layer, product))  # noqa: B010
        return size
    else:
        reason = f"torch {torch.__version__} has no MKL or oneDNN operators for it"
    if is_required:
        raise UnsupportedModelError(f"pack_weights: the weights of {type(model).__name__} cannot be packed: {reason}.")
    return 0
