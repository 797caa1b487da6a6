"""The skeletons of docs/developer, as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

__all__ = ["skeleton"]

FOLDER = Path(__file__).parents[2] / "docs" / "developer"


def skeleton(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)  # where pydantic looks for its names
    spec.loader.exec_module(module)
    return module
