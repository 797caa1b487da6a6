"""For authors of adapters: what a framework's class around `PowerSampler` needs beside it.

    settings     AdapterConfig, resolve_settings, settings_around_loaded, resolve_max_tokens_alias, refuse_unknown,
                 check_count; the types of keyword arguments GenerationFields, LoadedFields, ConfigFields
    prompts      given_tools, normalize_tool_choice, openai_call, call_fault, OverflowPolicy, fit_context
    completions  completion_facts, finish_reason, token_logprobs, reply_of, arguments_in
    schemas      schema_of, ReadableSchema
    errors       shortened: a value as an error quotes it; needed_for: imports of packages that an extra brings

Both adapters of this project import from `power_sampling` and from here only. These names are as stable as those.
"""

from power_sampling.config import CONSTRAINTS
from power_sampling.errors import needed_for, shortened
from power_sampling.fields import ConfigFields, GenerationFields, LoadedFields
from power_sampling.integrations.completions import completion_facts, finish_reason, reply_of, token_logprobs
from power_sampling.integrations.overflow import OverflowPolicy, fit_context
from power_sampling.integrations.schemas import ReadableSchema, schema_of
from power_sampling.integrations.settings import (
    AdapterConfig,
    refuse_unknown,
    resolve_max_tokens_alias,
    resolve_settings,
    settings_around_loaded,
)
from power_sampling.integrations.tools import (
    arguments_in,
    call_fault,
    given_tools,
    normalize_tool_choice,
    openai_call,
)
from power_sampling.runtime import check_count

__all__ = [
    "CONSTRAINTS",
    "PROVIDER",
    "AdapterConfig",
    "ConfigFields",
    "GenerationFields",
    "LoadedFields",
    "OverflowPolicy",
    "ReadableSchema",
    "arguments_in",
    "call_fault",
    "check_count",
    "completion_facts",
    "finish_reason",
    "fit_context",
    "given_tools",
    "needed_for",
    "normalize_tool_choice",
    "openai_call",
    "refuse_unknown",
    "reply_of",
    "resolve_max_tokens_alias",
    "resolve_settings",
    "schema_of",
    "settings_around_loaded",
    "shortened",
    "token_logprobs",
]

PROVIDER = "power_sampling"  # what traces and registries call the provider of these models
