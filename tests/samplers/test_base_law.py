"""Another base law: p is restricted, biased and normalised token by token, and every sampler draws from its power.

By enumeration: the kernels of the samplers leave p^alpha invariant, for p by its definition (`support/base_law.py`),
and answers through the whole production path, over numpy and over torch, have the law.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from functools import cache
from typing import Any

import numpy as np
import pytest

from power_sampling import PowerSampler
from power_sampling.config import MetropolisHastings, ParticleGibbs, SequentialMonteCarlo
from power_sampling.engines import choice
from power_sampling.engines.row import Row
from power_sampling.engines.torch.base_law import BaseLaws
from power_sampling.engines.torch.engine import TorchLM
from power_sampling.samplers.particle_gibbs import move
from power_sampling.testing import Branches, TableLM, drive, outcomes, suffixes
from power_sampling.types import (
    Answer,
    BaseLaw,
    Chain,
    Continuation,
    Draw,
    Floats,
    Law,
    Progress,
    Round,
    Termination,
    Tokens,
)
from tests.support.base_law import BASE_LAWS, enumerated
from tests.support.constraints import legal, table_rules
from tests.support.exact import EOS, PROMPT, STOP, World, label
from tests.support.law import assert_law, table_tokenizer
from tests.support.table import Table
from tests.support.tiny import tiny_model


def power(law: dict[Tokens, float], alpha: float) -> dict[Tokens, float]:
    total = sum(p**alpha for p in law.values())
    return {tokens: p**alpha / total for tokens, p in law.items()}


# ------------------------------------------------------------ kernels, exactly


@pytest.mark.parametrize("base", BASE_LAWS, ids=str)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_what_the_engine_calls_p_is_p_by_the_definition(base: BaseLaw, temperature: float) -> None:
    for seed in range(3):
        world = World(3, 4, seed, Law(2.0, temperature, temperature / 2, base=base))
        exact = enumerated(lambda x, w=world: w.lm.logits((*PROMPT, *x)), base, temperature, 4, 0)
        assert exact.keys() == world.index.keys()
        for x in world.chains:
            assert math.exp(x.logp.sum()) == pytest.approx(exact[x.tokens], rel=1e-9)
            assert (x.log_weight <= 1e-12).all(), "a draw may be abandoned at its floors"


WORDS = legal(["1", "2", "12", "21", "112", "221", "1212", "2122"], 4)
KERNELS = pytest.mark.parametrize(
    ("base", "ending", "seed"),
    [
        *[(base, EOS, 2) for base in BASE_LAWS],
        (BASE_LAWS[5], STOP, 2),
        (BASE_LAWS[3], WORDS, 2),
        (BASE_LAWS[4], WORDS, 2),
        # some beginnings of words go on with no token that is kept
        (BASE_LAWS[0], WORDS, 6),
        (BASE_LAWS[5], WORDS, 7),
    ],
    ids=label,
)


@KERNELS
def test_metropolis_hastings_leaves_its_power_invariant(base: BaseLaw, ending: Termination, seed: int) -> None:
    t = Table(3, 4, seed, 3.0, ending, base=base)
    matrix = t.kernel(MetropolisHastings())
    assert len(t.chains) > 1 and np.abs(matrix.sum(1) - 1).max() < 1e-12  # and nothing illegal is ever kept
    assert t.gap(matrix) < 1e-10


@KERNELS
def test_particle_gibbs_leaves_its_power_invariant(base: BaseLaw, ending: Termination, seed: int) -> None:
    horizon = 4 if ending is WORDS else 3
    world = World(3, horizon, seed, Law(3.0, 1.0, 0.8, base=base), ending)
    matrix = gibbs_kernel(world)
    assert np.abs(matrix.sum(1) - 1).max() < 1e-12 and world.gap(matrix) < 1e-10


def gibbs_kernel(world: World) -> Floats:
    config = ParticleGibbs(num_particles=2, block_size=1, ess_threshold=1.0)

    def one_move(x: Chain, rng: Branches) -> Generator[Round, list[Continuation], Chain]:
        return move(x, world.horizon, config, world.law, rng, Progress(0, 1, {}))

    return world.kernel(one_move)


def test_a_beginning_without_a_way_on_weighs_nothing() -> None:
    law = Law(3.0, 1.0, 1 / 3, base=BASE_LAWS[0])
    world = World(3, 4, 6, law, WORDS)
    found = suffixes(world.lm, PROMPT, WORDS, Draw(Chain.empty(), 0, 4, law, 0), 1.0)
    dead = [c for c, _ in found if c.end == "illegal" and len(c.tokens) < 4]
    assert dead and all(c.log_weight[-1] == -math.inf and np.isfinite(c.logp).all() for c in dead)
    assert math.fsum(math.exp(p) for _, p in found) == pytest.approx(1)


@pytest.mark.parametrize("base", BASE_LAWS, ids=str)
def test_sequential_monte_carlo_is_unbiased(base: BaseLaw) -> None:
    law = Law(3.0, 1.0, 0.6, base=base)
    world = World(3, 2, 5, law)
    config = SequentialMonteCarlo(num_particles=2, block_size=1, ess_threshold=1.0)

    def program(rng: Branches) -> Answer:
        return drive(config.run(law, 2, rng, lambda: False), world.answer(rng))

    estimate = dict.fromkeys(world.index, 0.0)
    for probability, answer in outcomes(program):
        assert answer.log_z is not None
        estimate[answer.chain.tokens] += probability * math.exp(answer.log_z)
    exact = enumerated(lambda x: world.lm.logits((*PROMPT, *x)), base, 1.0, 2, 0)
    assert max(abs(estimate[x] - p**3.0) for x, p in exact.items()) < 1e-10


def test_an_eos_where_nothing_allowed_is_left_ends_no_legal_completion() -> None:
    law = Law(2.0, 1.0, 0.5, base=BaseLaw(top_k=1))
    rule = table_rules(legal(["12"], 3))
    assert rule is not None
    row = Row(0, Draw(Chain.empty(), 0, 3, law, 0), EOS.eos_ids, rule.watch(()))
    assert row.push(*choice.choose(np.array([5.0, 1.0, 0.0]), row)) == "illegal"
    assert row.tokens == [0] and row.continuation().log_weight[-1] == -math.inf


# ------------------------------------------------------------ answers, through everything

FIELDS: dict[str, Any] = {"top_k": 3, "top_p": 0.93, "logit_bias": {1: 0.9, "0": -0.3}, "bad_words": ["ab", "cb"]}
BASE = BaseLaw(((0, -0.3), (1, 0.9)), ((0, 1), (2, 1)), 3, 0.93)
HORIZON, ALPHA = 3, 2.0


def table() -> TableLM:
    return TableLM(4, seed=5, spread=1.0)


def torch_engine() -> TorchLM:
    return TorchLM(tiny_model(vocab_size=4, layers=1, initializer_range=0.1))


SAMPLERS: list[Any] = [
    "ancestral",
    {"name": "metropolis_hastings", "num_steps": 16, "block_size": 3},
    {"name": "sequential_monte_carlo", "num_particles": 32, "block_size": 1},
    {"name": "particle_gibbs", "num_particles": 4, "num_steps": 6},
    {"name": "parallel_tempering", "num_rungs": 2, "num_steps": 8, "block_size": 3},
]


@cache
def exact_texts(make: Callable[[], Any], alpha: float) -> dict[str, float]:
    lm, prompt = make(), table_tokenizer()("c")["input_ids"]
    logits = cache(lambda x: [lm.score((*prompt, *x), (v,), 1.0)[0] for v in range(4)])
    law = power(enumerated(logits, BASE, 1.0, HORIZON, 3), alpha)
    texts: dict[str, float] = {}
    for tokens, p in law.items():
        text = "".join("abc"[t] for t in tokens if t < 3)
        texts[text] = texts.get(text, 0.0) + p
    return texts


def answers(make: Callable[[], Any], sampler: Any, n: int = 300) -> list[str]:
    model = PowerSampler.from_model(make(), table_tokenizer(), sampler=sampler, alpha=ALPHA, max_new_tokens=HORIZON)
    drawn = model.generate(["c"], n=n, seed=7, **FIELDS)
    assert {c.diagnostics.base_law for c in drawn} == {"top_k=3, top_p=0.93, logit_bias=2 tokens, bad_words=2 words"}
    return [c.text for c in drawn]


@pytest.mark.parametrize(
    ("make", "sampler", "n"),
    [
        (table, SAMPLERS[0], 300),
        (torch_engine, SAMPLERS[0], 300),
        (torch_engine, SAMPLERS[1], 100),
        (table, SAMPLERS[2], 100),
        (torch_engine, SAMPLERS[3], 100),
        (table, SAMPLERS[4], 100),
        *[  # with 32 particles the law of SMC on this model is off by some standard errors of 500 answers, with 128 not
            pytest.param(
                make,
                {**sampler, "num_particles": 128} if sampler is SAMPLERS[2] else sampler,
                300,
                marks=pytest.mark.slow,
            )
            for make in (table, torch_engine)
            for sampler in SAMPLERS
        ],
    ],
    ids=lambda x: x["name"] if isinstance(x, dict) else getattr(x, "__name__", None),
)
def test_answers_have_its_power_as_their_law(make: Callable[[], Any], sampler: Any, n: int) -> None:
    law = exact_texts(make, 1.0 if sampler == "ancestral" else ALPHA)
    assert not any("ab" in text or "cb" in text for text in law) and len(law) > 4
    assert_law(answers(make, sampler, n), law)


def without_top_p(logits: Floats, law: Law, excluded: Any = ()) -> Floats:
    return BASE_LOGITS(logits, law._replace(base=law.base and law.base._replace(top_p=None)), excluded)


def unbiased(self: BaseLaws, logits: Any, excluded: Any) -> Any:
    return BASE_LOGITS_OF_TORCH(self._replace(bias_at=None), logits, excluded)


BASE_LOGITS, BASE_LOGITS_OF_TORCH = choice.base_logits, BaseLaws.logits


def test_another_law_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "base_logits", without_top_p)
    monkeypatch.setattr(BaseLaws, "logits", unbiased)
    for make in (table, torch_engine):
        with pytest.raises(AssertionError):
            assert_law(answers(make, "ancestral"), exact_texts(make, 1.0))


def test_a_proposal_of_the_model_s_own_law_would_be_noticed() -> None:
    """q is the power of p, not of the model's law: weights that forget it are not those of p."""
    world = World(3, 3, 2, Law(2.0, 1.0, 0.5, base=BASE_LAWS[3]))
    other = World(3, 3, 2, Law(2.0, 1.0, 0.5))
    world.chains = [x._replace(log_weight=other.chains[other.index[x.tokens]].log_weight) for x in world.chains]
    assert world.gap(gibbs_kernel(world)) > 1e-4
