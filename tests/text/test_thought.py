"""A limit on reasoning: which completions it leaves, and that the law is p^alpha on exactly these."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest

from power_sampling.samplers import MetropolisHastings, SequentialMonteCarlo
from power_sampling.testing import Branches, TableLM, completions, drive, outcomes
from power_sampling.text.codec import Codec
from power_sampling.text.rules import Rules
from power_sampling.text.thought import LimitedThought, _Watch
from power_sampling.types import Answer, Termination, ThoughtLimit, Tokens
from tests.support.exact import EOS, PROMPT, World
from tests.support.tiny import tiny_tokenizer

HORIZON, VOCAB = 4, 4
LETTERS = ".abc"  # 0 is EOS; a opens a thought, c closes it


def rules(termination: Termination) -> Any:
    return Rules(lambda ids: "".join(LETTERS[i] for i in ids), vocab_size=VOCAB)(termination)


def ending(budget: int, **options: Any) -> Termination:
    return Termination(frozenset({0}), thought=ThoughtLimit(budget, "a", "c", (3,), **options), max_new_tokens=HORIZON)


def is_legal(tokens: Tokens, budget: int, *, is_open: bool = False, recurs: bool = False) -> bool:
    """Read off the whole completion, letter by letter."""
    spent, is_inside, has_begun = 0, is_open, is_open
    for token in tokens:
        if is_inside and spent == budget and token != 3:
            return False
        if is_inside:
            is_inside = token != 3
            spent += is_inside
        elif token == 1 and (recurs or not has_begun):
            is_inside = True
        has_begun = True
    return True


def world(termination: Termination, alpha: float = 2.0) -> World:
    made = World.__new__(World)
    law = MetropolisHastings().law(alpha, 1.0)
    made.lm, made.horizon, made.ending, made.law = TableLM(VOCAB, 5, rules=rules), HORIZON, termination, law
    made.chains = [x for x in completions(made.lm, PROMPT, termination, HORIZON, law) if x.end != "illegal"]
    made.index = {x.tokens: i for i, x in enumerate(made.chains)}
    weights = np.array([math.exp(alpha * x.logp.sum()) for x in made.chains])
    made.target, made._suffixes = weights / weights.sum(), {}
    return made


OPEN: dict[str, Any] = {"is_open": True}
CASES = [(0, {}), (1, {}), (2, OPEN), (0, OPEN), (1, {"recurs": True}), (1, {**OPEN, "recurs": True}), (9, {})]


@pytest.mark.parametrize(("budget", "options"), CASES)
def test_the_legal_completions_are_those_whose_thought_is_short_enough(budget: int, options: dict[str, Any]) -> None:
    law = MetropolisHastings().law(2.0, 1.0)
    all_of_them = completions(TableLM(VOCAB, 5), PROMPT, EOS, HORIZON, law)
    expected = {x.tokens: x.logp.sum() for x in all_of_them if is_legal(x.tokens, budget, **options)}
    found = {x.tokens: x.logp.sum() for x in world(ending(budget, **options)).chains}
    assert found == pytest.approx(expected)  # p itself is not changed
    assert (len(found) < len(all_of_them)) == (budget < 9)


def law_gap(made: World) -> float:
    """How far E[Z_hat 1(x is returned)] of SMC is from p(x)^alpha on the completions that are legal."""
    law = MetropolisHastings().law(2.0, 1.0)
    options = SequentialMonteCarlo(num_particles=2, block_size=1, ess_threshold=1.0)

    def program(rng: Branches) -> Answer:
        return drive(options.run(law, 3, rng, lambda: False), made.answer(rng))

    all_of_them = completions(TableLM(VOCAB, 5), PROMPT, EOS, 3, law)
    exact = {x.tokens: math.exp(2 * x.logp.sum()) for x in all_of_them if is_legal(x.tokens, 1, is_open=True)}
    estimate = dict.fromkeys(exact, 0.0)
    for probability, answer in outcomes(program):
        if answer.log_z is not None and answer.log_z > -math.inf:
            tokens = answer.chain.tokens
            estimate[tokens] = estimate.get(tokens, 0.0) + probability * math.exp(answer.log_z)
    return max(abs(estimate[x] - exact.get(x, 0.0)) for x in estimate)


def test_the_law_is_p_to_the_alpha_on_them() -> None:
    assert law_gap(world(ending(1, is_open=True))) < 1e-12


def test_a_limit_that_forgets_to_mask_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Watch, "_forced", None)
    assert law_gap(world(ending(1, is_open=True))) > 1e-3


def test_a_fork_stands_where_its_row_stood() -> None:
    rule = rules(ending(1, is_open=True))
    assert isinstance(rule, LimitedThought)
    watch = rule.watch((2, 3, 1))
    for length in range(4):
        fork, fresh = watch.fork(length), rule.watch((2, 3, 1)[:length])
        assert np.array_equal(np.asarray(fork.allowed()), np.asarray(fresh.allowed()))
        assert fork.push(3) == fresh.push(3)


def lacks(text: bytes) -> int:
    """How many bytes the last character lacks, tried out."""
    tails = (bytes(tail) for n in range(4) for tail in itertools.product((0x80, 0x90, 0xA0, 0xBF), repeat=n))
    return next(len(tail) for tail in tails if (text + tail).decode(errors="ignore").encode() == text + tail)


@pytest.mark.parametrize("budget", [1, 4])
def test_under_a_grammar_no_character_begins_that_the_budget_cannot_finish(budget: int) -> None:
    """Nothing else is forbidden, so the law is that of the legal completions; and no row comes to a dead end."""
    tokenizer = tiny_tokenizer(chat_template="{{ messages }}</think>")
    codec = Codec(tokenizer)
    grammar = codec.tool_format.turn([]).grammar('"x"', starts_in_reasoning=True)
    rule = Rules(codec.decode, codec.grammars(len(tokenizer)), len(tokenizer))(
        Termination(
            codec.eos_ids, constraint=grammar, thought=codec.thought_limit(budget, is_open=True), max_new_tokens=60
        )
    )
    assert isinstance(rule, LimitedThought)
    bytes_of = [rule.inner.vocabulary.parser.decode_bytes([token]) for token in range(len(tokenizer))]
    random = np.random.default_rng(budget)
    for _ in range(3):
        watch, text = rule.watch(()), b""
        for left in reversed(range(budget)):
            legal = [int(token) for token in np.flatnonzero(watch._inner.allowed())]
            expected = [token for token in legal if lacks(text + bytes_of[token]) <= left]
            assert np.flatnonzero(watch.allowed()).tolist() == expected
            token = int(random.choice([t for t in expected if bytes_of[t] != b"<"]))
            assert watch.push(token) is None
            text += bytes_of[token]
        assert np.flatnonzero(watch.allowed()).tolist() == [rule.limit.close_ids[0]]
