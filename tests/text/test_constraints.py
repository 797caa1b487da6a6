"""Under a constraint the target is p(x)^alpha on the legal completions: by enumeration, then by the real parser."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from power_sampling import (
    ConfigurationError,
    NoLegalCompletionError,
    PowerSampler,
)
from power_sampling.config import GenerationConfig, MetropolisHastings, SequentialMonteCarlo
from power_sampling.samplers import NumpyRng, sampler_for
from power_sampling.testing import Branches, TableLM, completions, drive, outcomes, power_law, run_draws, suffixes
from power_sampling.text.grammar import Grammars, answer_rule
from power_sampling.text.guide import GrammarConstraint
from power_sampling.text.rules import Rules
from power_sampling.text.stop import StopStrings
from power_sampling.types import Answer, Continuation, Draw, Law, Termination, Tokens
from tests.support.constraints import EOS_IDS, PLAIN, legal, table_rules
from tests.support.table import Table
from tests.support.tiny import tiny_model, tiny_tokenizer

CASES = [  # vocabulary, horizon, seed, alpha, ending, proposal temperature
    (3, 5, 0, 1.0, legal(PLAIN, 5), None),
    (3, 5, 1, 2.0, legal(PLAIN, 5), None),
    (3, 4, 2, 4.0, legal(PLAIN, 4), None),  # the longest word ends with the horizon
    (3, 3, 3, 2.0, legal(PLAIN, 3), None),  # and here it does not fit: proposals run into a dead end
    (3, 4, 4, 3.0, legal([*PLAIN, "12121", "21212"], 4), 0.8),
]


IDS = [f"horizon {case[1]}, alpha {case[3]}, tau {case[5]}" for case in CASES]


def words_of(case: tuple[Any, ...]) -> set[Tokens]:
    """The words that fit, as completions: with EOS where the horizon leaves room for it."""
    horizon = case[1]
    words = [tuple(map(int, word)) for word in case[4].constraint.split("|")]
    return {w if len(w) == horizon else (*w, 0) for w in words if len(w) <= horizon}


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_the_target_is_the_power_law_of_the_plain_model_on_the_legal_completions(case: tuple[Any, ...]) -> None:
    vocab, horizon, seed, alpha, _, _ = case
    plain = completions(TableLM(vocab, seed), (2, 0, 1), Termination(EOS_IDS), horizon, Law(alpha, 1.0, 1 / alpha))
    plain = [x for x in plain if x.tokens in words_of(case)]
    t = Table(*case)
    assert {x.tokens for x in t.chains} == {x.tokens for x in plain} == words_of(case)
    wanted = dict(zip([x.tokens for x in plain], power_law(plain, alpha), strict=True))
    assert [wanted[x.tokens] for x in t.chains] == pytest.approx(t.target.tolist(), abs=1e-12)


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_metropolis_hastings_leaves_it_invariant(case: tuple[Any, ...]) -> None:
    t = Table(*case)
    matrix = t.kernel(MetropolisHastings())
    assert np.abs(matrix.sum(1) - 1).max() < 1e-12
    assert t.gap(matrix) < 1e-10
    assert t.gap(t.kernel(MetropolisHastings(num_proposals=2))) < 1e-10
    assert np.abs(matrix - t.kernel(MetropolisHastings(early_rejection=True), edges=True)).max() < 1e-12


@pytest.mark.parametrize("case", CASES, ids=IDS)
@pytest.mark.parametrize("block_size", [1, 2])
def test_sequential_monte_carlo_estimates_its_evidence_without_bias(case: tuple[Any, ...], block_size: int) -> None:
    """E[Z_hat 1(x is returned)] = p(x)^alpha for every legal completion, and nothing else is ever returned alive."""
    _, horizon, _, alpha, ending, tau = case
    t = Table(*case)
    config = SequentialMonteCarlo(num_particles=2, block_size=block_size, ess_threshold=1.0, proposal_temperature=tau)

    def program(rng: Branches) -> Answer:
        def continuation(draw: Draw) -> Continuation:
            options = suffixes(t.lm, (2, 0, 1), ending, draw, draw.law.proposal_temperature)
            return options[rng.categorical(np.exp([log_q for _, log_q in options]))][0]

        sampler = config.run(t.law, horizon, rng, lambda: False)
        return drive(sampler, lambda current: [continuation(draw) for draw in current.draws])

    estimate = dict.fromkeys(t.index, 0.0)
    for probability, answer in outcomes(program):
        assert answer.log_z is not None
        if answer.log_z > -math.inf:
            estimate[answer.chain.tokens] += probability * math.exp(answer.log_z)
    for x in t.chains:
        assert estimate[x.tokens] == pytest.approx(math.exp(alpha * x.logp.sum()), abs=1e-10)


def test_masking_p_as_well_would_be_noticed() -> None:
    """The greedy masked law, every other library's: log p of the masked model."""
    case = CASES[1]
    exact = Table(*case)
    lm = TableLM(case[0], case[2], rules=table_rules)
    masked = suffixes(lm, (2, 0, 1), case[4], Draw(exact.chains[0], 0, case[1], Law(1.0, 1.0, 1.0), 0), 1.0)
    greedy = {c.tokens: math.exp(2 * log_q) for c, log_q in masked}
    total = sum(greedy.values())
    assert max(abs(greedy[x.tokens] / total - p) for x, p in zip(exact.chains, exact.target, strict=True)) > 1e-2


