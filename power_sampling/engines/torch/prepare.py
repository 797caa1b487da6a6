"""Which way leads to a model's logits: chosen once, when it is loaded."""

from __future__ import annotations

import logging

import psutil
import torch
from transformers import PreTrainedModel

from power_sampling.engines.torch.cpu.layers import LlamaForward, refusal
from power_sampling.engines.torch.cpu.linear import PackedLinear, can_pack, packable, replace_layers
from power_sampling.engines.torch.cuda_graphs import GraphedForward, can_be_static
from power_sampling.engines.torch.forward import Forward
from power_sampling.engines.torch.plain import PlainForward, input_device
from power_sampling.engines.torch.trial import first_right, gap_of
from power_sampling.errors import UnsupportedModelError

__all__ = ["prepare"]

MEMORY_SHARE = 0.5  # of what is free, for copies of weights

log = logging.getLogger(__name__)


def prepare(
    model: PreTrainedModel,
    *,
    pack_weights: bool | None = None,
    compile_layers: bool = False,
    cuda_graphs: bool = False,
    is_own: bool = False,
    check_model: bool = False,
) -> Forward:
    """The fastest way to this model's logits that these settings allow.

    On a processor, float32 weights are laid out anew (`pack_weights`; None: those of a model that `is_own`, if memory
    allows), and models whose layers are written down in `cpu/layers.py` are computed by those where a trial agrees. In
    other models linear layers are replaced by packed ones, which hold the same parameters. `compile_layers` asks for
    written layers, packed or not. Raises UnsupportedModelError where what is asked for cannot be had, and with
    `check_model` where no way leads to the logits of the model's full passes."""
    plain = PlainForward(model)
    reason = _why_not_packed(model)
    if pack_weights and reason is not None:
        raise _refusal(model, "pack_weights", reason)
    packs = reason is None and (is_own if pack_weights is None else pack_weights)
    if packs or compile_layers:
        written = _written(model, plain, packs=packs)
        if isinstance(written, LlamaForward):
            return written
        if compile_layers:
            raise _refusal(model, "compile_layers", written)
        replace_layers(model)
    if check_model:
        plain = first_right(model, PlainForward.ways(model))
    device = input_device(model)
    if cuda_graphs and device.type == "cuda" and can_be_static(model):
        return GraphedForward(plain, device)
    return plain


def _why_not_packed(model: PreTrainedModel) -> str | None:
    """None if its weights can be, or are already."""
    if any(isinstance(layer, PackedLinear) for layer in model.modules()):
        return None
    layers = list(packable(model))
    size = sum(layer.weight.nbytes for layer in layers)
    free = psutil.virtual_memory().available
    if not layers:
        return "it has no linear layer with float32 weights on a CPU"
    if not can_pack():
        return (
            f"torch {torch.__version__} has no operators for it, and loops of our own need Linux and a C++ compiler "
            "(install g++, or name one in $CXX)"
        )
    if size > MEMORY_SHARE * free:
        return f"the copies take {size / 2**30:.1f} GiB at most and {free / 2**30:.1f} GiB are free"
    return None


def _written(model: PreTrainedModel, plain: Forward, *, packs: bool) -> LlamaForward | str:
    """The model by layers that are written down, or why not."""
    if reason := refusal(model):
        return reason
    written = LlamaForward(model, plain, packs=packs)
    gap = gap_of(model, written)
    if gap.is_small:
        return written
    name = type(model).__name__
    log.warning("%s is computed as transformers does: logits of a trial differ by %.2g.", name, gap.size)
    return f"logits of a trial differ by {gap.size:.2g} of their range"


def _refusal(model: PreTrainedModel, setting: str, reason: str) -> UnsupportedModelError:
    return UnsupportedModelError(f"{setting}: {type(model).__name__} cannot have it: {reason}. Leave it out.")
