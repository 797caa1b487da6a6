"""Parallel tempering leaves the product of its rungs' power laws invariant: by walking every path of its step."""

from __future__ import annotations

from itertools import pairwise, product
from typing import Any

import numpy as np
import pytest

from power_sampling import ConfigurationError, NoLegalCompletionError, PowerSampler
from power_sampling.config import GenerationConfig, ParallelTempering
from power_sampling.samplers import parallel_tempering
from power_sampling.samplers.parallel_tempering import _weighed, ladder_of, mildest, respaced, step, sweep
from power_sampling.samplers.parts.rng import NumpyRng
from power_sampling.testing import Branches, TableLM, drive, outcomes, power_law, run_draws, suffixes
from power_sampling.types import (
    Answer,
    BaseLaw,
    Chain,
    Chosen,
    Continuation,
    Draw,
    Floats,
    Law,
    Progress,
    Round,
    Termination,
)
from tests.support.constraints import legal
from tests.support.exact import EOS, PROMPT, STOP, World, label
from tests.support.tiny import tiny_model, tiny_tokenizer


class Ladder:
    """A world under every law of a ladder; a state is a tuple of completions, the coldest last."""

    def __init__(
        self,
        horizon: int,
        alpha: float,
        config: ParallelTempering,
        ending: Termination = EOS,
        seed: int = 3,
        base: BaseLaw | None = None,
    ):
        self.config, self.laws = config, ladder_of(config, config.law(alpha, 1.0)._replace(base=base))
        self.world = World(3, horizon, seed, self.laws[0], ending)
        self.rungs = [[_weighed(x, self.laws, k) for x in self.world.chains] for k in range(len(self.laws))]
        self.targets = [power_law(self.world.chains, law.alpha) for law in self.laws]
        self.states = list(product(range(len(self.world.chains)), repeat=len(self.laws)))
        self.index = {state: i for i, state in enumerate(self.states)}
        self.target = np.array(
            [np.prod([t[i] for t, i in zip(self.targets, state, strict=True)]) for state in self.states]
        )

    def chains(self, state: tuple[int, ...]) -> list[Chain]:
        return [rung[i] for rung, i in zip(self.rungs, state, strict=True)]

    def state(self, chains: list[Chain]) -> int:
        return self.index[tuple(self.world.index[x.tokens] for x in chains)]

    def sweep_gap(self) -> float:
        """How far the swaps alone are from leaving the joint law invariant."""
        after = np.zeros(len(self.states))
        for i, state in enumerate(self.states):
            for probability, (chains, _) in outcomes(lambda rng, s=state: sweep(self.chains(s), self.laws, rng)):
                after[self.state(chains)] += self.target[i] * probability
        return float(np.abs(after - self.target).max())

    def stepped(self, state: tuple[int, ...], rng: Branches, *, swaps_first: bool = False) -> list[Chain]:
        """The chains after one step from a state, or after further swaps and one."""
        chains = self.chains(state)
        if swaps_first:
            chains, _ = sweep(chains, self.laws, rng)
        asked = step(chains, self.world.horizon, self.config, self.laws, rng, Progress(0, 1, {}))
        result: Any = drive(asked, self.world.answer(rng))  # type: ignore[arg-type]
        return result.chains  # type: ignore[no-any-return]

    def step_gap(self, *, swaps_first: bool = False) -> float:
        """How far one step, moves and swaps, is from leaving the joint law invariant; or one after further swaps."""
        after = np.zeros(len(self.states))
        for i, state in enumerate(self.states):
            for probability, chains in outcomes(
                lambda rng, state=state: self.stepped(state, rng, swaps_first=swaps_first)
            ):
                after[self.state(chains)] += self.target[i] * probability
        return float(np.abs(after - self.target).max())


