"""The folder for what is kept between processes: unpacked weights and built code.

Whoever may write there decides what a process runs or answers, and a process may be killed while it writes. So code is
taken from a folder of one's own only, and what is kept has checksums.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from power_sampling.errors import ConfigurationError

__all__ = ["CACHE_VARIABLE", "cache_folder", "is_whole", "made", "one_writer", "refusal_of_code", "seal"]

CACHE_VARIABLE = "POWER_SAMPLING_CACHE"
SEAL = "checksums.json"
UNFINISHED = ".unfinished-"
WHOLE = 4 << 20  # bytes of a file that are all read for its checksum
SAMPLES, SAMPLE = 256, 4096  # pieces of a larger one, and their bytes: reading half a GB would double a start


def cache_folder() -> Path:
    """`$POWER_SAMPLING_CACHE`, by default `~/.cache/power-sampling`; for a user without a home, a folder of its own
    among temporary files."""
    if given := os.environ.get(CACHE_VARIABLE):
        return Path(given)
    try:
        return Path.home() / ".cache" / "power-sampling"
    except RuntimeError:  # no HOME, and a user that the system does not know, as in containers
        return Path(tempfile.gettempdir()) / f"power-sampling-{os.getuid()}"


def made(folder: Path) -> Path:
    """The folder, which nobody else may write in where it is new. Raises ConfigurationError where it cannot be had."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
    except (OSError, ValueError) as error:  # ValueError: a name that no system takes
        raise ConfigurationError(
            f"The cache folder {str(folder)!r} cannot be made: {error}. Set {CACHE_VARIABLE} to a folder that can be "
            "written."
        ) from error
    is_guessed = folder.parent == Path(tempfile.gettempdir()) and not os.environ.get(CACHE_VARIABLE)
    if is_guessed and (reason := refusal_of_code(folder)):  # where all may write, under a name that others guess too
        raise ConfigurationError(f"The cache folder is not to be trusted: {reason}. Set {CACHE_VARIABLE}.")
    return folder


def refusal_of_code(path: Path) -> str | None:
    """Why code that lies in this folder or file is not to be run: others could have put it there. None: it may be."""
    facts = path.lstat()
    if facts.st_uid not in (os.getuid(), 0):
        return f"{path} belongs to another user ({facts.st_uid})"
    if facts.st_mode & 0o022:
        return f"others may write to {path} (mode {facts.st_mode & 0o777:o})"
    return None


@contextmanager
def one_writer(root: Path) -> Iterator[Path]:
    """A new folder in `root`, to be renamed when it is finished; gone afterwards if it is still there. One process at a
    time: whatever unfinished folder stands there besides was left by one that was killed, and is removed."""
    with _locked(root / ".lock") as is_alone:
        if is_alone:
            for left in root.glob(f"{UNFINISHED}*"):
                shutil.rmtree(left, ignore_errors=True)
        folder = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(file: Path) -> Iterator[bool]:
    """Whether no other process is in here; False where the system cannot tell."""
    with file.open("w") as handle:
        try:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX)  # let go with the file, also by a process that is killed
        except (ImportError, OSError):
            yield False
        else:
            yield True


def seal(folder: Path) -> None:
    """Write down what the files of a folder hold, once they are safe on the disk."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != SEAL)
    for path in files:
        with path.open("rb+") as handle:
            os.fsync(handle.fileno())
    sums = {path.relative_to(folder).as_posix(): _checksum(path) for path in files}
    (folder / SEAL).write_text(json.dumps(sums, indent=1), encoding="utf-8")


def is_whole(folder: Path) -> bool:
    """Whether a folder was sealed and its files are what they were."""
    try:
        sums = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        return isinstance(sums, dict) and all(_checksum(folder / name) == value for name, value in sums.items())
    except (OSError, ValueError):
        return False


def _checksum(path: Path) -> list[int | str]:
    """The size, and a hash of all of a small file, or of pieces all over a large one."""
    size, found = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as handle:
        if size <= WHOLE:
            found.update(handle.read())
        else:
            for i in range(SAMPLES):
                handle.seek(i * (size - SAMPLE) // (SAMPLES - 1))
                found.update(handle.read(SAMPLE))
    return [size, found.hexdigest()]
