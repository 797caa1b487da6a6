"""A request followed on the terminal: a bar that its steps move, lines for a log, text as it settles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing

import typer

from power_sampling.progress import ProgressBar
from power_sampling.runtime import PowerSampler
from power_sampling.types import Completion, Message, Progress

__all__ = ["followed", "label", "log", "number", "write"]


def followed(
    sampler: PowerSampler,
    question: str | list[Message],
    *,
    is_shown: bool,
    show: Callable[[str], None] | None = None,
    log: Callable[[str], None] | None = None,
) -> Completion:
    """The completion. Its steps move a bar, until `show` gets the first text; `log` gets a line for each tenth."""
    title, tenth, completion = label(sampler.generation.sampler.name, sampler.generation.law().alpha), -1, None
    with ProgressBar(is_shown=is_shown, stays=False) as bar, closing(sampler.stream(question)) as chunks:
        bar.describe(f"{title} ")
        for chunk in chunks:
            completion = chunk.completion
            if chunk.progress is not None:
                done, total, stats = chunk.progress
                if completion is not None:
                    done, stats = total, stats_of(completion)
                bar.describe(f"{title}  step {done}/{total} ")
                bar.show(Progress(done, total, stats))
                if log and 10 * done // total != tenth:
                    tenth = 10 * done // total
                    log(f"{title}: step {done}/{total}  {in_words(stats)}".rstrip())
            if show and chunk.text:
                bar.close()  # text and bar would overwrite each other
                show(chunk.text)
    assert completion is not None, "the last chunk carries the completion"
    return completion


def stats_of(completion: Completion) -> dict[str, float]:
    """The numbers that a sampler reports while it runs, of the finished completion."""
    found = completion.diagnostics
    stats = {"logp": completion.logp, "length": len(completion.tokens)}
    stats |= {"acceptance_rate": found.acceptance_rate} if found.acceptance_rate is not None else {}
    return stats | ({"ess": found.ess} if found.ess is not None else {})


def in_words(stats: Mapping[str, float]) -> str:
    words = {"logp": "log p", "acceptance_rate": "accepted"}
    return "  ".join(f"{words.get(name, name)} {number(value)}" for name, value in stats.items())


def number(value: float) -> str:
    return f"{value:.2f}".removesuffix(".00")


def write(text: str) -> None:
    typer.echo(text, nl=False)


def log(line: str) -> None:
    typer.echo(line, err=True)


def label(sampler: str, alpha: float) -> str:
    return f"{sampler} alpha={alpha:g}"
