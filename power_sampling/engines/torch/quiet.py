"""Silence for the progress bars of other libraries, which tell a user nothing about what was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from transformers import modeling_gguf_pytorch_utils as gguf_reader
from transformers.utils import logging

__all__ = ["quiet"]


@contextmanager
def quiet() -> Iterator[None]:
    """No bar of transformers, whose switches are the process's: for who alone is loading."""
    was_shown, bar = logging.is_progress_bar_enabled(), getattr(gguf_reader, "tqdm", None)
    logging.disable_progress_bar()
    if bar is not None:
        _set_bar(partial(bar, disable=True))
    try:
        yield
    finally:
        if was_shown:
            logging.enable_progress_bar()
        if bar is not None:
            _set_bar(bar)


def _set_bar(bar: Any) -> None:
    gguf_reader.tqdm = bar
