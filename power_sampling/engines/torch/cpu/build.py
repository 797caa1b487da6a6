"""Loops of our own in C++, built by the machine's compiler when they are first needed and kept in the cache."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from power_sampling.cache import cache_folder

__all__ = ["built"]

# by what torch finds the processor to be; others are not measured
TARGETS = {"AVX512": ("-march=x86-64-v4", "-mprefer-vector-width=512"), "AVX2": ("-march=x86-64-v3",)}

log = logging.getLogger(__name__)


def built(source: Path) -> ctypes.CDLL | None:
    """The library of this source and the headers beside it. None on a machine without a processor or a compiler for it
    (`$CXX`, else g++); where the compiler fails, a warning is logged too."""
    flags = TARGETS.get(torch.backends.cpu.get_cpu_capability())
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    if flags is None or compiler is None or sys.platform != "linux":
        return None
    # OpenMP's threads are those that torch's own operators use
    command = [compiler, "-O3", *flags, "-Wno-psabi", "-fPIC", "-shared", "-fopenmp"]
    text = b"".join(file.read_bytes() for file in (source, *sorted(source.parent.glob("*.h"))))
    identity = hashlib.sha256(text + repr(command).encode()).hexdigest()[:12]
    file = cache_folder() / f"{source.stem}-{identity}.so"
    try:
        if not file.is_file():
            _build(command, source, file)
        return ctypes.CDLL(str(file))
    except (OSError, subprocess.CalledProcessError) as error:
        reason = error.stderr if isinstance(error, subprocess.CalledProcessError) else error
        log.warning("Decoding goes on without faster loops: %s could not be built: %s", source.name, reason)
        return None


def _build(command: list[str], source: Path, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=file.parent) as folder:
        unfinished = Path(folder) / file.name  # becomes visible when it is whole: other processes may want it too
        command = [*command, str(source), "-o", str(unfinished)]
        subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - the user's own compiler
        unfinished.replace(file)
