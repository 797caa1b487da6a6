"""The compiled choice of tokens is the plain one. On a CPU the compiler is another, the traced program is the same."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from power_sampling.engines.torch.choice import Laws, can_fuse, choose, columns, fused
from power_sampling.types import Law

LAWS = (Law(2.0, 0.8, 0.5, wants_entropy=True, score_at=(0.7,)), Law(1.0, 1.0, 0.0))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for a CPU with g++")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_and_plain_choices_agree() -> None:
    generator = torch.Generator().manual_seed(0)
    for rows in (2, 3, 8):
        logits = 4 * torch.randn(rows, 1000, generator=generator)
        laws = Laws.of([LAWS[i % 2] for i in range(rows)], logits)
        uniforms = torch.rand(rows, 1, generator=generator, dtype=torch.float64)
        forbidden = torch.rand(rows, 1000, generator=generator) < 0.5
        with torch.inference_mode():
            plain, compiled = (f(logits, laws, uniforms, forbidden) for f in (columns, fused()))
        assert torch.equal(plain[:, 0], compiled[:, 0])
        torch.testing.assert_close(plain, compiled, rtol=0, atol=1e-5)


def test_nothing_is_compiled_for_a_cpu() -> None:
    fused.cache_clear()
    allowed = [np.arange(300) % 2 == 0, None]
    logits = torch.zeros(2, 300)
    found = choose(logits, Laws.of([Law(1.0, 1.0, 1.0)] * 2, logits), torch.full((2, 1), 0.5).double(), allowed)
    assert fused.cache_info().currsize == 0 and isinstance(can_fuse(), bool)
    np.testing.assert_allclose(found[:, 1:], np.log([[1 / 300, 1 / 150], [1 / 300, 1 / 300]]), atol=1e-6)
