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
_said: deque[str] = deque(maxlen=3)  # its last errors


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
    llama_cpp.llama_log_set(_LISTENER(_listen), ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


def last_words() -> str:
    """What llama.cpp said last of an error."""
    return " ".join(_said) or "it gave no reason."


_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
_ERROR = 4  # of ggml's levels


@cache
def _LISTENER(function: Any) -> Any:  # noqa: N802 - kept for ever: C calls it
    return _CALLBACK(function)


def _listen(level: int, text: bytes, _: Any) -> None:
    said = text.decode(errors="replace").strip()
    if level == _ERROR:
        _said.append(said)
    if said:
        log.debug("%s", said)
