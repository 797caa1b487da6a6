"""What a sampler did, step by step: the words of a trace as data.

A sampler puts its steps into its rounds, each once. Whoever wants them gets them as `Event`s; a sampler does not know
who looks. Chains stand here without the engine's note on them, so that a record holds tokens and numbers alone. `of`
says which of the sampler's chains, or of its independent runs; in the end number 0 answers.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple, TypeAlias

from power_sampling.types.decoding import Chain, Step

__all__ = ["Chosen", "Event", "Extended", "Frame", "Moved", "Swapped", "Weighed"]

Chains: TypeAlias = tuple[Chain, ...]


class Extended(NamedTuple):
    """A chain was continued from q, behind a cut, or was given whole. Nothing was decided."""

    cut: int
    chain: Chain
    of: int = 0

    @property
    def chains(self) -> Chains:
        """The chains whose tokens behind the cut are new."""
        return (self.chain,)


class Moved(NamedTuple):
    """A move of a chain: proposals from a cut, accepted or not.

    It was accepted where log_u <= log_ratio. Of a proposal that was abandoned at its floors (`end` is `floor`) the
    ratio is an upper bound. Both are None where the proposal was drawn by weight, the chain itself being a candidate.
    """

    cut: int
    proposals: Chains
    log_ratio: float | None
    log_u: float | None
    accepted: int | None  # the proposal; None: the chain stays
    chain: Chain  # after the move
    of: int = 0

    @property
    def chains(self) -> Chains:
        return self.proposals


class Swapped(NamedTuple):
    """Chains `of` and `of` + 1 were offered to exchange their completions, and did where it is accepted."""

    log_ratio: float
    log_u: float
    is_accepted: bool
    pair: tuple[Chain, Chain]  # afterwards, of `of` and of `of` + 1
    of: int
    cut: int = 0

    @property
    def chains(self) -> Chains:
        return self.pair


class Weighed(NamedTuple):
    """Particles were grown behind a cut and weighed. Where they were resampled, the i-th of the next generation is
    particle `ancestors[i]`; else each goes on. `is_first`: before the cut they are all the chain's."""

    cut: int
    particles: Chains
    log_weights: tuple[float, ...]
    ess: float
    is_first: bool
    ancestors: tuple[int, ...] | None = None
    of: int = 0

    @property
    def chains(self) -> Chains:
        return self.particles


class Chosen(NamedTuple):
    """A chain goes on with one of several candidates: drawn by its weight, or taken by the sampler's rule where
    there are no weights."""

    cut: int
    candidates: Chains
    weights: tuple[float, ...] | None  # relative
    chosen: int
    of: int = 0

    @property
    def chain(self) -> Chain:
        return self.candidates[self.chosen]

    @property
    def chains(self) -> Chains:
        return self.candidates


class Event(NamedTuple):
    """A step, and what the request had cost when it was told."""

    step: Step
    tokens_decoded: int
    serial_steps: int


class Frame(NamedTuple):
    """An event as a person reads it: the text of every chain of its step, and where the new part of each begins."""

    event: Event
    texts: tuple[str, ...]  # of `step.chains`
    marks: tuple[int, ...]  # characters of each before its new part

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; None stands for an infinite number."""
        step, chains = self.event.step, self.event.step.chains
        own = {k: v for k, v in step._asdict().items() if not isinstance(v, Chain) and not _has_chains(v)}
        shown = [
            {
                "kept": text[:mark],
                "new": text[mark:],
                "logp": float(chain.logp.sum()),
                "length": len(chain.tokens),
                "end": chain.end,
            }
            for text, mark, chain in zip(self.texts, self.marks, chains, strict=True)
        ]
        cost = {"tokens_decoded": self.event.tokens_decoded, "serial_steps": self.event.serial_steps}
        plain: dict[str, Any] = _plain({"kind": type(step).__name__.lower(), **own, "chains": shown, **cost})
        return plain


def _has_chains(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and isinstance(value[0], Chain)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value
