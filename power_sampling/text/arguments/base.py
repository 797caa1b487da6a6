"""What all ways of writing arguments have in common, and the most common one: JSON."""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

from power_sampling.text.calls import decode_json, unquoted
from power_sampling.text.schema import json_rule

__all__ = ["Arguments", "JsonArguments", "Own", "Schema", "owned"]

Schema = Mapping[str, Any]
Own = Callable[[str], str]

_MARKS = re.compile(r"<[^<>\s]+>|\[[A-Z_/]+\]")  # what may be a control token


def owned(markup: str, own: Own) -> str:
    """Markup whose control tokens are told from the same letters in a user's text by `own`."""
    return _MARKS.sub(lambda found: own(found[0]), markup)


class Arguments(ABC):
    """One way of writing the arguments of a call."""

    @abstractmethod
    def write(self, arguments: Mapping[str, Any], own: Own = str) -> str:
        """The arguments as text. `own` is applied to markup."""

    @abstractmethod
    def read(self, text: str, at: int, schema: Schema) -> tuple[dict[str, Any], int]:
        """The arguments at a position, and where they end. Raises ValueError. `schema` may be empty; it tells texts
        from numbers where the notation does not."""

    @abstractmethod
    def rules(self, name: str, schema: Schema, ids: Mapping[str, int]) -> list[str]:
        """Lark rules; the one of this name is the arguments that obey a schema of type object. `ids` are the
        tokenizer's added tokens. Raises ConfigurationError for a schema that cannot be enforced."""

    def lacks(self, arguments: Mapping[str, Any], schema: Schema) -> bool:
        """Whether more was to come, where the text ends after them; never, where they have an end of their own."""
        return False

    @property
    def markup(self) -> tuple[str, ...]:
        """What stands around values, and may be control tokens."""
        return ()


class JsonArguments(Arguments):
    """`{"city": "Köln", "days": 3}`"""

    def write(self, arguments: Mapping[str, Any], own: Own = str) -> str:
        return json.dumps(arguments, ensure_ascii=False)

    def read(self, text: str, at: int, schema: Schema) -> tuple[dict[str, Any], int]:
        value, end = decode_json(text, at)
        value = unquoted(value)
        if not isinstance(value, dict):
            raise ValueError(f"arguments must be a JSON object, not {type(value).__name__}")  # noqa: TRY004 - it is text
        return value, end

    def rules(self, name: str, schema: Schema, ids: Mapping[str, int]) -> list[str]:
        return [f"{name}: {json_rule(schema)}"]
