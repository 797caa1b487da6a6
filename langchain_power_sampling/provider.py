"""`init_chat_model("power_sampling:...")`: an entry in LangChain's table of providers, made when asked for."""

from __future__ import annotations

from typing import Any

from power_sampling import ConfigurationError, MissingDependencyError
from power_sampling.integrations import PROVIDER

__all__ = ["register_provider"]


def register_provider() -> None:
    """Let `langchain.chat_models.init_chat_model` and `create_agent` find chat models of this package by name.

        register_provider()
        init_chat_model("power_sampling:embedded", sampler="metropolis_hastings", alpha=4.0)
        init_chat_model("power_sampling:Qwen/Qwen2.5-7B-Instruct", configurable_fields=["alpha", "sampler"])

    LangChain has no public way to do so (1.4, 1.5): this adds a line to its private table. Calling it again changes
    nothing. Raises MissingDependencyError without langchain, ConfigurationError where the table is not as expected.
    """
    try:
        from langchain.chat_models import base
    except ImportError as error:
        raise MissingDependencyError("register_provider needs langchain: pip install langchain") from error
    table: Any = getattr(base, "_BUILTIN_PROVIDERS", None)
    make = table.get("openai") if isinstance(table, dict) else None
    if not (isinstance(make, tuple) and len(make) == 3 and callable(make[2])):
        raise ConfigurationError(
            "This version of langchain keeps its providers in another way than 1.4 and 1.5 do, so that "
            "'power_sampling:...' cannot be added; build ChatPowerSampling(model=...) and hand the object over."
        )
    table[PROVIDER] = ("langchain_power_sampling", "ChatPowerSampling", make_model)


def make_model(cls: Any, **fields: Any) -> Any:
    """What LangChain calls with the class and the arguments of `init_chat_model`."""
    return cls(**fields)
