"""What the LangChain models share: the fields of `power_sampling.Config`, the weights, the settings of one call."""

from __future__ import annotations

import difflib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Generic, Self

from langchain_core.language_models import BaseLanguageModel
from langchain_core.language_models.base import LanguageModelOutputVar
from langchain_core.load import dumpd
from langchain_core.load.serializable import SerializedConstructor, SerializedNotImplemented
from pydantic import ConfigDict, Field, model_validator

from langchain_power_sampling._errors import langchain_errors
from power_sampling import (
    Completion,
    Config,
    ConfigurationError,
    GenerationConfig,
    ModelConfig,
    PowerSampler,
    __version__,
    load_config,
    unaliased,
)

__all__ = ["PROVIDER", "BasePowerSampling", "generation_info", "token_usage"]

PROVIDER = "power_sampling"
ALIASES = ("max_tokens",)  # what LangChain calls max_new_tokens


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
        key = config.model_dump_json()
        return self._others.get(key) or self._others.setdefault(key, Handle(config))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Handle) and (self.config, self.identity) == (other.config, other.identity)

    def __hash__(self) -> int:
        return hash((self.config.model, self.identity))

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

    call_options: ClassVar[tuple[str, ...]] = ()  # what a call may say beside the settings

    n: int = Field(default=1, ge=1)
    """Completions per prompt, decoded together; with a seed, the i-th (from 0) is the one that seed + i gives."""
    handle: Handle | None = Field(default=None, exclude=True, repr=False)
    """The model in use. A field, because `configurable_fields` rebuilds an object from its fields alone."""

    def __init__(self, **fields: Any) -> None:
        """Any field of `power_sampling.Config`, `max_tokens`, and the fields every LangChain model has."""
        super().__init__(**self._resolved(None, fields))

    # ------------------------------------------------------------ ways in and out

    @classmethod
    def from_config(cls, source: str | Path | Mapping[str, Any] | None = None, **overrides: Any) -> Self:
        """Settings from a YAML or TOML file or a mapping, under `POWER_SAMPLING_*`, under keyword arguments.

        A mapping may hold the fields of this class too (`n`); a file holds those of `power_sampling.Config`.
        """
        if isinstance(source, Mapping):
            overrides = {**{name: source[name] for name in source if cls._is_own(name)}, **overrides}
            source = {name: source[name] for name in source if not cls._is_own(name)}
        return cls(**cls._resolved(source, overrides))

    def to_config(self) -> dict[str, Any]:
        """The settings as plain values, for `from_config`, JSON or YAML. A model that was handed over loaded
        (`from_model`) is named and not contained.
        """
        return self.model_dump(mode="json", include={*Config.model_fields, "n"}, exclude_none=True)

    @classmethod
    def from_model(cls, model: Any, tokenizer: Any, **fields: Any) -> Self:
        """Around a transformers model and tokenizer that are already loaded. The tokenizer is copied.

        `model` may also be an engine of your own: any `power_sampling.engines.protocol.LanguageModel`.
        """
        settings = cls._resolved(None, fields)
        kept = {*fields, *ModelConfig.SERVING}  # what the environment says of loading is meant for other models
        given = {n: v for n, v in settings.items() if n in ModelConfig.model_fields and n in kept}
        sampler = PowerSampler.from_model(model, tokenizer, **given)
        config = ModelConfig.parse({"model": sampler.model_name, **given})
        return cls(**{**settings, **dict(config), "handle": Handle(config, sampler)})

    @classmethod
    def _is_own(cls, name: str) -> bool:
        return name in cls.model_fields and name not in Config.model_fields

    @classmethod
    def _resolved(cls, source: str | Path | Mapping[str, Any] | None, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Constructor arguments: the fields, over the environment, over the source. LangChain's own pass through."""
        _refuse_unknown(cls.__name__, fields, [*cls.model_fields, "max_tokens"])
        own = {n: v for n, v in fields.items() if cls._is_own(n)}
        if "n" in own:
            _check_count(own["n"])
        config = load_config(source, **unaliased({n: v for n, v in fields.items() if n not in own}, ALIASES))
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

    # ------------------------------------------------------------ what LangChain asks about an object

    @property
    def _identifying_params(self) -> dict[str, Any]:
        params = self.model_dump(mode="json", include={*Config.model_fields, "n"})
        if identity := self._current_handle().identity:
            params["handle"] = identity
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
            return self._sampler(None, {}).token_ids(text)

    # ------------------------------------------------------------ the settings of one call

    def _current_handle(self) -> Handle:
        """On the model the fields ask for now. Loads nothing."""
        config = ModelConfig.parse({name: getattr(self, name) for name in ModelConfig.model_fields})
        self.handle = self.handle.under(config) if self.handle else Handle(config)
        return self.handle

    def _sampler(self, stop: list[str] | None, overrides: Mapping[str, Any]) -> PowerSampler:
        """The runtime under the settings of one call: its own over the object's. Loads nothing."""
        given = self._settings(overrides)
        if stop is not None:
            given["stop"] = stop
        handle = self._current_handle()
        if other := {name: given.pop(name) for name in list(given) if name in ModelConfig.model_fields}:
            handle = handle.under(ModelConfig.parse({**dict(handle.config), **other}))
        own = {name: getattr(self, name) for name in GenerationConfig.model_fields}
        return handle.sampler.with_settings(**{**own, **given})

    def _settings(self, overrides: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of `Config` among a call's arguments, by their names here. Raises for what nobody knows."""
        known = [*Config.model_fields, "max_tokens", "n", *self.call_options]
        _refuse_unknown(type(self).__name__, overrides, known)
        settings = {name: value for name, value in overrides.items() if name not in ("n", *self.call_options)}
        return unaliased(settings, ALIASES)

    def _count(self, overrides: Mapping[str, Any]) -> int:
        """How many completions per prompt the call asks for."""
        return _check_count(self.n if overrides.get("n") is None else overrides["n"])

    def _one(self, overrides: Mapping[str, Any]) -> None:
        """Refuse several completions where LangChain's stream has room for one."""
        if (n := self._count(overrides)) > 1:
            raise ConfigurationError(f"n={n}: a stream carries one completion; call generate, or stream with n=1.")


def _refuse_unknown(owner: str, given: Iterable[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
            hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(sorted(known))}."
            raise ConfigurationError(f"{owner} has no argument {name!r}. {hint}")


def _check_count(n: Any) -> int:
    if not isinstance(n, int) or n < 1:
        raise ConfigurationError(f"n: expected a whole number of completions, at least 1, got {n!r}.")
    return n


def token_usage(completions: Sequence[Completion], *, n: int) -> dict[str, int]:
    """Tokens of a call. The prompt of several completions counts once."""
    prompts = sum(completion.prompt_tokens for completion in completions[::n])
    drawn = sum(len(completion.tokens) for completion in completions)
    return {"prompt_tokens": prompts, "completion_tokens": drawn, "total_tokens": prompts + drawn}


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
