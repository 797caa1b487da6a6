"""The three files of a report: `report.html`, `report.md` and `table.csv`, beside the log."""

from __future__ import annotations

from pathlib import Path

from power_sampling.evaluation.log import read_log
from power_sampling.evaluation.page import html
from power_sampling.evaluation.report import csv_text, facts_of, markdown
from power_sampling.evaluation.table import Table
from power_sampling.evaluation.verdicts import compare, verdict

__all__ = ["write_report"]


def write_report(table: Table, folder: Path) -> list[str]:
    """Write the report of a run into its folder, and return the verdict."""
    contents = read_log(folder)
    comparisons = compare(table)
    words = verdict(table, comparisons)
    facts = facts_of(contents.facts or {}, contents.sessions, table)
    for name, text in {
        "table.csv": csv_text(table),
        "report.md": markdown(table, comparisons, words, facts),
        "report.html": html(table, comparisons, words, facts),
    }.items():
        (folder / name).write_text(text, encoding="utf-8")
    return words
