"""An OpenAI-compatible server over a `PowerSampler`: `power-sampling serve`, or `app(sampler)` to mount elsewhere.

    uvicorn.run(app(PowerSampler.from_pretrained("embedded"), api_keys=["..."]), ws="none")

The packages it needs (extra `server`) are imported with the first of these names.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from power_sampling.errors import needed_for

if TYPE_CHECKING:
    from power_sampling.server.application import app
    from power_sampling.server.limits import Limits
    from power_sampling.server.process import serve

__all__ = ["Limits", "app", "serve"]

_PLACES = {"Limits": "limits", "app": "application", "serve": "process"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with needed_for("The server", "server"):
        return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)
