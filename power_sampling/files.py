"""Files of settings, YAML or TOML. Whatever a file is or holds: its values, or a ConfigurationError.

A file may be another one than was meant, so an error says where the fault is and quotes nothing but names of fields.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from power_sampling.errors import ConfigurationError, shortened

__all__ = ["read_file", "yaml_value"]

_SafeLoader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # the one in C is a hundred times faster

MOST_BYTES = 2**20
MOST_VALUES = 200_000
"""Of one file, an alias counted as all that it stands for."""
MOST_NESTED = 64


def read_file(path: Path) -> dict[str, Any]:
    """The fields of a file. Raises ConfigurationError."""
    name = shortened(str(path))
    if path.suffix not in (".yaml", ".yml", ".toml"):
        raise ConfigurationError(f"A configuration file ends in .yaml, .yml or .toml, got {name}.")
    text = _text(path, name)
    values = _toml(text, name) if path.suffix == ".toml" else yaml_value(text, name)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigurationError(f"{name} must hold a mapping of fields, got {type(values).__name__}.")
    if any(not isinstance(key, str) or not re.fullmatch(r"\w{1,80}", key) for key in values):
        raise ConfigurationError(f"{name} must hold a mapping of fields; one of its keys is no name.")
    return values


def _text(path: Path, name: str) -> str:
    try:
        # without waiting for a writer, should it be a pipe
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ConfigurationError(f"Cannot read the configuration file {name}: it is no ordinary file.")
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ConfigurationError(f"Cannot read the configuration file {name}: {error.strerror}.") from error
    except ValueError as error:  # a path that cannot be
        raise ConfigurationError(f"Cannot read the configuration file {name}: {error}.") from error
    if len(data) > MOST_BYTES:
        raise ConfigurationError(f"The configuration file {name} is longer than {MOST_BYTES} bytes.")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{name} is not UTF-8 (at byte {error.start}).") from error


def _toml(text: str, name: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)[:160]
        raise ConfigurationError(f"{name} is not TOML: {what}.") from error


def yaml_value(text: str, where: str) -> Any:
    """The value of a text. Raises ConfigurationError; `where` names the text in it."""
    loader = None
    try:
        _check_depth(text, where)
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_node(node, where)
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        problem, mark = getattr(error, "problem", None), getattr(error, "problem_mark", None)
        what = re.sub(r"'[^'<][^']{3,}'", "'...'", problem or "odd characters")
        raise ConfigurationError(f"{where} is not YAML: {what[:160]}{_place(mark)}.") from error
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError) as error:
        # what the constructors of dates and numbers raise
        raise ConfigurationError(
            f"{where} is not YAML: a value is not of the kind that it is marked as, or looks like"
            f"{_place(loader.mark if loader else None)}."
        ) from error
    finally:
        if loader is not None:
            loader.dispose()


def _place(mark: Any) -> str:
    return "" if mark is None else f" (line {mark.line + 1}, column {mark.column + 1})"


class _Loader(_SafeLoader):  # type: ignore[misc]  # one of two
    """Knows where it is."""

    mark: Any = None

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        self.mark = node.start_mark
        return super().construct_object(node, deep)


def _check_depth(text: str, where: str) -> None:
    """Before anything is built of it, by recursion."""
    depth = 0
    for event in yaml.parse(text, Loader=_SafeLoader):
        if isinstance(event, (yaml.MappingStartEvent, yaml.SequenceStartEvent)):
            depth += 1
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            depth -= 1
        if depth > MOST_NESTED:
            raise ConfigurationError(f"{where}: nested deeper than {MOST_NESTED} levels.")


def _check_node(node: Any, where: str) -> None:
    """Raises for aliases that stand for too much or for themselves, and for a key that comes twice."""
    sizes: dict[int, int | None] = {}  # of nodes, with all their aliases stand for; None: not known yet

    def size(one: Any) -> int:
        if id(one) in sizes:
            known = sizes[id(one)]
            if known is None:
                raise ConfigurationError(f"{where}: an alias stands for something that it is part of.")
            return known
        sizes[id(one)] = None
        parts: list[Any] = []
        if isinstance(one, yaml.MappingNode):
            parts = [part for pair in one.value for part in pair]
            counts = Counter(key.value for key, _ in one.value if isinstance(key, yaml.ScalarNode))
            if any(count > 1 and key != "<<" for key, count in counts.items()):
                place = one.start_mark.line + 1
                raise ConfigurationError(f"{where}: a key is given twice, in the mapping that begins in line {place}.")
        elif isinstance(one, yaml.SequenceNode):
            parts = one.value
        total = 1 + sum(size(part) for part in parts)
        if total > MOST_VALUES:
            raise ConfigurationError(f"{where}: more than {MOST_VALUES} values, what aliases stand for included.")
        sizes[id(one)] = total
        return total

    size(node)