@pytest.mark.parametrize(
    ("horizon", "alpha", "fields", "ending"),
    [
        (2, 3.0, {}, EOS),
        pytest.param(2, 2.0, {"proposal_temperature": 0.8}, STOP, marks=pytest.mark.slow),
        (1, 2.0, {"proposal_temperature": 0.8}, STOP),
        pytest.param(2, 4.0, {"ladder": [2.5], "cut": "entropy", "cut_exponent": 1.0}, EOS, marks=pytest.mark.slow),
        (1, 4.0, {"ladder": [2.5], "cut": "entropy", "cut_exponent": 1.0}, EOS),
        (2, 3.0, {}, legal(["1", "12", "21", "221"], 2)),  # with a word that does not fit
        (2, 1.0, {}, legal(["1", "12", "21"], 2)),
    ],
    ids=label,
)
def test_a_step_leaves_the_joint_law_invariant(
    horizon: int, alpha: float, fields: dict[str, Any], ending: Termination
) -> None:
    config = ParallelTempering.model_validate({"num_rungs": 2, **fields})
    assert Ladder(horizon, alpha, config, ending).step_gap() < 1e-10


@pytest.mark.parametrize("ending", [EOS, legal(["1", "12", "21", "221"], 2)], ids=label)
def test_a_step_leaves_the_joint_law_of_another_base_law_invariant(ending: Termination) -> None:
    base = BaseLaw(logit_bias=((1, 0.3),), bad_words=((2, 1),), min_p=0.05)
    ladder = Ladder(2, 3.0, ParallelTempering(num_rungs=2), ending, base=base)
    assert len(ladder.world.chains) > 1
    assert ladder.step_gap() < 1e-10 and ladder.step_gap(swaps_first=True) < 1e-10


def test_a_sweep_over_three_rungs_leaves_the_joint_law_invariant() -> None:
    ladder = Ladder(3, 4.0, ParallelTempering(ladder=(1.0, 2.5)))
    after, swapped = np.zeros(len(ladder.states)), 0.0
    for i, state in enumerate(ladder.states):
        for probability, (chains, rates) in outcomes(
            lambda rng, state=state: sweep(ladder.chains(state), ladder.laws, rng)
        ):
            assert ((rates >= 0) & (rates <= 1)).all()
            j = ladder.state(chains)
            after[j] += ladder.target[i] * probability
            swapped += ladder.target[i] * probability * (i != j)
            for k, (x, n) in enumerate(zip(chains, ladder.states[j], strict=True)):
                assert x.log_weight == pytest.approx(ladder.rungs[k][n].log_weight, abs=1e-12)
    assert np.abs(after - ladder.target).max() < 1e-12 and swapped > 0.1


@pytest.mark.parametrize("ending", [EOS, legal(["1", "12", "21", "2222"], 3)], ids=label)
def test_a_chain_weighs_on_a_rung_what_it_would_if_the_rung_had_drawn_it(ending: Termination) -> None:
    ladder = Ladder(3, 4.0, ParallelTempering(num_rungs=3), ending)
    lm, law = ladder.world.lm, ladder.laws
    for k in range(3):
        for source in range(3):
            draws = [Draw(Chain.empty(), 0, 3, law[j], 0) for j in (source, k)]
            drawn, own = ([Chain.empty().spliced(0, c) for c, _ in suffixes(lm, PROMPT, ending, d, 1.0)] for d in draws)
            for x, y in zip(drawn, own, strict=True):
                assert _weighed(x, law, k).log_weight == pytest.approx(y.log_weight, abs=1e-12)


def test_weights_of_another_rung_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    ladder = Ladder(1, 3.0, ParallelTempering(num_rungs=2))
    monkeypatch.setattr(parallel_tempering, "_weighed", lambda chain, laws, k: chain)
    assert ladder.step_gap(swaps_first=True) > 1e-5


def test_a_swap_of_the_wrong_sign_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    ladder = Ladder(3, 3.0, ParallelTempering(num_rungs=2))
    assert ladder.sweep_gap() < 1e-12
    monkeypatch.setattr(parallel_tempering, "_logp", lambda chain: -float(chain.logp.sum()))
    assert ladder.sweep_gap() > 1e-3


def run(seed: int, config: ParallelTempering, alpha: float, horizon: int, lm: TableLM, handle: Any) -> Answer:
    sampler = config.run(Law(alpha, 1.0, 1 / alpha), horizon, NumpyRng(seed), lambda: False)
    return drive(sampler, lambda r: run_draws(lm, handle, r.draws))


