"""Names of models that say how to sample, for clients that can send no field of their own.

M            the server's own settings
M:plain      another sampler, by its name or a short one
M:mh@alpha=2,num_steps=4     with fields of the request and options of the sampler
M@alpha=2    the server's own sampler under another alpha
"""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json

from power_sampling.errors import ConfigurationError, shortened
from power_sampling.samplers import ALL, BY_NAME, SHORT
from power_sampling.server.faults import Fault
from power_sampling.settings import hint

__all__ = ["listed", "settings_of"]

FIELDS = ("alpha", "time_budget")  # of a request; other names are options of the sampler


def listed(served: str) -> list[str]:
    """All names without options: the model's own, then one for each sampler."""
    short = {full: name for name, full in SHORT.items()}
    return [served, *(f"{served}:{short.get(name, name)}" for name in BY_NAME)]


def settings_of(model: str, served: str) -> dict[str, Any]:
    """`sampler`, `alpha` and `time_budget`, as far as the name says them. Raises a Fault for another model, and
    ConfigurationError for what is wrong behind the name."""
    rest = model.removeprefix(served)
    if not model.startswith(served) or rest[:1] not in ("", ":", "@"):
        raise Fault(
            404,
            f"There is no model {shortened(model)}. This server has {served!r}; GET /v1/models lists its names.",
            code="model_not_found",
            param="model",
        )
    sampler, at, pairs = rest.removeprefix(":").partition("@")
    if (rest.startswith(":") and not sampler) or (at and not pairs):
        raise ConfigurationError(f"model: expected NAME:SAMPLER@OPTION=VALUE,..., got {shortened(model)}.")
    given = dict(_pair(pair) for pair in pairs.split(",")) if pairs else {}
    fields = {name: given.pop(name) for name in FIELDS if name in given}
    for name in given:
        _check_option(name, sampler, served)
    return {"sampler": {"name": sampler, **given}, **fields} if sampler else fields


def _check_option(name: str, sampler: str, served: str) -> None:
    """Raises ConfigurationError for what is neither a field nor an option of the sampler that is named."""
    if not sampler and any(name in options.model_fields for options in ALL):
        raise ConfigurationError(
            f"model: {name!r} is an option of a sampler; name it too, as in {served}:mh@num_steps=4."
        )
    options = BY_NAME.get(SHORT.get(sampler, sampler))
    if sampler and options is None:
        return  # what is no sampler is told with the other settings
    known = {*FIELDS, *(options.model_fields if options else ())} - {"name"}
    if name not in known:
        what = f"no option of {sampler}" if sampler else "nothing that a model's name can say"
        raise ConfigurationError(f"model: {shortened(name)} is {what}.{hint(name, sorted(known))}")


def _pair(pair: str) -> tuple[str, Any]:
    name, equals, value = pair.partition("=")
    if not equals or not name:
        raise ConfigurationError(f"model: expected OPTION=VALUE behind the @, got {shortened(pair)}.")
    try:
        return name, from_json(value, allow_inf_nan=False)
    except ValueError:
        return name, value  # a word
