"""What the LangChain models share: the fields of `power_sampling.Config`, the weights, the settings of one call."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Generic, Self

from langchain_core.language_models import BaseLanguageModel
from langchain_core.language_models.base import LanguageModelOutputVar
from pydantic import ConfigDict, Field, model_validator

from power_sampling import (
    Completion,
    Config,
    ConfigurationError,
    GenerationConfig,
    ModelConfig,
    PowerSampler,
    __version__,
    load_config,
)

__all__ = ["BasePowerSampling", "generation_info"]

SERVING_FIELDS = ("max_rows", "use_chat_template")  # of ModelConfig; the others say how a model is loaded


class Handle:
    """A model and the settings it goes by. Copies share it. A pickle carries the settings alone, which find the
    weights again; for a model that was handed over loaded they would not, so pickling that raises ConfigurationError.
    """

    def __init__(self, config: ModelConfig, loaded: PowerSampler | None = None) -> None:
        self.config = config
        self.sampler = loaded or PowerSampler.of(Config.parse(dict(config)))
        self.identity = uuid.uuid4().hex if loaded else None  # no settings tell one loaded model from another
        self._others: dict[str, Handle] = {}

    def under(self, config: ModelConfig) -> Handle:
        """The handle that other settings ask for. It lives as long as this one, because the copies that
        `configurable_fields` makes live for one call each.
        """
        if config == self.config:
            return self
        if self.identity:
            changed = [name for name, value in config if value != getattr(self.config, name)]
            raise ConfigurationError(
                f"{', '.join(changed)}: cannot be changed on an object made by from_model, whose model is already "
                "loaded; build another object."
            )
        return self._others.setdefault(config.model_dump_json(), Handle(config))

    def __deepcopy__(self, memo: object) -> Handle:
        return self

    def __reduce__(self) -> tuple[type[Handle], tuple[ModelConfig]]:
        if self.identity:
            raise ConfigurationError(
                f"{self.config.model!r} was handed over as a loaded model (from_model), and weights are never pickled. "
                "Build the object from a hub id or a folder, or call from_model in the other process."
            )
        return Handle, (self.config,)


class BasePowerSampling(Config, BaseLanguageModel[LanguageModelOutputVar], Generic[LanguageModelOutputVar]):
    """Settings as fields, by the names of `Config`, and the runtime they stand for.

    Construction checks every field and loads nothing. Objects with equal model settings share one copy of the weights,
    and so does every copy of an object that `configurable_fields`, `bind` or a cache makes. Fields may be assigned
    later; they are checked when the next call reads them.
    """

    model_config = ConfigDict(frozen=False)  # BaseLanguageModel writes its own fields after construction

    handle: Handle | None = Field(default=None, exclude=True, repr=False)
    """The model in use. A field, because `configurable_fields` rebuilds an object from its fields alone."""

    @classmethod
    def from_config(cls, source: str | Path | Mapping[str, Any] | None = None, **overrides: Any) -> Self:
        """Settings from a YAML or TOML file or a mapping, under `POWER_SAMPLING_*`, under keyword arguments."""
        return cls(**cls._resolved(source, overrides))

    @classmethod
    def from_model(cls, model: Any, tokenizer: Any, **fields: Any) -> Self:
        """Around a transformers model and tokenizer that are already loaded. The tokenizer is copied."""
        settings = cls._resolved(None, fields)
        kept = {*fields, *SERVING_FIELDS}  # what the environment says of loading is meant for other models
        given = {n: v for n, v in settings.items() if n in ModelConfig.model_fields and n in kept}
        sampler = PowerSampler.from_model(model, tokenizer, **given)
        config = ModelConfig.parse({"model": sampler.model_name, **given})
        return cls(**{**settings, **dict(config), "handle": Handle(config, sampler)})

    @classmethod
    def _resolved(cls, source: str | Path | Mapping[str, Any] | None, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Constructor arguments: the fields, over the environment, over the source. LangChain's own pass through."""
        own = {n: v for n, v in fields.items() if n in cls.model_fields and n not in Config.model_fields}
        config = load_config(source, **_renamed({n: v for n, v in fields.items() if n not in own}))
        return {**own, **{n: getattr(config, n) for n in config.model_fields_set}}

    @model_validator(mode="after")
    def _hold_model(self) -> Self:
        self._current_handle()
        return self

    @model_validator(mode="after")
    def _set_power_sampling_version(self) -> Self:
        if hasattr(self, "_add_version"):  # earlier releases of langchain-core do not
            self._add_version("power-sampling", __version__)
        return self

    @property
    def _identifying_params(self) -> dict[str, Any]:
        params = self.model_dump(mode="json", include=set(Config.model_fields))
        if identity := self._current_handle().identity:
            params["handle"] = identity
        return params

    def get_token_ids(self, text: str) -> list[int]:
        """The model's own tokens of a text, nothing added. Loads the model."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        return self._sampler(None, {}).token_ids(text)

    def _current_handle(self) -> Handle:
        """On the model the fields ask for now. Loads nothing."""
        config = ModelConfig.parse({name: getattr(self, name) for name in ModelConfig.model_fields})
        self.handle = self.handle.under(config) if self.handle else Handle(config)
        return self.handle

    def _sampler(self, stop: list[str] | None, overrides: Mapping[str, Any]) -> PowerSampler:
        """The runtime under the settings of one call: its own over the object's. Loads nothing."""
        given = _renamed(overrides)
        if fixed := [name for name in given if name in ModelConfig.model_fields]:
            raise ConfigurationError(
                f"{', '.join(fixed)}: a call cannot change the model. Build another object or use configurable_fields; "
                "objects with equal model settings share their weights."
            )
        if stop is not None:
            given["stop"] = stop
        own = {name: getattr(self, name) for name in GenerationConfig.model_fields}
        return self._current_handle().sampler.with_settings(**{**own, **given})


def _renamed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """LangChain's `max_tokens` under its name here."""
    renamed = dict(fields)
    if "max_tokens" in renamed:
        limit = renamed.pop("max_tokens")
        if renamed.setdefault("max_new_tokens", limit) != limit:
            raise ConfigurationError(
                f"max_tokens and max_new_tokens are the same setting: got {limit!r} and {renamed['max_new_tokens']!r}; "
                "give one."
            )
    return renamed


def generation_info(completion: Completion, *, logprobs: bool) -> dict[str, Any]:
    """What is known of a completion beside its text, as plain JSON values."""
    info: dict[str, Any] = {
        "finish_reason": completion.finish_reason,
        "stop": completion.stop,
        "logp": completion.logp,
        "seed": completion.seed,
        **completion.usage,
        "power_sampling": completion.diagnostics.to_dict(),
    }
    if logprobs:
        tokens = zip(completion.token_text, completion.token_logp, strict=True)
        info["logprobs"] = [{"token": token, "logprob": logp} for token, logp in tokens]
    return info
