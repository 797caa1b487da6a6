"""The tokenizer that the field `tokenizer` names, where it stands in place of the model's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from power_sampling.errors import MissingDependencyError, ModelNotFoundError

__all__ = ["given_tokenizer"]


@contextmanager
def given_tokenizer(name: str) -> Iterator[str]:
    """What a reader of transformers is to be given. Whatever it raises is told of this field, and not of the model."""
    try:
        folder = Path(name).expanduser()
        is_folder = folder.is_dir()
    except (OSError, RuntimeError, ValueError):  # a user whom nobody knows, a name that can be none
        folder, is_folder = Path(name), False
    if not is_folder and (folder.is_absolute() or name.startswith((".", "~"))):
        raise ModelNotFoundError(
            f"tokenizer: there is no folder {name!r:.200}. Give a folder with a tokenizer, a hub id, or leave it out "
            "for the model's own."
        )
    try:
        yield str(folder) if is_folder else name
    except ImportError as error:
        raise MissingDependencyError(f"tokenizer: reading {name!r:.200} needs another package: {error}") from error
    except Exception as error:  # the readers raise whatever they are made to
        raise ModelNotFoundError(
            f"tokenizer: none can be read at {name!r:.200} ({type(error).__name__}: {error!s:.400}). Give a hub id, a "
            "folder with a tokenizer, or leave it out for the model's own."
        ) from error
