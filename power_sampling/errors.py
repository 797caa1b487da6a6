"""Every error the project raises.

    PowerSamplingError
     +- ConfigurationError        a field, a value or a combination that cannot be honoured
     +- MissingDependencyError    an optional package is needed; the message names the command that installs it. An
                                  ImportError too, so that `except ImportError` finds an adapter that is not installed
     +- ModelError
     |   +- ModelNotFoundError    no weights, no folder, no file
     |   +- UnsupportedModelError the model's state cannot be cut, or it is no causal language model
     +- InputError
     |   +- EmptyPromptError
     |   +- ContextOverflowError  prompt plus new tokens do not fit the context window
     |   +- ChatTemplateError     no template, or the template refuses the messages
     +- GenerationError
         +- RequestTimeoutError   the hard limit `timeout` ran out; the work was stopped
         +- RequestCancelledError the caller went away
         +- RequestFailedError    something of the request itself raised: its sampler, constraint, stop rule, listener
         +- PotentialError        a potential raised, or its numbers are none
         +- NoLegalCompletionError no completion of at most max_new_tokens tokens that obeys the constraint, or that no
         |                        potential forbids, was found
         +- NothingAcceptedError  rejection sampling accepted none of its draws
         +- OutOfMemoryError      the request does not fit into memory, whatever else is running
         +- EngineError           the model raised (the cause is chained), or its numbers are none
         +- NoServerError         of a served engine, no server answers
         +- EngineClosedError     the worker was shut down

None of them is a ValueError or a TypeError: frameworks swallow those while generating and answer with an empty string.
"""

from __future__ import annotations

import reprlib
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

__all__ = [
    "ChatTemplateError",
    "ConfigurationError",
    "ContextOverflowError",
    "EmptyPromptError",
    "EngineClosedError",
    "EngineError",
    "GenerationError",
    "InputError",
    "MissingDependencyError",
    "ModelError",
    "ModelNotFoundError",
    "NoLegalCompletionError",
    "NoServerError",
    "NothingAcceptedError",
    "OutOfMemoryError",
    "PotentialError",
    "PowerSamplingError",
    "RequestCancelledError",
    "RequestFailedError",
    "RequestTimeoutError",
    "UnsupportedModelError",
    "caused",
    "described",
    "needed_for",
    "shortened",
    "without_frames",
    "written",
]

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80


def shortened(value: Any, most: int = 160) -> str:
    """What came, as an error quotes it: `repr`, of at most so many letters whatever came."""
    try:
        text = _SHORT.repr(value)
    except Exception:  # noqa: BLE001 - `repr` may do anything, and whole numbers of 5,000 digits have none
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= most else text[: most - 3] + "..."


def described(error: BaseException, most: int = 500) -> str:
    """An error of somebody's own code, as a message quotes it: its type and its text, of at most so many letters. Its
    text may not be had, for that is code too."""
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 - whatever it raises, somebody waits for the word that follows
        text = "(its text raises)"
    return f"{type(error).__name__}: {text[:most]}"


class PowerSamplingError(Exception):
    """Base of every error of the project."""


class ConfigurationError(PowerSamplingError):
    """A field, a value or a combination of them cannot be honoured."""


class MissingDependencyError(PowerSamplingError, ImportError):
    """An optional package is needed; the message names the command that installs it."""


class ModelError(PowerSamplingError):
    """The model cannot be used."""


class ModelNotFoundError(ModelError):
    """No weights where the configuration points to."""


class UnsupportedModelError(ModelError):
    """The model is no causal language model, or keeps a state that cannot be cut at a position."""


class InputError(PowerSamplingError):
    """The prompt or the messages cannot be answered."""


class EmptyPromptError(InputError):
    """The prompt has no token, and the tokenizer adds none."""


class ContextOverflowError(InputError):
    """Prompt plus new tokens do not fit the model's context window."""


class ChatTemplateError(InputError):
    """The tokenizer has no chat template, or its template refuses the messages."""


class GenerationError(PowerSamplingError):
    """A request that was accepted could not be finished."""


class RequestTimeoutError(GenerationError):
    """The hard limit `timeout` ran out; the work was stopped."""


class RequestCancelledError(GenerationError):
    """The caller went away; the work was stopped."""


class RequestFailedError(GenerationError):
    """Something of the request itself raised: its sampler, constraint, stop rule or listener. The original exception is
    the cause; no other request is touched."""


class PotentialError(GenerationError):
    """A potential of the request raised, and the original exception is the cause; or what it returned are not as many
    numbers as it was asked for, or not such numbers as log phi can be. No other request is touched."""


class NoLegalCompletionError(GenerationError):
    """No completion of at most `max_new_tokens` tokens that obeys the constraint, or that no potential forbids, was
    found."""


class NothingAcceptedError(GenerationError):
    """Rejection sampling accepted none of its draws: the target is too far from what is drawn."""


class OutOfMemoryError(GenerationError):
    """The request does not fit into memory, whatever else is running."""


class EngineError(GenerationError):
    """The model raised while it was decoding, and the original exception is the cause; or its logits are NaN."""


class NoServerError(GenerationError):
    """The engine's models run on servers, and none of them answers. The message says why, of each."""


class EngineClosedError(GenerationError):
    """The worker that owns the model was shut down."""


@contextmanager
def needed_for(what: str, extra: str = "") -> Iterator[None]:
    """Around imports of packages that an extra brings. Raises MissingDependencyError where one of them is missing, or
    is not the version that is needed: `what` does not work without it, and the extra installs it."""
    try:
        yield
    except ImportError as error:
        package = (error.name or "").split(".")[0]
        if isinstance(error, MissingDependencyError) or package in OWN_PACKAGES:
            raise
        target = f"power-sampling[{extra}]" if extra else "power-sampling"
        raise MissingDependencyError(
            f"{what} needs the package {package or 'of another version'}: pip install '{target}' ({error})",
            name=error.name,
        ) from error


@contextmanager
def written(path: Path, option: str) -> Iterator[None]:
    """Around what writes to a path that an option names. Raises ConfigurationError where the system refuses."""
    try:
        yield
    except OSError as error:
        raise ConfigurationError(
            f"{option}: {shortened(str(path))} cannot be written ({error.strerror or error}). Name another place, or "
            "make room there."
        ) from error


OWN_PACKAGES = frozenset(("power_sampling", "langchain_power_sampling", "llamaindex_power_sampling"))
E = TypeVar("E", bound=BaseException)
MOST_FRAMES = 12  # told of a traceback


def caused(typed: E, cause: BaseException) -> E:
    """The typed error with its cause, less the cause's frames."""
    typed.__cause__ = without_frames(cause)
    return typed


def without_frames(error: E) -> E:
    """The error, without the frames that it and its causes went through. Where one that is not of the project was
    raised stands in a note. Frames hold whatever ran there, every other request's states included, for as long as
    somebody keeps the error; and they hold the error."""
    chain: list[BaseException | None] = [error]
    seen: set[int] = set()
    while chain:
        each = chain.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            if each.__traceback__ is not None and not isinstance(each, PowerSamplingError):
                where = "".join(traceback.format_tb(each.__traceback__, -MOST_FRAMES))
                each.add_note(f"Raised in\n{where.rstrip()}")
            each.__traceback__ = None
            chain += [each.__cause__, each.__context__]
    return error
