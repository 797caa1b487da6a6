"""The report's figures as SVG text."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from power_sampling.errors import needed_for
from power_sampling.evaluation.methods import Method
from power_sampling.evaluation.table import Row, Table

__all__ = ["Drawn", "figures"]

MARKERS = "osD^vP*Xdh<>"
BINS = 25


class Drawn(NamedTuple):
    """A figure."""

    title: str
    caption: str
    svg: str


def figures(table: Table) -> list[Drawn]:
    """Every figure that the table has numbers for, the accuracies first."""
    made = [
        Drawn(
            "Accuracy against decoded tokens",
            "Means per answer with 95% intervals over questions; lines are votes over plain samples by their size. "
            "Left and high is better.",
            _drawn(partial(_frontier, table=table)),
        )
    ]
    if any(len(row.pass_at) > 1 for row in table.methods):
        caption = "The chance that at least one of k answers is right, by the unbiased estimator."
        made.append(Drawn("pass@k", caption, _drawn(partial(_pass_at, table=table))))
    for name, lines in _sweeps(table).items():
        caption = f"Accuracy by {name}, all other settings equal; bands are 95% intervals over questions."
        drawn = _drawn(partial(_sweep, name=name, lines=lines))
        made.append(Drawn(f"Accuracy against {name}", caption, drawn))
    for name, words in (("logp", "log p of the answer"), ("length", "length in tokens")):
        caption = f"The {words}, every answer of every sampler."
        drawn = _drawn(partial(_histogram, table=table, name=name, words=words))
        made.append(Drawn(words.capitalize(), caption, drawn))
    return made


def _drawn(draw: Callable[[Any], None]) -> str:
    """One pair of axes, drawn on, as SVG. The same table gives the same text."""
    with needed_for("A report with figures", "evaluation"):
        import matplotlib as mpl
        from matplotlib.figure import Figure
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "power-sampling", "font.size": 11}):
        figure = Figure(figsize=(7.2, 4.8), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.grid(alpha=0.25)
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
        file = io.StringIO()
        figure.savefig(file, format="svg", metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :]


def _frontier(axes: Any, table: Table) -> None:
    for kind, curve in table.frontier.items():
        x, y = [tokens for _, tokens, _ in curve], [estimate.value for _, _, estimate in curve]
        axes.plot(x, y, label=f"{kind} by its size", linestyle="--" if kind == "vote" else ":", color="0.4")
        if kind == "vote":
            axes.fill_between(x, [e.low for _, _, e in curve], [e.high for _, _, e in curve], color="0.4", alpha=0.12)
    for row, marker in zip(table.methods, _cycle(len(table.methods)), strict=True):
        axes.errorbar([row.tokens], [row.accuracy.value], yerr=_errors(row), fmt=marker, capsize=3, label=row.label)
    axes.set_xscale("log")
    for formatted in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        formatted(_numbers())
    axes.set_xlabel("tokens decoded per answer")
    axes.set_ylabel("accuracy")


def _pass_at(axes: Any, table: Table) -> None:
    for row, marker in zip(table.methods, _cycle(len(table.methods)), strict=True):
        if len(row.pass_at) > 1:
            axes.plot(list(row.pass_at), list(row.pass_at.values()), marker=marker, label=row.label)
    axes.set_xscale("log", base=2)
    axes.set_xlabel("k")
    axes.set_ylabel("pass@k")


def _histogram(axes: Any, table: Table, name: str, words: str) -> None:
    ids = {question.id for question in table.questions}
    values: dict[str, list[float]] = {row.label: [] for row in table.methods}
    for answer in table.answers.values():
        value = getattr(answer, name)
        if value is not None and answer.question in ids and answer.method in values:
            values[answer.method].append(value)
    drawn = {label: given for label, given in values.items() if given}
    if drawn:
        low, high = min(map(min, drawn.values())), max(map(max, drawn.values()))
        bins = [low + (high - low or 1.0) * i / BINS for i in range(BINS + 1)]  # the same for all
        for label, given in drawn.items():
            weights = [1 / len(given)] * len(given)
            axes.hist(given, bins=bins, weights=weights, histtype="step", linewidth=1.4, label=label)
    axes.set_xlabel(words)
    axes.set_ylabel("share of answers")


def _sweeps(table: Table) -> dict[str, dict[str, list[tuple[float, Row]]]]:
    """By setting, by sampler: methods that differ in this setting alone."""
    rows = {row.label: row for row in table.methods}
    found: dict[str, dict[str, list[tuple[float, Row]]]] = {}
    for name in ("alpha", "num_steps", "num_particles", "num_completions"):
        lines: dict[str, dict[str, list[tuple[float, Row]]]] = {}
        for method in table.plan.methods:
            value, rest = _taken_out(method, name)
            if value is not None and method.generation.sampler.name != "ancestral":
                group = lines.setdefault(method.generation.sampler.name, {})
                group.setdefault(rest, []).append((value, rows[method.label]))
        kept = {
            sampler: sorted(points, key=lambda point: point[0])
            for sampler, groups in lines.items()
            for points in groups.values()
            if len(points) > 1
        }
        if kept:
            found[name] = kept
    return found


def _taken_out(method: Method, name: str) -> tuple[float | None, str]:
    """The setting, and everything else as text."""
    settings: dict[str, Any] = method.generation.model_dump(mode="json")
    options: dict[str, Any] = {"name": method.generation.sampler.name, **dict(method.generation.sampler)}
    holder: dict[str, Any] = settings if name in settings else options
    value = holder.pop(name, None)
    settings["sampler"] = options
    return value if isinstance(value, int | float) else None, json.dumps(settings, sort_keys=True, default=str)


def _sweep(axes: Any, name: str, lines: Mapping[str, Sequence[tuple[float, Row]]]) -> None:
    for sampler, points in lines.items():
        x = [value for value, _ in points]
        axes.plot(x, [row.accuracy.value for _, row in points], marker="o", label=sampler)
        axes.fill_between(x, [r.accuracy.low for _, r in points], [r.accuracy.high for _, r in points], alpha=0.15)
    axes.set_xlabel(name)
    axes.set_ylabel("accuracy")


def _numbers() -> Any:
    """60, 100, 200 along an axis of logarithms, as many as have room."""
    from matplotlib.ticker import LogFormatter

    return LogFormatter(minor_thresholds=(2, 0.4))


def _errors(row: Row) -> list[list[float]]:
    return [[row.accuracy.value - row.accuracy.low], [row.accuracy.high - row.accuracy.value]]


def _cycle(n: int) -> str:
    return (MARKERS * (n // len(MARKERS) + 1))[:n]