def test_the_coldest_chain_and_the_curve_tend_to_the_power_laws() -> None:
    """200 runs of 12 steps. Every likely completion within 5 standard errors of p^alpha, every mean log p within 5 of
    the exact one: a right sampler fails with probability below 2e-5. What is left of the start after 12 steps is a
    fraction of a standard error."""
    config = ParallelTempering(ladder=(1.0, 1.7), num_steps=12, block_size=3)
    ladder = Ladder(3, 3.0, config)
    world, n = ladder.world, 200
    handle, counts, curves = world.lm.open(PROMPT, EOS), np.zeros(len(world.chains)), []
    for seed in range(n):
        answer = run(seed, config, 3.0, 3, world.lm, handle)
        assert answer.exactness == "asymptotic" and answer.curve is not None
        assert [alpha for alpha, _ in answer.curve] == [1.0, 1.7, 3.0]
        counts[world.index[answer.chain.tokens]] += 1
        curves.append([logp for _, logp in answer.curve])
    target = ladder.targets[-1]
    z = (counts - n * target) / np.sqrt(n * target * (1 - target))
    assert np.abs(z[n * target > 5]).max() < 5
    logp = np.array([x.logp.sum() for x in world.chains])
    exact = np.array([t @ logp for t in ladder.targets])
    assert (np.diff(exact) > 0).all()
    error = np.std(curves, axis=0) / np.sqrt(n)
    # the mean starts at the extension's law: its first steps weigh a few twelfths of the start's bias
    assert (np.abs(np.mean(curves, axis=0) - exact) < 5 * error + 0.1).all()


def test_the_chain_is_identical_with_early_rejection_on_and_off() -> None:
    lm, decoded = TableLM(6, seed=9), {True: 0, False: 0}
    for seed in range(20):
        tokens = []
        for is_early in (True, False):
            config = ParallelTempering(num_rungs=3, num_steps=4, early_rejection=is_early)
            before = lm.cost.row_steps
            tokens.append(run(seed, config, 4.0, 20, lm, lm.open(PROMPT, EOS)).chain.tokens)
            decoded[is_early] += lm.cost.row_steps - before
        assert tokens[0] == tokens[1]
    assert decoded[True] < decoded[False]


def test_all_rungs_move_in_one_round_and_a_spent_budget_finishes_the_coldest() -> None:
    lm, rounds = TableLM(5, seed=3), []
    handle = lm.open((1,), Termination(frozenset()))

    def answer(current: Round) -> list[Continuation]:
        rounds.append(current)
        return run_draws(lm, handle, current.draws)

    config = ParallelTempering(num_rungs=3, block_size=4, num_steps=3, num_tuning_steps=2)
    for limit in (1, 3, 5, 1000):
        rounds.clear()
        is_over = lambda limit=limit: len(rounds) >= limit  # noqa: E731 - a def would be longer than what it says
        sampler = config.run(Law(4.0, 1.0, 0.25), 12, NumpyRng(0), is_over)
        result = drive(sampler, answer)
        assert len(result.chain.tokens) == 12
        assert result.is_budget_spent == (limit < 1000) == (result.curve is None)
        assert all(len(r.draws) == 3 for r in rounds[:-1])
        done = [r.progress.done / r.progress.total for r in rounds[: limit if limit < 1000 else None]]
        assert done == sorted(done) and done[-1] < 1


def test_tuning_evens_the_rates_and_keeps_the_ends() -> None:
    """Against a model of swaps whose rate falls with the gap, twice as fast below the middle."""

    def rates(laws: list[Law]) -> Floats:
        powers = np.array([law.alpha for law in laws])
        return np.exp(-np.diff(np.where(powers < 3, 2 * powers, powers + 3)))

    config = ParallelTempering(num_rungs=5)
    laws = start = ladder_of(config, Law(5.0, 1.0, 0.2))
    for i in range(200):
        laws = respaced(laws, rates(laws), 1 / np.sqrt(i + 1))
        powers = [law.alpha for law in laws]
        assert powers[0] == 1.0 and powers[-1] == 5.0 and (np.diff(powers) > 0).all()
    assert np.ptp(rates(laws)) < 0.1 * np.ptp(rates(start))
    assert [law.proposal_temperature for law in laws] == [law.proposal_temperature for law in start]


