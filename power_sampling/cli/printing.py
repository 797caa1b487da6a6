"""Completions as tables and as JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE
from rich.console import Console
from rich.table import Table
from rich.text import Text

from power_sampling.cli.following import label, number
from power_sampling.types import Completion

__all__ = ["as_dict", "diagnostics_table", "print_comparison", "tables"]

WIDE = 110  # columns of a terminal that has room for everything beside each other


def as_dict(completion: Completion) -> dict[str, Any]:
    return {
        "text": completion.text,
        "logp": completion.logp,
        "finish_reason": completion.finish_reason,
        "stop": completion.stop,
        "tokens": completion.tokens,
        "seed": completion.seed,
        "usage": completion.usage,
        "diagnostics": completion.diagnostics.to_dict(),
    }


def diagnostics_table(completion: Completion) -> Table:
    table = Table.grid(padding=(0, 2))
    facts: dict[str, Any] = {
        "log p": completion.logp,
        "log p per token": _logp_per_token(completion),
        **completion.diagnostics.to_dict(),
        "finish_reason": completion.finish_reason,
        **completion.usage,
        "seed": completion.seed,
    }
    warnings: Sequence[str] = facts.pop("warnings")
    for name, value in facts.items():
        if value is not None:
            table.add_row(Text(name, "dim"), number(value) if isinstance(value, float) else str(value))
    for warning in warnings:
        table.add_row(Text("warning", "yellow"), Text(warning))
    return table


def print_comparison(completions: Sequence[Completion]) -> None:
    """The runs as rows; the texts below where the terminal has no room for a column of them."""
    console = tables()
    is_wide = console.width >= WIDE
    table = Table(box=SIMPLE, pad_edge=False, padding=(0, 1) if is_wide else 0, show_lines=is_wide)
    table.caption = f"log p is of the base law; one completion each, seed {completions[0].seed}"
    table.add_column("sampler", no_wrap=True)
    for heading in ("alpha", "log p", "log p\n/ token", "accepted", "tokens\ndecoded", "serial\nsteps", "seconds"):
        table.add_column(heading, justify="right", no_wrap=True)
    if is_wide:
        table.add_column("text", overflow="fold")
    for c in completions:
        table.add_row(c.diagnostics.sampler, *_numbers_of(c), *([Text(c.text)] if is_wide else []))
    console.print(table)
    for c in completions if not is_wide else ():
        console.print(Text(label(c.diagnostics.sampler, c.diagnostics.alpha), "bold"))
        console.print(Text(c.text), "")


def _numbers_of(completion: Completion) -> tuple[str, ...]:
    found = completion.diagnostics
    return (
        f"{found.alpha:g}",
        f"{completion.logp:.2f}",
        f"{_logp_per_token(completion):.3f}",
        "" if found.acceptance_rate is None else f"{found.acceptance_rate:.2f}",
        f"{found.tokens_decoded}",
        f"{found.serial_steps}",
        f"{found.seconds:.2f}",
    )


def _logp_per_token(completion: Completion) -> float:
    return completion.logp / len(completion.tokens)


def tables() -> Console:
    """Stdout; wide enough for a table where it is no terminal that says how wide it is."""
    return Console(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 140)
