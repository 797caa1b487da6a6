"""Code that a model has written, run where it can do no harm: a process of its own with limits on time and memory.

    run_contained("assert 1 + 1 == 2")      # Verdict(is_passed=True, note="")

On Linux a filter of system calls forbids new processes, any network, every write to files and signals to others, also
to root. Elsewhere Python's audit hook refuses the same, which stops accidents and not malice. `protection()` says which
of the two is in force; a run records it.
"""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from power_sampling.errors import ConfigurationError

__all__ = ["Verdict", "protection", "run_contained"]

JAIL = Path(__file__).with_name("jail.py")
MOST_OUTPUT = 64 * 1024


class Verdict(NamedTuple):
    """How a program ended."""

    is_passed: bool
    note: str  # what was raised, or which limit ended it; empty where it passed


def run_contained(program: str, *, seconds: float = 10.0, megabytes: int = 1024) -> Verdict:
    """Run a Python program; it passes if it reaches its end. Nothing it starts or changes outlives this call.

    Only the standard library can be imported. Raises ConfigurationError on systems without limits for processes.
    """
    _check_system()
    nonce = secrets.token_hex(16)
    task = json.dumps({"program": program, "nonce": nonce, "seconds": seconds, "megabytes": megabytes})
    with tempfile.TemporaryDirectory(prefix="power-sampling-") as folder:
        process = subprocess.Popen(  # noqa: S603 - this interpreter, on a file of this package
            [sys.executable, "-I", "-S", "-B", str(JAIL)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": "", "HOME": folder, "TMPDIR": folder},
            start_new_session=True,
        )
        try:
            output = _exchange(process, task.encode(), time.monotonic() + seconds)
        finally:
            _kill(process)
    return _verdict(output, nonce, seconds)


@cache
def protection() -> str:
    """What keeps a program in: `system calls` (Linux) or `audit hook` (elsewhere; stops accidents, not malice)."""
    _check_system()
    probe = r"assert 'Seccomp:\t2' in open('/proc/self/status').read()"
    return "system calls" if run_contained(probe).is_passed else "audit hook"


def _check_system() -> None:
    if os.name != "posix":
        raise ConfigurationError(
            "humaneval: code of a model is run under the limits of a POSIX system, which this one has not; evaluate on "
            "Linux or macOS (on Windows: in WSL)."
        )


def _exchange(process: subprocess.Popen[bytes], task: bytes, deadline: float) -> bytes | None:
    """What the process says until it ends; None where it has not by the deadline."""
    assert process.stdin is not None and process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.write(task)
        process.stdin.close()
    said = b""
    while len(said) < MOST_OUTPUT:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            return None
        part = os.read(process.stdout.fileno(), MOST_OUTPUT)
        if not part:
            break
        said += part
    return said


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End the process and all that it may have started in its session."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(BrokenPipeError):
                pipe.close()
    process.wait()


def _verdict(output: bytes | None, nonce: str, seconds: float) -> Verdict:
    if output is None:
        return Verdict(False, f"timed out after {seconds:g} s")
    first, _, rest = output.decode("utf-8", "replace").partition(" ")
    if first != nonce:  # it ended without a word from the jail: killed by a limit, or os._exit
        return Verdict(False, "ended before its last line: a limit, a crash or an exit")
    word, _, note = rest.partition(" ")
    return Verdict(word == "passed", note[:300])
