"""The command line, and the commands for one prompt."""

from __future__ import annotations

import gc
import json
import secrets
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Annotated, Any, NamedTuple

from power_sampling.cli.streams import check_arguments, fail, read_stdin, usable_streams
from power_sampling.config import MetropolisHastings
from power_sampling.errors import ConfigurationError, PowerSamplingError
from power_sampling.runtime import PowerSampler
from power_sampling.samplers import ALL, SamplerOptions
from power_sampling.types import Message

try:
    import typer
    from rich.box import SIMPLE
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from power_sampling.cli.evaluating import evaluate, rewrite, tune
    from power_sampling.cli.following import followed, log, write
    from power_sampling.cli.options import (
        AlphaOption,
        ChatOption,
        ConfigOption,
        DeviceOption,
        DtypeOption,
        EngineOption,
        LengthOption,
        ModelOption,
        SamplerOption,
        SeedOption,
        SetOption,
        settings_of,
    )
    from power_sampling.cli.printing import as_dict, diagnostics_table, print_comparison, tables
    from power_sampling.cli.serving import serve
    from power_sampling.cli.tracing import FramePrinter, check_target, write_page
    from power_sampling.cli.vllm_command import vllm_command
except ModuleNotFoundError as error:
    _MISSING = error.name
else:
    _MISSING = None
    PromptArgument = Annotated[str, typer.Argument(metavar="PROMPT", help="The prompt; - reads it from stdin.")]
    TemperatureOption = Annotated[float | None, typer.Option("--temperature", help="Of the base law.")]
    StopOption = Annotated[list[str] | None, typer.Option("--stop", help="Text that ends a completion; repeatable.")]
    TimeBudgetOption = Annotated[float | None, typer.Option("--time-budget", help="Seconds of refinement.")]
    TimeoutOption = Annotated[float | None, typer.Option("--timeout", help="Seconds after which to give up.")]
    JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, and nothing else.")]

__all__ = ["app", "main"]


def main() -> None:
    """The entry point `power-sampling`."""
    if _MISSING is not None:
        sys.stderr.write(f"The command line needs the package {_MISSING}: pip install 'power-sampling[cli]'\n")
        raise SystemExit(2)
    gc.disable()  # until the model is loaded
    with usable_streams():
        try:
            check_arguments(sys.argv[1:])
        except PowerSamplingError as error:
            fail(str(error))
        app()(prog_name="power-sampling")


