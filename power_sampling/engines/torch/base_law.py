"""Logits of the base laws of a batch of rows that are not softmax(logits / temperature), in terms of tensors.

What `power_sampling.engines.choice.base_logits` says in numpy, for the rows that ask for it; other rows keep their
numbers bit for bit, and a batch without such rows never comes here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch

from power_sampling.types import Law

__all__ = ["BaseLaws"]


class BaseLaws(NamedTuple):
    """The rows with a base law of their own, as columns: (r, 1) for r of them."""

    places: tuple[int, ...]  # in the batch
    rows: torch.Tensor  # (r,) the same on the device
    is_own: torch.Tensor  # (rows of the batch, 1), bool
    temperature: torch.Tensor
    bias_at: tuple[torch.Tensor, torch.Tensor] | None  # rows among the r, tokens
    bias: torch.Tensor
    top_k: torch.Tensor | None
    top_p: torch.Tensor | None
    log_min_p: torch.Tensor | None

    @classmethod
    def of(cls, laws: Sequence[Law], like: torch.Tensor) -> BaseLaws | None:
        """In the type and on the device of `like`; None where no law has one."""
        own = [(i, law, law.base) for i, law in enumerate(laws) if law.base is not None]
        if not own:
            return None

        def column(values: Sequence[float], dtype: torch.dtype = like.dtype) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype)[:, None].to(like.device)

        def optional(values: Sequence[float | None], neutral: float, dtype: torch.dtype) -> torch.Tensor | None:
            if all(value is None for value in values):
                return None
            return column([neutral if value is None else value for value in values], dtype)

        biases = [(i, token, bias) for i, (_, _, base) in enumerate(own) for token, bias in base.logit_bias]
        at = torch.tensor([(i, token) for i, token, _ in biases], dtype=torch.long).to(like.device).unbind(-1)
        return cls(
            tuple(i for i, _, _ in own),
            torch.tensor([i for i, _, _ in own]).to(like.device),
            torch.tensor([law.base is not None for law in laws])[:, None].to(like.device),
            column([law.temperature for _, law, _ in own]),
            (at[0], at[1]) if biases else None,
            torch.tensor([bias for *_, bias in biases], dtype=like.dtype).to(like.device),
            optional([base.top_k for *_, base in own], 2**62, torch.long),
            optional([base.top_p for *_, base in own], 2.0, torch.float64),
            optional([math.log(base.min_p) if base.min_p else None for *_, base in own], -math.inf, like.dtype),
        )

    def logits(self, logits: torch.Tensor, excluded: Sequence[Sequence[int]]) -> torch.Tensor:
        """The batch's logits, (rows, vocabulary), -inf where a row's base law gives a token no probability. `excluded`
        are the tokens that would complete a bad word, row by row."""
        own = logits[self.rows]
        if self.bias_at is not None:
            own.index_put_(self.bias_at, self.bias, accumulate=True)
        at = [(i, token) for i, place in enumerate(self.places) for token in (excluded[place] if excluded else ())]
        if at:
            rows, tokens = torch.tensor(at, device=own.device).unbind(-1)
            own[rows, tokens] = -math.inf
        scaled = own / self.temperature
        least = self._least(scaled)
        if least is not None:
            own.masked_fill_(scaled < least, -math.inf)
        return logits.index_copy(0, self.rows, own)

    def _least(self, scaled: torch.Tensor) -> torch.Tensor | None:
        """(r, 1): below it a token is not kept; None: all are."""
        least = None
        size = scaled.shape[-1]
        if self.top_k is not None or self.top_p is not None:
            ordered = scaled.sort(-1, descending=True).values
            if self.top_k is not None:
                least = ordered.gather(-1, self.top_k.clamp_max(size) - 1)
            if self.top_p is not None:
                kept = ordered if least is None else ordered.masked_fill(ordered < least, -math.inf)
                p = torch.softmax(kept, -1, dtype=torch.float64)
                enough = ((p.cumsum(-1) - p) < self.top_p).sum(-1, keepdim=True).clamp(min=1)
                # of tokens without weight, the sum may fall short of top_p for ever: none of them is the last one kept
                weighty = (kept > -math.inf).sum(-1, keepdim=True).clamp(min=1)
                least = kept.gather(-1, torch.minimum(enough, weighty) - 1)
        if self.log_min_p is not None:
            likely = scaled.amax(-1, keepdim=True) + self.log_min_p
            least = likely if least is None else torch.maximum(least, likely)
        return least
