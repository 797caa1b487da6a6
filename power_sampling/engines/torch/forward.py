"""The one door to the model: tokens in, logits out. Backends know no implementation."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import torch
from transformers import PreTrainedModel

from power_sampling.engines.torch.kv import BatchCache

__all__ = ["Forward", "PlainForward"]


class Forward(Protocol):
    """One pass of a model that appends `new` tokens to every row of a batch."""

    def __call__(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        pads: torch.Tensor,
        cache: BatchCache,
        keep: int | torch.Tensor = 1,
    ) -> torch.Tensor:
        """Tokens and positions (rows, new), pads (rows, 1), all on the device of the model's input. Returns the logits
        of the last `keep` positions, or of these positions, or of all for a model that cannot tell them apart: (rows,
        positions, vocabulary)."""


class PlainForward:
    """A transformers model, called as `generate` would call it."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._accepted = set(inspect.signature(model.forward).parameters)

    def __call__(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        pads: torch.Tensor,
        cache: BatchCache,
        keep: int | torch.Tensor = 1,
    ) -> torch.Tensor:
        new = tokens.shape[1]
        cache.reserve(new)
        logits = self.logits(tokens, positions, cache.mask(new, pads), cache, keep)
        cache.advance(new)
        return logits

    def logits(
        self,
        tokens: torch.Tensor,
        positions: torch.Tensor,
        mask: torch.Tensor | None,
        cache: Any,
        keep: int | torch.Tensor = 1,
    ) -> torch.Tensor:
        """The model's own call, with what it accepts of this."""
        arguments: dict[str, Any] = {
            "input_ids": tokens,
            "position_ids": positions,
            "attention_mask": mask,
            "past_key_values": cache,
            "use_cache": True,
            "logits_to_keep": keep,
        }
        found: torch.Tensor = self._model(**{n: value for n, value in arguments.items() if n in self._accepted}).logits
        return found
