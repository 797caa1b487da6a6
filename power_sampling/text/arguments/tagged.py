"""Arguments between tags, one by one: texts as they are, all other values as JSON.

    <parameter=city>
    Köln
    </parameter>

What stands between the tags is a text or JSON by the tool's schema alone, or the tag says which.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from power_sampling.text.arguments.base import Arguments, Own, Schema, owned
from power_sampling.text.arguments.literals import literal_value
from power_sampling.text.arguments.shapes import NAMES, sequence, string_conditions
from power_sampling.text.arguments.variants import Expected, Variants
from power_sampling.text.calls import ends_inside, whole_json
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
_NO_TEXT = {"anyOf": [{"type": kind} for kind in _KINDS if kind != "string"]}
_LIKE_JSON = r"\s*([\[{\"0-9.-]|true|false|null|True|False|None)"  # what a reader may take for no text


@dataclass(frozen=True)
class TaggedArguments(Arguments):
    """`open` key `middle` value `close`, for every argument. Line breaks inside of `middle` and `close` are the
    model's habit and none of the value."""

    open: str
    middle: str
    close: str
    middle_of_json: str = ""
    """In the place of `middle` before all that is no text; nothing: the tags do not say which."""

    @property
    def markup(self) -> tuple[str, ...]:
        return tuple(filter(None, (self.open, self.middle, self.middle_of_json, self.close)))

    def write(self, arguments: Mapping[str, Any], own: Own = str) -> str:
        return "".join(self._written(key, value, own) for key, value in arguments.items())

    def _written(self, key: str, value: Any, own: Own) -> str:
        is_text = isinstance(value, str)
        begin, middle, close = (owned(mark, own) for mark in (self.open, self._middle(is_text), self.close))
        written = value if is_text else json.dumps(value, ensure_ascii=False)
        return f"{begin}{key}{middle}{written}{close}"

    def _middle(self, is_text: bool) -> str:
        return self.middle if is_text else self.middle_of_json or self.middle

    def read(self, text: str, at: int, schema: Schema) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        expected, close = Expected(schema), self.close.strip()
        while opened := re.compile(rf"\s*{_flexible(self.open)}").match(text, at):
            key, start, is_text = self._key(text, opened.end(), expected.names)
            if (end := text.find(close, start)) < 0:
                raise ValueError(f"it was cut short in argument {key!r}")
            value = text[start:end]
            if self.close.startswith("\n"):
                value = value.removeprefix("\n").removesuffix("\n")
            found[key], at = _typed(value, expected.of(key), is_text), end + len(close)
        return found, at

    def lacks(self, arguments: Mapping[str, Any], schema: Schema) -> bool:
        """Nothing ends them: those that are required must be there, and some, where there are any."""
        expected = Expected(schema)
        return not expected.required <= arguments.keys() or bool(expected.names and not arguments)

    def _key(self, text: str, at: int, known: tuple[str, ...]) -> tuple[str, int, bool | None]:
        """A name, where its value begins, and whether it is said to be a text; None: nothing is said."""
        told = [True, False] if self.middle_of_json else [None]
        middle = "|".join(f"({_flexible(self._middle(is_text is not False))})" for is_text in told)
        is_next = re.compile(rf"\s*(?:{middle})")
        for key in sorted(known, key=len, reverse=True):
            if text.startswith(key, at) and (found := is_next.match(text, at + len(key))):
                return key, found.end(), told[(found.lastindex or 1) - 1]
        # a tag that is broken is no name: it has no brackets and no line breaks in it
        if found := re.compile(rf"\s*+(?P<key>[^<>\n]+?)(?:\n\s*)?(?:{middle})").match(text, at):
            return found["key"].strip(), found.end(), told[(found.lastindex or 2) - 2]
        bare = re.compile(r"\s*+[^<>\n]*").match(text, at)
        if bare and ends_inside(text, bare.end(), self.middle):
            raise ValueError("it was cut short in the name of an argument")
        raise ValueError(f"expected the name of an argument near {text[at : at + 30]!r}")

    def rules(self, name: str, schema: Schema, ids: Mapping[str, int]) -> list[str]:
        variants = Variants(schema)
        whole = variants.resolved(schema)
        properties, required = dict(whole.get("properties", {})), list(whole.get("required", ()))
        properties |= {key: True for key in required if key not in properties}
        rules: list[str] = []
        items = []
        for i, (key, value) in enumerate(properties.items()):
            rules.append(f"{name}_p{i}: {marked(self.open + key, ids)} {name}_v{i}")
            rules += self._value(f"{name}_v{i}", value, variants, ids)
            items.append((f"{name}_p{i}", key in required))
        more = whole.get("additionalProperties", "properties" not in whole)
        if more is not False:
            barred = "|".join(map(escaped, properties))
            key = f"{name.upper()}_KEY"
            rules.append(f"{key}: /{NAMES}/" + (f" & ~/({barred})/" if barred else ""))
            rules.append(f"{name}_more: {marked(self.open, ids)} {key} {name}_any")
            rules += self._value(f"{name}_any", more, variants, ids)
        return [
            f"{name}: {sequence(items, '', f'{name}_s', rules, f'{name}_more' if more is not False else None)}",
            *rules,
        ]

    def _value(self, name: str, schema: Any, variants: Variants, ids: Mapping[str, int]) -> list[str]:
        """What stands between a name and its value, the value, and what closes it."""
        rules: list[str] = []
        closing, cases = marked(self.close, ids), list(variants.of(schema))
        before = {is_text: marked(self._middle(is_text), ids) for is_text in (True, False)}
        is_text_told = bool(self.middle_of_json) or all(case.get("type") == "string" for case in cases) or cases == [{}]
        heads = []
        for i, case in enumerate(cases):
            rule, is_text = f"{name}_{i}", case.get("type") == "string" or not case
            if "enum" in case:
                for value in case["enum"]:
                    is_text = isinstance(value, str)
                    written = value if is_text else json.dumps(value, ensure_ascii=False)
                    heads.append(f"{before[is_text]} {literal(written)} {closing}")
                continue
            if is_text:
                heads.append(f"{before[True]} {rule}")
                starts = () if is_text_told else (_LIKE_JSON,)
                rules += text_until(rule, self.close, ids, conditions=string_conditions(case), starts=starts)
            if not is_text or (not case and self.middle_of_json):
                heads.append(f"{before[False]} {rule}_json {closing}")
                rules.append(f"{rule}_json: {json_rule({**variants.definitions, **(case or _NO_TEXT)})}")
        return [f"{name}: {' | '.join(heads)}", *rules]


