"""Constructor arguments and call arguments, under the names of `power_sampling.Config`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from power_sampling import Config, load_config, unaliased

__all__ = ["renamed", "resolved"]

HORIZON_ALIASES = ("max_tokens", "num_output")  # what LlamaIndex and its integrations call max_new_tokens


def resolved(source: str | Path | Mapping[str, Any] | None, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Constructor arguments: `fields`, over the environment, over the source. An unknown one is refused later.

    A mapping may hold the fields that are LlamaIndex's own; a file holds those of `power_sampling.Config`.
    """
    given = renamed(fields)
    if isinstance(source, Mapping):
        source = renamed(source)
        given = {**{name: source[name] for name in source if name not in Config.model_fields}, **given}
        source = {name: source[name] for name in source if name in Config.model_fields}
    given.pop("class_name", None)  # `to_dict` writes it
    own = {name: value for name, value in given.items() if name not in Config.model_fields}
    config = load_config(source, **{name: value for name, value in given.items() if name not in own})
    return {**own, **{name: getattr(config, name) for name in config.model_fields_set}}


def renamed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """`max_new_tokens` under that name."""
    return unaliased(fields, HORIZON_ALIASES)
