"""A model under settings: the ways to one, and what can be asked of it beside completions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, Unpack

from power_sampling.config import Config, GenerationConfig, ModelConfig
from power_sampling.errors import ConfigurationError, InputError, shortened
from power_sampling.fields import ConfigFields, GenerationFields, LoadedFields, PretrainedFields
from power_sampling.models import Model, check_loaded, get_model, model_from_objects
from power_sampling.prepared import Prompt, encoded
from power_sampling.sources import load_config, loaded_config
from power_sampling.text.validation import checked_text
from power_sampling.types import Tokens

__all__ = ["ConfiguredModel"]


class ConfiguredModel:
    """The half of `PowerSampler` that draws nothing."""

    def __init__(self, model: Model, generation: GenerationConfig, *, use_chat_template: bool | None = None) -> None:
        self._model = model
        self.generation = generation
        self._use_chat_template = use_chat_template

    @classmethod
    def from_pretrained(cls, model: str = "embedded", **fields: Unpack[PretrainedFields]) -> Self:
        """A model by hub id, folder, GGUF file or `embedded`, with any field of `Config`; the environment counts."""
        return cls.from_config(model=model, **fields)

    @classmethod
    def from_config(
        cls, source: str | Path | Mapping[str, Any] | None = None, **overrides: Unpack[ConfigFields]
    ) -> Self:
        """Settings from a YAML or TOML file or a mapping (see `load_config`)."""
        return cls.of(load_config(source, **overrides))

    @classmethod
    def of(cls, config: Config) -> Self:
        """A sampler with exactly these settings."""
        return cls(get_model(config.model_part()), config.generation_part(), use_chat_template=config.use_chat_template)

    @classmethod
    def from_model(cls, model: Any, tokenizer: Any, **fields: Unpack[LoadedFields]) -> Self:
        """Around a transformers model and tokenizer that are already loaded.

        The tokenizer is copied; the model is used as it is, in evaluation mode. `model` may also be an engine of your
        own: anything that satisfies `power_sampling.engines.protocol.LanguageModel`. The environment counts, except
        for what it says about loading.
        """
        check_loaded(model, tokenizer)
        name = getattr(getattr(model, "config", None), "name_or_path", "") or type(model).__name__
        config = loaded_config(name, fields)
        handle = model_from_objects(model, tokenizer, config.model_part())
        return cls(handle, config.generation_part(), use_chat_template=config.use_chat_template)

    def with_settings(self, **overrides: Unpack[GenerationFields]) -> Self:
        """The same model under other generation settings. Nothing is loaded."""
        return self.with_generation(self._overridden(overrides))

    def with_generation(self, generation: GenerationConfig) -> Self:
        """The same model under exactly these generation settings. Nothing is loaded."""
        return type(self)(self._model, generation, use_chat_template=self._use_chat_template)

    def invalidate(self) -> None:
        """Say that the model's weights are others now. It is noticed without this where tensors are changed in place or
        exchanged, and where adapters are merged, switched or scaled; not where numbers are written through `.data`.

        Remembered prompts and packed copies are forgotten before the next request; one that is running goes on with
        what it has."""
        self._model.invalidate()

    # ------------------------------------------------------------ copies and pickles

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A copy on the same weights."""
        return self.with_generation(copy.deepcopy(self.generation, memo))

    def __copy__(self) -> Self:
        return self.with_generation(self.generation)

    def __getstate__(self) -> dict[str, Any]:
        """The settings alone: another process loads the weights anew, this one finds them."""
        if self._model.is_handed_over:
            raise ConfigurationError(
                f"{self.model_name!r} was handed over as a loaded model (from_model), and weights are never pickled. "
                "Build the sampler from a hub id or a folder, or call from_model in the other process."
            )
        return {"model": self._model.config, "generation": self.generation, "template": self._use_chat_template}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        model, generation = get_model(state["model"]), state["generation"]
        ConfiguredModel.__init__(self, model, generation, use_chat_template=state["template"])

    # ------------------------------------------------------------ what the model is

    @property
    def config(self) -> Config:
        """All settings in force; those of the engine in `engine`, and beside it where they have a flat field. Loads
        nothing."""
        model = self._model.config
        flat = {name: value for name, value in model.engine_options() if name in ModelConfig.model_fields}
        own = {**dict(model), **flat, "use_chat_template": self._use_chat_template}
        return Config.model_construct(**own, **dict(self.generation))  # checked already

    @property
    def model_name(self) -> str:
        """As it was asked for. Loads nothing."""
        return self._model.config.model

    @property
    def context_window(self) -> int | None:
        """Most tokens of prompt and completion together; None: no limit known. Loads the model."""
        return self._model.load().engine.context_window

    @property
    def is_chat_model(self) -> bool:
        """Whether bare prompts are presented as one user message. Loads the model where the settings leave it open."""
        if self._use_chat_template is not None:
            return self._use_chat_template
        return self._model.load().codec.has_chat_template

    @property
    def known_context_window(self) -> int | None:
        """`context_window`, where it can be told without loading the model."""
        return self._model.known_context_window()

    @property
    def known_chat_template(self) -> bool | None:
        """Whether the tokenizer has a chat template, where it can be told without loading the model; else None."""
        return self._model.known_chat_template()

    def reads_in_template(self, name: str) -> bool:
        """Whether the chat template reads a variable of this name (`chat_template_kwargs`). Loads the model."""
        return name in self._model.load().codec.template_names

    def encode(self, prompt: Prompt) -> Tokens:
        """The tokens the model would be given."""
        return encoded(prompt, self._model.load().codec, self.generation.chat_template_kwargs)

    def token_ids(self, text: str) -> list[int]:
        """The tokens of a text alone, nothing added."""
        if not isinstance(text, str):
            raise InputError(f"expected a text, got {shortened(text)}.")
        checked_text(text)
        return list(self._model.load().codec.encode(text, add_special_tokens=False)) if text else []

    def _overridden(self, overrides: Mapping[str, Any]) -> GenerationConfig:
        if not overrides:
            return self.generation
        fields = {name: getattr(self.generation, name) for name in self.generation.model_fields_set}
        return GenerationConfig.parse({**fields, **overrides})
