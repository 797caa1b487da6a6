"""The report as one HTML file: figures, tables and every question in it; it opens without a network."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from power_sampling.errors import needed_for
from power_sampling.evaluation.figures import Drawn
from power_sampling.evaluation.log import Answer
from power_sampling.evaluation.report import COLUMNS, accuracies, difference
from power_sampling.evaluation.table import Table
from power_sampling.evaluation.tasks import Question
from power_sampling.evaluation.verdicts import Comparison

__all__ = ["html"]

TEMPLATE = Path(__file__).with_name("page.html.j2")


def html(
    table: Table,
    comparisons: Sequence[Comparison],
    words: Sequence[str],
    facts: Mapping[str, str],
    figures: Sequence[Drawn],
) -> str:
    """The page. Whatever a model or a file has said is shown as text, never run."""
    with needed_for("The report's page", "evaluation"):
        from jinja2 import Environment
    template = Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        title=f"Does power sampling help on {table.task}?",
        facts=facts,
        words=words,
        headings=[heading for heading, _, _ in COLUMNS],
        rows=accuracies(table),
        differences=[difference(comparison) for comparison in comparisons],
        figures=figures,
        questions=_json([_question(table, question) for question in table.questions]),
    )


def _question(table: Table, question: Question) -> dict[str, Any]:
    given = [table.of(row.label, question)[0] for row in table.methods]
    return {
        "id": question.id,
        "question": question.text,
        "expected": question.expected,
        "answers": [_answer(answer) for answer in given],
    }


def _answer(answer: Answer) -> dict[str, Any]:
    facts = [f"answer {answer.answer}"] if answer.answer is not None and len(answer.answer) < 60 else []
    facts += [f"log p {answer.logp:.1f}"] if answer.logp is not None else []
    facts += [f"{answer.length} tokens, {answer.tokens_decoded} decoded"]
    facts += [note for note in (answer.note, answer.error) if note]
    return {"method": answer.method, "right": answer.is_right, "facts": "; ".join(facts), "text": answer.text}


def _json(value: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
