"""The constructors' keyword arguments as types: those of `power_sampling.Config` and those of LangChain's classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypedDict

from langchain_core.caches import BaseCache
from langchain_core.callbacks import Callbacks
from langchain_core.language_models import ModelProfile
from langchain_core.rate_limiters import BaseRateLimiter
from pydantic import SecretStr

from power_sampling.integrations import ConfigFields, LoadedFields

__all__ = ["ChatFields", "LLMFields", "LoadedChatFields", "LoadedLLMFields"]


class _OfEveryModel(TypedDict, total=False):
    max_tokens: int
    n: int
    name: str | None
    cache: BaseCache | bool | None
    verbose: bool
    callbacks: Callbacks
    tags: list[str] | None
    metadata: dict[str, Any] | None
    custom_get_token_ids: Callable[[str], list[int]] | None


class _OfChatModels(_OfEveryModel, total=False):
    rate_limiter: BaseRateLimiter | None
    disable_streaming: bool | Literal["tool_calling"]
    output_version: str | None
    profile: ModelProfile | None
    streaming: bool | None
    max_retries: int | None
    api_key: SecretStr | str | None


class LLMFields(ConfigFields, _OfEveryModel, total=False):
    """Of `PowerSamplingLLM`."""


class LoadedLLMFields(LoadedFields, _OfEveryModel, total=False):
    """Of `PowerSamplingLLM.from_model`."""


class ChatFields(ConfigFields, _OfChatModels, total=False):
    """Of `ChatPowerSampling`."""


class LoadedChatFields(LoadedFields, _OfChatModels, total=False):
    """Of `ChatPowerSampling.from_model`."""
