"""The table of a run: what every method gave on the same questions, and what votes over plain samples would have given.

A vote of n is counted over disjoint groups of n of a question's plain samples: every group is a vote as a user would
hold it, and a question's accuracy is the mean over its groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from power_sampling.errors import ConfigurationError
from power_sampling.evaluation.log import Answer, Key
from power_sampling.evaluation.measures import Estimate, bootstrap_interval, pass_at_k
from power_sampling.evaluation.methods import POOL, Method
from power_sampling.evaluation.plan import Plan
from power_sampling.evaluation.tasks import Question
from power_sampling.types import Completion, Diagnostics
from power_sampling.vote import tally

__all__ = ["Row", "Table", "table_of", "votes_for"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method, or one vote, over the questions of the table. Means are over questions of means over samples."""

    label: str
    per_question: NDArray[np.float64]  # the share of right answers
    accuracy: Estimate
    samples: int  # per question
    pass_at: Mapping[int, float]
    tokens: float  # decoded per answer; of a vote, by all its samples together
    serial_steps: float | None
    seconds: float | None
    logp: float | None
    confidence: float | None  # log p per token
    length: float | None
    distinct: float | None  # different answers among a question's samples
    cut_off: float | None  # share that reached max_new_tokens
    acceptance_rate: float | None
    ess: float | None  # smallest seen; of a weighted vote, its effective number of votes
    errors: int
    votes: int | None = None  # of a vote: over how many samples
    beside: tuple[str, ...] = ()  # of a vote: the methods whose tokens it has
    is_short: bool = False  # of a vote: the pool has fewer tokens than that method
    decided_by_one: float | None = None  # of a weighted vote: how often one vote outweighed all others together


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows over the same questions, in the same order."""

    task: str
    questions: tuple[Question, ...]
    planned: int
    rows: tuple[Row, ...]  # methods first, in the order they were named; then votes
    frontier: Mapping[str, Sequence[tuple[int, float, Estimate]]]  # by vote: votes, tokens, accuracy
    answers: Mapping[Key, Answer]
    plan: Plan

    @property
    def methods(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.votes is None)

    def of(self, label: str, question: Question) -> list[Answer]:
        """The answers of one method to one question."""
        method = next(method for method in self.plan.methods if method.label == label)
        return _answers(self.plan, method, question, self.answers)


def table_of(plan: Plan, answers: Mapping[Key, Answer], task: str) -> Table:
    """The table of what is there. Raises ConfigurationError where no question is answered by every method yet."""
    questions = plan.answered(answers)
    if not questions:
        raise ConfigurationError("The run has no question yet that every sampler has answered; go on with it.")
    rows = [_row(plan, method, questions, answers) for method in plan.methods]
    frontier: dict[str, list[tuple[int, float, Estimate]]] = {}
    if plan.votes:
        pool = _pool(plan, questions, answers)
        alphas = {"vote": 1.0, "weighted_vote": _alpha(plan)}
        curves = {kind: _Votes(kind, pool, alphas[kind]) for kind in plan.votes}
        beside = [row for row in rows if row.label != POOL and row.tokens > 0]
        for kind, votes in curves.items():
            frontier[kind] = votes.frontier()
            rows += votes.rows_beside(beside) or [votes.row(votes.size)]
    return Table(
        task=task,
        questions=questions,
        planned=len(plan.questions),
        rows=tuple(rows),
        frontier=frontier,
        answers=answers,
        plan=plan,
    )


def votes_for(plan: Plan, answers: Mapping[Key, Answer]) -> int:
    """How many plain samples decode as many tokens as the costliest method; a tenth more, since lengths vary."""
    questions = plan.answered(answers)
    tokens = {
        method.label: fmean(a.tokens_decoded for q in questions for a in _answers(plan, method, q, answers))
        for method in plan.methods
    }
    return max(1, math.ceil(1.1 * max(tokens.values()) / max(1.0, tokens[POOL]))) if questions else 1


# ------------------------------------------------------------ methods


def _answers(plan: Plan, method: Method, question: Question, answers: Mapping[Key, Answer]) -> list[Answer]:
    """Up to the first that is missing: of a pool that is still growing, those that came out of order do not count."""
    found = []
    for key in plan.keys_of(method, question):
        if key not in answers:
            break
        found.append(answers[key])
    return found


def _row(plan: Plan, method: Method, questions: Sequence[Question], answers: Mapping[Key, Answer]) -> Row:
    lists = [_answers(plan, method, question, answers) for question in questions]
    samples = min(map(len, lists))
    groups = [group[:samples] for group in lists]
    shares = np.array([fmean(a.is_right for a in group) for group in groups])
    right = [sum(a.is_right for a in group) for group in groups]
    ks = [k for k in (1, 2, 4, 8, 16, 32, 64) if k < samples] + [samples]
    return Row(
        label=method.label,
        per_question=shares,
        accuracy=bootstrap_interval(shares),
        samples=samples,
        pass_at={k: fmean(pass_at_k(samples, c, k) for c in right) for k in ks},
        tokens=_mean(groups, "tokens_decoded") or 0.0,
        serial_steps=_mean(groups, "serial_steps"),
        seconds=_mean(groups, "seconds"),
        logp=_mean(groups, "logp"),
        confidence=_mean([[_per_token(a) for a in group] for group in groups]),
        length=_mean(groups, "length"),
        distinct=fmean(len({a.answer for a in group}) for group in groups) if samples > 1 else None,
        cut_off=_mean([[float(a.finish_reason == "length") for a in group] for group in groups]),
        acceptance_rate=_mean(groups, "acceptance_rate"),
        ess=_mean(groups, "ess"),
        errors=sum(a.error is not None for group in groups for a in group),
    )


def _mean(groups: Sequence[Sequence[Any]], name: str | None = None) -> float | None:
    """Over questions, of the means over those samples that have the number."""
    values = [[a if name is None else getattr(a, name) for a in group] for group in groups]
    there = [[float(value) for value in group if value is not None] for group in values]
    means = [fmean(group) for group in there if group]
    return fmean(means) if means else None


def _per_token(answer: Answer) -> float | None:
    return None if answer.logp is None or not answer.length else answer.logp / answer.length


# ------------------------------------------------------------ votes


def _pool(plan: Plan, questions: Sequence[Question], answers: Mapping[Key, Answer]) -> list[list[Answer]]:
    """The plain samples of every question, equally many of each."""
    method = next(method for method in plan.methods if method.label == POOL)
    lists = [_answers(plan, method, question, answers) for question in questions]
    return [group[: min(map(len, lists))] for group in lists]


def _alpha(plan: Plan) -> float:
    """Of the weighted vote: that of the settings, which the pool carries though plain sampling does not use it."""
    return next(method.generation.alpha for method in plan.methods if method.label == POOL)


class _Votes:
    """Votes of any size over the pool."""

    def __init__(self, kind: str, pool: list[list[Answer]], alpha: float) -> None:
        self._kind, self._pool, self._alpha = kind, pool, alpha
        self.size = len(pool[0])
        self._tokens = fmean(a.tokens_decoded for group in pool for a in group)

    def rows_beside(self, methods: Sequence[Row]) -> list[Row]:
        """Votes that decode as many tokens as these methods, as nearly as whole votes can. Methods for which that is a
        single sample have none: it is plain sampling."""
        wanted: dict[int, list[str]] = {}
        for row in methods:
            if (size := round(row.tokens / max(1.0, self._tokens))) > 1:
                wanted.setdefault(size, []).append(row.label)
        return [
            self.row(min(size, self.size), beside=tuple(labels), is_short=size > self.size)
            for size, labels in sorted(wanted.items())
        ]

    def frontier(self) -> list[tuple[int, float, Estimate]]:
        sizes = [n for n in (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48) if n < self.size] + [self.size]
        return [(n, row.tokens, row.accuracy) for n in sizes for row in [self.row(n)]]

    def row(self, n: int, *, beside: tuple[str, ...] = (), is_short: bool = False) -> Row:
        held = [[_held(part, self._alpha) for part in _parts(group, n)] for group in self._pool]
        shares = np.array([fmean(is_right for is_right, _, _ in votes) for votes in held])
        is_weighted = self._alpha > 1 and n > 1
        return Row(
            label=f"{self._kind} of {n}",
            per_question=shares,
            accuracy=bootstrap_interval(shares),
            samples=self.size // n,
            pass_at={},
            tokens=n * self._tokens,
            serial_steps=None,
            seconds=None,
            logp=None,
            confidence=None,
            length=None,
            distinct=None,
            cut_off=None,
            acceptance_rate=None,
            ess=fmean(effective for votes in held for _, effective, _ in votes) if is_weighted else None,
            errors=0,
            votes=n,
            beside=beside,
            is_short=is_short,
            decided_by_one=fmean(by_one for votes in held for _, _, by_one in votes) if is_weighted else None,
        )


def _parts(group: list[Answer], n: int) -> list[list[Answer]]:
    return [group[i : i + n] for i in range(0, len(group) - n + 1, n)]


def _held(ballots: list[Answer], alpha: float) -> tuple[bool, float, bool]:
    """(whether the winner is right, effective votes, whether one vote outweighed all others together)."""
    cast = [(_ballot(ballot), ballot) for ballot in ballots if ballot.error is None]
    if not cast:
        return False, 0.0, False
    answer_of = {id(completion): ballot.answer for completion, ballot in cast}
    counted = tally([completion for completion, _ in cast], lambda c: answer_of[id(c)], alpha=alpha)
    winner = next(ballot for completion, ballot in cast if completion is counted.winner)
    return winner.is_right, counted.effective_votes, counted.is_decided_by_one


def _ballot(answer: Answer) -> Completion:
    """What a vote looks at."""
    facts = Diagnostics(
        sampler=POOL,
        alpha=1.0,
        exactness="exact",
        acceptance_rate=None,
        ess=None,
        log_z=None,
        is_budget_spent=False,
        tokens_decoded=answer.tokens_decoded,
        tokens_prefilled=answer.tokens_prefilled,
        serial_steps=answer.serial_steps,
        seconds=answer.seconds,
    )
    return Completion(
        text=answer.text,
        tokens=(),
        logp=answer.logp if answer.logp is not None else -math.inf,
        token_logp=(),
        token_text=(),
        finish_reason="stop",
        stop=None,
        prompt_tokens=0,
        seed=answer.request_seed,
        diagnostics=facts,
    )
