"""Potentials: factors phi of the target p(x)^alpha * phi(x), each a function of a user's own."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, Self, TypeAlias

from pydantic import BeforeValidator, Field, field_serializer, field_validator

from power_sampling.errors import ConfigurationError, shortened
from power_sampling.settings import Settings
from power_sampling.types import Judging

__all__ = ["Potential", "PotentialChoice", "Potentials", "judging_of"]

Judge: TypeAlias = Callable[[list[Any]], Sequence[float]]


class Potential(Settings):
    """A factor phi(x) of the target, which is then p(x)^alpha times all of them.

        def brief(texts: list[str]) -> list[float]:
            return [-0.1 * len(text.split()) for text in texts]

        Potential(brief, kind="prefix", at_most=0.0)

    `function` is given a list of texts, each as `Completion.text` (less the stop string that ended it), and returns
    log phi of each: natural logarithms, above 0 for more and below 0 for less, -inf for what must never be answered.
    It has to be a function of the text: equal texts have equal values. It is called on a thread of its own, never twice
    at one time, with all texts that wait for it, of several requests too, and not again for a text that the request has
    had judged. What it raises, and numbers that are none, end the request with PotentialError.
    """

    function: Any
    """A callable, or in files its name as `package.module:name`, which is imported."""
    kind: Literal["final", "prefix"] = "final"
    """`final` judges complete answers alone. `prefix` may be asked of partial texts too, and steers the particles while
    they grow; the target is the same. What it forbids there, it has to forbid whatever follows."""
    reads: Literal["text", "tokens"] = "text"
    """What it is given of a completion: its text, or the list of its tokens, with the one that ended it."""
    at_most: float | None = None
    """No value of it is above this, which is checked. Where all potentials say so, Metropolis-Hastings abandons
    proposals early as without them."""

    def __init__(self, function: Any = None, **fields: Any) -> None:
        super().__init__(**{"function": function, **fields})

    @field_validator("function")
    @classmethod
    def _imported(cls, value: Any) -> Any:
        found = _named(value) if isinstance(value, str) else value
        if not callable(found):
            raise ConfigurationError(
                f"potentials: expected a function of a list of texts, or its name as package.module:name, got "
                f"{shortened(value)}."
            )
        return found

    @field_serializer("function", when_used="json")
    def _name(self, function: Any) -> str:
        return self.name

    @property
    def name(self) -> str:
        """`package.module:name` where that finds the function, else what tells it from others."""
        module, name = getattr(self.function, "__module__", ""), getattr(self.function, "__qualname__", "")
        found: Any = sys.modules.get(module)
        for part in name.split("."):
            found = getattr(found, part, None)
        return (
            f"{module}:{name}"
            if found is self.function
            else f"{name or type(self.function).__name__} at {id(self.function):#x}"
        )

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        """Itself: it is immutable, and behind its function may stand a model."""
        return self


def _named(name: str) -> Any:
    module, colon, path = name.partition(":")
    if not (module and colon and path):
        raise ConfigurationError(f"potentials: expected package.module:name, got {shortened(name)}.")
    try:
        found: Any = importlib.import_module(module)
        for part in path.split("."):
            found = getattr(found, part)
    except Exception as error:
        raise ConfigurationError(f"potentials: {shortened(name)} cannot be imported: {error!s:.300}.") from error
    return found


def _listed(value: Any) -> Any:
    """One stands for a list of one; a function or its name for a potential of kind `final`."""
    if value is None:
        return ()
    several = list(value) if isinstance(value, (list, tuple)) else [value]
    return tuple(_fields(one) for one in several)


def _fields(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): each for name, each in value.items()}  # YAML has keys that are no texts
    is_function = callable(value) and not isinstance(value, Potential)
    return {"function": value} if isinstance(value, str) or is_function else value


Potentials = Annotated[tuple[Potential, ...], Field(max_length=64), BeforeValidator(_listed)]

PotentialChoice: TypeAlias = Potential | Judge | str | Mapping[str, Any]
"""A potential, a function, the name of one (`package.module:name`), or a mapping of the fields of `Potential`."""


def judging_of(potentials: Sequence[Potential]) -> Judging | None:
    """What a sampler has to know of them; None where there are none."""
    if not potentials:
        return None
    bounds = {kind: [_bound(p) for p in potentials if kind in (p.kind, "final")] for kind in ("prefix", "final")}
    return Judging(sum(bounds["prefix"]), sum(bounds["final"]))


def _bound(potential: Potential) -> float:
    return float("inf") if potential.at_most is None else potential.at_most
