"""What a decoder layer is made of, in torch's words.

`kernels.py` computes the same by loops of our own for processors that they are made for. This is what those are tried
against, and what runs wherever they do not.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch.nn import functional

__all__ = ["EVERYTHING", "Operators", "Product", "Sight"]

EVERYTHING = 1 << 40  # the window of attention that sees all slots


class Product(Protocol):
    """x W^T + b of weights laid out for the processor: (n, in) -> (n, out), added to `onto` where it is given."""

    nbytes: int

    def __call__(self, x: torch.Tensor, onto: torch.Tensor | None = None) -> torch.Tensor: ...


class Sight:
    """Which slots the new positions of every row see: from `left` up to their own, which begin at `cursor`, less
    `hidden` (rows,) ones at the row's beginning, and at most a window of them."""

    def __init__(self, rows: int, new: int, left: int, cursor: int, hidden: torch.Tensor, *, hides: bool) -> None:
        self.rows, self.new, self.left, self.cursor, self.hidden = rows, new, left, cursor, hidden
        self.slots = cursor + new - left
        self._hides = hides  # whether any is hidden
        self._masks: dict[int, torch.Tensor | None] = {}

    def mask(self, window: int) -> torch.Tensor | None:
        """(rows or 1, 1, new, slots); None where it is the causal one or hides nothing."""
        if window not in self._masks:
            self._masks[window] = self._mask(window)
        return self._masks[window]

    def _mask(self, window: int) -> torch.Tensor | None:
        if not self._hides and window >= self.slots and self.new in (1, self.slots):
            return None
        slots = torch.arange(self.slots)
        own = slots[self.slots - self.new :, None]
        mask = (slots <= own) & (slots > own - window)
        return mask & (slots >= self.hidden[:, None, None, None]) if self._hides else mask[None, None]


class Operators:
    """Any shape, any type of floats."""

    def product(self, weight: torch.Tensor, bias: torch.Tensor | None) -> Product | None:
        """Weights (out, in) laid out; None where torch has nothing better than `linear`."""
        return OneDnn(weight, bias) if has_onednn() and self.are_single(weight, bias) else None

    @staticmethod
    def are_single(weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
        """Whether these are float32 numbers on a CPU, and any."""
        return weight.numel() > 0 and all(
            x.is_cpu and x.dtype == torch.float32 for x in (weight, bias) if x is not None
        )

    def norm(self, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        """x / rms(x) * weight, over the last dimension; computed in float32, as transformers does."""
        single = x.float()
        share = torch.rsqrt(single.pow(2).mean(-1, keepdim=True) + eps)
        return weight * (single * share).to(x.dtype)

    def gate(self, x: torch.Tensor) -> torch.Tensor:
        """silu(gate) * up, which lie side by side: (n, 2 * width) -> (n, width)."""
        gate, up = x.chunk(2, -1)
        return functional.silu(gate) * up

    def attend(
        self,
        states: torch.Tensor,
        turns: tuple[torch.Tensor, torch.Tensor],
        keys: torch.Tensor,
        values: torch.Tensor,
        sight: Sight,
        window: int,
        scale: float,
    ) -> torch.Tensor:
        """Attention of new positions to themselves and those before: softmax(scale q k^T) v, (rows, new, heads * dim).

        `states` (rows, new, heads + 2 groups, dim) are their queries, keys and values, which may be written over.
        Queries and keys are rotated by `turns`, cos and sin (rows, new, dim); keys and values are put into the slots
        that begin at the cursor of a cache's buffers (at least rows, groups, at least slots, dim)."""
        groups = keys.shape[1]
        query, key, value = states.split_with_sizes((states.shape[2] - 2 * groups, groups, groups), 2)
        cos, sin = (x.unsqueeze(2) for x in turns)
        for buffer, new in ((keys, _rotated(key, cos, sin)), (values, value)):
            buffer[: sight.rows].narrow(2, sight.cursor, sight.new).copy_(new.transpose(1, 2))
        return self.weighted(_rotated(query, cos, sin), keys, values, sight, window, scale)

    def weighted(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, sight: Sight, window: int, scale: float
    ) -> torch.Tensor:
        """The same for queries that are rotated, and keys and values that are in place."""
        rows, new, heads, dim = query.shape
        keys, values = (x[:rows].narrow(2, sight.left, sight.slots) for x in (keys, values))
        groups, mask = keys.shape[1], sight.mask(window)
        if new == 1:  # the heads of a group as positions of one: its keys and values are read once
            query, is_causal = query.reshape(rows, groups, heads // groups, dim), False
        else:
            query, is_causal = query.transpose(1, 2), mask is None
        found = functional.scaled_dot_product_attention(
            query, keys, values, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=groups != query.shape[1]
        )
        return (found if new == 1 else found.transpose(1, 2)).reshape(rows, new, heads * dim)


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


class OneDnn:
    """Weights as oneDNN lays them out, by the operators that torch's own compiler uses to freeze weights. They are no
    public interface, so their absence is no error."""

    fewest = 4  # rows it is faster for than `linear`

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
        self._weight, self._bias, self.nbytes = weight, bias, weight.nbytes
        self._multiply = torch.ops.mkldnn._linear_pointwise.default

    def __call__(self, x: torch.Tensor, onto: torch.Tensor | None = None) -> torch.Tensor:
        if len(x) < self.fewest:
            y = functional.linear(x, self._weight, self._bias)
        else:
            y = self._multiply(x, self._packed, self._bias, "none", [], "")
        return y if onto is None else onto.add_(y)


def has_onednn() -> bool:
    """Whether this torch has the operators."""
    has_it: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call] # torch has no types here
    return has_it and all(hasattr(torch.ops.mkldnn, n) for n in ("_reorder_linear_weight", "_linear_pointwise"))
