"""A data set of traces rewritten: every completion is the start of a chain whose answer takes its place.

What fine-tuning on a model's own distribution asks for (arXiv 2610.02140): the chain begins at the reference trace and
tends to p^alpha, so few steps keep much of the trace and many steps little.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from power_sampling.errors import ConfigurationError, InputError, shortened, written
from power_sampling.evaluation.flight import Bounds, in_flight
from power_sampling.evaluation.log import Answer, Key, Log, answer_of
from power_sampling.evaluation.plan import request_seed
from power_sampling.evaluation.runs import OWN_FAULTS
from power_sampling.evaluation.tasks.base import Row, digest, read_rows, user_turn
from power_sampling.runtime import PowerSampler, Prompt

__all__ = ["Rewritten", "rewrite"]

METHOD = "rewrite"
WHERE = 'write one JSON object per line: {"prompt": "...", "completion": "..."}, or "messages" in place of the prompt.'


class Rewritten(NamedTuple):
    """How far a data set is rewritten."""

    done: int
    total: int
    failed: int  # rows that stay as they are, `rewriting.error` says why
    tokens: int  # decoded in all sessions


class _Trace(NamedTuple):
    key: Key
    prompt: Prompt
    completion: str


def rewrite(
    sampler: PowerSampler,
    source: Path,
    out: Path,
    *,
    bounds: Bounds | None = None,
    listener: Callable[[int, int, int], None] | None = None,
) -> Rewritten:
    """Rewrite the traces of a JSON Lines file with `completion` and one of `prompt` (text; one user message for a chat
    model) and `messages` (a conversation), as rows of one batch, under the sampler's settings.

    Every answer goes into a log beside `out` when it comes (`OUT.run/log.jsonl`). Started again after a kill at any
    moment, what is missing is drawn, each row by its own seed. At the end of a session `out` gets the rows that are
    done, in order, as they stood but for their `completion`, with `rewriting` beside it: log p, acceptance, tokens,
    seed, warnings. A row that cannot be rewritten stays as it is and says why. Where `max_new_tokens` is not
    set, it is the length of the longest trace. Call it from a thread without a running event loop.

    Raises ConfigurationError for a file that is none, for settings that make no steps, and where the log is of other
    settings or other data; whatever stops the engine.
    """
    rows = read_rows(source, where=WHERE)
    _check(rows, source)
    if out.is_dir():
        raise ConfigurationError(f"--out: expected the name of a file, got the folder {shortened(str(out))}.")
    sampler = _with_room(sampler, rows)
    seed, limits = sampler.generation.seed or 0, bounds or Bounds()
    traces = [
        _Trace(Key(METHOD, f"line {i + 1}", seed, 0), row.get("messages", row.get("prompt")), row["completion"])
        for i, row in enumerate(rows)
    ]
    facts = {"rewrite_sha256": digest(source), "model": sampler.config.model_part().model_dump(mode="json")}
    methods = {METHOD: sampler.generation.model_dump(mode="json")}
    with Log(out.with_name(f"{out.name}.run"), facts, methods) as log:
        log.begin({"data": str(source), "bounds": {"tokens": limits.tokens, "seconds": limits.seconds}})
        try:
            asyncio.run(_drawn(sampler, traces, log, limits, listener or (lambda done, total, tokens: None)))
        finally:
            if log.answers:  # else what was there stays
                _write(out, rows, traces, log.answers)
        failed = sum(answer.error is not None for answer in log.answers.values())
        return Rewritten(len(log.answers), len(rows), failed, _tokens(log.answers))


async def _drawn(
    sampler: PowerSampler, traces: list[_Trace], log: Log, bounds: Bounds, listener: Callable[[int, int, int], None]
) -> None:
    missing, tokens = [trace for trace in traces if trace.key not in log.answers], _tokens(log.answers)
    is_chat = bool(missing) and await asyncio.to_thread(lambda: sampler.is_chat_model)

    async def draw(trace: _Trace) -> Answer:
        prompt = user_turn(trace.prompt) if is_chat and isinstance(trace.prompt, str) else trace.prompt
        try:
            (found,) = await sampler.agenerate([prompt], start=trace.completion, seed=request_seed(trace.key))
        except (*OWN_FAULTS, InputError) as error:
            return Answer(**trace.key._asdict(), error=f"{type(error).__name__}: {error}")
        return answer_of(trace.key, found, note=" ".join(found.diagnostics.warnings))

    def keep(answer: Answer) -> None:
        nonlocal tokens
        tokens += answer.tokens_decoded
        log.add(answer)
        listener(len(log.answers), len(traces), tokens)

    waiting = bounds.within(missing, lambda: tokens, time.monotonic())
    await in_flight(waiting, draw, keep, bounds.in_flight)


def _write(out: Path, rows: list[Row], traces: list[_Trace], answers: Mapping[Key, Answer]) -> None:
    """The rows that are done, in place of what was there: a reader sees the old file or the new one."""
    beside = out.with_name(f"{out.name}.run") / "rewritten.part"
    with written(out, "--out"), beside.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for row, trace in zip(rows, traces, strict=True):
            if (answer := answers.get(trace.key)) is not None:
                file.write(json.dumps({**row, **_told(answer)}, ensure_ascii=False) + "\n")
    with written(out, "--out"):
        beside.replace(out)


def _told(answer: Answer) -> dict[str, Any]:
    if answer.error is not None:
        return {"rewriting": {"error": answer.error}}
    facts = ("logp", "acceptance_rate", "finish_reason", "length", "tokens_decoded", "request_seed")
    told = {name: getattr(answer, name) for name in facts}
    return {"completion": answer.text, "rewriting": {**told, "warnings": answer.note}}


def _tokens(answers: Mapping[Key, Answer]) -> int:
    return sum(answer.tokens_decoded for answer in answers.values())


def _check(rows: list[Row], source: Path) -> None:
    for i, row in enumerate(rows, 1):
        has_prompt = isinstance(row.get("prompt"), str) or isinstance(row.get("messages"), list)
        if not isinstance(row.get("completion"), str) or not has_prompt:
            raise ConfigurationError(
                f"{str(source)!r}, row {i}: expected a text `completion` and a text `prompt` or a list `messages`, got "
                f"{sorted(row)}; {WHERE}"
            )


def _with_room(sampler: PowerSampler, rows: list[Row]) -> PowerSampler:
    """As long as the longest trace, where nothing says how long."""
    sampler.with_settings(start="")  # raises where no chain takes it
    if "max_new_tokens" in sampler.generation.model_fields_set:
        return sampler
    longest = max(len(sampler.token_ids(row["completion"])) for row in rows)
    return sampler.with_settings(max_new_tokens=longest + 1)
