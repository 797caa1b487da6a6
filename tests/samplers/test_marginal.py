"""The vote as a sampler: its law for a finite pool by walking every pool, and where it tends to with the pool."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Hashable
from itertools import product
from typing import Any

import pytest

from power_sampling import ConfigurationError, GenerationConfig, Marginal, PowerSampler, RequestFailedError
from power_sampling.samplers import NumpyRng, sampler_for
from power_sampling.testing import drive, outcomes, suffixes
from power_sampling.types import Answer, Chain, Continuation, Draw, Law, Round, Termination, Tokens
from tests.support.calls import tokenizer_of
from tests.support.constraints import PLAIN, legal
from tests.support.exact import EOS, PROMPT, STOP, World, label
from tests.support.law import (
    ALPHA,
    HORIZON,
    LAST_LETTER,
    TABLE,
    assert_law,
    last_letter,
    law_of_a_vote_of_two,
    table_tokenizer,
)
from tests.support.tiny import tiny_model, tiny_tokenizer

THINKS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|><think>"


def parity(text: str) -> Hashable:
    """Of the tokens before the EOS; a completion without one gives no answer."""
    tokens = [token for token in text.split() if token != "0"]
    return len(tokens) % 2 if tokens else None


def world(alpha: float, horizon: int = 2, ending: Termination = EOS) -> World:
    return World(3, horizon, 4, Law(alpha, 1.0, 1.0), ending)


def law_of(w: World, options: Marginal) -> dict[Tokens, float]:
    """By the production sampler, every pool walked."""
    found: dict[Tokens, float] = {}
    config = GenerationConfig(sampler=options, alpha=w.law.alpha, max_new_tokens=w.horizon)

    def program(rng: Any) -> Answer:
        return drive(sampler_for(config, w.horizon, rng, lambda: False, is_constrained=True), w.answer(rng))

    for probability, answer in outcomes(program):
        assert answer.exactness == "approximate"
        found[answer.chain.tokens] = found.get(answer.chain.tokens, 0.0) + probability
    return found


def law_by_the_formula(w: World, options: Marginal) -> dict[Tokens, float]:
    """From p and q alone: over ordered pools, the heaviest answer's likeliest completion, or each by its share."""
    draw = Draw(Chain.empty(), 0, w.horizon, w.law, seed=0)
    drawn = [(c, log_q) for c, log_q in suffixes(w.lm, PROMPT, w.ending, draw, 1.0)]
    alpha, found = w.law.alpha, dict[Tokens, float]()
    for pool in product(drawn, repeat=options.num_completions):
        probability = math.exp(sum(log_q for _, log_q in pool))
        legal_ones = [(c, log_q) for c, log_q in pool if c.end != "illegal"]
        cast = [(parity(" ".join(map(str, c.tokens))), float(c.logp.sum()), log_q, c.tokens) for c, log_q in legal_ones]
        if any(answer is not None for answer, *_ in cast):
            cast = [ballot for ballot in cast if ballot[0] is not None]
        power = alpha if options.power_on == "completions" else 1.0
        weight: dict[Hashable, float] = {}
        for answer, logp, log_q, _ in cast:
            weight[answer] = weight.get(answer, 0.0) + math.exp(power * logp - log_q)
        share = {a: x ** (alpha if options.power_on == "answers" else 1.0) for a, x in weight.items()}
        best = {a: max((logp, tokens) for b, logp, _, tokens in cast if b == a) for a in share}
        returned = {best[a][1]: x for a, x in share.items()}
        if options.returned == "winner" and share:
            top = max(share.values()) * (1 - 1e-12)
            returned = {max(best[a] for a in share if share[a] > top)[1]: 1.0}
        for tokens, x in returned.items():
            found[tokens] = found.get(tokens, 0.0) + probability * x / sum(returned.values())
    return found


