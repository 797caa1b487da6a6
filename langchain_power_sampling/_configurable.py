"""Configurable chat models that stay configurable when tools or a schema are bound to them.

LangChain binds those to the default model and drops the configuration without a word
(https://github.com/langchain-ai/langchain/issues/24341). Here they are bound to the configurable model itself.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage
from langchain_core.runnables import ConfigurableField, Runnable, RunnableConfig, RunnableSerializable
from langchain_core.runnables.configurable import (
    DynamicRunnable,
    RunnableConfigurableAlternatives,
    RunnableConfigurableFields,
)
from langchain_core.runnables.utils import AnyConfigurableField
from pydantic import BaseModel

from langchain_power_sampling._structured import StructuredRunnable, structured
from langchain_power_sampling._tools import ToolLike
from power_sampling.integrations import refuse_unknown, resolve_max_tokens_alias

__all__ = ["ConfigurableAlternatives", "ConfigurableFields", "ConfigurableLLM", "own_names"]


# The bases stand bare: with parameters, pydantic would build `default` anew, as another class than the model's.


def own_names(owner: type[BaseModel], fields: Mapping[str, AnyConfigurableField]) -> dict[str, AnyConfigurableField]:
    """The fields of `configurable_fields`, `max_tokens` under its own name. Raises ConfigurationError for others."""
    renamed = resolve_max_tokens_alias(fields, ["max_tokens"])
    refuse_unknown(owner.__name__, renamed, list(owner.model_fields))
    return renamed


class _ChecksIds(DynamicRunnable):  # type: ignore[type-arg]  # see above
    """Warns of what is nearly the name of a configurable field, and has no effect. Other names are left alone: a config
    is for all of a chain, and frameworks have ids of their own there."""

    def prepare(self, config: RunnableConfig | None = None) -> Any:
        """The model under a config, and the config."""
        known = [spec.id for spec in self.config_specs]
        for name in (config or {}).get("configurable", {}):
            if name not in known and (close := difflib.get_close_matches(str(name), known, n=1, cutoff=0.75)):
                warnings.warn(
                    f"configurable: {name!r} is not configurable here and has no effect; did you mean {close[0]!r}?",
                    stacklevel=3,
                )
        return super().prepare(config)


class ConfigurableLLM(_ChecksIds, RunnableConfigurableFields):  # type: ignore[type-arg]  # see above
    """An LLM some of whose fields come with each call's config."""


class _Events(_ChecksIds):
    """Events of version 3, which LangChain has for chat models and not for configurable ones."""

    def stream_events(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Those of the model that the config chooses."""
        if kwargs.get("version") != "v3":
            return super().stream_events(input, config, **kwargs)
        model, config = self.prepare(config)
        return model.stream_events(input, config, **kwargs)

    def astream_events(self, input: Any, config: RunnableConfig | None = None, **kwargs: Any) -> Any:
        """Those of the model that the config chooses."""
        if kwargs.get("version") != "v3":
            return super().astream_events(input, config, **kwargs)
        model, config = self.prepare(config)
        return model.astream_events(input, config, **kwargs)


class ConfigurableFields(_Events, RunnableConfigurableFields):  # type: ignore[type-arg]  # see above
    """A chat model some of whose fields come with each call's config."""

    def bind_tools(self, tools: Sequence[ToolLike], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """As `ChatPowerSampling.bind_tools`, and the fields stay configurable."""
        default: Any = self.default
        return self.bind(**default.bind_tools(tools, **kwargs).kwargs)

    def with_structured_output(
        self,
        schema: Any,
        *,
        include_raw: bool = False,
        method: str = "json_schema",
        strict: bool | None = None,
        **kwargs: Any,
    ) -> StructuredRunnable:
        """As `ChatPowerSampling.with_structured_output`, and the fields stay configurable."""
        plan = structured(schema, method, strict, kwargs)
        return plan.chain(self.bind(**plan.options), include_raw=include_raw)

    def configurable_alternatives(
        self,
        which: ConfigurableField,
        *,
        default_key: str = "default",
        prefix_keys: bool = False,
        **kwargs: Runnable[LanguageModelInput, AIMessage] | Callable[[], Runnable[LanguageModelInput, AIMessage]],
    ) -> ConfigurableAlternatives:
        """As `ChatPowerSampling.configurable_alternatives`."""
        return ConfigurableAlternatives(
            which=which, default=self, alternatives=kwargs, default_key=default_key, prefix_keys=prefix_keys
        )


class ConfigurableAlternatives(_Events, RunnableConfigurableAlternatives):  # type: ignore[type-arg]  # see above
    """Chat models of which each call's config chooses one. What is bound is bound to each of them."""

    def bind_tools(self, tools: Sequence[ToolLike], **kwargs: Any) -> Runnable[LanguageModelInput, AIMessage]:
        """As `ChatPowerSampling.bind_tools`, and the choice stays open."""
        bound: Runnable[LanguageModelInput, AIMessage] = self._with_each(lambda m: m.bind_tools(tools, **kwargs))
        return bound

    def with_structured_output(self, schema: Any, **kwargs: Any) -> StructuredRunnable:
        """As `ChatPowerSampling.with_structured_output`, and the choice stays open."""
        bound: StructuredRunnable = self._with_each(lambda m: m.with_structured_output(schema, **kwargs))
        return bound

    def configurable_fields(self, **kwargs: AnyConfigurableField) -> ConfigurableAlternatives:
        """Fields of the default model; the alternatives stay as they are."""
        default: RunnableSerializable[LanguageModelInput, AIMessage] = self.default.configurable_fields(**kwargs)
        return self.model_copy(update={"default": default})

    def _with_each(self, change: Callable[[Any], Any]) -> Any:
        """The same choice among changed models. One that is made by a function is changed when it is made."""
        alternatives = {
            name: change(model) if isinstance(model, Runnable) else lambda make=model: change(make())
            for name, model in self.alternatives.items()
        }
        return self.model_copy(update={"default": change(self.default), "alternatives": alternatives})
