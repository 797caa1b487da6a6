"""What is compared: `greedy`, a sampler, a sampler with settings of its own, or a vote over plain samples.

ancestral, low_temperature(alpha=2), metropolis_hastings(alpha=2, num_steps=4), vote, weighted_vote
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from power_sampling.config import GenerationConfig
from power_sampling.errors import ConfigurationError
from power_sampling.files import yaml_value
from power_sampling.samplers import BY_NAME, SHORT
from power_sampling.settings import hint

__all__ = ["POOL", "VOTES", "Method", "parse_methods"]

POOL = "ancestral"  # the plain samples that votes are counted over
VOTES = ("vote", "weighted_vote")
SPEC = re.compile(r"\s*(\w+)\s*(?:\((.*)\))?\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Method:
    """Settings under a label that names them in log, tables and figures."""

    label: str
    generation: GenerationConfig

    @property
    def is_deterministic(self) -> bool:
        """Whether it gives one answer, however often it is asked."""
        return self.generation.temperature == 0


def parse_methods(specs: str | Sequence[str], base: GenerationConfig) -> tuple[tuple[Method, ...], tuple[str, ...]]:
    """(methods, votes). Votes bring plain samples with them, which are counted among the methods too.

    Settings that a spec does not name are those of `base`. Metropolis-Hastings does not prefetch unless it is told to:
    tokens decoded in advance would be counted as its cost, and rows are taken by other questions anyway.
    """
    named = _split(specs) if isinstance(specs, str) else [spec.strip() for spec in specs]
    votes = tuple(spec for spec in named if spec in VOTES)
    labels = [spec for spec in named if spec not in VOTES]
    if votes and POOL not in labels:
        labels.append(POOL)
    if len(set(labels)) < len(labels) or len(set(votes)) < len(votes):
        raise ConfigurationError(f"samplers: every one has to be named once, got {', '.join(named)}.")
    if not labels:
        raise ConfigurationError("samplers: name at least one, for example greedy,ancestral,metropolis_hastings,vote.")
    return tuple(Method(label, _generation(label, base)) for label in labels), votes


def _split(text: str) -> list[str]:
    """At commas outside parentheses."""
    return [part.strip() for part in re.split(r",(?![^()]*\))", text) if part.strip()]


def _generation(spec: str, base: GenerationConfig) -> GenerationConfig:
    match = SPEC.fullmatch(spec)
    if match is None and spec.count("(") != spec.count(")"):
        missing = ")" if spec.count("(") > spec.count(")") else "("
        raise ConfigurationError(f"samplers: {spec!r}: a {missing!r} is missing, as in metropolis_hastings(alpha=2).")
    name = SHORT.get(match[1], match[1]) if match else spec
    if match is None or name not in {"greedy", *BY_NAME}:
        raise ConfigurationError(f"samplers: there is no {spec!r}.{hint(name, ['greedy', *BY_NAME, *VOTES])}")
    given = _settings(match[2] or "", spec)
    known = [*BY_NAME[POOL if name == "greedy" else name].model_fields, *GenerationConfig.model_fields]
    for unknown in given.keys() - known:
        raise ConfigurationError(f"samplers: {spec!r}: there is no setting {unknown!r}.{hint(unknown, known)}")
    inherited = {field: getattr(base, field) for field in base.model_fields_set if field != "sampler"}
    if name == "greedy":
        return GenerationConfig.parse({**inherited, "sampler": POOL, **given, "temperature": 0.0})
    options_class = BY_NAME[name]
    options: dict[str, Any] = {"name": name}
    if base.sampler.name == name:
        options |= {field: getattr(base.sampler, field) for field in base.sampler.model_fields_set}
    options |= {key: value for key, value in given.items() if key in options_class.model_fields}
    if "prefetch" in options_class.model_fields:
        options.setdefault("prefetch", 0)
    rest = {key: value for key, value in given.items() if key not in options_class.model_fields}
    return GenerationConfig.parse({**inherited, **rest, "sampler": options})


def _settings(text: str, spec: str) -> Mapping[str, Any]:
    """`a=1, b=two` as a mapping; values as in YAML."""
    found: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or name.strip() in found:
            raise ConfigurationError(f"samplers: {spec!r}: expected name=value, each once, got {part!r}.")
        found[name.strip()] = yaml_value(value, f"samplers: {spec!r}: {name.strip()}")
    return found
