"""float64 all the way: many a model computes its recurrence, its routing or its softmax in float32 whatever its dtype,
and what that rounds away hides errors as large."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["doubled"]


@contextmanager
def doubled() -> Iterator[None]:
    """Within, whatever asks a tensor for float32 gets float64."""
    to, kind = torch.Tensor.to, torch.Tensor.type

    def wide(self: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        def widened(x: Any) -> Any:
            return torch.float64 if x is torch.float32 else x

        return to(self, *map(widened, args), **{name: widened(x) for name, x in options.items()})

    def retyped(self: torch.Tensor, *args: Any, **options: Any) -> Any:
        return kind(self, *(torch.float64 if x is torch.float32 else x for x in args), **options)

    with torch.no_grad():
        patch = {"to": wide, "type": retyped, "float": torch.Tensor.double}
        before = {name: getattr(torch.Tensor, name) for name in patch}
        try:
            for name, method in patch.items():
                setattr(torch.Tensor, name, method)
            yield
        finally:
            for name, method in before.items():
                setattr(torch.Tensor, name, method)
