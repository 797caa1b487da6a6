"""Names for adapters from before there was `power_sampling.integrations`. They go with the next release."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from power_sampling.integrations.settings import resolve_max_tokens_alias
from power_sampling.integrations.tools import normalize_tool_choice

__all__ = ["settled_choice", "unaliased"]


def unaliased(fields: Mapping[str, Any], aliases: Sequence[str]) -> dict[str, Any]:
    """Deprecated: `power_sampling.integrations.resolve_max_tokens_alias`."""
    _warn("unaliased", "resolve_max_tokens_alias")
    return resolve_max_tokens_alias(fields, aliases)


def settled_choice(choice: Any, names: Sequence[str], *, required: bool = False) -> str:
    """Deprecated: `power_sampling.integrations.normalize_tool_choice`."""
    _warn("settled_choice", "normalize_tool_choice")
    return normalize_tool_choice(choice, names, required=required)


def _warn(old: str, new: str) -> None:
    warnings.warn(
        f"power_sampling.{old} is deprecated; use power_sampling.integrations.{new}.", DeprecationWarning, stacklevel=3
    )
