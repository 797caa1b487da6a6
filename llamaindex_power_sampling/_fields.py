"""The constructor's keyword arguments as types: those of `power_sampling.Config`, LlamaIndex's, and our own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypedDict

from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.callbacks import CallbackManager
from llama_index.core.prompts import BasePromptTemplate
from llama_index.core.types import BaseOutputParser, PydanticProgramMode

from power_sampling.integrations import ConfigFields, LoadedFields, OverflowPolicy

__all__ = ["LLMFields", "LoadedLLMFields"]


class _OfLlamaIndex(TypedDict, total=False):
    max_tokens: int
    num_output: int
    context_window: int | None
    context_overflow: OverflowPolicy
    strict: bool
    is_function_calling_model: bool | None
    callback_manager: CallbackManager | None
    rate_limiter: Any
    system_prompt: str | None
    messages_to_prompt: Callable[[Sequence[ChatMessage]], str] | None
    completion_to_prompt: Callable[[str], str] | None
    output_parser: BaseOutputParser | None
    pydantic_program_mode: PydanticProgramMode | str
    query_wrapper_prompt: BasePromptTemplate | None


class LLMFields(ConfigFields, _OfLlamaIndex, total=False):
    """Of `PowerSamplingLLM`."""


class LoadedLLMFields(LoadedFields, _OfLlamaIndex, total=False):
    """Of `PowerSamplingLLM.from_model`."""
