"""Standard input and output as a process finds them: closed, full, cut off, in another encoding."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from power_sampling.errors import ConfigurationError, InputError

__all__ = ["check_arguments", "fail", "read_stdin", "usable_streams"]


def check_arguments(arguments: list[str]) -> None:
    """Raises ConfigurationError for an argument that is no text."""
    for place, argument in enumerate(arguments, 1):
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            raise ConfigurationError(
                f"Argument {place} ({argument!a:.80}) is not UTF-8; write it in UTF-8, or give - and the text on stdin."
            ) from error


def read_stdin() -> str:
    """All of stdin, less the line end that `echo` adds. Raises InputError where there is none, or it is no text."""
    if sys.stdin is None:
        raise InputError("The prompt is -, but stdin is closed; give the text, or something to read it from.")
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"stdin is not UTF-8: {error.reason} at byte {error.start}; convert it first.") from error
    except OSError as error:
        raise InputError(f"stdin cannot be read: {error.strerror}.") from error
    return text.replace("\r\n", "\n").replace("\r", "\n").removesuffix("\n")


@contextmanager
def usable_streams() -> Iterator[None]:
    """Whatever is printed inside can be: what an encoding has no letter for is escaped, and where nobody reads or there
    is no room, the process ends with one line and exit code 1."""
    _open_closed_ones()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # files, which have it
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OSError as error:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - for its descriptor: exit flushes what is left
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        where = "stdout" if error.filename is None else repr(error.filename)  # writing to a stream names no file
        fail(f"{where}: {error.strerror or error}.")


def _open_closed_ones() -> None:
    """A closed stdout is refused, for an answer would go nowhere; without stderr, what is said about it goes nowhere.
    No file that is opened later may take the numbers of either."""
    is_closed = sys.stdout is None
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(number)
    if sys.stderr is None:
        sys.stderr = os.fdopen(os.dup(2), "w")
    if is_closed:
        sys.stdout = os.fdopen(os.dup(1), "w")
        fail("stdout is closed, so there is nowhere to write the answer to.")


def fail(reason: str) -> None:
    """Ends the process with one line on stderr."""
    sys.stderr.write(f"error: {reason}\n")
    raise SystemExit(1)