def test_a_chain_in_a_dead_end_moves_to_any_legal_completion() -> None:
    """Nothing that ends illegally is kept once a legal proposal comes, and a run that finds none says so."""
    ending = legal(["1", "2222222"], 4)
    lm = TableLM(3, seed=5, rules=table_rules)
    handle = lm.open((1,), ending)
    ends = set()
    for seed in range(40):
        config = GenerationConfig(sampler=MetropolisHastings(num_steps=8, block_size=2), max_new_tokens=4, alpha=2.0)
        sampler = sampler_for(config, 4, NumpyRng(seed), lambda: False, is_constrained=True)
        ends.add(drive(sampler, lambda r: run_draws(lm, handle, r.draws)).chain.tokens)
    assert (1, 0) in ends and ends <= {(1, 0), (2, 2, 2, 2)}
    hopeless = lm.open((1,), legal(["22222222"], 4))
    for sampler_config in (MetropolisHastings(num_steps=3), SequentialMonteCarlo(num_particles=3, block_size=2)):
        config = GenerationConfig(sampler=sampler_config, max_new_tokens=4, alpha=2.0)
        sampler = sampler_for(config, 4, NumpyRng(0), lambda: False, is_constrained=True)
        assert drive(sampler, lambda r: run_draws(lm, hopeless, r.draws)).chain.end == "illegal"


# ------------------------------------------------------------ the real parser

