"""The folder for what is kept between processes: unpacked weights and built code."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["CACHE_VARIABLE", "cache_folder"]

CACHE_VARIABLE = "POWER_SAMPLING_CACHE"


def cache_folder() -> Path:
    """`$POWER_SAMPLING_CACHE`, by default `~/.cache/power-sampling`."""
    return Path(os.environ.get(CACHE_VARIABLE) or Path.home() / ".cache" / "power-sampling")
