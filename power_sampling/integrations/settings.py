"""The settings of an adapter: where they come from, what a call overrides, and when they are checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import ConfigDict, PrivateAttr, ValidationError, model_validator

from power_sampling.config import Config, GenerationConfig, field_hint
from power_sampling.errors import ConfigurationError
from power_sampling.names import ADAPTERS_ONLY
from power_sampling.runtime import PowerSampler
from power_sampling.settings import describe
from power_sampling.sources import environment, loaded_config, merged, named, read_source, under_own_names

__all__ = [
    "AdapterConfig",
    "refuse_unknown",
    "resolve_max_tokens_alias",
    "resolve_settings",
    "settings_around_loaded",
]


class AdapterConfig(Config):
    """`Config` as fields of a framework's object: a base class beside the framework's own.

    Construction checks every field. Fields may be assigned later; `current_config` checks what was assigned.
    """

    model_config = ConfigDict(frozen=False)  # frameworks write their own fields after construction

    _checked: Config | None = PrivateAttr(default=None)

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise ConfigurationError(describe(error, fields)) from error

    def __setattr__(self, name: str, value: Any) -> None:
        try:
            super().__setattr__(name, value)
        except ValueError:  # pydantic's word for a field that there is not
            refuse_unknown(type(self).__name__, [name], list(type(self).model_fields))
            raise

    @model_validator(mode="after")
    def _note_checked_settings(self) -> Self:
        self._checked = Config.model_construct(**_values(self))
        return self

    def current_config(self) -> Config:
        """The settings of this object. Raises ConfigurationError for what was assigned and cannot be honoured."""
        values = _values(self)
        if self._checked is None or dict(self._checked) != values:
            self._checked = Config.parse(values)
        return self._checked

    def generation_under(self, overrides: Mapping[str, Any]) -> GenerationConfig:
        """The generation settings of one call: `overrides` over the object's own."""
        for name in overrides:
            if name in type(self).model_fields and name not in GenerationConfig.model_fields:
                raise ConfigurationError(f"{name}: a field of the object, not of a call; give it to the object.")
        own = self.current_config().generation_part()
        return GenerationConfig.parse({**dict(own), **overrides}) if overrides else own

    def copy_under(self, config: Config, **others: Any) -> Self:
        """A copy of this object that has these settings, which are checked already, and these further fields."""
        copy = self.model_copy(update={**dict(config), **others})
        copy._checked = config
        return copy


def _values(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name in Config.model_fields}


def resolve_settings(
    owner: type[Config],
    source: str | Path | Mapping[str, Any] | None,
    fields: Mapping[str, Any],
    *,
    aliases: Sequence[str] = (),
) -> dict[str, Any]:
    """Constructor arguments of `owner`: `fields`, over `POWER_SAMPLING_*`, over `source` (a file or a mapping).

    Fields that `owner` has beside those of `Config` pass through, those of ADAPTERS_ONLY from the environment too.
    `aliases` are the framework's names for `max_new_tokens`. Raises ConfigurationError for an unknown field or a wrong
    value.
    """
    said = resolve_max_tokens_alias(read_source(source), aliases)
    given = {**_beside_config(said), **_own_variables(owner), **resolve_max_tokens_alias(fields, aliases)}
    of_config = {name: value for name, value in said.items() if name in Config.model_fields}
    own, known = _beside_config(given), [*owner.model_fields, *aliases]
    refuse_unknown(owner.__name__, _beside_config(said), known, source=named(source))
    refuse_unknown(owner.__name__, own, known)
    fields = {name: value for name, value in given.items() if name not in own}
    config = merged(of_config, environment(), fields, source=named(source))
    return {**own, **{name: getattr(config, name) for name in config.model_fields_set}}


def settings_around_loaded(
    owner: type[Config], model: Any, tokenizer: Any, fields: Mapping[str, Any], *, aliases: Sequence[str] = ()
) -> tuple[PowerSampler, dict[str, Any]]:
    """A runtime around a loaded model (`PowerSampler.from_model`), and the constructor arguments of `owner` that say
    the same: all of them, so that what the environment says of other models has no effect."""
    own = {**_own_variables(owner), **_beside_config(given := resolve_max_tokens_alias(fields, aliases))}
    refuse_unknown(owner.__name__, own, [*owner.model_fields, *aliases])
    settings: Any = {name: value for name, value in given.items() if name not in own}
    sampler = PowerSampler.from_model(model, tokenizer, **settings)
    return sampler, {**own, **dict(loaded_config(sampler.model_name, settings))}


def _own_variables(owner: type[Config]) -> dict[str, Any]:
    """What the environment says to adapters alone, as far as this one has it."""
    return _beside_config(environment([name for name in ADAPTERS_ONLY if name in owner.model_fields]))


def _beside_config(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in Config.model_fields}


def refuse_unknown(owner: str, given: Iterable[str], known: Sequence[str], *, source: str | None = None) -> None:
    """Raises ConfigurationError for an argument that `owner` does not know, with the closest name that it does, and the
    file that it stands in."""
    for name in given:
        if name not in known:
            where = f" (from {source})" if source else ""
            raise ConfigurationError(f"{owner} has no argument {name!r}.{field_hint(name, known)}{where}")


def resolve_max_tokens_alias(fields: Mapping[str, Any], aliases: Sequence[str]) -> dict[str, Any]:
    """The fields, with `max_new_tokens` under that name where they say it under one of the `aliases`. Raises
    ConfigurationError where two of the names have two values."""
    return under_own_names(fields, aliases)
