"""The settings as types of keyword arguments, so that an editor completes `alpha=` and a type checker finds `alhpa=`.

    def summarize(text: str, **settings: Unpack[GenerationFields]) -> str: ...

`power_sampling.config` decides what a field means and which values it takes; these types name the same fields, with
what the validators accept. No field is required.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

from power_sampling.engines.options import EngineOptions
from power_sampling.potentials import PotentialChoice
from power_sampling.samplers import SamplerOptions

__all__ = ["ConfigFields", "EngineChoice", "GenerationFields", "LoadedFields", "PretrainedFields", "SamplerChoice"]

SamplerChoice: TypeAlias = str | Mapping[str, Any] | SamplerOptions
"""A sampler's name, in full or short (`mh`), a mapping with `name` and its options, or an object such as
`MetropolisHastings(num_steps=4)`."""

EngineChoice: TypeAlias = str | Mapping[str, Any] | EngineOptions
"""An engine's name, a mapping with `name` and its options, or an object of its options."""


class GenerationFields(TypedDict, total=False):
    """`GenerationConfig`: how a completion is drawn."""

    sampler: SamplerChoice
    alpha: float
    temperature: float
    max_new_tokens: int
    top_k: int | None
    top_p: float | None
    min_p: float | None
    logit_bias: Mapping[int, float] | None
    bad_words: str | Collection[str] | None
    stop: str | Collection[str] | None
    start: str | Collection[int] | None
    seed: int | None
    time_budget: float | None
    timeout: float | None
    logprobs: bool
    top_logprobs: int
    chat_template_kwargs: Mapping[str, Any]
    thinking_budget: int | None
    json_schema: Mapping[str, Any] | None
    regex: str | None
    choices: Collection[str] | None
    grammar: str | None
    potentials: PotentialChoice | Sequence[PotentialChoice] | None


class LoadedFields(GenerationFields, total=False):
    """What can be said about a model that is already loaded (`ModelConfig.SERVING`), beside how it generates."""

    engine: EngineChoice
    max_rows: int
    prompt_memory: int
    kv_memory: int | None
    snapshots: int
    pack_weights: bool | None
    compile_layers: bool
    check_model: bool
    cuda_graphs: bool
    use_chat_template: bool | None
    tool_format: str | None


class PretrainedFields(LoadedFields, total=False):
    """All fields but `model`: how it is loaded, too."""

    base_url: str | Collection[str] | None
    tokenizer: str | None
    revision: str | None
    dtype: str
    device: str | None
    device_map: str | Mapping[str, Any] | None
    attn_implementation: str | None
    quantization_config: Mapping[str, Any] | None
    adapter: str | None
    merge_adapter: bool | None
    model_kwargs: Mapping[str, Any]
    trust_remote_code: bool


class ConfigFields(PretrainedFields, total=False):
    """`Config`: every field."""

    model: str
