"""What a table means, in words: which differences are real, which cannot be seen, and what to take at which cost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from power_sampling.errors import shortened
from power_sampling.evaluation.measures import (
    Estimate,
    holm,
    mcnemar,
    paired_difference,
    questions_needed,
    sign_flip_test,
)
from power_sampling.evaluation.table import Row, Table

__all__ = ["Comparison", "compare", "ladder", "verdict"]

SIGNIFICANT = 0.05
FEW = 30  # questions below which nothing but the largest differences can be seen
POINTS = 0.05  # the difference that questions are counted for
LISTED = 3  # comparisons without a result that are spelled out
MANY_CUT_OFF = 0.1
MANY_DECIDED = 0.2


class Comparison(NamedTuple):
    """Two rows on the same questions; the costlier one first."""

    first: Row
    second: Row
    difference: Estimate  # of accuracies, first less second
    p: float  # two-sided, by itself
    adjusted: float  # after Holm's correction for all comparisons of the table
    test: str
    needed: int | None  # questions to see a difference of five points; None where no question says how they vary

    @property
    def is_real(self) -> bool:
        """Whether it stands after allowing for the number of comparisons."""
        return self.adjusted < SIGNIFICANT

    @property
    def is_real_alone(self) -> bool:
        """Whether it would stand if it were the only comparison."""
        return self.p < SIGNIFICANT


def compare(table: Table) -> list[Comparison]:
    """Every two methods, and every method with the votes that decode as many tokens."""
    methods = {row.label: row for row in table.methods}
    return _compared(
        [*combinations(table.methods, 2), *((methods[label], row) for row in table.rows for label in row.beside)]
    )


def ladder(rows: Sequence[Row], found: Sequence[Comparison] | None = None) -> list[Row]:
    """What to take at which budget: the cheapest of the methods, then every costlier one that is really better than the
    one before. `found` are comparisons of these methods; None: they are made."""
    found = _compared(list(combinations(rows, 2))) if found is None else found
    ordered = sorted(rows, key=lambda row: row.tokens)
    steps = ordered[:1]
    for row in ordered[1:]:
        c = next(c for c in found if {c.first.label, c.second.label} == {row.label, steps[-1].label})
        if c.is_real and row.accuracy.value > steps[-1].accuracy.value:
            steps.append(row)
    return steps


def _compared(rows: Sequence[tuple[Row, Row]]) -> list[Comparison]:
    pairs = [sorted(pair, key=lambda row: (row.votes is not None, -row.tokens)) for pair in rows]
    tested = [_tested(first, second) for first, second in pairs]
    adjusted = holm([comparison.p for comparison in tested])
    return [comparison._replace(adjusted=p) for comparison, p in zip(tested, adjusted, strict=True)]


def _tested(first: Row, second: Row) -> Comparison:
    one, other = first.per_question, second.per_question
    is_single = first.samples == second.samples == 1
    return Comparison(
        first,
        second,
        paired_difference(one, other),
        p=mcnemar(one, other) if is_single else sign_flip_test(one, other),
        adjusted=1.0,
        test="McNemar" if is_single else "sign flips",
        needed=questions_needed(one - other, POINTS) if (one - other).any() else None,
    )


def verdict(table: Table, comparisons: Sequence[Comparison] | None = None) -> list[str]:
    """Sentences, the most important first."""
    found = compare(table) if comparisons is None else list(comparisons)
    return [_scope(table), *_alike(table), *_real(found), *_choice(table, found), *_unseen(found), *_warnings(table)]


def _scope(table: Table) -> str:
    n = len(table.questions)
    of = "" if n == table.planned else f" of {table.planned} planned (a fair sample: their order is random)"
    few = " That is few: only large differences can be seen, and intervals are too narrow." if n < FEW else ""
    return f"{n} questions of {table.task}{of}.{few}"


def _alike(table: Table) -> list[str]:
    """Where all answers are wrong, or all right, the samplers are not what that comes from."""
    if all((row.per_question == 1).all() for row in table.rows):
        return ["Careful: every answer is right, so these questions tell nothing apart; ask harder ones."]
    if any(row.per_question.any() for row in table.rows):
        return []
    words = "Careful: no answer is right. Either the questions are too hard for this model, or the grader does not suit"
    question = table.questions[0]
    drawn = [a for row in table.methods for a in table.of(row.label, question) if a.error is None]
    if drawn and question.expected:
        read = "nothing" if drawn[0].answer is None else shortened(drawn[0].answer)
        words += f": of the first question it expects {shortened(question.expected)} and has read {read}"
    return [f"{words}. See the texts in the report before anything is concluded."]


def _real(found: Sequence[Comparison]) -> list[str]:
    sentences = []
    for c in found:
        if c.is_real:
            better, worse, gap = c.first, c.second, c.difference
            if gap.value < 0:
                better, worse, gap = worse, better, Estimate(-gap.value, -gap.high, -gap.low)
            sentences.append(
                f"Real: {better.label} is better than {worse.label} by {_points(gap.value)} "
                f"({_interval(gap)}; p = {_p(c.adjusted)} after allowing for {_many(len(found))})."
            )
    if found and not sentences:
        sentences.append("No difference between any two of them can be seen.")
    return sentences


def _unseen(found: Sequence[Comparison]) -> list[str]:
    sentences = []
    maybe = [c for c in found if c.is_real_alone and not c.is_real]
    if maybe:
        pairs = "; ".join(f"{_pair(c)} ({_gap(c)}, p = {_p(c.p)} alone, {_p(c.adjusted)} adjusted)" for c in maybe)
        sentences.append(
            f"There may be a difference, which {_many(len(found))} do not prove; ask more questions: {pairs}."
        )
    unseen = [c for c in found if not c.is_real_alone]
    if unseen:
        pairs = "; ".join(f"{_pair(c)} ({_gap(c)})" for c in unseen[:LISTED])
        if len(unseen) > LISTED:
            pairs += f"; and in {len(unseen) - LISTED} more comparisons, see the table of differences"
        sentences.append(f"No difference can be seen between {pairs}.{_questions(unseen)}")
    return sentences


def _questions(unseen: Sequence[Comparison]) -> str:
    """How many it takes to see more."""
    needed = sorted(c.needed for c in unseen if c.needed is not None)
    if not needed:
        return ""
    about = f"{needed[0]}" if needed[0] == needed[-1] else f"{needed[0]} to {needed[-1]}"
    return f" To see one of {POINTS * 100:.0f} points takes about {about} questions."


def _pair(c: Comparison) -> str:
    return f"{c.first.label} and {c.second.label}"


def _gap(c: Comparison) -> str:
    return f"{c.difference.value * 100:+.1f} points, {_interval(c.difference)}"


def _choice(table: Table, found: Sequence[Comparison]) -> list[str]:
    """The cheapest one, and from there every costlier one that is really better than the one before."""
    if len(table.methods) < 2:
        return []
    steps = ladder(table.methods, found)
    chosen, first = steps[-1], steps[0]
    words = [f"Cheapest, {first.tokens:.0f} decoded tokens an answer: {first.label} ({_percent(first)})."]
    words += [f"From {row.tokens:.0f} tokens an answer on: {row.label} ({_percent(row)})." for row in steps[1:]]
    if chosen is first:
        words.append("Nothing that costs more is seen to be better: take it at any budget.")
    for c in found:
        if chosen.label in c.second.beside and c.is_real and c.difference.value < 0:
            words.append(
                f"Where answers can be voted on, take {c.second.label} instead: {_percent(c.second)} at its tokens."
            )
    return [f"What I would take. {' '.join(words)}"]


def _warnings(table: Table) -> list[str]:
    words = []
    for row in table.rows:
        if row.errors:
            words.append(
                f"Careful: {row.errors} answers of {row.label} could not be drawn and count as wrong; see the log."
            )
        if row.cut_off is not None and row.cut_off > MANY_CUT_OFF:
            words.append(
                f"Careful: {row.cut_off:.0%} of the answers of {row.label} were cut off at max_new_tokens; raise it."
            )
        if row.is_short:
            words.append(
                f"Careful: {row.label} has {row.tokens:.0f} tokens an answer, fewer than {' and '.join(row.beside)}; "
                "draw a larger pool (--votes)."
            )
        if row.decided_by_one is not None and row.decided_by_one > MANY_DECIDED:
            words.append(
                f"Careful: in {row.decided_by_one:.0%} of the votes of {row.label} one answer outweighed all others "
                f"together (effective votes {row.ess or 0:.1f}): its alpha is high for so few votes."
            )
    return words


def _interval(gap: Estimate) -> str:
    return f"95% interval {gap.low * 100:+.1f} to {gap.high * 100:+.1f}"


def _points(difference: float) -> str:
    return f"{difference * 100:.1f} points"


def _percent(row: Row) -> str:
    return f"{row.accuracy.value:.1%}"


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "less than 0.001"


def _many(comparisons: int) -> str:
    return f"{comparisons} comparisons" if comparisons > 1 else "the one comparison"
