"""log p and log q from the likeliest tokens alone: exact where they are, and within the bound where they are not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from power_sampling.engines.choice import log_law
from power_sampling.engines.vllm.logprobs import ROUNDING, Listed, Support, numbers_of
from power_sampling.types import Floats, Law

V = 40


def listed(logits: Floats, token: int, count: int) -> Listed:
    logp = log_law(logits, 1.0)
    return Listed(token, float(logp[token]), tuple(np.sort(logp)[::-1][:count].tolist()))


@pytest.fixture(params=range(6))
def logits(request: pytest.FixtureRequest) -> Any:
    return np.random.default_rng(request.param).normal(size=V) * (1 + request.param)


@pytest.mark.parametrize("temperature", [0.1, 0.5, 1.0, 1.7])
def test_drawing_from_the_likeliest_all_numbers_are_exact(logits: Floats, temperature: float) -> None:
    law, k = Law(2.0, 1.0, temperature, score_at=(0.3, 1.0)), 7
    kept = logits >= np.sort(logits)[-k]
    for token in np.flatnonzero(kept).tolist():
        found = numbers_of(listed(logits, token, k + 1), law, Support(k + 1, k, V))
        assert found.logp == pytest.approx(log_law(logits, 1.0)[token], abs=1e-12)
        for at, logq in zip((temperature, 0.3, 1.0), (found.logq, *found.scores), strict=True):
            assert logq == pytest.approx(log_law(logits, at, kept)[token], abs=1e-12)
        mass = float(np.exp(log_law(logits, 1.0))[kept].sum())
        assert (found.bound, -math.expm1(-found.left_out)) == (0.0, pytest.approx(1 - mass, abs=1e-12))


@pytest.mark.parametrize("temperature", [0.1, 0.5, 0.9, 1.0, 1.7])
def test_drawing_from_all_log_q_is_within_its_bound(logits: Floats, temperature: float) -> None:
    law, support = Law(2.0, 1.0, temperature), Support(12, None, V)
    for token in range(0, V, 5):
        found = numbers_of(listed(logits, token, 12), law, support)
        off = found.logq - log_law(logits, temperature)[token]
        assert -1e-9 <= off <= found.bound + 1e-9
        assert found.left_out == 0 and (found.bound == 0) == (temperature == 1)


def test_the_bound_falls_steeply_with_alpha(logits: Floats) -> None:
    bounds = [
        numbers_of(listed(logits, 0, 12), Law(alpha, 1.0, 1 / alpha), Support(12, None, V)).bound for alpha in (2, 4, 8)
    ]
    assert bounds[0] > 3 * bounds[1] > 9 * bounds[2] > 0


@pytest.mark.parametrize("keeps_ties", [True, False])
def test_a_tie_at_the_last_token_drawn_is_within_the_bound(keeps_ties: bool) -> None:
    logits = np.array([3.0, 2.0, 1.0, 1.0, 1.0, 0.0, -1.0])
    allowed = logits >= 1.0 if keeps_ties else np.arange(7) < 3
    found = numbers_of(listed(logits, 2, 4), Law(2.0, 1.0, 0.5), Support(4, 3, 7))
    assert -1e-9 <= found.logq - log_law(logits, 0.5, allowed)[2] <= found.bound
    assert found.bound > 0


def test_a_list_of_the_whole_vocabulary_gives_any_temperature(logits: Floats) -> None:
    found = numbers_of(listed(logits, 3, V), Law(2.0, 1.3, 0.65), Support(V, None, V))
    assert found.logp == pytest.approx(log_law(logits, 1.3)[3], abs=1e-12)
    assert found.logq == pytest.approx(log_law(logits, 0.65)[3], abs=1e-12)
    assert (found.left_out, found.bound) == (0.0, 0.0)


def test_greedy_has_log_q_of_zero(logits: Floats) -> None:
    found = numbers_of(listed(logits, int(logits.argmax()), 8), Law(1.0, 1.0, 0.0), Support(8, 7, V))
    assert found.logq == 0.0 and found.logp == pytest.approx(log_law(logits, 1.0).max())


def test_a_token_beyond_the_list_has_its_own_numbers(logits: Floats) -> None:
    """A server adds the drawn token to its list where it is not among the likeliest."""
    token = int(logits.argmin())
    told = listed(logits, token, 5)
    told = told._replace(likeliest=(*told.likeliest, told.logp))
    found = numbers_of(told, Law(4.0, 1.0, 0.25), Support(5, None, V))
    assert found == numbers_of(listed(logits, token, 5), Law(4.0, 1.0, 0.25), Support(5, None, V))
    assert 4 * found.logp - found.logq <= ROUNDING
