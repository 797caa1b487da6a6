"""The one door for chance in a sampler. No global random state, no model."""

from __future__ import annotations

import math
from copy import deepcopy
from typing import Protocol

import numpy as np

from power_sampling.types import Floats

__all__ = ["NumpyRng", "Rng"]


class Rng(Protocol):
    """Every decision of a sampler goes through here, so a test can walk all of them and sum the exact law."""

    def integers(self, high: int) -> int:
        """Uniform on 0..high-1."""

    def categorical(self, weights: Floats) -> int:
        """An index with probability proportional to its weight; never one of weight zero."""

    def log_uniform(self) -> float:
        """The logarithm of a uniform on (0, 1]."""

    def seed(self) -> int:
        """A fresh 64-bit seed, handed to an engine for the tokens of one draw."""

    def fork(self) -> Rng:
        """An independent stream for one step: what a step draws does not depend on how much those before it drew."""

    def copy(self) -> Rng:
        """The same stream from here on, to see what a step would ask for."""


class NumpyRng:
    """Counter-based (Philox): the same seed gives the same stream on every machine."""

    def __init__(self, seed: int) -> None:
        self._generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(seed)))

    def integers(self, high: int) -> int:
        return int(self._generator.integers(high))

    def categorical(self, weights: Floats) -> int:
        cdf = np.cumsum(weights)
        # `side="right"` steps over zero weights; the product is kept below the total, which rounding could reach
        at = min(self._generator.random() * cdf[-1], np.nextafter(cdf[-1], 0.0))
        return int(np.searchsorted(cdf, at, side="right"))

    def log_uniform(self) -> float:
        return math.log(1.0 - self._generator.random())

    def seed(self) -> int:
        return int(self._generator.integers(2**63))

    def fork(self) -> NumpyRng:
        return NumpyRng(self.seed())

    def copy(self) -> NumpyRng:
        return deepcopy(self)
