"""The one door to a model: tokens and where they stand go in, logits come out.

Whoever decodes knows this and no implementation: `plain.py` calls a model as transformers has it, `cpu/` computes it by
layers of our own on a processor, `cuda_graphs.py` replays what another one does. `prepare.py` chooses.
"""

from __future__ import annotations

from typing import Protocol

import torch

from power_sampling.engines.torch.kv import BatchCache

__all__ = ["Forward", "kept"]


class Forward(Protocol):
    """One pass of a causal language model over new tokens of every row."""

    def __call__(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        pads: torch.Tensor,
        cache: BatchCache,
        keep: int | torch.Tensor,
    ) -> torch.Tensor:
        """Append `tokens` (rows, new) to the rows of `cache`, which makes room for them and counts them as its own.

        `positions` (rows, new) are theirs, counted from each row's beginning; `pads` (rows, 1) are `cache.pads`. A row
        that has fewer new tokens than the widest is padded on the right, where nothing of its own looks. Returns the
        logits of the last `keep` positions, or of those that a tensor lists: (rows, kept, vocabulary)."""
        ...


def kept(states: torch.Tensor, keep: int | torch.Tensor) -> torch.Tensor:
    """Of (rows, new, ...), the positions that `keep` names."""
    return states[:, -keep:] if isinstance(keep, int) else states[:, keep]
