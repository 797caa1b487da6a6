"""What the LangChain models share: the fields of `power_sampling.Config`, the weights, the settings of one call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Self

from langchain_core.language_models import BaseLanguageModel, LangSmithParams
from langchain_core.language_models.base import LanguageModelOutputVar
from langchain_core.load import dumpd
from langchain_core.load.serializable import SerializedConstructor, SerializedNotImplemented
from pydantic import Field, model_validator

from langchain_power_sampling._errors import langchain_errors
from langchain_power_sampling._handle import Handle
from power_sampling import Completion, Config, ConfigurationError, ModelConfig, PowerSampler, __version__
from power_sampling.integrations import (
    PROVIDER,
    AdapterConfig,
    check_count,
    completion_facts,
    refuse_unknown,
    resolve_max_tokens_alias,
    resolve_settings,
    settings_around_loaded,
    token_logprobs,
)

__all__ = ["BasePowerSampling", "generation_info", "refuse_several", "token_usage"]

ALIASES = ("max_tokens",)  # what LangChain calls max_new_tokens


class BasePowerSampling(AdapterConfig, BaseLanguageModel[LanguageModelOutputVar], Generic[LanguageModelOutputVar]):
    """Settings as fields, by the names of `Config`, and the runtime they stand for.

    Construction checks every field and loads nothing. Objects with equal model settings share one copy of the weights,
    and so does every copy of an object that `configurable_fields`, `bind` or a cache makes. Fields may be assigned
    later; they are checked when the next call reads them.
    """

    call_options: ClassVar[tuple[str, ...]] = ()  # what a call may say beside the settings

    n: int = Field(default=1, ge=1)
    """Completions per prompt, decoded together; with a seed, the i-th (from 0) is the one that seed + i gives."""
    handle: Handle | None = Field(default=None, exclude=True, repr=False)
    """The model in use. A field, because `configurable_fields` rebuilds an object from its fields alone."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**self._resolved(None, fields))

    # ------------------------------------------------------------ ways in and out

    @classmethod
    def _of_source(cls, source: str | Path | Mapping[str, Any] | None, fields: Mapping[str, Any]) -> Self:
        """What the subclasses' `from_config` does."""
        return cls(**cls._resolved(source, fields))

    @classmethod
    def _around(cls, model: Any, tokenizer: Any, fields: Mapping[str, Any]) -> Self:
        """What the subclasses' `from_model` does."""
        _check_count(fields)
        sampler, settings = settings_around_loaded(cls, model, tokenizer, fields, aliases=ALIASES)
        config = ModelConfig.model_construct(**{name: settings[name] for name in ModelConfig.model_fields})
        return cls(**settings, handle=Handle(config, sampler))

    @classmethod
    def _resolved(cls, source: str | Path | Mapping[str, Any] | None, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Constructor arguments: the fields, over the environment, over the source. LangChain's own pass through."""
        settings = resolve_settings(cls, source, fields, aliases=ALIASES)
        _check_count(settings)
        return settings

    def to_config(self) -> dict[str, Any]:
        """The settings as plain values, for `from_config`, JSON or YAML. A model that was handed over loaded
        (`from_model`) is named and not contained.
        """
        return self.model_dump(mode="json", include={*Config.model_fields, "n"}, exclude_none=True)

    @model_validator(mode="after")
    def _hold_model(self) -> Self:
        self._current_handle()
        return self

    @model_validator(mode="after")
    def _set_power_sampling_version(self) -> Self:
        if hasattr(self, "_add_version"):  # earlier releases of langchain-core do not
            self._add_version("power-sampling", __version__)
        return self

    # ------------------------------------------------------------ what LangChain asks about an object

    @property
    def _identifying_params(self) -> dict[str, Any]:
        params = {**self.current_config().model_dump(mode="json"), "n": self.n}
        if identity := self._current_handle().identity:
            params["handle"] = identity
        return params

    def _ls_params(
        self, kind: Literal["chat", "llm"], stop: list[str] | None, overrides: Mapping[str, Any]
    ) -> LangSmithParams:
        """What traces are told of a call. A setting that cannot be honoured is told as it is; the call refuses it."""
        own = {"max_tokens": overrides.get("max_new_tokens", self.max_new_tokens)}
        given = {"model": self.model, "temperature": self.temperature, **own, **overrides}
        params = LangSmithParams(
            ls_provider=PROVIDER,
            ls_model_type=kind,
            ls_model_name=given["model"],
            ls_temperature=given["temperature"],
            ls_max_tokens=given["max_tokens"],
        )
        if stops := list(self.stop) if stop is None else stop:
            params["ls_stop"] = stops
        return params

    @classmethod
    def is_lc_serializable(cls) -> bool:
        """The settings are what `langchain_core.load.dumpd` writes."""
        return True

    @property
    def lc_attributes(self) -> dict[str, Any]:
        """The settings as plain values: they stand in for the fields of the same names."""
        return self.to_config()

    def to_json(self) -> SerializedConstructor | SerializedNotImplemented:
        """As `langchain_core.load.load` reads it. No settings describe a model that was handed over loaded."""
        return self.to_json_not_implemented() if self._current_handle().identity else super().to_json()

    @property
    def _serialized(self) -> dict[str, Any]:  # LangChain keeps its first value, which goes stale
        serialized: dict[str, Any] = dumpd(self)
        return serialized

    def get_token_ids(self, text: str) -> list[int]:
        """The model's own tokens of a text, nothing added. Loads the model."""
        if self.custom_get_token_ids is not None:
            return self.custom_get_token_ids(text)
        with langchain_errors():
            return self._sampler.token_ids(text)

    # ------------------------------------------------------------ the settings of one call

    def _current_handle(self) -> Handle:
        """On the model the fields ask for now. Loads nothing."""
        config = self.current_config().model_part()
        self.handle = self.handle.under(config) if self.handle else Handle(config)
        return self.handle

    @property
    def _sampler(self) -> PowerSampler:
        """The runtime under the settings of this object. Loads nothing."""
        return self._current_handle().sampler.with_generation(self.current_config().generation_part())

    def _under(self, stop: list[str] | None, overrides: Mapping[str, Any]) -> Self:
        """This object, with the settings of a call as its own: a copy, or itself where the call says none.

        Whatever is then read off the object, by us or by LangChain, is of this call: the key of the cache, the
        sampler, the number of completions. This is the one place where a call's settings are checked. Loads nothing.
        """
        settings, n = self._settings(overrides), self._count(overrides)
        if stop is not None and stop != list(self.current_config().stop):
            settings["stop"] = stop
        if not settings and n == self.n:
            return self
        handle = self._current_handle()
        if other := {name: settings.pop(name) for name in list(settings) if name in ModelConfig.model_fields}:
            handle = handle.under(ModelConfig.parse({**dict(handle.config), **other}))
        generation = self.generation_under(settings)
        return self.copy_under(Config.model_construct(**dict(handle.config), **dict(generation)), n=n, handle=handle)

    def _settings(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of `Config` among a call's arguments, by their names here. Raises for what nobody knows."""
        refuse_unknown(type(self).__name__, overrides, [*Config.model_fields, *ALIASES, "n", *self.call_options])
        settings = {name: value for name, value in overrides.items() if name not in ("n", *self.call_options)}
        return resolve_max_tokens_alias(settings, ALIASES)

    def _count(self, overrides: Mapping[str, Any]) -> int:
        """How many completions per prompt the call asks for."""
        return check_count(self.n if overrides.get("n") is None else overrides["n"])


def _check_count(settings: Mapping[str, Any]) -> None:
    if "n" in settings:
        check_count(settings["n"])


def refuse_several(n: int) -> None:
    """LangChain's stream has room for one completion."""
    if n > 1:
        raise ConfigurationError(f"n={n}: a stream carries one completion; call generate, or stream with n=1.")


def token_usage(completions: Sequence[Completion], *, n: int) -> dict[str, int]:
    """Tokens of a call. The prompt of several completions counts once."""
    prompts = sum(completion.prompt_tokens for completion in completions[::n])
    drawn = sum(len(completion.tokens) for completion in completions)
    return {"prompt_tokens": prompts, "completion_tokens": drawn, "total_tokens": prompts + drawn}


def generation_info(completion: Completion, *, logprobs: bool) -> dict[str, Any]:
    """What is known of a completion beside its text, as plain JSON values."""
    info = completion_facts(completion)
    info.update(info.pop("usage"))
    if logprobs:
        info["logprobs"] = token_logprobs(completion)
    return info
