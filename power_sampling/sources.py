"""Where settings come from: files, the environment, keyword arguments, and which of them wins."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

from power_sampling.cache import CACHE_VARIABLE
from power_sampling.config import Config, GenerationConfig, ModelConfig
from power_sampling.errors import ConfigurationError, shortened
from power_sampling.fields import ConfigFields
from power_sampling.files import read_file, yaml_value
from power_sampling.settings import hint

__all__ = ["environment", "load_config", "loaded_config"]

ENVIRONMENT_PREFIX = "POWER_SAMPLING_"


def load_config(source: str | Path | Mapping[str, Any] | None = None, **overrides: Unpack[ConfigFields]) -> Config:
    """Settings from a YAML or TOML file or a mapping, under the environment, under keyword arguments.

    Precedence, highest first: `overrides`, `POWER_SAMPLING_<FIELD>`, `source`, defaults. In the environment, `sampler`
    and other structured fields may be YAML (`POWER_SAMPLING_SAMPLER='{name: metropolis_hastings, num_steps: 4}'`).
    Raises ConfigurationError for an unreadable file, an unknown field or variable, or a bad value.
    """
    if isinstance(source, Mapping):
        values = dict(source)
    elif isinstance(source, (str, os.PathLike)):
        values = read_file(Path(source))
    elif source is None:
        values = {}
    else:
        raise ConfigurationError(f"Settings come from the path of a file or a mapping, got {shortened(source)}.")
    return Config.parse({**values, **environment(), **overrides})


def loaded_config(name: str, fields: Mapping[str, Any]) -> Config:
    """Settings of a model of this name that is already loaded: `fields`, over the environment.

    Variables that say how a model is loaded (`POWER_SAMPLING_DTYPE`, or `dtype` in `POWER_SAMPLING_ENGINE`) are meant
    for other models and have no effect. A field that says so is kept; whoever takes the model in refuses it.
    """
    honoured = {*GenerationConfig.model_fields, *ModelConfig.SERVING}
    variables = {field: value for field, value in environment().items() if field in honoured}
    if isinstance(engine := variables.get("engine"), Mapping):
        variables["engine"] = {option: engine[option] for option in engine if option in (*ModelConfig.SERVING, "name")}
    return Config.parse({"model": name, **variables, **fields})


def environment() -> dict[str, Any]:
    """The fields set by `POWER_SAMPLING_*`."""
    values = {}
    for variable, text in os.environ.items():
        if variable.startswith(ENVIRONMENT_PREFIX) and variable != CACHE_VARIABLE:
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
            if name not in Config.model_fields:
                raise ConfigurationError(
                    f"The environment variable {variable} names no field.{hint(name, list(Config.model_fields))}"
                )
            values[name] = yaml_value(text, variable)
    return values
