"""`power-sampling evaluate`, `tune` and `rewrite`: from a task and a model to a verdict, to settings, or from traces to
better ones. Each can be killed at any moment and begun again.

Apart from `power_sampling.evaluation`, which is imported when the command runs: no other command pays for it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer import Argument, Option

from power_sampling.cli.options import (
    ChatOption,
    ConfigOption,
    DeviceOption,
    DtypeOption,
    EngineOption,
    LengthOption,
    ModelOption,
    SetOption,
    settings_of,
)
from power_sampling.errors import ConfigurationError, written

TASK_HELP = "gsm8k, math500, humaneval, gpqa, alpaca or jsonl."
TaskArgument = Annotated[str, Argument(metavar="TASK", help=TASK_HELP)]
DataOption = Annotated[Path, Option("--data", help="The task's local file; nothing is downloaded.")]
GraderOption = Annotated[str | None, Option("--grader", help="Of jsonl: exact, numeric, ..., module:function.")]
CodeOption = Annotated[bool, Option("--allow-code-execution", help="Run code of the model.")]

__all__ = ["evaluate", "rewrite", "tune"]

UNDER_WAY = "up to 64 answers are under way at once, and those that were begun are finished"
SILENCE = 60.0  # seconds without a line, where there is no terminal
SAMPLERS = "greedy,ancestral,low_temperature,metropolis_hastings,sequential_monte_carlo,vote"


def evaluate(
    task: TaskArgument,
    data: DataOption,
    out: Annotated[Path, Option("--out", help="Folder of the run: its log and its report. The same one goes on.")],
    model: ModelOption = None,
    engine: EngineOption = None,
    samplers: Annotated[str, Option("--samplers", help="With commas; settings in parentheses.")] = SAMPLERS,
    questions: Annotated[int | None, Option("--questions", help="How many, in a fixed random order; all.")] = None,
    samples: Annotated[int, Option("--samples", help="Answers per question, sampler and seed.")] = 1,
    seeds: Annotated[str, Option("--seeds", help="Whole numbers with commas between them.")] = "0",
    votes: Annotated[int | None, Option("--votes", help="Plain samples to vote over; else as the tokens say.")] = None,
    grader: GraderOption = None,
    allow_code_execution: CodeOption = False,
    max_tokens: Annotated[int | None, Option("--max-tokens", help="Begin no answer after so many decoded.")] = None,
    max_seconds: Annotated[float | None, Option("--max-seconds", help="Begin no answer after so long.")] = None,
    max_new_tokens: LengthOption = None,
    alpha: Annotated[float | None, Option("--alpha", help="The power, where a sampler names none.")] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    use_chat_template: ChatOption = None,
) -> None:
    """Compare samplers on a task: accuracy against decoded tokens, and which differences are real.

    The verdict goes to stdout; log, report.html, report.md, table.csv and accuracy.svg into the folder. Kill it at
    any moment and start it again with the same words: it goes on.
    """
    given = dict(locals())
    from power_sampling.evaluation import Bounds, load_task, make_plan, parse_methods, run
    from power_sampling.evaluation.write import write_outputs, write_report
    from power_sampling.runtime import PowerSampler

    chosen = load_task(task, data, grader=grader, allow_code_execution=allow_code_execution)
    found = settings_of(given, max_new_tokens=chosen.max_new_tokens)
    sampler = PowerSampler.of(found)
    methods, kinds = parse_methods(samplers, sampler.generation)
    plan = make_plan(
        chosen,
        methods,
        kinds,
        questions=questions,
        samples=samples,
        seeds=_seeds(seeds),
        pool=votes,
        unlabelled=not chosen.is_labelled,
    )
    with _progress(max_tokens) as listener:
        bounds = Bounds(tokens=max_tokens, seconds=max_seconds)
        table = run(sampler, chosen, plan, out, bounds=bounds, listener=listener)
    if not chosen.is_labelled:
        typer.echo(f"{len(table.questions)} questions of {chosen.name} have no answers: outputs for another judge.")
        for path in write_outputs(table, out):
            typer.echo(str(path))
        return
    for sentence in write_report(table, out):
        typer.echo(sentence)
    typer.echo(f"Report: {out / 'report.html'}", err=True)


def tune(
    task: TaskArgument,
    data: DataOption,
    out: Annotated[Path, Option("--out", help="Folder of the search: its log and power.yaml. The same one goes on.")],
    max_tokens: Annotated[int, Option("--max-tokens", help="Begin no answer after so many decoded in all.")],
    model: ModelOption = None,
    engine: EngineOption = None,
    samplers: Annotated[str | None, Option("--samplers", help="Candidates; else a dozen of them.")] = None,
    first: Annotated[int, Option("--first", help="Questions that every candidate answers.")] = 8,
    max_cost: Annotated[float | None, Option("--max-cost", help="Decoded tokens an answer may take.")] = None,
    samples: Annotated[int, Option("--samples", help="Plain samples a question, where there are no answers.")] = 8,
    grader: GraderOption = None,
    allow_code_execution: CodeOption = False,
    max_new_tokens: LengthOption = None,
    alpha: Annotated[float | None, Option("--alpha", help="The power, where a candidate names none.")] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    use_chat_template: ChatOption = None,
) -> None:
    """Find sampler, power and budget on a few questions of your own, and write them to a settings file.

    With answers: successive halving. Without: a power by the agreement of plain samples, a heuristic. The reasons go to
    stdout, the settings to power.yaml in the folder, which the command line and both adapters load.
    """
    given = dict(locals())
    from power_sampling.evaluation import Bounds, load_task, tuning
    from power_sampling.runtime import PowerSampler

    chosen = load_task(task, data, grader=grader, allow_code_execution=allow_code_execution)
    sampler = PowerSampler.of(settings_of(given, max_new_tokens=chosen.max_new_tokens))
    bounds = Bounds(tokens=max_tokens)
    with _progress(max_tokens) as listener:
        if chosen.is_labelled:
            found = tuning.tune(
                sampler,
                chosen,
                out,
                candidates=samplers or tuning.CANDIDATES,
                first=min(first, len(chosen.questions)),
                most_tokens=max_cost,
                bounds=bounds,
                listener=listener,
            )
            generation, reasons = found.method.generation, found.reasons
        else:
            power = tuning.tune_alpha(sampler, chosen, out, samples=samples, bounds=bounds, listener=listener)
            generation, reasons = sampler.with_settings(alpha=power.alpha).generation, power.reasons
    for sentence in reasons:
        typer.echo(sentence)
    with written(out / "power.yaml", "--out"):
        (out / "power.yaml").write_text(tuning.settings_yaml(sampler, generation, reasons), encoding="utf-8")
    typer.echo(f"Settings: {out / 'power.yaml'}", err=True)


def rewrite(
    traces: Annotated[Path, Argument(metavar="TRACES", help="JSON Lines: prompt or messages, and completion.")],
    out: Annotated[Path, Option("--out", help="JSON Lines of the rewritten rows; the same one goes on.")],
    model: ModelOption = None,
    engine: EngineOption = None,
    sampler: Annotated[str | None, Option("--sampler", help="metropolis_hastings or particle_gibbs.")] = None,
    max_tokens: Annotated[int | None, Option("--max-tokens", help="Begin no row after so many decoded.")] = None,
    max_seconds: Annotated[float | None, Option("--max-seconds", help="Begin no row after so long.")] = None,
    max_new_tokens: Annotated[
        int | None, Option("--max-new-tokens", help="The longest completion; else the longest trace.")
    ] = None,
    alpha: Annotated[float | None, Option("--alpha", help="The power.")] = None,
    seed: Annotated[int | None, Option("--seed", help="Of the whole; every row has one that follows from it.")] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    use_chat_template: ChatOption = None,
) -> None:
    """Rewrite a data set of traces: a chain begins at each completion, and its answer takes the completion's place.

    Kill it at any moment and start it again with the same words: it goes on.
    """
    given = dict(locals())
    from power_sampling.evaluation import Bounds
    from power_sampling.evaluation.rewriting import rewrite as rewritten
    from power_sampling.runtime import PowerSampler

    power_sampler = PowerSampler.of(settings_of(given))
    with _progress(max_tokens) as listener:
        bounds = Bounds(tokens=max_tokens, seconds=max_seconds)
        found = rewritten(power_sampler, traces, out, bounds=bounds, listener=listener)
    failed = f", {found.failed} of them as they were (see rewriting.error)" if found.failed else ""
    typer.echo(f"{found.done} of {found.total} rows in {out}{failed}; {found.tokens} tokens decoded.", err=True)


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigurationError(f"--seeds: expected whole numbers with commas between them, got {text!r}.") from error


@contextmanager
def _progress(most: int | None) -> Iterator[Callable[[int, int, int], None]]:
    """A bar of answers with time left and tokens so far; without a terminal, a line for every
    twentieth of them and after every minute. Afterwards what there is to say about the bound of tokens, or Ctrl-C."""
    from tqdm.auto import tqdm

    is_terminal = sys.stderr.isatty()
    bar: Any = tqdm(unit="answer", disable=not is_terminal)
    told, spoke, decoded = -1, time.monotonic(), 0

    def listener(done: int, total: int, tokens: int) -> None:
        nonlocal told, spoke, decoded
        decoded = tokens
        if is_terminal:
            bar.total = total
            if not bar.n:
                bar.initial = done - 1  # what was there already took no time of this session
            bar.n = done
            bar.set_postfix_str(f"{tokens} tokens decoded")
        elif 20 * done // total != told or time.monotonic() - spoke > SILENCE:
            told, spoke = 20 * done // total, time.monotonic()
            typer.echo(f"{done} of {total} answers, {tokens} tokens decoded", err=True)

    try:
        yield listener
    except KeyboardInterrupt:
        bar.close()
        typer.echo("Stopped. The same command goes on from here.", err=True)
        raise
    finally:
        bar.close()
        if most is not None and decoded > most:
            typer.echo(f"{decoded} tokens decoded, {decoded - most} over --max-tokens {most}: {UNDER_WAY}.", err=True)
