"""The log of a run: one file of JSON Lines that is only ever added to, and survives being killed at any byte.

The first line says what the run is; every answer is a line. A line that was cut in half is taken off when the log is
opened again, and its answer is drawn anew: by its own seed, so it is the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from power_sampling.errors import ConfigurationError, shortened, written
from power_sampling.types import Completion

__all__ = ["Answer", "Key", "Log", "answer_of", "read_log"]

FILE = "log.jsonl"


class Key(NamedTuple):
    """Which answer: of this method to this question, the sample-th under this seed of the run."""

    method: str
    question: str
    seed: int
    sample: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer with its grade and its cost; where no completion came, `error` says why and it counts as wrong."""

    method: str
    question: str
    seed: int
    sample: int
    text: str = ""
    answer: str | None = None  # what was graded, in one spelling
    is_right: bool = False
    note: str = ""
    error: str | None = None
    finish_reason: str | None = None
    length: int = 0
    logp: float | None = None
    tokens_decoded: int = 0
    tokens_prefilled: int = 0
    serial_steps: int = 0
    seconds: float = 0.0
    acceptance_rate: float | None = None
    ess: float | None = None
    request_seed: int = 0

    @property
    def key(self) -> Key:
        return Key(self.method, self.question, self.seed, self.sample)


def answer_of(key: Key, completion: Completion, **judged: Any) -> Answer:
    """A completion as the log keeps it, with what was thought of it."""
    cost = completion.diagnostics
    return Answer(
        **key._asdict(),
        **judged,
        text=completion.text,
        finish_reason=completion.finish_reason,
        length=len(completion.tokens),
        logp=completion.logp,
        tokens_decoded=cost.tokens_decoded,
        tokens_prefilled=cost.tokens_prefilled,
        serial_steps=cost.serial_steps,
        seconds=cost.seconds,
        acceptance_rate=cost.acceptance_rate,
        ess=cost.ess,
        request_seed=completion.seed,
    )


class Contents(NamedTuple):
    """A log as read."""

    facts: Mapping[str, Any] | None  # of the run; None: the log is empty
    methods: Mapping[str, Any]  # settings by label
    sessions: list[Mapping[str, Any]]
    answers: dict[Key, Answer]
    good_bytes: int


class Log:
    """A log that is being written. One process at a time."""

    def __init__(self, folder: Path, facts: Mapping[str, Any], methods: Mapping[str, Any]) -> None:
        """Open or begin the log in this folder. Raises ConfigurationError where it holds answers under other settings,
        or cannot be written."""
        self._folder = folder
        with written(folder, "--out"):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / FILE).open("a+b")
        try:
            _lock(self._file, folder)  # before it is read: what another process still adds would be cut off
            known = read_log(folder)
            if known.answers:
                _check_same("settings", known.facts or facts, facts, folder)
            for label in methods.keys() & {key.method for key in known.answers}:
                _check_same(label, known.methods.get(label, methods[label]), methods[label], folder)
        except BaseException:
            self._file.close()
            raise
        self.answers = known.answers
        self._file.truncate(known.good_bytes)
        if known.facts != facts:  # there is no answer yet: the last line counts
            self._write({"kind": "run", "facts": facts})
        for label, settings in methods.items():
            if known.methods.get(label) != settings:
                self._write({"kind": "method", "label": label, "settings": settings})

    def begin(self, session: Mapping[str, Any]) -> None:
        """Note what a start of the run was asked for."""
        self._write({"kind": "session", **session})
        os.fsync(self._file.fileno())

    def add(self, answer: Answer) -> None:
        """Keep an answer. When this returns, it outlives the process."""
        self._write({"kind": "answer", **asdict(answer)})
        self.answers[answer.key] = answer

    def _write(self, record: Mapping[str, Any]) -> None:
        line = json.dumps(record, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"
        with written(self._folder, "--out"):
            self._file.write(line)
            self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()


def read_log(folder: Path) -> Contents:
    """What the log of a folder holds; a half-written last line is left out. Raises ConfigurationError for no log."""
    path = folder / FILE
    try:
        whole = path.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"{str(folder)!r} holds no run ({FILE}: {error.strerror}).") from error
    good_bytes = whole.rfind(b"\n") + 1
    contents = Contents(None, {}, [], {}, good_bytes)
    facts, methods = None, dict(contents.methods)
    names = {field.name for field in fields(Answer)}
    for i, line in enumerate(whole[:good_bytes].split(b"\n")[:-1], start=1):
        try:
            record = json.loads(line)
            kind = record.pop("kind")
            if kind == "answer":
                answer = Answer(**{name: value for name, value in record.items() if name in names})
                contents.answers[answer.key] = answer
            elif kind == "method":
                methods[record["label"]] = record["settings"]
            elif kind == "session":
                contents.sessions.append(record)
            else:
                facts = record["facts"]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(
                f"{str(path)!r}, line {i} is no record of a run ({error}): the file was changed by something else. "
                "Take the line off to have its answer drawn anew, or choose another folder."
            ) from error
    return contents._replace(facts=facts, methods=methods)


def _check_same(what: str, known: Mapping[str, Any], given: Mapping[str, Any], folder: Path) -> None:
    for name, before, now in _differences(known, given):
        raise ConfigurationError(
            f"{str(folder)!r} holds a run under other settings; {what}: {name} was {shortened(before)} and is "
            f"{shortened(now)}. Give the old settings to go on with it, or choose another folder."
        )


def _differences(known: Mapping[str, Any], given: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """What differs, where it is, as `model.engine.name`; None where there is nothing."""
    for name in {**known, **given}:
        before, now = known.get(name), given.get(name)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            yield from ((f"{name}.{rest}", *values) for rest, *values in _differences(before, now))
        elif before != now:
            yield name, before, now


def _lock(file: Any, folder: Path) -> None:
    """Two processes that add to one log would mix their lines. The system takes the lock off with the process."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ConfigurationError(f"Another process writes to the run in {str(folder)!r}; wait for it.") from error