def test_a_tuned_run_reports_the_tuned_ladder() -> None:
    lm = TableLM(4, seed=2)
    answer = run(0, ParallelTempering(num_rungs=4, num_tuning_steps=20), 4.0, 8, lm, lm.open(PROMPT, EOS))
    assert answer.curve is not None
    powers = [alpha for alpha, _ in answer.curve]
    assert powers[0] == 1.0 and powers[-1] == 4.0 and powers == sorted(powers)
    assert powers[1] != pytest.approx(4 ** (1 / 3))


@pytest.mark.parametrize("ladder", [(2.0, 1.5), (1.0, 4.0), (0.5,), ()])
def test_a_ladder_has_to_ascend_and_stay_below_alpha(ladder: tuple[float, ...]) -> None:
    with pytest.raises(ConfigurationError, match="ladder"):
        GenerationConfig.parse({"alpha": 4.0, "sampler": {"name": "parallel_tempering", "ladder": ladder}})


# ---------------------------------------------------------------- a power chosen by the curve


def law_of_the_chosen(ladder: Ladder, num_steps: int, tolerance: float) -> Floats:
    """Of the answer after so many steps, by the transition matrix of a step: every path of joint states, the power by
    the path's mean log p."""
    size, logp = len(ladder.states), np.array([x.logp.sum() for x in ladder.world.chains])
    begin, step_law = np.ones(size), np.zeros((size, size))
    for i, state in enumerate(ladder.states):
        for k, n in enumerate(state):  # as q of its rung draws it
            x, law = ladder.rungs[k][n], ladder.laws[k]
            begin[i] *= np.exp((law.alpha * x.logp - x.log_weight).sum())
        for probability, chains in outcomes(lambda rng, state=state: ladder.stepped(state, rng)):
            step_law[i, ladder.state(chains)] += probability
    found = np.zeros(len(ladder.world.chains))
    for path in product(range(size), repeat=num_steps):
        probability = (begin @ step_law)[path[0]] * np.prod([step_law[i, j] for i, j in pairwise(path)])
        means = np.mean([[logp[n] for n in ladder.states[i]] for i in path], axis=0)
        chosen = next(k for k, mean in enumerate(means) if mean >= means[-1] - tolerance)
        found[ladder.states[path[-1]][chosen]] += probability
    return found


def law_of_run(ladder: Ladder) -> Floats:
    """The same by every path of the sampler itself."""
    found, law = np.zeros(len(ladder.world.chains)), ladder.config.law(ladder.laws[-1].alpha, 1.0)

    def program(rng: Branches) -> Answer:
        return drive(ladder.config.run(law, ladder.world.horizon, rng, lambda: False), ladder.world.answer(rng))

    for probability, answer in outcomes(program):
        assert answer.exactness == "approximate" and answer.alpha in [x.alpha for x in ladder.laws]
        (taken,) = [x for x in answer.steps if isinstance(x, Chosen)]
        assert taken.chosen == len(ladder.laws) - 1 - [x.alpha for x in ladder.laws].index(answer.alpha)
        assert taken.chain.tokens == answer.chain.tokens, "number 0 is alpha's chain"
        found[ladder.world.index[answer.chain.tokens]] += probability
    return found


@pytest.mark.parametrize(("tolerance", "num_steps"), [(0.0, 1), (0.3, 1), (0.3, 2), (1.0, 2), (50.0, 1)])
def test_the_law_of_the_chain_that_the_curve_chooses(tolerance: float, num_steps: int) -> None:
    config = ParallelTempering(num_rungs=2, num_steps=num_steps, block_size=1, curve_tolerance=tolerance)
    ladder = Ladder(1, 3.0, config, seed=1)
    found = law_of_run(ladder)
    assert found.sum() == pytest.approx(1)
    assert np.abs(found - law_of_the_chosen(ladder, num_steps, tolerance)).max() < 1e-10


