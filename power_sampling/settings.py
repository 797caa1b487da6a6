"""The base of every settings class: frozen, and an unknown field is an error that suggests the closest name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from power_sampling.errors import ConfigurationError, shortened

__all__ = ["Settings", "check_bounds", "describe", "hint"]


MOST_VALUES = 400_000
MOST_NESTED = 100
"""What one setting may hold: schemas are large, but no schema is endless."""
MOST_BITS = 1024
MOST_FAULTS = 8
"""Faults that one message lists."""

_SURROGATE = re.compile("[\ud800-\udfff]")


def hint(unknown: str, known: Sequence[str]) -> str:
    """What an error adds about an unknown name: the closest known one, or all of them."""
    close = difflib.get_close_matches(unknown[:80], known, n=1, cutoff=0.6)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(sorted(known))}."


class Settings(BaseModel):
    """Immutable settings. An unknown field raises ConfigurationError and suggests the closest name."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_fields(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            for name, value in values.items():
                if name not in cls.model_fields:
                    raise ConfigurationError(
                        f"{cls.__name__} has no field {shortened(name)}.{cls.hint(str(name)[:80])}"
                    )
                check_bounds(value, name)
        return values

    @classmethod
    def hint(cls, unknown: str) -> str:
        """What an error adds about a name that is no field."""
        return hint(unknown, list(cls.model_fields))

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Validate a mapping; every fault is one ConfigurationError that lists field, value and reason."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigurationError(describe(error, values)) from error


def describe(error: ValidationError, values: Any = None) -> str:
    """A pydantic error in the project's words: field, what came, what was expected. Of `values`, which were read, only
    the steps that lead somewhere are told: pydantic also names the alternatives that it tried."""
    found = error.errors(include_url=False)
    expected: dict[tuple[str, str], list[str]] = {}
    for fault in found[:MOST_FAULTS]:
        place = ".".join(step[:80] for step in _steps(values, fault["loc"], is_whole=fault["type"] == "missing"))
        expected.setdefault((place or "value", shortened(fault["input"])), []).append(fault["msg"][:400])
    told = [f"{place}: {' or: '.join(reasons)}, got {came}" for (place, came), reasons in expected.items()]
    more = len(found) - MOST_FAULTS
    return "; ".join([*told, *([f"and {more} faults more"] if more > 0 else [])]) + "."


def _steps(values: Any, location: Sequence[int | str], *, is_whole: bool) -> list[str]:
    """Of a place, the steps that lead somewhere in the values; all where nothing does, or with `is_whole`."""
    taken = []
    for step in location:
        with suppress(LookupError, TypeError):
            values = values[step]
            taken.append(str(step))
    return taken if taken and not is_whole else [str(step) for step in location]


def check_bounds(value: Any, name: str) -> None:
    """Raises ConfigurationError for a setting without end, one too large to be handled, and one that holds what is no
    character."""
    count, rest = 0, [(value, 0)]
    while rest:
        one, depth = rest.pop()
        count += 1
        if depth > MOST_NESTED:
            raise ConfigurationError(f"{name}: nested deeper than {MOST_NESTED} levels, or in itself.")
        if count > MOST_VALUES:
            raise ConfigurationError(f"{name}: more than {MOST_VALUES} values, each counted as often as it is meant.")
        if isinstance(one, str) and _SURROGATE.search(one):
            raise ConfigurationError(f"{name}: holds half of a surrogate pair, which is no character.")
        if isinstance(one, int) and one.bit_length() > MOST_BITS:
            raise ConfigurationError(f"{name}: a whole number of {one.bit_length()} bits is out of every range.")
        if isinstance(one, Mapping):
            rest += [(item, depth + 1) for pair in one.items() for item in pair]
        elif isinstance(one, (list, tuple, set, frozenset)):
            rest += [(item, depth + 1) for item in one]
