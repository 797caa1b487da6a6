"""The majority's answer, and the baselines."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from math import log
from typing import Any

import pytest

from power_sampling import (
    Completion,
    Diagnostics,
    InputError,
    OneVoteDecidesWarning,
    PowerSampler,
    tally,
    vote,
)
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
        ("(shares[answer], logps[best[answer]])", "(1, logps[best[answer]])"),
        ("(shares[answer], logps[best[answer]])", "(-shares[answer], logps[best[answer]])"),
        ("(shares[answer], logps[best[answer]])", "(shares[answer], 0)"),
        ("(shares[answer], logps[best[answer]])", "(shares[answer], -logps[best[answer]])"),
        ("or logps[i] > logps[best[answers[i]]]", ""),
        ("logps[i] > logps[best[answers[i]]]", "True"),
        ("reverse=True", "reverse=False"),
        ("is_answered = any(answer is not None for answer in answers)", "is_answered = False"),
        ("is_answered = any(answer is not None for answer in answers)", "is_answered = len(set(answers)) > 2"),
    ],
)
def test_another_rule_would_be_noticed(part: str, wrong: str) -> None:
    """Copies of the module with one part replaced."""
    module = inspect.getmodule(vote)
    assert module is not None
    source = inspect.getsource(module)
    assert source.count(part) == 1
    scope: dict[str, Any] = {"__name__": module.__name__}
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


# ------------------------------------------------------------ weighted votes


def plain(text: str, logp: float, sampler: str = "ancestral", alpha: float = 1.0) -> Completion:
    drawn = completion(text, logp)
    return replace(drawn, diagnostics=replace(drawn.diagnostics, sampler=sampler, alpha=alpha))


def test_weights_are_p_to_the_alpha_less_one() -> None:
    drawn = [plain(": 1", log(0.2)), plain(": 2", log(0.1)), plain("none", log(0.5)), plain(": 2", log(0.1))]
    counted = tally(drawn, key=answer_of, alpha=2.0)
    assert counted.weights == pytest.approx((0.5, 0.25, 0.0, 0.25))
    assert dict(counted.shares) == pytest.approx({"1": 0.5, "2": 0.5})
    assert counted.effective_votes == pytest.approx(1 / (0.25 + 0.0625 + 0.0625))
    assert not counted.is_decided_by_one
    assert tally(drawn, key=answer_of).weights == pytest.approx((1 / 3, 1 / 3, 0, 1 / 3))
    assert tally(drawn, key=answer_of).answer == "2"
    assert tally(drawn, key=answer_of, alpha=3.0).answer == "1"


def test_one_vote_that_decides_is_warned_of() -> None:
    drawn = [plain(": 1", -2000.0), plain(": 2", -2010.0), plain(": 2", -2011.0)]
    assert vote(drawn, key=answer_of) is drawn[1]  # heads
    with pytest.warns(OneVoteDecidesWarning, match=r"One of 3 votes holds 100% .* lower alpha \(4\)"):
        assert vote(drawn, key=answer_of, alpha=4.0) is drawn[0]
    assert tally(drawn[:1], alpha=4.0).effective_votes == 1
    assert vote(drawn[:1], alpha=4.0) is drawn[0]  # one alone is no surprise


def test_what_is_sharpened_already_is_not_sharpened_again() -> None:
    with pytest.raises(InputError, match="drawn by metropolis_hastings at alpha 4"):
        vote([plain(": 1", -1, "metropolis_hastings", 4.0)], alpha=2.0)
    assert vote([plain(": 1", -1, "metropolis_hastings", 1.0)], alpha=2.0).text == ": 1"  # that is plain
    assert vote([plain(": 1", -1, "metropolis_hastings", 4.0)]).text == ": 1"
    chosen = plain(": 1", -1, "parallel_tempering", 1.0)  # the power that its curve chose
    chosen = replace(chosen, diagnostics=replace(chosen.diagnostics, exactness="approximate"))
    with pytest.raises(InputError, match=r"parallel_tempering at alpha 1\.0, chosen among others"):
        vote([chosen], alpha=2.0)
    with pytest.raises(InputError, match="at least 1"):
        vote([plain(": 1", -1)], alpha=0.5)
    with pytest.raises(InputError, match="a number of at least 1"):
        vote([plain(": 1", -1)], alpha="2")  # type: ignore[arg-type]


def test_the_weighted_vote_tends_to_the_answers_law_under_the_power() -> None:
    """By enumeration: plain samples in the proportions of p have the shares of p^alpha, summed by answer."""
    law = {"aa": 0.3, "ab": 0.3, "ba": 0.4}  # the first letter is the answer
    drawn = [plain(text, log(p)) for text, p in law.items() for _ in range(round(10 * p))]
    shares = tally(drawn, key=lambda c: c.text[0], alpha=3.0).shares
    z = sum(p**3 for p in law.values())
    assert shares["a"] == pytest.approx((0.3**3 + 0.3**3) / z)
    assert shares["b"] == pytest.approx(0.4**3 / z)
    assert tally(drawn, key=lambda c: c.text[0]).answer == "a"
    assert tally(drawn, key=lambda c: c.text[0], alpha=3.0).answer == "b"