def test_another_choice_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    config = ParallelTempering(num_rungs=2, num_steps=2, block_size=1, curve_tolerance=0.3)
    ladder = Ladder(1, 3.0, config, seed=1)
    right = law_of_the_chosen(ladder, 2, 0.3)
    for rule in (lambda curve, *_: 0, lambda curve, *_: len(curve) - 1):
        monkeypatch.setattr(parallel_tempering, "mildest", rule)
        assert np.abs(law_of_run(ladder) - right).max() > 0.05


def test_the_choice_settles_and_its_power_is_the_law() -> None:
    """240 runs of 40 steps: the mildest power whose exact mean log p is near enough is chosen in most (87 of 100 in 300
    runs), and the answers of these have its power law, to 5 standard errors: three counts of which the rarest is
    expected 25 times, so independent answers fail with probability below 1e-5. Alpha's chains are off by 7."""
    config = ParallelTempering(ladder=(1.0, 2.0), num_steps=40, block_size=2)
    ladder = Ladder(2, 4.0, config, seed=16)
    world, n, right = ladder.world, 240, 1
    logp = np.array([x.logp.sum() for x in world.chains])
    exact = np.array([t @ logp for t in ladder.targets])
    tolerance = float(exact[-1] - (exact[0] + exact[1]) / 2)  # half way between two means
    config = config.model_copy(update={"curve_tolerance": tolerance})
    handle, counts = world.lm.open(PROMPT, EOS), np.zeros(len(world.chains))
    for seed in range(n):
        answer = run(seed, config, 4.0, 2, world.lm, handle)
        if answer.alpha == ladder.laws[right].alpha:
            counts[world.index[answer.chain.tokens]] += 1
    chosen, target = counts.sum(), ladder.targets[right]
    z = (counts - chosen * target) / np.sqrt(chosen * target * (1 - target))
    likely = chosen * target > 10
    assert chosen > 0.7 * n and likely.sum() == 3 and np.abs(z[likely]).max() < 5


def test_equal_curves_choose_the_mildest_whatever_the_rounding() -> None:
    legal = np.ones(3, bool)
    assert mildest(np.array([-2.0000001, -2.0, -2.0]), legal, 0.0) == 0
    assert mildest(np.array([-2.1, -2.0, -2.0]), legal, 0.0) == 1
    assert mildest(np.array([-2.1, -2.0, -2.0]), ~legal, 5.0) == 2


def test_what_is_illegal_is_neither_weighed_nor_chosen() -> None:
    """Where alpha's chain answers, some rung answers."""
    asked: Any = {"alpha": 4.0, "regex": "[a-z]{5,30}(xyz|abc)", "max_new_tokens": 10}
    moves = {"name": "parallel_tempering", "num_rungs": 3, "num_steps": 3}
    model = PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), **asked)
    found = {tolerance: [] for tolerance in (None, 0.0, 1e6)}  # type: dict[float | None, list[bool]]
    for seed in range(12, 16):
        for tolerance, answered in found.items():
            try:
                given: Any = {**moves, "curve_tolerance": tolerance}
                text = model.complete("hello", seed=seed, sampler=given).text
                answered.append(text.endswith(("xyz", "abc")))
            except NoLegalCompletionError:
                answered.append(False)
    assert 0 < sum(found[None]) < 4
    for tolerance in (0.0, 1e6):
        assert all(found[tolerance][i] for i, is_answered in enumerate(found[None]) if is_answered)


@pytest.mark.parametrize(("limit", "alpha"), [(2, None), (1000, 1.0)])
def test_out_of_time_no_power_is_chosen(limit: int, alpha: float | None) -> None:
    lm, seen = TableLM(5, seed=3), []
    config = ParallelTempering(num_rungs=2, num_steps=3, curve_tolerance=50.0)
    handle = lm.open((1,), Termination(frozenset()))

    def answer(current: Round) -> list[Continuation]:
        seen.append(current)
        return run_draws(lm, handle, current.draws)

    found = drive(config.run(Law(4.0, 1.0, 0.25), 8, NumpyRng(0), lambda: len(seen) >= limit), answer)
    assert (found.alpha, found.is_budget_spent) == (alpha, alpha is None)