def _flexible(mark: str) -> str:
    """A mark with any blanks between its words and tags."""
    words = re.split(r"\s+|(?<=>)(?=<)", mark.strip())
    return r"\s*".join(map(re.escape, words))


def _typed(text: str, cases: list[Mapping[str, Any]], is_text: bool | None = None) -> Any:
    """The value that a text stands for, where its schema allows more than texts; `is_text` is what its tag says."""
    listed = [value for case in cases for value in case.get("enum", ())]
    kinds = {case["type"] for case in cases if "type" in case}
    kinds |= {kind for value in listed for kind, types in _KINDS.items() if type(value) in types}
    if is_text is None:
        is_text = kinds == {"string"} and {} not in cases
    if text in listed or (is_text and ("string" in kinds or {} in cases)):
        return text
    try:
        value = _value_of(text, kinds)
    except ValueError:
        return text
    fits = not kinds or any(isinstance(value, _KINDS[kind]) for kind in kinds - {"string"})
    return value if fits or "string" not in kinds else text


def _value_of(text: str, kinds: set[str]) -> Any:
    """JSON, or what some templates print in its place: values of Python's. Raises ValueError."""
    if text.strip() in _WORDS:
        return _WORDS[text.strip()]
    try:
        return whole_json(text)
    except ValueError:
        if not kinds & {"array", "object"}:
            raise
        return literal_value(text)
