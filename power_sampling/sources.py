"""Where settings come from: files, the environment, keyword arguments, and which of them wins."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Unpack

from power_sampling.cache import CACHE_VARIABLE
from power_sampling.config import Config, GenerationConfig, ModelConfig, field_hint
from power_sampling.errors import ConfigurationError, shortened
from power_sampling.fields import ConfigFields
from power_sampling.files import read_file, yaml_value
from power_sampling.names import ADAPTERS_ONLY, ALIASES

__all__ = ["environment", "load_config", "loaded_config", "merged", "named", "read_source", "under_own_names"]

ENVIRONMENT_PREFIX = "POWER_SAMPLING_"


def load_config(source: str | Path | Mapping[str, Any] | None = None, **overrides: Unpack[ConfigFields]) -> Config:
    """Settings from a YAML or TOML file or a mapping, under the environment, under keyword arguments.

    Precedence, highest first: `overrides`, `POWER_SAMPLING_<FIELD>`, `source`, defaults. `max_tokens` is understood as
    `max_new_tokens` in files and in the environment. In the environment, `sampler`
    and other structured fields may be YAML (`POWER_SAMPLING_SAMPLER='{name: metropolis_hastings, num_steps: 4}'`).
    Raises ConfigurationError for an unreadable file, an unknown field or variable, or a bad value.
    """
    said = read_source(source)
    return merged(said, environment(), overrides, source=named(source))


def merged(
    said: Mapping[str, Any], variables: Mapping[str, Any], fields: Mapping[str, Any], *, source: str | None = None
) -> Config:
    """Settings of a source, under the environment, under arguments. A fault is told with the file or the variable that
    it comes from, where one alone makes it. Raises ConfigurationError."""
    values = {**said, **variables, **fields}
    try:
        return Config.parse(values)
    except ConfigurationError as error:
        own = {_variable(name): {name: value} for name, value in variables.items() if name not in fields}
        if source is not None:
            own[source] = {name: said[name] for name in said.keys() - variables.keys() - fields.keys()}
        if origins := [origin for origin, part in own.items() if _fault(part) in str(error)]:
            raise ConfigurationError(f"{error} (from {' and '.join(origins)})") from error
        raise


def _fault(values: Mapping[str, Any]) -> str:
    """What is wrong with some values by themselves, as part of what is said of more; else what nothing says."""
    try:
        Config.parse(values)
    except ConfigurationError as error:
        return str(error).rstrip(".")
    return "\0"


def _variable(field: str) -> str:
    """The variable that sets a field."""
    names = {field, *(alias for alias, name in ALIASES.items() if name == field)}
    given = (variable for variable in os.environ if variable.removeprefix(ENVIRONMENT_PREFIX).lower() in names)
    return f"the environment variable {next(v for v in given if v.startswith(ENVIRONMENT_PREFIX))}"


def named(source: str | Path | Mapping[str, Any] | None) -> str | None:
    """A file, as an error names it."""
    return shortened(str(source)) if isinstance(source, (str, os.PathLike)) else None


def read_source(source: str | Path | Mapping[str, Any] | None) -> dict[str, Any]:
    """What a file or a mapping says, fields under their own names. Raises ConfigurationError."""
    if source is None:
        return {}
    if isinstance(source, Mapping):
        return under_own_names(source)
    if isinstance(source, (str, os.PathLike)):
        return under_own_names(read_file(Path(source)))
    raise ConfigurationError(f"Settings come from the path of a file or a mapping, got {shortened(source)}.")


def under_own_names(values: Mapping[str, Any], aliases: Collection[str] = tuple(ALIASES)) -> dict[str, Any]:
    """The values, those of other names (`max_tokens`) under the names of their fields. Raises ConfigurationError where
    two of the names have two values."""
    renamed = dict(values)
    for alias in aliases:
        if alias in renamed:
            name, value = ALIASES.get(alias, "max_new_tokens"), renamed.pop(alias)
            if renamed.setdefault(name, value) != value:
                raise ConfigurationError(
                    f"{alias} and {name} are the same setting: got {shortened(value)} and {shortened(renamed[name])}; "
                    "give one."
                )
    return renamed


def loaded_config(name: str, fields: Mapping[str, Any]) -> Config:
    """Settings of a model of this name that is already loaded: `fields`, over the environment.

    Variables that say how a model is loaded (`POWER_SAMPLING_DTYPE`, or `dtype` in `POWER_SAMPLING_ENGINE`) are meant
    for other models and have no effect. A field that says so is kept; whoever takes the model in refuses it.
    """
    honoured = {*GenerationConfig.model_fields, *ModelConfig.SERVING}
    variables = {field: value for field, value in environment().items() if field in honoured}
    if isinstance(engine := variables.get("engine"), Mapping):
        variables["engine"] = {option: engine[option] for option in engine if option in (*ModelConfig.SERVING, "name")}
    return merged({"model": name}, variables, fields)


def environment(also: Collection[str] = ()) -> dict[str, Any]:
    """The fields set by `POWER_SAMPLING_*`; `also` are names of ADAPTERS_ONLY that the caller takes."""
    values = {}
    for variable, text in os.environ.items():
        if variable.startswith(ENVIRONMENT_PREFIX) and variable != CACHE_VARIABLE:
            name = variable.removeprefix(ENVIRONMENT_PREFIX).lower()
            if name in ADAPTERS_ONLY and name not in also:
                continue
            if name not in (*Config.model_fields, *ALIASES, *also):
                raise ConfigurationError(
                    f"The environment variable {variable} names no field.{field_hint(name, Config.model_fields)}"
                )
            values[name] = yaml_value(text, variable)
    return under_own_names(values)
