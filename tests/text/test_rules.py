"""A watch forks with its chain: what it was told is never told again, and it answers as a fresh one would."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from power_sampling import ConfigurationError, PowerSampler
from power_sampling.config import GenerationConfig
from power_sampling.text import detokenizer
from power_sampling.text.grammar import Grammars, answer_rule
from power_sampling.text.guide import Guide
from power_sampling.text.rules import Rules
from power_sampling.types import Termination, Tokens
from tests.support.tiny import tiny_model, tiny_tokenizer

TOKENIZER = tiny_tokenizer()
EOS: int = TOKENIZER.eos_token_id
LETTERS = np.array(TOKENIZER("ab日,")["input_ids"])
SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}, "s": {"type": "string"}}, "required": ["n", "s"]}


def decode(tokens: Any) -> str:
    return str(TOKENIZER.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False))


RULES = Rules(decode, Grammars(TOKENIZER, frozenset({EOS}), len(TOKENIZER), decode))
CASES: list[tuple[dict[str, Any], tuple[str, ...], int]] = [
    ({}, ("ab", "日"), 20),
    ({"regex": "[ab]{3,9}(c|日本)?"}, (), 14),
    ({"regex": "(a|b|ab)+"}, ("bb",), 12),
    ({"choices": ["ab", "b", "ba", "abba"]}, (), 4),
    ({"json_schema": SCHEMA}, (), 26),
    ({"json_schema": SCHEMA}, (), 60),
    ({"json_schema": {"type": "array", "items": {"enum": ["x", 1, None]}}}, ("]",), 40),
    ({"grammar": 'start: word ("," word)*\nword: /[a-c]{1,4}/'}, (), 18),
]


def termination(fields: dict[str, Any], stop: tuple[str, ...], horizon: int) -> Termination:
    rule = answer_rule(GenerationConfig(**fields))
    return Termination(frozenset({EOS}), stop, None if rule is None else f"start: {rule}", horizon)


def drawn(watch: Any, rng: np.random.Generator, length: int) -> tuple[list[int], str | None]:
    """Random tokens among the allowed ones, one in ten any letter, and why they ended."""
    tokens: list[int] = []
    while len(tokens) < length:
        allowed = watch.allowed()
        ids = LETTERS if allowed is None or rng.random() < 0.1 else np.flatnonzero(allowed)
        token = int(rng.choice(ids))
        if token == EOS:
            return tokens, "eos"
        tokens.append(token)
        if end := watch.push(token):
            return tokens, end
    return tokens, None


@pytest.mark.parametrize(("fields", "stop", "horizon"), CASES, ids=str)
def test_a_fork_answers_as_a_fresh_watch(fields: dict[str, Any], stop: tuple[str, ...], horizon: int) -> None:
    rule, rng, ends = RULES(termination(fields, stop, horizon)), np.random.default_rng(0), set()
    assert rule is not None
    for _ in range(25):
        watch: Any = rule.watch(())
        tokens, end = drawn(watch, rng, horizon)
        ends.add(end)
        for length in rng.permutation(len(tokens) + (end is None))[:6]:
            fork, fresh = watch.fork(int(length)), rule.watch(tuple(tokens[:length]))
            for token in (*tokens[length:], None):
                a, b = fork.allowed(), fresh.allowed()
                assert (a is None) == (b is None) and (a is None or (a == b).all()), (tokens, length)
                if token is not None:
                    assert fork.push(token) == fresh.push(token), (tokens, length)
    assert ends & {"illegal", "stop", "eos"}


def test_a_fork_of_a_fork_leaves_its_parents_as_they_were() -> None:
    rule = RULES(termination({"regex": "[ab]{2,8}"}, (), 8))
    assert rule is not None
    parent = rule.watch(tuple(TOKENIZER("abab")["input_ids"]))
    child = parent.fork(3).fork(1)
    for token in TOKENIZER("bbbbbbb")["input_ids"]:
        child.push(token)
    again = rule.watch(tuple(TOKENIZER("abab")["input_ids"]))
    assert (parent.allowed() == again.allowed()).all()


@pytest.mark.parametrize(("fields", "stop", "horizon"), CASES, ids=str)
def test_a_fork_tells_nothing_twice(
    fields: dict[str, Any], stop: tuple[str, ...], horizon: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rule, rng = RULES(termination(fields, stop, horizon)), np.random.default_rng(1)
    assert rule is not None
    watch: Any = rule.watch(())
    tokens, end = drawn(watch, rng, horizon)
    monkeypatch.setattr(Guide, "_advance", lambda *_: pytest.fail("a token was told again"))
    monkeypatch.setattr(detokenizer.Detokenizer, "push", lambda *_: pytest.fail("a token was decoded again"))
    for length in range(len(tokens) + (end != "illegal")):
        if end != "illegal" or not fields:  # what is broken cannot be taken back
            watch.fork(length)


def test_what_a_chain_keeps_is_watched_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metropolis-Hastings through the whole engine: as many tokens are told as are drawn, whatever the cuts keep."""
    told = 0
    advance, push = Guide._advance, detokenizer.Detokenizer.push

    def counted_advance(self: Guide, token: int) -> None:
        nonlocal told
        told += 1
        advance(self, token)

    pushes = 0

    def counted_push(self: Any, *tokens: int) -> str:
        nonlocal pushes
        pushes += len(tokens)
        return push(self, *tokens)

    sampler = PowerSampler.from_model(
        tiny_model(layers=1),
        TOKENIZER,
        sampler={"name": "metropolis_hastings", "num_steps": 12, "block_size": 10},
        alpha=1.2,
        max_new_tokens=40,
        seed=1,
    )
    sampler.complete("a")
    monkeypatch.setattr(Guide, "_advance", counted_advance)
    monkeypatch.setattr(detokenizer.Detokenizer, "push", counted_push)
    done = sampler.complete("a", regex="[a-z]{30,40}", stop=["zz"])
    decoded = done.diagnostics.tokens_decoded
    assert decoded > 2 * len(done.tokens)
    assert 0 < told <= decoded
    assert pushes <= decoded + len(done.tokens)  # the answer is read once at the end


def test_a_constraint_without_grammars_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="needs the grammars"):
        Rules(decode)(Termination(frozenset({EOS}), constraint="start: /a/", max_new_tokens=3))


def test_nothing_to_watch_is_no_rule() -> None:
    assert Rules(decode)(Termination(frozenset({EOS}))) is None
    empty: Tokens = ()
    assert RULES(Termination(frozenset({EOS}), ("x",))).watch(empty).allowed() is None  # type: ignore[union-attr]