def gap(w: World, options: Marginal) -> float:
    found, exact = law_of(w, options), law_by_the_formula(w, options)
    legal_ones = {x.tokens for x in w.chains}
    return max(abs(found.get(x, 0.0) - exact.get(x, 0.0)) for x in legal_ones)


@pytest.mark.parametrize(
    ("n", "horizon", "alpha", "ending", "fields"),
    [
        (1, 3, 2.0, EOS, {}),
        (3, 2, 3.0, EOS, {}),
        (3, 2, 3.0, EOS, {"returned": "drawn"}),
        (3, 2, 1.0, EOS, {"returned": "drawn"}),
        (3, 2, 3.0, EOS, {"power_on": "answers"}),
        (3, 2, 3.0, EOS, {"power_on": "answers", "returned": "drawn"}),
        (2, 3, 2.0, STOP, {"returned": "drawn"}),
        (2, 3, 2.0, legal(PLAIN, 3), {"returned": "drawn"}),
        (2, 3, 2.0, legal(PLAIN, 3), {"returned": "drawn", "power_on": "answers"}),
    ],
    ids=label,
)
def test_a_finite_pool_has_the_law_of_its_vote(
    n: int, horizon: int, alpha: float, ending: Termination, fields: dict[str, Any]
) -> None:
    w = world(alpha, horizon, ending)
    assert gap(w, Marginal(num_completions=n, parser=parity, **fields)) < 1e-12


@pytest.mark.parametrize("power_on", ["completions", "answers"])
@pytest.mark.parametrize("alpha", [1.0, 3.0])
def test_shares_tend_to_the_law_of_the_answer_under_the_power(power_on: Any, alpha: float) -> None:
    """A pool that holds every completion in proportion to p, up to rounding."""
    w, n = world(alpha, 3), 4000
    options = Marginal(num_completions=n, parser=parity, power_on=power_on)
    p = {x.tokens: math.exp(x.logp.sum()) for x in w.chains}

    def answer(asked: Round) -> list[Continuation]:
        given = asked.draws[0]
        drawn = suffixes(w.lm, PROMPT, w.ending, given, 1.0)
        pool = [c for c, log_q in drawn for _ in range(round(n * math.exp(log_q)))]
        return (pool * 2)[:n]

    found = drive(options.run(w.law, 3, NumpyRng(0), lambda: False), answer)
    answers = {x: parity(" ".join(map(str, x))) for x in p}
    exact: dict[str, float] = {}
    for x, probability in p.items():
        if (a := answers[x]) is not None:
            exact[str(a)] = exact.get(str(a), 0.0) + probability ** (alpha if power_on == "completions" else 1)
    power = {a: x ** (1 if power_on == "completions" else alpha) for a, x in exact.items()}
    assert found.answers is not None
    assert {a: share for a, share, _ in found.answers} == pytest.approx(
        {a: x / sum(power.values()) for a, x in power.items()}, abs=2e-3
    )
    assert found.answers[0][1] >= found.answers[-1][1] and sum(votes for *_, votes in found.answers) <= n
    assert found.ess is not None and 1 <= found.ess <= n


def test_it_is_the_weighted_vote_of_its_plain_samples() -> None:
    """On a real engine: the draws as they are shown, counted again."""
    runtime = PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), max_new_tokens=4, alpha=1.2)
    sampler = Marginal(num_completions=12, parser="regex:^.")
    *_, shown, last = runtime.stream("a", sampler=sampler, seed=5, with_frames=True)
    assert last.completion is not None
    told, (frame,) = last.completion.diagnostics, shown.frames
    assert told.sampler == "marginal" and told.alpha == 1.2 and told.exactness == "approximate"
    weights: dict[str, float] = {}
    for text, chain in zip(frame.texts, frame.event.step.chains, strict=True):
        weights[text[:1]] = weights.get(text[:1], 0.0) + math.exp(0.2 * float(chain.logp.sum()))
    assert told.answers is not None and sum(votes for *_, votes in told.answers) == 12
    for answer, share, votes in told.answers:
        assert share == pytest.approx(weights[str(answer)] / sum(weights.values()), rel=1e-4)
        assert votes == sum(text[:1] == answer for text in frame.texts)
    best = max(
        (x for text, x in zip(frame.texts, frame.event.step.chains, strict=True) if text[:1] == told.answers[0][0]),
        key=lambda x: x.logp.sum(),
    )
    assert last.completion.tokens == best.tokens


