"""The majority's answer, and the baselines."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from power_sampling import Completion, Diagnostics, InputError, PowerSampler, vote
from tests.support.tiny import tiny_model, tiny_tokenizer


def completion(text: str, logp: float) -> Completion:
    numbers: dict[str, Any] = dict.fromkeys(Diagnostics.__dataclass_fields__)
    return Completion(
        text=text,
        tokens=(),
        logp=logp,
        token_logp=(),
        token_text=(),
        finish_reason="stop",
        stop=None,
        prompt_tokens=1,
        seed=0,
        diagnostics=Diagnostics(**numbers),
    )


def answer_of(c: Completion) -> str | None:
    return c.text.split(":")[1].strip() if ":" in c.text else None


def test_the_majority_wins_and_its_likeliest_completion_is_returned() -> None:
    drawn = [completion(*each) for each in [("a: 1", -1), ("b: 2", -5), ("c: 2 ", -3), ("none", -0.1), ("none", -0.2)]]
    assert vote(drawn, key=answer_of).text == "c: 2 "
    assert vote(drawn).text == "none"
    assert vote(drawn[:2], key=answer_of).text == "a: 1"  # a tie: the likelier
    assert vote(drawn[3:], key=answer_of).text == "none"  # nobody answers
    with pytest.raises(InputError, match="no completions"):
        vote([])


BALLOTS = [completion(text, logp) for text in (": 1", ": 2", "none") for logp in (-1.0, -2.0, -5.0)]


def faults(rule: Callable[..., Completion]) -> int:
    """In how many of all elections of up to four ballots the winner has fewer votes than another answer, or is less
    likely than another completion with as many, or gives no answer where there is one."""
    wrong = 0
    for drawn in (ballots for n in range(1, 5) for ballots in product(BALLOTS, repeat=n)):
        winner = rule(drawn, key=answer_of)
        votes = Counter(answer_of(c) for c in drawn)
        if len(votes) > 1:
            del votes[None]
        best = max(c.logp for c in drawn if votes[answer_of(c)] == max(votes.values()))
        wrong += winner not in drawn or votes[answer_of(winner)] < max(votes.values()) or winner.logp < best
    return wrong


def test_every_small_election_is_decided_by_the_rule() -> None:
    assert faults(vote) == 0


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("len(group)", "1"),
        ("len(group)", "-len(group)"),
        ("max(c.logp for c in group)", "0"),
        ("max(c.logp for c in group)", "group[0].logp"),
        ("max(c.logp for c in group)", "sum(c.logp for c in group)"),
        ("max(winners", "min(winners"),
        ("max(winners, key=lambda c: c.logp)", "winners[0]"),
        ("groups.pop(None, None)", "pass"),
        ("len(groups) > 1", "len(groups) > 2"),
    ],
)
def test_another_rule_would_be_noticed(part: str, wrong: str) -> None:
    """Copies of the rule with one part replaced."""
    source = inspect.getsource(vote)
    assert source.count(part) == 1
    scope: dict[str, Any] = dict(vars(inspect.getmodule(vote)))
    exec(source.replace(part, wrong), scope)
    assert faults(scope["vote"]) > 0


def test_both_through_the_whole_engine() -> None:
    runtime = PowerSampler.from_model(tiny_model(layers=1), tiny_tokenizer(), max_new_tokens=6, alpha=2.0, seed=0)
    drawn = runtime.generate(["a"], n=5, sampler="ancestral", choices=["x", "y"], temperature=20.0)
    winner = vote(drawn)
    assert sum(c.text == winner.text for c in drawn) >= 3
    best = runtime.complete("a", sampler={"name": "best_of_n", "num_completions": 3, "proposal_temperature": 1.0})
    assert best.diagnostics.sampler == "best_of_n" and best.diagnostics.exactness == "approximate"
    assert best.diagnostics.tokens_decoded >= len(best.tokens)
