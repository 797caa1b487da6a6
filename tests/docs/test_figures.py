"""The pictures of docs/ are those that the code draws today."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tests.support.pages import ROOT


@pytest.fixture(scope="module")
def figures() -> Any:
    spec = importlib.util.spec_from_file_location("figures", ROOT / "docs" / "figures.py")
    assert spec is not None and spec.loader is not None
    module: ModuleType = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_what_they_tell_is_true(figures: Any) -> None:
    """The numbers that the page says in words, and that the chain goes where it is said to go."""
    world = figures.World(4.0)
    best = world.names.index("surely blue")
    told = world.plain(), world.proposal(), world.target()
    assert [round(float(law[best]), 2) for law in told] == [0.39, 0.16, 0.83]
    assert np.abs(world.target() @ world.kernel() - world.target()).max() < 1e-9
    assert 0.5 * np.abs(world.after(40) - world.target()).sum() < 0.02


@pytest.mark.slow
def test_they_are_drawn(figures: Any, tmp_path: Path) -> None:
    for name, draw in figures.PICTURES.items():
        draw(tmp_path / f"{name}.svg")
        drawn, kept = (folder / f"{name}.svg" for folder in (tmp_path, ROOT / "docs" / "figures"))
        assert drawn.read_text(encoding="utf-8").startswith("<?xml") and kept.exists()
