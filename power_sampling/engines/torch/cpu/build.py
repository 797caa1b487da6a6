"""Loops of our own in C++, built by the machine's compiler when they are first needed and kept in the cache."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from power_sampling.cache import CACHE_VARIABLE, cache_folder, made, refusal_of_code
from power_sampling.errors import ConfigurationError

__all__ = ["built"]

# by what torch finds the processor to be; others are not measured
TARGETS = {"AVX512": ("-march=x86-64-v4", "-mprefer-vector-width=512"), "AVX2": ("-march=x86-64-v3",)}
LIMIT = 120.0  # seconds for a compiler, which takes ten

log = logging.getLogger(__name__)


class _NotBuilt(Exception):
    """Why there is no library."""


def built(source: Path) -> ctypes.CDLL | None:
    """The library of this source and the headers beside it. None on a machine without a processor or a system for it;
    where there is no compiler (`$CXX`, else g++), it fails or the cache is not one's own, a warning is logged too."""
    flags = TARGETS.get(torch.backends.cpu.get_cpu_capability())
    if flags is None or sys.platform != "linux":
        return None
    wanted = os.environ.get("CXX", "g++")
    compiler = shutil.which(wanted)
    if compiler is None:
        log.warning(
            "Decoding goes on without faster loops: there is no compiler %r. Install g++, or name another in $CXX: "
            "they are built once.",
            wanted,
        )
        return None
    # OpenMP's threads are those that torch's own operators use
    command = [compiler, "-O3", *flags, "-Wno-psabi", "-fPIC", "-shared", "-fopenmp"]
    try:
        text = b"".join(file.read_bytes() for file in (source, *sorted(source.parent.glob("*.h"))))
        name = f"{source.stem}-{hashlib.sha256(text + repr(command).encode()).hexdigest()[:12]}"
        folder = _own_folder()
        return _loaded(folder, name) or _loaded(_build(command, source, folder, name).parent, name)
    except (OSError, ConfigurationError, _NotBuilt) as error:
        log.warning("Decoding goes on without faster loops: %s could not be built: %s", source.name, error)
        return None


def _own_folder() -> Path:
    folder = made(made(cache_folder()) / "code")
    if reason := refusal_of_code(folder):
        raise _NotBuilt(f"{reason}. Set {CACHE_VARIABLE} to a folder of your own.")
    return folder


def _loaded(folder: Path, name: str) -> ctypes.CDLL | None:
    """The library of this name, where it is there and is what was built: a shortened one would end the process."""
    for file in sorted(folder.glob(f"{name}-*.so")):
        content = file.read_bytes() if refusal_of_code(file) is None else b""
        if file.stem == f"{name}-{_checksum(content)}":
            return ctypes.CDLL(str(file))
        file.unlink()
    return None


def _build(command: list[str], source: Path, folder: Path, name: str) -> Path:
    with tempfile.TemporaryDirectory(dir=folder) as place:
        unfinished = Path(place) / "library.so"
        _run([*command, str(source), "-o", str(unfinished)])
        file = folder / f"{name}-{_checksum(unfinished.read_bytes())}.so"
        unfinished.chmod(0o700)
        unfinished.replace(file)  # becomes visible when it is whole: other processes may want it too
    return file


def _checksum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


def _run(command: list[str]) -> None:
    """Run a compiler, for `LIMIT` seconds at most; what it has started ends with it."""
    with subprocess.Popen(  # noqa: S603 - the user's own compiler
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        try:
            _, said = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            raise _NotBuilt(f"{command[0]} gave no answer in {LIMIT:.0f} s.") from None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise _NotBuilt(str(said)[:2000])
