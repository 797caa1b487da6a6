"""The skeleton of a sampler runs as it stands: a copy of it starts from something that is right.

Copy this file too: it is the proof that a new sampler owes, by walking every path of the generator's chance.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from power_sampling.testing import Branches, check_sampler, drive, outcomes
from power_sampling.types import Answer, Termination
from tests.support.constraints import PLAIN, legal
from tests.support.exact import EOS, STOP, World, label
from tests.support.skeletons import skeleton as skeleton_of

skeleton: Any = skeleton_of("sampler_skeleton")


def gap(horizon: int, alpha: float, ending: Termination, **fields: Any) -> float:
    """How far E[Z_hat 1(x is returned)] is from p(x)^alpha, over all completions x."""
    options = skeleton.YourName(**fields)
    world = World(3, horizon, int(alpha) + horizon, options.law(alpha, 1.0), ending)

    def program(rng: Branches) -> Answer:
        return drive(options.run(world.law, horizon, rng, lambda: False), world.answer(rng))

    estimate = np.zeros(len(world.chains))
    for probability, answer in outcomes(program):
        if answer.log_z is not None and answer.log_z > -math.inf:
            estimate[world.index[answer.chain.tokens]] += probability * math.exp(answer.log_z)
    return float(np.abs(estimate - np.exp([alpha * x.logp.sum() for x in world.chains])).max())


@pytest.mark.parametrize(
    ("horizon", "alpha", "ending", "fields"),
    [
        (3, 2.0, EOS, {"num_completions": 2}),
        (2, 4.0, STOP, {"num_completions": 3, "num_parallel": 2}),
        (3, 3.0, STOP, {"num_completions": 2, "proposal_temperature": 0.8}),
        (4, 2.0, legal(PLAIN, 4), {"num_completions": 2}),
        (3, 1.0, legal(PLAIN, 3), {"num_completions": 2}),  # with words that do not fit
    ],
    ids=label,
)
def test_its_law_is_what_its_formula_says(
    horizon: int, alpha: float, ending: Termination, fields: dict[str, Any]
) -> None:
    assert gap(horizon, alpha, ending, **fields) < 1e-12


def test_a_choice_that_forgets_the_weights_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Branches, "categorical", lambda rng, weights: rng.integers(len(weights)))
    assert gap(3, 2.0, EOS, num_completions=2) > 1e-3


def test_it_keeps_the_contract_of_a_sampler() -> None:
    check_sampler(skeleton.YourName())
