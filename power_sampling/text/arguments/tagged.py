"""Arguments between tags, one by one: texts as they are, all other values as JSON.

    <parameter=city>
    Köln
    </parameter>

What stands between the tags is a text or JSON by the tool's schema alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from power_sampling.errors import ConfigurationError
from power_sampling.text.arguments.base import Arguments, Own, Schema, owned
from power_sampling.text.arguments.shapes import NAMES, sequence, string_conditions
from power_sampling.text.arguments.variants import Variants
from power_sampling.text.calls import decode_json
from power_sampling.text.lark import escaped, literal, marked, text_until
from power_sampling.text.schema import json_rule

__all__ = ["TaggedArguments"]

_WORDS = {"True": True, "False": False, "None": None}  # as some templates print past values
_KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}
_LIKE_JSON = r"\s*([\[{\"0-9.-]|true|false|null|True|False|None)"  # what a reader may take for no text


@dataclass(frozen=True)
class TaggedArguments(Arguments):
    """`open` key `middle` value `close`, for every argument. Line breaks inside of `middle` and `close` are the
    model's habit and none of the value."""

    open: str
    middle: str
    close: str

    @property
    def markup(self) -> tuple[str, ...]:
        return (self.open, self.middle, self.close)

    def write(self, arguments: Mapping[str, Any], own: Own = str) -> str:
        begin, middle, close = (owned(mark, own) for mark in (self.open, self.middle, self.close))
        written = {k: v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for k, v in arguments.items()}
        return "".join(f"{begin}{key}{middle}{value}{close}" for key, value in written.items())

    def read(self, text: str, at: int, schema: Schema) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        properties, variants = schema.get("properties", {}), Variants(schema)
        while opened := _flexible(self.open).match(text, at):
            key, start = self._key(text, opened.end(), tuple(properties))
            closed = re.compile(re.escape(self.close.strip())).search(text, start)
            if closed is None:
                raise ValueError(f"it was cut short in argument {key!r}")
            value = text[start : closed.start()]
            if self.close.startswith("\n"):
                value = value.removeprefix("\n").removesuffix("\n")
            found[key], at = _typed(value, properties.get(key, {}), variants), closed.end()
        return found, at

    def _key(self, text: str, at: int, known: tuple[str, ...]) -> tuple[str, int]:
        middle = _flexible(self.middle.strip())
        for key in sorted(known, key=len, reverse=True):
            if text.startswith(key, at) and (found := middle.match(text, at + len(key))):
                return key, found.end()
        found = middle.search(text, at)
        if found is None:
            raise ValueError("it was cut short in the name of an argument")
        return text[at : found.start()].strip(), found.end()

    def rules(self, name: str, schema: Schema, ids: Mapping[str, int]) -> list[str]:
        variants = Variants(schema)
        whole = variants.resolved(schema)
        properties, required = dict(whole.get("properties", {})), list(whole.get("required", ()))
        properties |= {key: True for key in required if key not in properties}
        rules: list[str] = []
        items = []
        for i, (key, value) in enumerate(properties.items()):
            head = marked(f"{self.open}{key}{self.middle}", ids)
            rules.append(f"{name}_p{i}: {head} {name}_v{i}")
            rules += self._value(f"{name}_v{i}", value, variants, ids)
            items.append((f"{name}_p{i}", key in required))
        more = whole.get("additionalProperties", "properties" not in whole)
        if more is not False:
            barred = "|".join(map(escaped, properties))
            key = f"{name.upper()}_KEY"
            rules.append(f"{key}: /{NAMES}/" + (f" & ~/({barred})/" if barred else ""))
            rules.append(f"{name}_more: {marked(self.open, ids)} {key} {marked(self.middle, ids)} {name}_any")
            rules += self._value(f"{name}_any", more, variants, ids)
        return [
            f"{name}: {sequence(items, '', f'{name}_s', rules, f'{name}_more' if more is not False else None)}",
            *rules,
        ]

    def _value(self, name: str, schema: Any, variants: Variants, ids: Mapping[str, int]) -> list[str]:
        """A value, and what closes it."""
        rules: list[str] = []
        closing, cases = marked(self.close, ids), list(variants.of(schema))
        is_text_alone = all(case.get("type") == "string" for case in cases) or cases == [{}]
        heads = []
        for i, case in enumerate(cases):
            rule = f"{name}_{i}"
            heads.append(rule)
            if "enum" in case:
                written = [v if isinstance(v, str) else json.dumps(v, ensure_ascii=False) for v in case["enum"]]
                rules.append(f"{rule}: ({' | '.join(map(literal, written))}) {closing}")
            elif case.get("type") == "string" or not case:
                starts = () if is_text_alone else (_LIKE_JSON,)
                rules += text_until(rule, self.close, ids, conditions=string_conditions(case), starts=starts)
            else:
                rules.append(f"{rule}: {rule}_json {closing}")
                rules.append(f"{rule}_json: {json_rule({**variants.definitions, **case})}")
        return [f"{name}: {' | '.join(heads)}", *rules]


def _flexible(mark: str) -> re.Pattern[str]:
    """A mark with any blanks where it has some, and around."""
    return re.compile(r"\s*" + r"\s*".join(map(re.escape, mark.split())))


def _typed(text: str, schema: Any, variants: Variants) -> Any:
    """The value that a text stands for, where its schema allows more than texts."""
    try:
        cases = list(variants.of(schema))
    except ConfigurationError:  # it cannot be enforced; it can be read
        cases = [{}]
    texts = {value for case in cases for value in case.get("enum", ()) if isinstance(value, str)}
    kinds = {case["type"] for case in cases if "type" in case}
    if text in texts or (kinds == {"string"} and all("type" in case for case in cases)):
        return text
    try:
        value, end = (_WORDS[text.strip()], len(text)) if text.strip() in _WORDS else decode_json(text)
        if text[end:].strip():
            return text
    except ValueError:
        return text
    fits = not kinds or any(isinstance(value, _KINDS[kind]) for kind in kinds - {"string"})
    return value if fits or "string" not in kinds else text