def test_the_law_through_the_whole_engine_by_every_way_of_asking() -> None:
    """False alarms: below 1e-4 for each of the two samples (`assert_law`)."""
    sampler: Any = {"name": "marginal", "num_completions": 2, "parser": LAST_LETTER}
    runtime = PowerSampler.from_model(TABLE, table_tokenizer(), sampler=sampler, alpha=ALPHA, max_new_tokens=HORIZON)
    law = law_of_a_vote_of_two()
    assert sum(law.values()) == pytest.approx(1)
    assert_law([c.text for c in runtime.generate(["a"] * 4, n=100)], law)
    streamed = [list(runtime.stream("a", seed=seed)) for seed in range(60)]
    assert_law(["".join(chunk.text for chunk in chunks) for chunks in streamed], law)
    assert all(chunk.text == "" for chunks in streamed for chunk in chunks[:-1]), "nothing is settled before the end"
    with pytest.raises(AssertionError):
        assert_law([c.text for c in runtime.generate(["a"], n=400, sampler="ancestral")], law)


def test_of_a_conversation_what_is_said_counts_and_not_what_was_thought() -> None:
    seen: list[str] = []

    def whole(text: str) -> str:
        seen.append(text)
        return text

    tokenizer = tokenizer_of("hermes", THINKS)
    model = tiny_model(layers=1, vocab_size=len(tokenizer))
    runtime = PowerSampler.from_model(model, tokenizer, max_new_tokens=12, thinking_budget=3, seed=0)
    sampler = Marginal(parser=whole, num_completions=4)
    found = runtime.chat([{"role": "user", "content": "x"}], sampler=sampler, choices=["yes", "no"])
    assert set(seen) <= {"yes", "no"} and found.reply is not None and found.reply.content in seen
    assert found.text.endswith(f"</think>{found.reply.content}")
    runtime.complete("x", sampler=sampler, choices=["yes"], thinking_budget=None)
    assert seen[-1] == "yes"


def faulty(text: str) -> list[str]:
    return [text]


def test_a_parser_that_raises_or_gives_what_cannot_be_compared_ends_its_own_request() -> None:
    runtime = PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), max_new_tokens=3, seed=0)
    with pytest.raises(ConfigurationError, match=r"test_marginal:faulty has to give something hashable, or None"):
        runtime.complete("a", sampler=Marginal(parser=faulty))
    with pytest.raises(RequestFailedError, match="ZeroDivisionError"):
        runtime.complete("a", sampler=Marginal(parser=lambda text: 1 / 0))
    assert runtime.complete("a", sampler="marginal").text is not None


@pytest.mark.parametrize(
    ("parser", "words"),
    [
        ("numric", "Known: exact, numeric"),
        ("regex:(", "is no expression"),
        ("no.module:x", "cannot import 'no.module:x'"),
        ("math:pi", "is no function"),
        (3, "parser"),
    ],
)
def test_what_is_no_parser(parser: Any, words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        GenerationConfig.parse({"sampler": {"name": "marginal", "parser": parser}})


def test_settings_with_a_function_can_be_written_and_read() -> None:
    given = GenerationConfig(sampler=Marginal(parser=last_letter))
    assert pickle.loads(pickle.dumps(given)) == given
    written = json.loads(given.model_dump_json())
    assert written["sampler"]["parser"] == LAST_LETTER
    assert GenerationConfig(**written).sampler.parser == written["sampler"]["parser"]  # type: ignore[attr-defined] # that of marginal
