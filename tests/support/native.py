"""What tests of loops of our own share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch


def any_target(library: Any) -> Callable[..., Any]:
    """A fixture: the library as this machine has it, and as one with half the registers."""

    @pytest.fixture(params=["this machine's", "AVX2"])
    def target(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        library.cache_clear()
        if request.param == "AVX2":
            monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
        yield
        library.cache_clear()

    return target
