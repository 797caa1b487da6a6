"""Weights of linear layers laid out once for the processor, so that eight rows cost little more than one.

With few rows, torch's `linear` on a CPU leaves most of the arithmetic unused, because it lays the weights out anew in
every call. oneDNN can do it once; the operators are those of torch's own compiler, which freezes weights in this way.
They are no public interface, so their absence is no error unless packing was asked for. One row is faster without.
"""

from __future__ import annotations

from collections.abc import Iterator

import psutil
import torch
from torch import nn
from torch.nn import functional

from power_sampling.errors import UnsupportedModelError

__all__ = ["can_pack", "pack", "packable"]

MEMORY_SHARE = 0.5  # of what is free, for the copies


class _Packed:
    """The forward of one layer. It reads the plain weights again whenever they have changed since."""

    def __init__(self, layer: nn.Linear) -> None:
        self._layer = layer
        self._weight: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None)
        self._version = layer.weight._version

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        layer = self._layer
        is_plain = x.numel() <= layer.in_features or x.dtype != torch.float32 or layer.weight._version != self._version
        if is_plain or torch.is_grad_enabled():
            return functional.linear(x, layer.weight, layer.bias)
        y: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, layer.bias, "none", [], "")
        return y


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
    """Whether this torch has the operators."""
    has_onednn: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call] # torch has no types here
    return has_onednn and all(hasattr(torch.ops.mkldnn, n) for n in ("_reorder_linear_weight", "_linear_pointwise"))


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
    elif not can_pack():
        reason = f"torch {torch.__version__} has no oneDNN operators for it"
    elif size > MEMORY_SHARE * free:
        reason = f"the copies take {size / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free"
    else:
        for layer in layers:
            setattr(layer, "forward", _Packed(layer))  # noqa: B010 - of this object alone, which types have no word for
        return size
    if is_required:
        raise UnsupportedModelError(f"pack_weights: the weights of {type(model).__name__} cannot be packed: {reason}.")
    return 0
