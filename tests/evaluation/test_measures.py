"""Measures against scipy, statsmodels and enumeration, on random tables."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from power_sampling import InputError
from power_sampling.evaluation import measures


def table(seed: int, questions: int = 60, samples: int = 1, right: float = 0.5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ease = rng.beta(1.0, 1.0, questions) * 2 * right
    return (rng.random((questions, samples)) < ease[:, None]).astype(float)


def test_pass_at_k_is_the_share_of_the_subsets_with_a_right_answer() -> None:
    for n in range(1, 7):
        for c in range(n + 1):
            for k in range(1, n + 1):
                subsets = list(combinations([1] * c + [0] * (n - c), k))
                assert measures.pass_at_k(n, c, k) == pytest.approx(np.mean([any(s) for s in subsets]))
                assert 1 - measures.pass_at_k(n, c, k) == pytest.approx(stats.hypergeom(n, c, k).pmf(0))
    with pytest.raises(InputError, match="draw at least k"):
        measures.pass_at_k(3, 1, 4)
    with pytest.raises(InputError, match="0 to 3"):
        measures.pass_at_k(3, 4, 1)


@pytest.mark.parametrize("seed", range(20))
def test_mcnemar_is_the_binomial_test_of_scipy(seed: int) -> None:
    first, second = table(seed)[:, 0], table(seed + 100, right=0.3 + seed / 50)[:, 0]
    wins, losses = int((first > second).sum()), int((first < second).sum())
    assert measures.mcnemar(first, second) == pytest.approx(stats.binomtest(wins, wins + losses).pvalue)


# statsmodels takes longer to import than all of this takes to compute


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_mcnemar_is_the_exact_test_of_statsmodels(seed: int) -> None:
    from statsmodels.stats.contingency_tables import mcnemar as reference_mcnemar

    first, second = table(seed)[:, 0], table(seed + 100, right=0.3 + seed / 50)[:, 0]
    counts = [[int(((first == a) & (second == b)).sum()) for b in (1, 0)] for a in (1, 0)]
    assert measures.mcnemar(first, second) == pytest.approx(reference_mcnemar(counts, exact=True).pvalue)


def test_mcnemar_without_disagreement_and_with_shares() -> None:
    assert measures.mcnemar([1, 0, 1], [1, 0, 1]) == 1.0
    with pytest.raises(InputError, match="one right"):
        measures.mcnemar([0.5, 1], [0, 1])
    with pytest.raises(InputError, match="same questions"):
        measures.mcnemar([1, 1], [0])


def test_the_bootstrap_is_that_of_scipy() -> None:
    for seed in range(5):
        per_question = table(seed, samples=4).mean(axis=1)
        ours = measures.bootstrap_interval(per_question)
        theirs = stats.bootstrap((per_question,), np.mean, method="percentile", rng=seed, n_resamples=10_000)
        assert ours.value == pytest.approx(per_question.mean())
        # two Monte Carlo quantiles of 10,000 means each: 0.0008 is some 3 of their standard errors
        assert ours[1:] == pytest.approx(tuple(theirs.confidence_interval), abs=0.008)


def test_the_bootstrap_respects_questions() -> None:
    """As wide as the normal interval of the means of questions, not as one that counts every answer."""
    answers = table(3, questions=300, samples=8)
    ours = measures.bootstrap_interval(answers.mean(axis=1))
    assert (ours.high - ours.low) / 2 == pytest.approx(1.96 * stats.sem(answers.mean(axis=1)), rel=0.04)
    naive = 1.96 * answers.std() / np.sqrt(answers.size)
    assert (ours.high - ours.low) / 2 > 1.5 * naive


@pytest.mark.slow
def test_the_bootstrap_is_as_wide_as_a_cluster_robust_regression() -> None:
    from statsmodels.regression.linear_model import OLS

    answers = table(3, questions=300, samples=8)
    ours = measures.bootstrap_interval(answers.mean(axis=1))
    groups = np.repeat(np.arange(len(answers)), answers.shape[1])
    fitted = OLS(answers.ravel(), np.ones(answers.size)).fit(cov_type="cluster", cov_kwds={"groups": groups})
    assert (ours.high - ours.low) / 2 == pytest.approx(1.96 * fitted.bse[0], rel=0.04)


def test_a_paired_difference_is_narrower_than_its_parts() -> None:
    first = table(5, samples=4).mean(axis=1)
    second = np.clip(first - 0.05, 0, 1)
    found = measures.paired_difference(first, second)
    assert found.value == pytest.approx((first - second).mean())
    assert found.high - found.low < 0.02 < measures.bootstrap_interval(first).high - found.value


@pytest.mark.parametrize("seed", range(5))
def test_the_sign_flip_test_is_that_of_scipy(seed: int) -> None:
    first, second = table(seed, samples=4).mean(axis=1), table(seed, samples=3, right=0.4).mean(axis=1)
    theirs = stats.permutation_test(
        (first, second), lambda a, b, axis: (a - b).mean(axis=axis), permutation_type="samples", rng=1
    )
    ours = measures.sign_flip_test(first, second)
    assert ours == pytest.approx(theirs.pvalue, abs=0.02)  # 4 standard errors at p = 0.5 with 10,000 each
    assert measures.sign_flip_test(first, first) == 1.0


def test_the_sign_flip_test_tends_to_mcnemar() -> None:
    for seed in range(5):
        first, second = table(seed)[:, 0], table(seed + 50)[:, 0]
        assert measures.sign_flip_test(first, second) == pytest.approx(measures.mcnemar(first, second), abs=0.02)


def test_holm_by_hand() -> None:
    assert measures.holm([0.01, 0.04, 0.03, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.5])
    assert measures.holm([0.6, 0.7]) == [1.0, 1.0]
    assert measures.holm([]) == []


@pytest.mark.slow
def test_holm_is_that_of_statsmodels() -> None:
    from statsmodels.stats.multitest import multipletests

    for seed in range(5):
        p = list(np.random.default_rng(seed).random(7) / 10)
        assert measures.holm(p) == pytest.approx(list(multipletests(p, method="holm")[1]))


def test_questions_needed_have_the_power_they_promise() -> None:
    """By the normal law: with so many questions the effect is seen with probability 0.8, with one fewer more seldom."""
    difference = table(0, samples=2).mean(axis=1) - table(9, samples=2).mean(axis=1)
    for effect in (0.02, 0.05, 0.1):
        n = measures.questions_needed(difference, effect)
        sizes = effect / difference.std(ddof=1) * np.sqrt([n, n - 1])
        power = stats.norm.sf(stats.norm.isf(0.025) - sizes)
        assert power[1] < 0.8 <= power[0]
    assert measures.half_width(difference) == pytest.approx(1.96 * stats.sem(difference), rel=1e-3)
    assert measures.questions_needed([0.0, 0.0], 0.05) == 1
    with pytest.raises(InputError, match="above 0"):
        measures.questions_needed([0.0, 1.0], 0.0)


@pytest.mark.slow
def test_questions_needed_are_those_of_statsmodels() -> None:
    from statsmodels.stats.power import NormalIndPower

    for seed in range(5):
        difference = table(seed, samples=2).mean(axis=1) - table(seed + 9, samples=2).mean(axis=1)
        for effect in (0.02, 0.05, 0.1):
            size = effect / difference.std(ddof=1)
            theirs = NormalIndPower().solve_power(size, alpha=0.05, power=0.8, ratio=0)
            assert measures.questions_needed(difference, effect) == pytest.approx(theirs, rel=1e-3, abs=1.0)


@pytest.mark.slow
def test_a_false_alarm_comes_as_often_as_it_should() -> None:
    """Equal methods: the interval leaves out 0 in about one of twenty tables (300 tables: 5% has error 1.3 points)."""
    alarms = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        ease = rng.random((80, 1))
        first, second = ((rng.random((80, 4)) < ease).mean(axis=1) for _ in range(2))
        found = measures.paired_difference(first, second)
        alarms += not found.low <= 0 <= found.high
    assert 0.01 < alarms / 300 < 0.1


@pytest.mark.parametrize("values", [[], [float("nan")], [[1.0, 0.0]]])
def test_what_is_no_table_is_refused(values: list[float]) -> None:
    with pytest.raises(InputError, match="one finite number per question"):
        measures.bootstrap_interval(values)