TOKENIZER = tiny_tokenizer()
EOS = TOKENIZER.eos_token_id
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def decode(tokens: Sequence[int]) -> str:
    return str(TOKENIZER.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def grammar(horizon: int, stop: Sequence[str] = (), **fields: Any) -> GrammarConstraint:
    grammars = Grammars(TOKENIZER, frozenset({EOS}), len(TOKENIZER), decode)
    rule = answer_rule(GenerationConfig(**fields))
    assert rule is not None
    return grammars.constraint(f"start: {rule}", horizon, StopStrings(stop, decode) if stop else None)


def test_a_choice_is_drawn_from_the_restricted_power_law_by_the_real_parser() -> None:
    choices = ("ab", "b", "ba", "abba")
    lark = f"start: {answer_rule(GenerationConfig(choices=choices))}"
    ending = Termination(frozenset({EOS}), constraint=lark, max_new_tokens=4)
    rules = Rules(decode, Grammars(TOKENIZER, frozenset({EOS}), len(TOKENIZER), decode))
    t = Table(len(TOKENIZER), 4, 1, 2.0, ending, rules=rules)
    assert {decode(x.tokens) for x in t.chains} == set(choices)
    assert t.gap(t.kernel(MetropolisHastings())) < 1e-10


@pytest.mark.parametrize(
    ("fields", "legal_texts", "illegal"),
    [
        ({"regex": "a/b+"}, ["a/b", "a/bbb"], ["a", "ab", "a/bc"]),
        ({"regex": "a\\/b\n?"}, ["a/b", "a/b\n"], ["a\\/b"]),
        ({"choices": ["yes", 'no "way"', "é"]}, ["yes", 'no "way"', "é"], ["y", "yes!"]),
        ({"grammar": 'start: word "!"\nword: "a" | "b"'}, ["a!", "b!"], ["a", "ab!"]),
        ({"json_schema": SCHEMA}, ['{"name": "é{", "age": -3}'], ['{"name":"a","age":1}', '{"name": "a"}']),
        ({"json_schema": {"enum": ["x", 2, None]}}, ['"x"', "2", "null"], ["3", "x"]),
        ({"json_schema": {"type": "object"}}, ["{}", '{"a": [1, {"b": null}]}'], ["[]", "1"]),
    ],
    ids=str,
)
def test_constraints_admit_what_they_say(fields: dict[str, Any], legal_texts: list[str], illegal: list[str]) -> None:
    constraint = grammar(100, **fields)
    assert all(constraint.accepts(text) for text in legal_texts)
    assert not any(constraint.accepts(text) for text in illegal)


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"regex": "("}, r"^regex: .* cannot be compiled: .*\n *\(\n *\^\nerror: unclosed group\.$"),
        ({"regex": "(?=a)b"}, "look-around"),
        ({"grammar": "start: nobody"}, """^grammar: .*: unknown name: "nobody", in the line 'start: nobody'\\.$"""),
        ({"json_schema": {"type": "nonsense"}}, "^json_schema: .* nonsense"),
        ({"json_schema": {"type": "string", "pattern": "("}}, r"unclosed group\. Mend it"),
        ({"choices": []}, "empty list"),
        ({"choices": "yes"}, "list of texts"),
        ({"choices": ["a", ""]}, "none of them empty"),
        ({"choices": ["a"], "regex": "a"}, "regex and choices"),
    ],
    ids=str,
)
def test_what_is_no_constraint_is_refused_before_anything_runs(fields: dict[str, Any], match: str) -> None:
    sampler = PowerSampler.from_model(tiny_model(layers=1), TOKENIZER, sampler="ancestral", max_new_tokens=4)
    with pytest.raises(ConfigurationError, match=match):
        sampler.complete("a", **fields)


