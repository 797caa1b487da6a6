"""Near the horizon the mask forbids only what leads to no legal completion: checked against lists made by no parser."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from power_sampling.config import MetropolisHastings, SequentialMonteCarlo
from power_sampling.samplers import ParticleGibbs
from power_sampling.samplers.particle_gibbs import move
from power_sampling.testing import Branches, TableLM, drive, outcomes, suffixes
from power_sampling.types import Answer, Chain, Continuation, Draw, Floats, Law, Progress, Round, Tokens
from tests.support.exact import PROMPT
from tests.support.languages import Language, matching, power_law_of, written
from tests.support.table import Table

OBJECT = {
    "type": "object",
    "properties": {"a": {"type": "boolean"}, "b": {"enum": ["ab", None]}},
    "required": ["a"],
    "additionalProperties": False,
}
OBJECTS = written(*[{"a": a, **b} for a in (True, False) for b in ({}, {"b": "ab"}, {"b": None})])
SEPARATED = 'start: item ("," item)?\nitem: "a" | "bb"'

CASES: dict[str, tuple[dict[str, Any], list[str], tuple[str, ...]]] = {
    "labels": ({"choices": ["positive", "negative", "neutral"]}, ["positive", "negative", "neutral"], ()),
    "a long and a short choice": ({"choices": ["abba", "b"]}, ["abba", "b"], ()),
    "alternatives": ({"regex": "(ab|c)d"}, ["abd", "cd"], ()),
    "repetition": ({"regex": "[ab]{1,3}c?"}, matching("[ab]{1,3}c?", "abc", 4), ()),
    "no short way out": ({"regex": "[ab]{3}c|d"}, matching("[ab]{3}c|d", "abcd", 4), ()),
    "three ways": ({"regex": "a{2}|b{4}|(ab){1,2}c"}, matching("a{2}|b{4}|(ab){1,2}c", "abc", 5), ()),
    "grammar": ({"grammar": SEPARATED}, ["a", "bb", "a,a", "a,bb", "bb,a", "bb,bb"], ()),
    "nested grammar": ({"grammar": 'start: "(" y ")" | "c"\ny: "(" "a" ")" | "b"'}, ["((a))", "(b)", "c"], ()),
    "json values": ({"json_schema": {"enum": ["a", 12, True]}}, written("a", 12, True), ()),
    "json object": ({"json_schema": OBJECT}, OBJECTS, ()),
    "json range": ({"json_schema": {"type": "integer", "minimum": 7, "maximum": 120}}, written(*range(7, 121)), ()),
    "optional stop": ({"regex": "[ab]{1,3}(;c)?"}, matching("[ab]{1,3}(;c)?", "abc;", 5), (";",)),
    "stop in some choices": ({"choices": ["ab", "abba", "bb", "bbab"]}, ["ab", "abba", "bb", "bbab"], ("ba",)),
    "stop as dead end": ({"regex": "a?b{1,3}"}, matching("a?b{1,3}", "ab", 4), ("bb",)),
}
QUICK = ["a long and a short choice", "alternatives", "three ways", "json values", "stop in some choices"]


def language(name: str, *, merged: bool) -> tuple[Language, tuple[str, ...]]:
    fields, texts, stop = CASES[name]
    return Language(fields, texts, merged=merged), stop


def check_legal_set(name: str, *, merged: bool) -> None:
    """At every horizon from the shortest to three above the longest: what can be drawn is what is legal, there is no
    dead end, and nothing is left out unproved."""
    lang, stop = language(name, merged=merged)
    shortest, longest = lang.lengths()
    for horizon in range(shortest, longest + 4):
        wanted = lang.completions(horizon, stop)
        lm = TableLM(lang.vocab_size, 1, rules=lang.rules)
        draw = Draw(Chain.empty(), 0, horizon, Law(2.0, 1.0, 0.5), 0)
        found = [c for c, _ in suffixes(lm, PROMPT, lang.termination(horizon, stop), draw, 0.5)]
        assert not any(c.is_limited for c in found)
        assert {c.tokens for c in found if c.end != "illegal"} == wanted, horizon
        assert not wanted or all(c.end != "illegal" for c in found), horizon


@pytest.mark.parametrize("name", QUICK)
def test_every_legal_completion_can_be_drawn_and_no_other(name: str) -> None:
    check_legal_set(name, merged=name != "alternatives")


@pytest.mark.slow
@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_every_legal_completion_can_be_drawn_and_no_other_everywhere(name: str, merged: bool) -> None:
    check_legal_set(name, merged=merged)


class LetterLM(TableLM):
    """Likes the tokens of the language, so that no completion is out of reach."""

    letters: list[int]

    def logits(self, context: Tokens) -> Floats:
        logits = 0.4 * super().logits(context)
        logits[self.letters] += 8.0
        return logits


def table(lang: Language, stop: tuple[str, ...], horizon: int, alpha: float) -> Table:
    lm = LetterLM(lang.vocab_size, 1, rules=lang.rules)
    lm.letters = sorted(
        {token for text in lang.texts for tokens in lang.spellings(text) for token in tokens} | {lang.eos}
    )
    return Table(lang.vocab_size, horizon, 1, alpha, lang.termination(horizon, stop), lm=lm)


def check_target(t: Table, lang: Language, stop: tuple[str, ...], horizon: int, alpha: float) -> None:
    """The target is the power law on the listed completions, from logits alone."""
    found = sorted(lang.completions(horizon, stop))
    wanted = dict(zip(found, power_law_of(t.lm, PROMPT, found, alpha), strict=True))
    assert len(found) == 1 or sorted(wanted.values())[-2] > 1e-6  # nothing is out of reach
    assert wanted == pytest.approx({x.tokens: p for x, p in zip(t.chains, t.target, strict=True)}, abs=1e-12)


def check_metropolis_hastings(t: Table) -> None:
    matrix = t.kernel(MetropolisHastings())
    assert np.abs(matrix.sum(1) - 1).max() < 1e-12 and t.gap(matrix) < 1e-10


def check_sequential_monte_carlo(t: Table) -> None:
    config = SequentialMonteCarlo(num_particles=2, block_size=2, ess_threshold=1.0)
    estimate = dict.fromkeys(t.index, 0.0)

    def program(rng: Branches) -> Answer:
        return drive(config.run(t.law, t.horizon, rng, lambda: False), _every(t, rng))

    for probability, answer in outcomes(program):
        assert answer.log_z is not None
        estimate[answer.chain.tokens] += probability * math.exp(answer.log_z)
    for x in t.chains:
        assert estimate[x.tokens] == pytest.approx(math.exp(t.law.alpha * x.logp.sum()), abs=1e-10)


def check_particle_gibbs(t: Table) -> None:
    options = ParticleGibbs(num_particles=2, block_size=2, ess_threshold=1.0)
    matrix = np.zeros((len(t.chains),) * 2)
    for i, x in enumerate(t.chains):

        def program(rng: Branches, x: Chain = x) -> Chain:
            generator = move(x, t.horizon, options, t.law, rng, Progress(0, 1, {}))
            return drive(generator, _every(t, rng))  # type: ignore[arg-type,return-value]

        for probability, y in outcomes(program):
            matrix[i, t.index[y.tokens]] += probability
    assert np.abs(matrix.sum(1) - 1).max() < 1e-12 and t.gap(matrix) < 1e-10


def _every(t: Table, rng: Branches) -> Any:
    def answer(current: Round) -> list[Continuation]:
        drawn = []
        for draw in current.draws:
            options = t.suffixes(draw)
            drawn.append(options[rng.categorical(np.array([p for _, p in options]))][0])
        return drawn

    return answer


SAMPLERS = [check_metropolis_hastings, check_sequential_monte_carlo, check_particle_gibbs]


def check_law(name: str, horizon: int, alpha: float, *, merged: bool) -> None:
    lang, stop = language(name, merged=merged)
    if lang.completions(horizon, stop):
        t = table(lang, stop, horizon, alpha)
        check_target(t, lang, stop, horizon, alpha)
        for check in SAMPLERS:
            check(t)


@pytest.mark.parametrize(
    ("name", "horizon"),
    [("labels", 8), ("a long and a short choice", 4), ("alternatives", 3), ("three ways", 4), ("stop as dead end", 3)],
)
def test_a_forced_ending_leaves_the_law_alone(name: str, horizon: int) -> None:
    """The horizon is as long as the longest completion, or one less: one forced ending would take all that is left."""
    check_law(name, horizon, 1.3, merged=False)


SMALL = [name for name in CASES if name not in ("json range", "json object", "repetition")]


@pytest.mark.slow
@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("name", SMALL)
def test_the_law_at_every_horizon(name: str, merged: bool) -> None:
    lang, _ = language(name, merged=merged)
    shortest, longest = lang.lengths()
    for horizon in range(shortest, longest + 4):
        check_law(name, horizon, 1.7, merged=merged)


def test_what_is_drawn_plainly_follows_the_masks() -> None:
    """`ancestral` and `low_temperature` draw from q: every token from p among those that can still be legal."""
    lang, _ = language("three ways", merged=False)
    t = table(lang, (), 4, 1.0)
    drawn: dict[Tokens, float] = {c.tokens: p for c, p in t.suffixes(Draw(Chain.empty(), 0, 4, t.law, 0))}
    assert set(drawn) == lang.completions(4) and sum(drawn.values()) == pytest.approx(1.0)
