"""Steps that a sampler has made and no round has told yet."""

from __future__ import annotations

from collections.abc import Sequence

from power_sampling.types import Chain, Floats, Step, Weighed

__all__ = ["Notes", "weighed"]


class Notes:
    """What was done, on its way into the next round."""

    def __init__(self) -> None:
        self._steps: list[Step] = []

    def add(self, *steps: Step) -> None:
        self._steps += steps

    def take(self) -> tuple[Step, ...]:
        """All of them, each once."""
        steps, self._steps = tuple(self._steps), []
        return steps


def weighed(
    cut: int, particles: Sequence[Chain], log_weights: Floats, ess: float, *, is_first: bool, of: int = 0
) -> Weighed:
    """Particles whose tokens are new from a cut on, before they are resampled."""
    return Weighed(cut, tuple(x.bare() for x in particles), tuple(log_weights.tolist()), ess, is_first, of=of)
