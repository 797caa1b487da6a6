"""Whether a model is still the one whose states and copies of weights are kept."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn

__all__ = ["Changes", "version"]


class _Look(NamedTuple):
    weights: list[Any]  # which tensors, changed how often
    adapters: list[Any]  # which of them answer


class Changes:
    """Notices tensors that are exchanged or changed in place, and adapters that are merged, switched or scaled. What is
    written through `.data` counts nowhere, so it cannot be noticed."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._seen = _look(model)

    def noticed(self) -> tuple[bool, bool]:
        """Since this was asked last: whether weights are others, and whether other adapters answer."""
        before, self._seen = self._seen, _look(self._model)
        return before.weights != self._seen.weights, before.adapters != self._seen.adapters


def version(tensor: torch.Tensor) -> int:
    """How often a tensor has been changed in place; those of inference mode do not count."""
    return 0 if tensor.is_inference() else tensor._version


def _look(model: nn.Module) -> _Look:
    weights: list[Any] = []
    adapters: list[Any] = []
    for module in model.modules():
        weights += [_identity(x) for x in module._parameters.values() if x is not None]
        for name, buffer in module._buffers.items():
            # others are worked out in every pass
            if buffer is not None and name not in module._non_persistent_buffers_set:
                weights.append(_identity(buffer))
        if "merged_adapters" in vars(module):  # a layer of peft; merging changes weights through `.data`
            merged: Any = module.merged_adapters
            weights.append(list(merged))
            answering = [getattr(module, name, None) for name in ("_active_adapter", "_disable_adapters", "scaling")]
            adapters.append([dict(x) if isinstance(x, dict) else repr(x) for x in answering])
    return _Look(weights, adapters)


def _identity(tensor: torch.Tensor) -> Any:
    """Those that accelerate has put away are others after every pass, and have no content."""
    return tensor.shape if tensor.is_meta else (id(tensor), _address(tensor), version(tensor))


def _address(tensor: torch.Tensor) -> int:
    try:
        return tensor.data_ptr()
    except RuntimeError:  # made of several tensors, as quantised weights may be
        return 0