def app() -> typer.Typer:
    """The commands. Built on demand: their packages are optional."""
    commands = typer.Typer(
        help="Reasoning with sampling: completions of a local language model from p(x)^alpha.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for command in (generate, compare, trace, evaluate, tune, rewrite, samplers, serve, vllm_command):
        commands.command()(_told_in_one_line(command))
    return commands


def _told_in_one_line(command: Callable[..., None]) -> Callable[..., None]:
    """The command with its errors as one line on stderr, exit code 1; Ctrl-C is 130."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except PowerSamplingError as error:
            typer.echo(f"error: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt:
            raise typer.Exit(130) from None

    return wrapped


# ------------------------------------------------------------ the commands


def generate(
    prompt: PromptArgument,
    model: ModelOption = None,
    engine: EngineOption = None,
    sampler: SamplerOption = None,
    alpha: AlphaOption = None,
    temperature: TemperatureOption = None,
    max_new_tokens: LengthOption = None,
    stop: StopOption = None,
    seed: SeedOption = None,
    time_budget: TimeBudgetOption = None,
    timeout: TimeoutOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    use_chat_template: ChatOption = None,
    stream: Annotated[bool, typer.Option("--stream", help="Print settled text as it comes.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Complete one prompt: the text on stdout, how it was found on stderr."""
    given = dict(locals())
    if stream and as_json:
        raise ConfigurationError("--stream and --json exclude each other: JSON is one object, at the end.")
    power_sampler = PowerSampler.of(settings_of(given))
    question = _question(power_sampler, _text(prompt), is_quiet=as_json)
    is_shown = not as_json and sys.stderr.isatty()
    completion = followed(power_sampler, question, is_shown=is_shown, show=write if stream else None)
    if as_json:
        typer.echo(json.dumps(as_dict(completion), ensure_ascii=False, allow_nan=False))
    else:
        typer.echo("" if stream else completion.text)
        Console(stderr=True).print(diagnostics_table(completion))


def compare(
    prompt: PromptArgument,
    model: ModelOption = None,
    engine: EngineOption = None,
    alphas: Annotated[str, typer.Option("--alphas", help="Powers for metropolis_hastings.")] = "2,4,6",
    num_steps: Annotated[int | None, typer.Option("--num-steps", help="Moves per block.")] = None,
    block_size: Annotated[int | None, typer.Option("--block-size", help="Tokens per block.")] = None,
    temperature: TemperatureOption = None,
    max_new_tokens: LengthOption = None,
    stop: StopOption = None,
    seed: SeedOption = None,
    time_budget: TimeBudgetOption = None,
    timeout: TimeoutOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    use_chat_template: ChatOption = None,
    as_json: JsonOption = False,
) -> None:
    """One prompt under plain sampling, low temperature and Metropolis-Hastings at several alpha, side by side.

    low_temperature runs at the alpha of the settings. All runs share one seed, drawn and shown where none is given.
    """
    given = dict(locals())
    common = settings_of(given)
    base = PowerSampler.of(common).with_settings(seed=secrets.randbits(32) if common.seed is None else common.seed)
    runs = _runs(base, _numbers(alphas), {"num_steps": num_steps, "block_size": block_size})
    text = _text(prompt)
    question = _question(base, text, is_quiet=as_json)
    is_shown = not as_json and sys.stderr.isatty()
    told = None if as_json or is_shown else log
    completions = [followed(run, question, is_shown=is_shown, log=told) for run in runs]
    if as_json:
        found = {"prompt": text, "seed": base.generation.seed, "runs": [as_dict(c) for c in completions]}
        typer.echo(json.dumps(found, ensure_ascii=False, allow_nan=False))
    else:
        print_comparison(completions)


def trace(
    prompt: PromptArgument,
    model: ModelOption = None,
    engine: EngineOption = None,
    sampler: SamplerOption = None,
    alpha: AlphaOption = None,
    temperature: TemperatureOption = None,
    max_new_tokens: LengthOption = None,
    stop: StopOption = None,
    seed: SeedOption = None,
    time_budget: TimeBudgetOption = None,
    timeout: TimeoutOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    config: ConfigOption = None,
    settings: SetOption = None,
    use_chat_template: ChatOption = None,
    html: Annotated[
        str | None, typer.Option("--html", metavar="FILE", help="Write a page too that plays the steps.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Complete one prompt and show what the sampler did, step by step: what it redrew, whether it was accepted, its
    particles and their weights. The answer is the one that `generate` gives under the same seed."""
    given = dict(locals())
    target = None if html is None else check_target(html)
    power_sampler = PowerSampler.of(settings_of(given))
    question = _question(power_sampler, _text(prompt), is_quiet=as_json)
    from power_sampling.tracing import html as page_of  # which loads what makes pages
    from power_sampling.tracing import traced

    found = traced(power_sampler, question, show=None if as_json else FramePrinter(tables()).show)
    if target is not None:
        write_page(page_of(found), target)
    if as_json:
        typer.echo(json.dumps(found.to_dict(), ensure_ascii=False, allow_nan=False))
    else:
        typer.echo(f"\n{found.completion.text}")
        Console(stderr=True).print(diagnostics_table(found.completion))


def samplers() -> None:
    """The samplers and their options, for --sampler and --set sampler='{name: ..., option: ...}'."""
    table = Table(box=SIMPLE, pad_edge=False)
    for heading in ("sampler", "option", "default", "meaning"):
        table.add_column(heading, overflow="fold", no_wrap=heading == "sampler")
    for sampler in ALL:
        name, *options = _options(sampler)
        table.add_row(Text(name.default, "bold"), "", "", Text(" ".join((sampler.__doc__ or "").split())))
        for option in options:
            table.add_row("", option.name, Text(option.default), Text(option.meaning))
    tables().print(table)


class _Option(NamedTuple):
    name: str
    default: str
    meaning: str


def _options(sampler: type[SamplerOptions]) -> list[_Option]:
    """The sampler's fields, `name` first and experimental ones last."""
    rows = [
        _Option(name, str(field.default), " ".join((field.description or "").split()))
        for name, field in sampler.model_fields.items()
    ]
    return sorted(rows, key=lambda row: (row.name != "name", row.meaning.startswith("Experimental.")))


# ------------------------------------------------------------ from options to a request


def _text(prompt: str) -> str:
    return read_stdin() if prompt == "-" else prompt


def _question(sampler: PowerSampler, text: str, *, is_quiet: bool) -> str | list[Message]:
    """What the model is asked. Loads it, and refuses a bad prompt, before anything is drawn on the terminal."""
    if is_quiet or not sys.stderr.isatty():
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
    question: str | list[Message] = [{"role": "user", "content": text}] if sampler.is_chat_model else text
    sampler.encode(question)
    _spare_what_is_loaded()
    return question


def _spare_what_is_loaded() -> None:
    """Search for garbage among later objects only, where `main` has put off the search. What libraries have made by now
    stays until the process ends; to look through it takes a tenth of loading, and several times as long at the end."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigurationError(f"--alphas: expected numbers with commas between them, got {text!r}.") from error


def _runs(base: PowerSampler, alphas: Sequence[float], moves: Mapping[str, int | None]) -> list[PowerSampler]:
    """What `compare` compares; a wrong value is found before the first one runs."""
    chosen = base.generation.sampler
    options = chosen.model_dump() if isinstance(chosen, MetropolisHastings) else {"name": "metropolis_hastings"}
    options |= {name: value for name, value in moves.items() if value is not None}
    plain = [base.with_settings(sampler=name) for name in ("ancestral", "low_temperature")]
    return plain + [base.with_settings(sampler=options, alpha=alpha) for alpha in alphas]
