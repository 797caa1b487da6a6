"""The engine's errors as LangChain's own, so that `except`, middleware and fallbacks written for either kind work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from langchain_core import exceptions

import power_sampling
from power_sampling import PowerSamplingError

__all__ = ["langchain_errors"]

# the engine's error: what LangChain calls it. Subclasses stand before their bases.
NAMES: dict[type[PowerSamplingError], str] = {
    power_sampling.ContextOverflowError: "ContextOverflowError",
    power_sampling.ModelNotFoundError: "ModelNotFoundError",
    power_sampling.RequestTimeoutError: "ModelTimeoutError",
    power_sampling.EmptyPromptError: "ModelInvalidRequestError",
    power_sampling.ChatTemplateError: "ModelInvalidRequestError",
    power_sampling.InputError: "ModelInvalidRequestError",
    power_sampling.ConfigurationError: "ModelInvalidRequestError",
}


def _both(engines: type[PowerSamplingError], name: str) -> type[PowerSamplingError]:
    """One class of both kinds; the engine's alone where this langchain-core has no such error."""
    langchains = getattr(exceptions, name, None)
    if langchains is None:
        return engines
    return type(engines.__name__, (engines, langchains), {"__doc__": engines.__doc__, "__module__": __name__})


TWINS = {engines: _both(engines, name) for engines, name in NAMES.items()}
globals().update({twin.__name__: twin for twin in TWINS.values()})  # pickle finds a class by its module and name


@contextmanager
def langchain_errors() -> Iterator[None]:
    """Raise an engine's error as its twin; every other one as it is."""
    try:
        yield
    except PowerSamplingError as error:
        twin = TWINS.get(type(error))
        if twin is None or twin is type(error):
            raise
        raise twin(*error.args) from error