@pytest.mark.parametrize("horizon", [22, 23, 26, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.parametrize("sampler", ["ancestral", "sequential_monte_carlo"])
def test_json_is_complete_whatever_the_horizon(horizon: int, sampler: str) -> None:
    """A random model would fill a string for ever. '{"name": "", "age": 0}' has 22 tokens: nothing shorter is legal."""
    model = PowerSampler.from_model(
        tiny_model(layers=1), TOKENIZER, sampler=sampler, max_new_tokens=horizon, alpha=1.5, seed=3
    )
    for completion in model.generate(["a", "b"], n=2, json_schema=SCHEMA):
        assert set(json.loads(completion.text)) == {"name", "age"}
        assert len(completion.tokens) <= horizon


def test_what_cannot_be_complete_is_an_error_that_says_what_to_do() -> None:
    model = PowerSampler.from_model(
        tiny_model(layers=1), TOKENIZER, sampler="sequential_monte_carlo", max_new_tokens=20
    )
    with pytest.raises(NoLegalCompletionError, match="Raise max_new_tokens"):
        model.complete("a", json_schema=SCHEMA)


def test_a_guide_depends_on_the_tokens_alone() -> None:
    """A row that is cut and goes on allows what the row allowed that was never cut."""
    generator = np.random.default_rng(0)
    for _ in range(5):
        constraint, other = (grammar(40, json_schema=SCHEMA) for _ in range(2))
        guide, tokens = constraint.watch(()), []
        while len(tokens) < 40:
            mask = guide.allowed()
            fresh = other.watch(tuple(tokens))
            assert (fresh.allowed() == mask).all()
            token = int(generator.choice(np.flatnonzero(mask)))
            if token == EOS:
                break
            tokens.append(token)
            if not guide.push(token):  # a random walk can open something in the last moment
                break


def test_a_stop_string_ends_a_completion_only_where_it_is_complete() -> None:
    constraint = grammar(10, stop=["END"], regex="[a-z]*( END)?")
    for text, is_legal in (("abEND", True), ("ab END", False)):
        guide = constraint.watch(tuple(constraint.vocabulary.tokens_of(text)))
        assert constraint.rules.is_legal_at_stop(tuple(guide._tokens)) is is_legal


TEMPERATURE = 20.0  # of the random model, whose logits are far apart: no choice is out of reach


@pytest.mark.parametrize(
    "sampler",
    [
        {"name": "metropolis_hastings", "num_steps": 8, "block_size": 4},
        {"name": "sequential_monte_carlo", "num_particles": 12, "block_size": 1},
    ],
    ids=lambda s: s["name"],
)
@pytest.mark.parametrize("alpha", [pytest.param(1.0, marks=pytest.mark.slow), 2.0])
def test_the_law_through_the_whole_engine(sampler: dict[str, Any], alpha: float) -> None:
    """160 completions: each choice within 5 standard errors plus 0.02, for what is left of the start after 8 steps and
    of the bias of 12 particles. A right engine fails with probability below 3e-6 for its four choices."""
    choices, n = ("ab", "ba", "bc", "ca"), 160
    model = tiny_model(layers=1)
    runtime = PowerSampler.from_model(model, TOKENIZER, sampler=sampler, alpha=alpha, max_new_tokens=4, max_rows=64)
    drawn = runtime.generate(["a"], n=n, choices=choices, seed=0, temperature=TEMPERATURE)
    engine = runtime._model.load().engine
    ids = {c: (*TOKENIZER(c, add_special_tokens=False)["input_ids"], EOS) for c in choices}
    prompt = runtime.encode("a")
    log_pi = np.array([alpha * engine.score(prompt, ids[c], TEMPERATURE).sum() for c in choices])
    target = np.exp(log_pi - np.logaddexp.reduce(log_pi))
    counts = np.array([sum(c.text == choice for c in drawn) for choice in choices])
    assert counts.sum() == n and (target > 0.02).all()
    assert (np.abs(counts / n - target) < 5 * np.sqrt(target * (1 - target) / n) + 0.02).all(), (counts / n, target)
    exactness = {c.diagnostics.exactness for c in drawn}
    assert exactness == {"asymptotic" if sampler["name"] == "metropolis_hastings" else "approximate"}


def test_plain_sampling_under_a_constraint_is_labelled_approximate() -> None:
    runtime = PowerSampler.from_model(tiny_model(layers=1), TOKENIZER, sampler="ancestral", max_new_tokens=6)
    assert runtime.complete("a", choices=["x", "y"]).diagnostics.exactness == "approximate"
    assert runtime.complete("a").diagnostics.exactness == "exact"


def test_greedy_takes_the_best_allowed_token() -> None:
    runtime = PowerSampler.from_model(tiny_model(layers=1), TOKENIZER, temperature=0, max_new_tokens=6)
    engine, prompt = runtime._model.load().engine, runtime.encode("a")
    scores = {c: engine.score(prompt, tuple(TOKENIZER(c)["input_ids"]), 1.0)[0] for c in "xyz"}
    assert runtime.complete("a", choices=list("xyz")).text == max(scores, key=lambda c: scores[c])
