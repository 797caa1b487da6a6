"""Attention of one new position of every row on a CPU, by a loop of our own (`attention.cpp`).

torch's operator is made for many queries: with a few rows and a few hundred slots it takes up to twice as long. This
one reads keys and values once for all heads that share them, where they lie."""

from __future__ import annotations

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch.nn.functional import scaled_dot_product_attention

from power_sampling.engines.torch.cpu.native import built

__all__ = ["attend"]

SOURCE = Path(__file__).with_suffix(".cpp")
LANES = 16  # a head's numbers come in multiples of it
TOLERANCE = 1e-5


def attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    """softmax(scale q k^T) v of one position in every row: query (rows, heads, 1, dim), keys and values (rows, groups,
    slots, dim), a mask (rows, 1, 1, slots), True where a slot is seen, or to be added -> (rows, 1, heads, dim)."""
    library = _library()
    if library is None or not _takes(library, query, keys, values, mask):
        return _by_torch(query, keys, values, mask, scale)
    return _by_library(library, query, keys, values, mask, scale)


def _by_torch(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None, scale: float
) -> torch.Tensor:
    rows, heads, _, dim = query.shape
    groups = keys.shape[1]
    # the heads of a group as positions of one: its keys and values are read once
    grouped = query.reshape(rows, groups, heads // groups, dim)
    found = scaled_dot_product_attention(grouped, keys, values, attn_mask=mask, scale=scale)
    return found.reshape(rows, 1, heads, values.shape[3])


def _by_library(
    library: ctypes.CDLL,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scale: float,
) -> torch.Tensor:
    query, mask = query.contiguous(), mask if mask is None else mask.contiguous()
    rows, heads, _, dim = query.shape
    _, groups, slots, _ = keys.shape
    result = query.new_empty(rows, 1, heads, dim)
    library.attend_one(
        query.data_ptr(),
        keys.data_ptr(),
        values.data_ptr(),
        None if mask is None else mask.data_ptr(),
        *(rows, groups, heads // groups, slots, dim),
        *(*keys.stride()[:2], *values.stride()[:2]),
        scale,
        result.data_ptr(),
        torch.get_num_threads(),
    )
    return result


def _takes(
    library: ctypes.CDLL, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
) -> bool:
    rows, heads, _, dim = query.shape
    groups, slots = keys.shape[1:3]
    if query.dtype != torch.float32 or dim % LANES or dim > library.longest_head() or heads % groups:
        return False
    if mask is not None and (mask.shape != (rows, 1, 1, slots) or mask.dtype != torch.bool):
        return False
    shape = rows, groups, slots, dim
    return all(x.shape == shape and x.dtype == torch.float32 and x.stride()[2:] == (dim, 1) for x in (keys, values))


@cache
def _library() -> ctypes.CDLL | None:
    return built(SOURCE, _agrees)


@torch.inference_mode()
def _agrees(library: ctypes.CDLL) -> bool:
    """Whether rows of several lengths come out as torch has them."""
    size, at = ctypes.c_long, ctypes.c_void_p
    library.attend_one.argtypes = (at,) * 4 + (size,) * 9 + (ctypes.c_float, at, ctypes.c_int)
    library.attend_one.restype = None
    random = torch.Generator().manual_seed(0)
    query = torch.randn(5, 6, 1, 32, generator=random)
    keys, values = torch.randn(2, 5, 2, 100, 32, generator=random).narrow(3, 3, 77)
    mask = torch.arange(77).expand(5, 1, 1, 77) >= 15 * torch.arange(5).view(5, 1, 1, 1)
    gap = _by_library(library, query, keys, values, mask, 0.5) - _by_torch(query, keys, values, mask, 0.5)
    return bool(gap.abs().max() < TOLERANCE)
