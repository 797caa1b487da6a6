"""Linear layers whose weights are laid out once for the processor, so that eight rows cost little more than one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn
from torch.nn import functional

from power_sampling.engines.torch.changes import version
from power_sampling.engines.torch.cpu.kernels import operators
from power_sampling.engines.torch.cpu.operators import Operators, has_onednn

__all__ = ["Linear", "PackedLinear", "can_pack", "packable", "replace_layers"]


class Linear:
    """Layers that are fed one tensor, such as the projections to queries, keys and values, as one product: their
    outputs side by side."""

    def __init__(self, layers: Sequence[nn.Linear], *, packs: bool) -> None:
        self._layers = layers
        biases = [layer.bias for layer in layers if layer.bias is not None]
        bias = _joined(biases) if len(biases) == len(layers) else None
        is_one = packs and (bias is not None or not biases)
        self.product = operators().product(_joined([layer.weight for layer in layers]), bias) if is_one else None

    @property
    def nbytes(self) -> int:
        """Bytes of the copies."""
        return self.product.nbytes if self.product else 0

    def __call__(self, x: torch.Tensor, onto: torch.Tensor | None = None) -> torch.Tensor:
        """(n, in) -> (n, out), added to `onto` where it is given."""
        if self.product is not None:
            return self.product(x, onto)
        parts = [functional.linear(x, layer.weight, layer.bias) for layer in self._layers]
        y = parts[0] if len(parts) == 1 else torch.cat(parts, -1)
        return y if onto is None else onto.add_(y)


def _joined(tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    return tensors[0].detach() if len(tensors) == 1 else torch.cat([x.detach() for x in tensors])


class PackedLinear(nn.Linear):
    """A linear layer in a model's own place, with the same parameters, that reads their copies laid out for the
    processor. It reads the parameters themselves where they have changed since, and where gradients are wanted."""

    def __init__(self, layer: nn.Linear) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.weight, self.bias = layer.weight, layer.bias
        self.train(layer.training)
        self._product = Linear([layer], packs=True).product
        self._seen = self._versions()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        fits = x.dtype == torch.float32 and x.device.type == "cpu" and x.shape[-1] == self.in_features
        if self._product is None or not fits or torch.is_grad_enabled() or self._seen != self._versions():
            return super().forward(x)  # it also says what is wrong with x
        return self._product(x.reshape(-1, self.in_features)).view(*x.shape[:-1], self.out_features)

    def forget(self) -> None:
        """Read the parameters themselves from now on."""
        self._product = None

    def _versions(self) -> list[int]:
        return [version(x) for x in self._parameters.values() if x is not None]


def packable(model: nn.Module) -> Iterator[nn.Linear]:
    """The layers that can be packed: plain linear layers with float32 weights on a CPU, whoever else holds the weights.
    Quantised layers, adapters around a layer and layers that other code is attached to are left alone."""
    for layer in model.modules():
        if not isinstance(layer, nn.Linear) or type(layer) is not nn.Linear:
            continue
        is_plain = not {"forward", "_hf_hook"} & vars(layer).keys()
        is_plain = is_plain and not (layer._forward_hooks or layer._forward_pre_hooks)
        is_plain = is_plain and type(layer.weight) is nn.Parameter  # else its bits may be others, as torchao's are
        if is_plain and layer.weight.dtype == torch.float32 and layer.weight.device.type == "cpu":
            yield layer


def can_pack() -> bool:
    """Whether there is anything for it on this machine."""
    return type(operators()) is not Operators or has_onednn()


def replace_layers(model: nn.Module) -> None:
    """Put packed layers in the places of those that can be packed."""
    packed = {layer: PackedLinear(layer) for layer in packable(model)}
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear) and child in packed:
                setattr(parent, name, packed[child])
