"""Attention by a loop of our own is torch's, for all shapes that it takes, and torch computes the others."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from power_sampling.engines.torch.cpu import attention
from tests.support.native import any_target

pytestmark = pytest.mark.skipif(
    attention._library() is None, reason="this machine has no processor or no compiler for it"
)
_any_target = any_target(attention._library)


def problem(rows: int, heads: int, groups: int, slots: int, dim: int, dtype: Any = torch.float32) -> Any:
    """A query, and a window in buffers of keys and values."""
    random = torch.Generator().manual_seed(slots)
    query = torch.randn(rows, heads, 1, dim, generator=random, dtype=dtype)
    keys, values = torch.randn(2, rows + 2, groups, slots + 9, dim, generator=random, dtype=dtype)
    return query, *(x.narrow(0, 0, rows).narrow(2, 5, slots) for x in (keys, values))


def left_padded(rows: int, slots: int) -> torch.Tensor:
    pads = (torch.arange(rows) * 7).clamp(max=slots - 1).view(rows, 1, 1, 1)
    return torch.arange(slots).expand(rows, 1, 1, slots) >= pads


def is_by_library(*arguments: Any) -> bool:
    library = attention._library()
    assert library is not None
    return attention._takes(library, *arguments)


@pytest.mark.usefixtures("_any_target")
@pytest.mark.parametrize("is_masked", [False, True])
def test_any_shape_is_as_torch_has_it(is_masked: bool) -> None:
    for rows, heads, groups, slots, dim in (
        (1, 1, 1, 1, 16),
        (1, 9, 3, 15, 64),
        (5, 4, 4, 16, 32),
        (8, 9, 3, 100, 64),
        (3, 8, 1, 300, 96),
        (2, 16, 2, 65, 128),
        (4, 4, 2, 1000, 256),
    ):
        query, keys, values = problem(rows, heads, groups, slots, dim)
        mask = left_padded(rows, slots) if is_masked else None
        assert is_by_library(query, keys, values, mask)
        found = attention.attend(query, keys, values, mask, dim**-0.5)
        expected = attention._by_torch(query, keys, values, mask, dim**-0.5)
        assert found.shape == (rows, 1, heads, dim)
        assert (found - expected).abs().max() < 1e-5


@pytest.mark.usefixtures("_any_target")
def test_hidden_slots_count_for_nothing_and_large_scores_do_not_overflow() -> None:
    query, keys, values = problem(2, 2, 1, 40, 16)
    mask = left_padded(2, 40)
    mask[:, :, :, 20:25] = False
    expected = attention._by_torch(query, keys[:, :, :], values, mask, 0.25)
    values = torch.where(mask.transpose(2, 3), values, 1e30)  # times an exact 0
    assert torch.allclose(attention.attend(query, keys, values, mask, 0.25), expected, atol=1e-6)
    for scale in (1e3, -1e3):  # one slot has all the weight
        query, keys, values = problem(3, 2, 1, 50, 16)
        found = attention.attend(query, keys, values, None, scale)
        assert torch.allclose(found, attention._by_torch(query, keys, values, None, scale), atol=1e-5)


def test_torch_computes_what_the_loop_does_not_take() -> None:
    for query, keys, values, mask in (
        (*problem(2, 4, 2, 10, 24), None),
        (*problem(2, 4, 2, 10, 288), None),
        (*problem(2, 4, 2, 10, 16, torch.float64), None),
        (*problem(2, 4, 2, 10, 16), torch.zeros(2, 1, 1, 10)),
        (*problem(2, 4, 2, 10, 16), torch.ones(1, 1, 1, 10, dtype=torch.bool)),
        (*problem(2, 4, 2, 10, 16)[:2], torch.randn(2, 2, 10, 32), None),
        (problem(2, 4, 2, 10, 16)[0], *(x.transpose(2, 3) for x in problem(2, 4, 2, 16, 10)[1:]), None),
    ):
        assert not is_by_library(query, keys, values, mask)
        found = attention.attend(query, keys, values, mask, 0.2)
        assert torch.equal(found, attention._by_torch(query, keys, values, mask, 0.2))


@pytest.mark.usefixtures("_any_target")
def test_a_library_that_computes_something_else_is_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    by_library = attention._by_library
    monkeypatch.setattr(attention, "_by_library", lambda *arguments: by_library(*arguments) * 1.001)
    with caplog.at_level(logging.WARNING):
        assert attention._library() is None
    assert "attention.cpp failed its trial" in caplog.text
