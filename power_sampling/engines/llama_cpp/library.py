"""llama.cpp by its low-level interface, the package llama-cpp-python. What it says goes to the log."""

from __future__ import annotations

import ctypes
import logging
from collections import deque
from functools import cache
from typing import Any

from power_sampling.errors import MissingDependencyError

__all__ = ["last_words", "library"]

log = logging.getLogger(__name__)
_errors: deque[str] = deque(maxlen=3)  # its last ones

ERROR = 4  # of ggml's levels


def _listen(level: int, text: bytes, _: Any) -> None:
    said = text.decode(errors="replace").strip()
    if level == ERROR:
        _errors.append(said)
    if said:
        log.debug("%s", said)


_LISTENER = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(_listen)  # for ever: C calls it


@cache
def library() -> Any:
    """The module `llama_cpp`. Raises MissingDependencyError where it is not installed."""
    try:
        import llama_cpp  # type: ignore[import-not-found] # an extra that is compiled
    except ImportError as error:
        raise MissingDependencyError(
            "engine='llama_cpp' needs the package llama-cpp-python: pip install 'power-sampling[llama-cpp]' (without a "
            f"ready wheel that compiles llama.cpp, some four minutes with a C++ compiler). Import said: {error}"
        ) from error
    # for all of the process: llama.cpp has one log
    llama_cpp.llama_log_set(_LISTENER, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


def last_words() -> str:
    """What llama.cpp said of its last errors, since this was asked before."""
    said = " ".join(_errors) or "it gave no reason."
    _errors.clear()
    return said
