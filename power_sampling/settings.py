"""The base of every settings class: frozen, and an unknown field is an error that suggests the closest name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from power_sampling.errors import ConfigurationError

__all__ = ["Settings", "describe", "hint"]


def hint(unknown: str, known: Sequence[str]) -> str:
    """What an error adds about an unknown name: the closest known one, or all of them."""
    close = difflib.get_close_matches(unknown, known, n=1, cutoff=0.6)
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
            for name in values:
                if name not in cls.model_fields:
                    known = list(cls.model_fields)
                    raise ConfigurationError(f"{cls.__name__} has no field {name!r}.{hint(str(name), known)}")
        return values

    @classmethod
    def parse(cls, values: Mapping[str, Any]) -> Self:
        """Validate a mapping; every fault is one ConfigurationError that lists field, value and reason."""
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigurationError(describe(error)) from error


def describe(error: ValidationError) -> str:
    """A pydantic error in the project's words: field, what came, what was expected."""
    faults = [
        f"{'.'.join(str(part) for part in fault['loc']) or 'value'}: {fault['msg']}, got {fault['input']!r}"
        for fault in error.errors()
    ]
    return "; ".join(faults) + "."
