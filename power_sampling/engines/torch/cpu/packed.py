"""Weights of linear layers laid out once for the processor, so that eight rows cost little more than one.

With few rows, torch's `linear` on a CPU leaves most of the arithmetic unused, because it lays the weights out anew in
every call. MKL and oneDNN can do it once; the operators are those of torch's own compiler, which freezes weights in
this way. They are no public interface, so their absence is no error unless packing was asked for.

torch's compiler lets MKL's layout serve only as many rows as it was made for. It is the same for any number, which is
not documented: it is used only where a trial with several numbers of rows agrees with `linear`, and oneDNN's otherwise.

For few rows, weights are read in fewer bits where that loses nothing (`compact.py`).

Layers that are fed the same tensor, such as the projections to queries, keys and values, are one product.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence

import psutil
import torch
from torch import nn
from torch.nn import functional

from power_sampling.engines.torch.cpu.compact import compact
from power_sampling.errors import UnsupportedModelError

__all__ = ["can_pack", "pack", "packable"]

MEMORY_SHARE = 0.5  # of what is free, for the copies
COPIED = 6  # bytes for a weight at most: a float laid out anew, and half of one for few rows
PACKED_FOR = 128  # rows; measured: as fast as any other for fewer, and faster for more
TRIED = (1, 2, 3, 5, 8, 16, 31, 64, PACKED_FOR, 300)  # numbers of rows
TOLERANCE = 1e-4  # of the largest output, for sums in another order; a layout that does not serve is off by all of it
# What transformers calls layers with one input. Where they turn out to have several, each is computed by itself.
TOGETHER = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))


class _Mkl:
    """Weights (out, in) as MKL lays them out."""

    fewest = 1  # rows it is faster for than `linear`

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._packed = torch.ops.mkl._mkl_reorder_linear_weight(weight, PACKED_FOR)
        self._multiply = torch.ops.mkl._mkl_linear.default
        self._shape_of = weight.new_empty(()).expand(weight.shape)  # is asked for nothing else
        self._bias = bias

    def __call__(self, x: torch.Tensor, rows: int) -> torch.Tensor:
        y: torch.Tensor = self._multiply(x, self._packed, self._shape_of, self._bias, rows)
        return y


class _OneDnn:
    """Weights (out, in) as oneDNN lays them out."""

    fewest = 4

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._packed, self._bias = torch.ops.mkldnn._reorder_linear_weight(weight, None), bias
        self._multiply = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: torch.Tensor, rows: int) -> torch.Tensor:
        y: torch.Tensor = self._multiply(x, self._packed, self._bias, "none", [], "")
        return y


Product = _Mkl | _OneDnn


class _Together:
    """Layers that are fed one tensor, as one product. They read the plain weights again whenever those have changed
    since."""

    def __init__(self, layers: list[nn.Linear], layout: type[Product]) -> None:
        self.layers = layers
        self._parameters = [layer._parameters for layer in layers]  # read at every step: modules find them slowly
        self._versions = self._current_versions()
        self._widths = [layer.out_features for layer in layers]
        biases: list[torch.Tensor] = [layer.bias for layer in layers if layer.bias is not None]
        weight, bias = _joined([layer.weight for layer in layers]), _joined(biases) if biases else None
        self._product, self._compact = layout(weight, bias), compact(weight, bias)
        self.nbytes = weight.nbytes + (self._compact.nbytes if self._compact else 0)  # of the copies
        # what was asked, with the answers: one object, because several engines may run one model at a time
        self._answered: tuple[torch.Tensor, tuple[torch.Tensor, ...]] | None = None
        _BY_WEIGHT[layers[0].weight.data_ptr()] = self

    def answer(self, place: int, x: torch.Tensor) -> torch.Tensor:
        """What one layer makes of x. The first computes all; another one takes its share if it is fed the same."""
        answered = self._answered
        if place and answered is not None and x is answered[0]:
            if place == len(self.layers) - 1:
                self._answered = None
            return answered[1][place]
        if place or (joint := self._joint(x)) is None:
            return _plain(self.layers[place], x)
        if len(self.layers) == 1:
            return joint
        answers = joint.split_with_sizes(self._widths, -1)
        self._answered = x, answers
        return answers[0]

    def _joint(self, x: torch.Tensor) -> torch.Tensor | None:
        """All outputs side by side, (..., out); None where the plain layers serve better."""
        if torch.compiler.is_compiling():
            y: torch.Tensor = torch.ops.power_sampling.linear(x, self.layers[0].weight, sum(self._widths))
            return y
        return self._packed(x)

    def compute(self, x: torch.Tensor) -> torch.Tensor:
        """All outputs side by side."""
        joint = self._packed(x)
        return torch.cat([_plain(layer, x) for layer in self.layers], -1) if joint is None else joint

    def _packed(self, x: torch.Tensor) -> torch.Tensor | None:
        width = self.layers[0].in_features
        if x.dtype != torch.float32 or x.device.type != "cpu" or x.shape[-1] != width:
            return None  # the plain layer says what is wrong with it
        if torch.is_grad_enabled() or self._versions != self._current_versions():
            return None
        rows = x.numel() // width
        if self._compact is not None and rows <= self._compact.most:
            return self._compact(x, rows)
        return self._product(x, rows) if rows >= self._product.fewest else None

    def _current_versions(self) -> list[int]:
        return [x._version for parameters in self._parameters for x in parameters.values() if x is not None]


class _Packed:
    """The forward of one layer."""

    def __init__(self, together: _Together, place: int) -> None:
        self.together, self._place = together, place

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return self.together.answer(self._place, x)


# what a compiled program calls; it knows a layer by its weights
_BY_WEIGHT: weakref.WeakValueDictionary[int, _Together] = weakref.WeakValueDictionary()
torch.library.define("power_sampling::linear", "(Tensor x, Tensor weight, int width) -> Tensor")


@torch.library.impl("power_sampling::linear", "CPU")
def _compute(x: torch.Tensor, weight: torch.Tensor, width: int) -> torch.Tensor:
    return _BY_WEIGHT[weight.data_ptr()].compute(x)


@torch.library.register_fake("power_sampling::linear")  # type: ignore[untyped-decorator] # torch has no types here
def _like(x: torch.Tensor, weight: torch.Tensor, width: int) -> torch.Tensor:
    return x.new_empty(*x.shape[:-1], width)


def _plain(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    return functional.linear(x, layer.weight, layer.bias)


def _joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return tensors[0].detach() if len(tensors) == 1 else torch.cat([x.detach() for x in tensors])


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
    product = _Mkl(layer.weight.detach(), layer.bias)
    random = torch.Generator().manual_seed(0)
    for rows in TRIED:
        x = torch.randn(rows, layer.in_features, generator=random)
        expected = _plain(layer, x)
        if (product(x, rows) - expected).abs().max() > TOLERANCE * expected.abs().max():
            return False
    return True


def _those_together(model: nn.Module, layers: list[nn.Linear]) -> list[list[nn.Linear]]:
    """The layers in groups that have one input; most are alone."""
    left = dict.fromkeys(layers)
    groups = []
    for parent in model.modules():
        for names in TOGETHER:
            group = [getattr(parent, name, None) for name in names]
            found = [layer for layer in group if isinstance(layer, nn.Linear) and layer in left]
            if len(found) == len(names) and len({(x.in_features, x.bias is None) for x in found}) == 1:
                groups.append(found)
                for layer in found:
                    del left[layer]
    return groups + [[layer] for layer in left]


def pack(model: nn.Module, *, is_required: bool) -> int:
    """Pack what can be packed. Returns the bytes of new copies; 0 where the operators or the memory are missing.
    Raises UnsupportedModelError instead of returning 0 if `is_required`."""
    if any(isinstance(vars(layer).get("forward"), _Packed) for layer in model.modules()):
        return 0  # it is packed already
    layers = list(packable(model))
    size = sum(layer.weight.numel() * COPIED for layer in layers)
    free = psutil.virtual_memory().available
    if not layers:
        reason = "it has no linear layer with float32 weights on a CPU"
    elif size > MEMORY_SHARE * free:
        reason = f"the copies take {size / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free"
    elif layout := _fastest(layers):
        packed = [_Together(group, layout) for group in _those_together(model, layers)]
        for together in packed:
            for place, layer in enumerate(together.layers):
                # of this object alone, which types have no word for
                setattr(layer, "forward", _Packed(together, place))  # noqa: B010
        return sum(together.nbytes for together in packed)
    else:
        reason = f"torch {torch.__version__} has no MKL or oneDNN operators for it"
    if is_required:
        raise UnsupportedModelError(f"pack_weights: the weights of {type(model).__name__} cannot be packed: {reason}.")
    return 0
