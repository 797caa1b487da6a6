"""The files of a report, beside the log: `report.html`, `report.md`, `table.csv` and `accuracy.svg`; or outputs for a
judge."""

from __future__ import annotations

import json
import re
from pathlib import Path

from power_sampling.errors import written
from power_sampling.evaluation.figures import figures
from power_sampling.evaluation.log import read_log
from power_sampling.evaluation.page import html
from power_sampling.evaluation.report import csv_text, facts_of, markdown
from power_sampling.evaluation.table import Table
from power_sampling.evaluation.verdicts import compare, verdict

__all__ = ["write_outputs", "write_report"]


def write_report(table: Table, folder: Path) -> list[str]:
    """Write the report of a run into its folder, and return the verdict."""
    contents = read_log(folder)
    comparisons = compare(table)
    words = verdict(table, comparisons)
    facts = facts_of(contents.facts or {}, contents.sessions, table)
    drawn = figures(table)
    for name, text in {
        "table.csv": csv_text(table),
        "report.md": markdown(table, comparisons, words, facts),
        "report.html": html(table, comparisons, words, facts, drawn),
        "accuracy.svg": drawn[0].svg,
    }.items():
        with written(folder / name, "--out"):
            (folder / name).write_text(text, encoding="utf-8")
    return words


def write_outputs(table: Table, folder: Path) -> list[Path]:
    """The first answer of every method to every question, a file for each method in the format that AlpacaEval's judges
    read: objects with `instruction`, `output`, `generator` and what the question's row says of its `dataset`."""
    paths = []
    for method in table.plan.methods:
        outputs = []
        for question in table.questions:
            asked = question.row.get("instruction", question.row.get("question", question.text))
            answer = table.of(method.label, question)[0]
            about = {name: question.row[name] for name in ("dataset",) if name in question.row}
            outputs.append({"instruction": asked, "output": answer.text, "generator": method.label, **about})
        name = re.sub(r"[^\w.=-]+", "-", method.label).strip("-")
        path = folder / f"outputs-{name}.json"
        with written(path, "--out"):
            path.write_text(
                json.dumps(outputs, ensure_ascii=False, indent=1), encoding="utf-8", errors="backslashreplace"
            )
        paths.append(path)
    return paths
