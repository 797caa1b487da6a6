"""A table written down: Markdown for people, CSV for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from power_sampling.evaluation.measures import Estimate
from power_sampling.evaluation.table import Row, Table
from power_sampling.evaluation.verdicts import Comparison

__all__ = ["COLUMNS", "accuracies", "csv_text", "difference", "facts_of", "markdown"]

# heading, attribute of a row, how it is written
COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("tokens decoded", "tokens", ".0f"),
    ("serial steps", "serial_steps", ".0f"),
    ("seconds waited", "seconds", ".1f"),
    ("log p", "logp", ".1f"),
    ("log p per token", "confidence", ".3f"),
    ("length", "length", ".0f"),
    ("cut off", "cut_off", ".0%"),
    ("distinct answers", "distinct", ".1f"),
    ("accepted", "acceptance_rate", ".2f"),
    ("ESS", "ess", ".1f"),
)


def markdown(table: Table, comparisons: Sequence[Comparison], words: Sequence[str], facts: Mapping[str, str]) -> str:
    """The whole report but for the figures and the questions."""
    parts = [f"# {table.task}", "## Verdict", *(f"- {sentence}" for sentence in words)]
    parts += [
        "",
        "## Accuracy and cost",
        "Means per answer; 95% intervals by the cluster bootstrap over questions.",
        "",
    ]
    parts += _grid(["sampler", "accuracy", "95% interval", "samples", *(c[0] for c in COLUMNS)], accuracies(table))
    if any(row.samples > 1 and row.pass_at for row in table.rows):
        ks = sorted({k for row in table.rows for k in row.pass_at})
        parts += ["", "## pass@k", ""]
        parts += _grid(["sampler", *(f"k = {k}" for k in ks)], [_pass_at(row, ks) for row in table.rows if row.pass_at])
    if comparisons:
        parts += ["", "## Differences on the same questions", ""]
        headings = ["", "points", "95% interval", "p", "p adjusted", "test", "questions for 5 points"]
        parts += _grid(headings, [difference(c) for c in comparisons])
    for kind, curve in table.frontier.items():
        parts += ["", f"## {kind} by its size", ""]
        parts += _grid(
            ["votes", "tokens decoded", "accuracy", "95% interval"],
            [[str(n), f"{tokens:.0f}", f"{e.value:.1%}", _interval(e)] for n, tokens, e in curve],
        )
    parts += ["", "## The run", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    return "\n".join(parts)


def csv_text(table: Table) -> str:
    """One line per row of the table, numbers in full."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    ks = sorted({k for row in table.rows for k in row.pass_at})
    head = ["sampler", "questions", "samples", "accuracy", "low", "high", *(name for _, name, _ in COLUMNS), "errors"]
    writer.writerow([*head, "votes", "beside", *(f"pass@{k}" for k in ks)])
    for row in table.rows:
        values = [row.label, len(table.questions), row.samples, *row.accuracy]
        values += [getattr(row, name) for _, name, _ in COLUMNS]
        writer.writerow([*values, row.errors, row.votes, " and ".join(row.beside), *(row.pass_at.get(k) for k in ks)])
    return file.getvalue()


def facts_of(facts: Mapping[str, Any], sessions: Sequence[Mapping[str, Any]], table: Table) -> dict[str, str]:
    """What a reader needs to judge and to repeat a run."""
    last = sessions[-1]
    model = facts["model"]
    totals = [answer.tokens_decoded for answer in table.answers.values()]
    found = {
        "model": str(model.get("model")),
        "engine": str(model.get("engine", {}).get("name")),
        "dtype": str(model.get("engine", {}).get("dtype") or model.get("dtype")),
        "questions": f"{len(table.questions)} of {table.planned} planned",
        "samples": f"{last['samples']} for each of the seeds {', '.join(map(str, last['seeds']))}",
        "data": f"{last['data']} (sha256 {facts['data_sha256'][:16]})",
        "answers drawn": f"{len(totals)}, {sum(totals)} tokens decoded",
        "last start": f"{last['time']} on {last['machine']}",
        "versions": ", ".join(f"{name} {value}" for name, value in last["versions"].items()),
    }
    if last.get("code_runs_under"):
        found["code ran under"] = f"a filter of {last['code_runs_under']}"
    return found


def cell(row: Row, name: str, form: str) -> str:
    """A number of a row, or nothing."""
    value = getattr(row, name)
    return "" if value is None else format(value, form)


def accuracies(table: Table) -> list[list[str]]:
    return [
        [row.label, f"{row.accuracy.value:.1%}", _interval(row.accuracy), str(row.samples)]
        + [cell(row, name, form) for _, name, form in COLUMNS]
        for row in table.rows
    ]


def _pass_at(row: Row, ks: Sequence[int]) -> list[str]:
    return [row.label, *(f"{row.pass_at[k]:.1%}" if k in row.pass_at else "" for k in ks)]


def difference(c: Comparison) -> list[str]:
    interval = f"{c.difference.low * 100:+.1f} to {c.difference.high * 100:+.1f}"
    pair = f"{c.first.label} - {c.second.label}"
    return [
        pair,
        f"{c.difference.value * 100:+.1f}",
        interval,
        f"{c.p:.3f}",
        f"{c.adjusted:.3f}",
        c.test,
        "" if c.needed is None else str(c.needed),
    ]


def _interval(estimate: Estimate) -> str:
    return f"{estimate.low:.1%} to {estimate.high:.1%}"


def _grid(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [headings, ["---"] * len(headings), *rows]
    return ["| " + " | ".join(text.replace("|", "\\|") for text in line) + " |" for line in lines]
