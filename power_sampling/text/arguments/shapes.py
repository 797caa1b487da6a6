"""The grammar of values that obey a JSON schema, in a notation that is not JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Protocol

from power_sampling.text.arguments.variants import Variants, refuse
from power_sampling.text.lark import escaped, literal, marked, text_until
from power_sampling.text.schema import json_rule

__all__ = ["NAMES", "Shapes", "sequence", "string_conditions"]

NAMES = r"[\w.-]{1,64}"  # of arguments that no schema lists
_NUMBERS = ("type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
_STRINGS = ("type", "minLength", "maxLength", "pattern", "format")
_YEAR, _HOUR = r"[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])", r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
_ZONE = r"(\.[0-9]{1,6})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
FORMATS = {  # as expressions, for strings that stand without quotes
    "date": _YEAR,
    "time": rf"{_HOUR}({_ZONE})?",
    "date-time": rf"{_YEAR}T{_HOUR}{_ZONE}",
    "uuid": r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}",
    "email": r"[A-Za-z0-9_.+-]{1,64}@[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63}){1,4}",
    "ipv4": r"((25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])\.){3}(25[0-5]|2[0-4][0-9]|1?[0-9]?[0-9])",
    "uri": r"[a-z][a-z0-9+.-]{0,20}:[!-~]{1,200}",
}


class NotationOf(Protocol):
    """What of a notation the grammar depends on."""

    @property
    def true(self) -> str: ...
    @property
    def false(self) -> str: ...
    @property
    def null(self) -> str: ...
    @property
    def quote(self) -> str: ...
    @property
    def comma(self) -> str: ...
    @property
    def colon(self) -> str: ...

    def write(self, value: Any) -> str: ...
    def written_key(self, key: str) -> str: ...


class Shapes:
    """Collects rules. `prefix` begins their names, `root` is the schema in which others are defined."""

    def __init__(self, prefix: str, notation: NotationOf, root: Mapping[str, Any], ids: Mapping[str, int]) -> None:
        self._prefix, self._notation, self._ids = prefix, notation, ids
        self.variants = Variants(root)
        self._names: dict[str, str] = {}
        self.rules: list[str] = []

    def rule(self, schema: Any) -> str:
        """The name of the rule of values under a schema."""
        key = json.dumps(schema)
        if key not in self._names:
            name = self._names[key] = f"{self._prefix}_{len(self._names)}"
            cases = [self._case(case, f"{name}_{i}") for i, case in enumerate(self.variants.of(schema))]
            self.rules.append(f"{name}: {' | '.join(cases)}")
        return self._names[key]

    def _case(self, schema: Mapping[str, Any], name: str) -> str:
        """The right-hand side of a rule for one case; `name` is free for a rule."""
        kind = schema.get("type")
        if "enum" in schema:
            return " | ".join(marked(self._notation.write(value), self._ids) for value in schema["enum"])
        if kind == "string":
            return self._string(schema, name)
        if kind in ("integer", "number"):
            self.rules.append(f"{name}: {json_rule({key: schema[key] for key in _NUMBERS if key in schema})}")
            return name
        if kind == "boolean":
            return f"{literal(self._notation.true)} | {literal(self._notation.false)}"
        if kind == "null":
            return literal(self._notation.null)
        if kind == "array":
            return self._array(schema)
        if kind == "object":
            return f'"{{" {self.pairs(schema, self._notation.colon, name)} "}}"'
        return " | ".join(
            self.rule({"type": kind}) for kind in ("string", "number", "boolean", "null", "array", "object")
        )

    def _string(self, schema: Mapping[str, Any], name: str) -> str:
        quote = self._notation.quote
        if quote == '"':
            self.rules.append(f"{name}: {json_rule({key: schema[key] for key in _STRINGS if key in schema})}")
            return name
        self.rules += text_until(name, quote, self._ids, conditions=string_conditions(schema))
        return f"{marked(quote, self._ids)} {name}"

    def _array(self, schema: Mapping[str, Any]) -> str:
        item, comma = self.rule(schema.get("items", True)), literal(self._notation.comma)
        least, most = int(schema.get("minItems", 0)), schema.get("maxItems")
        if most == 0:
            return '"[" "]"'
        row = f"{item} ({comma} {item}){{{max(0, least - 1)},{'' if most is None else int(most) - 1}}}"
        return f'"[" {row} "]"' if least else f'"[" ({row})? "]"'

    def pairs(self, schema: Mapping[str, Any], equals: str, name: str, *, is_top: bool = False) -> str:
        """The names and values of an object, `equals` between them; at the top of the arguments names are bare."""
        properties, required = dict(schema.get("properties", {})), list(schema.get("required", ()))
        properties |= {key: True for key in required if key not in properties}
        rules = []
        for i, (key, value) in enumerate(properties.items()):
            written = key if is_top else self._notation.written_key(key)
            self.rules.append(f"{name}_p{i}: {marked(written + equals, self._ids)} {self.rule(value)}")
            rules.append((f"{name}_p{i}", key in required))
        more = schema.get("additionalProperties", "properties" not in schema)
        if more is False:
            return sequence(rules, self._notation.comma, f"{name}_s", self.rules)
        return sequence(
            rules, self._notation.comma, f"{name}_s", self.rules, self._further(properties, more, equals, name, is_top)
        )

    def _further(self, known: Mapping[str, Any], schema: Any, equals: str, name: str, is_top: bool) -> str:
        """Pairs whose names nobody has listed."""
        barred = "|".join(escaped(key) for key in known)
        self.rules.append(f"{name.upper()}_KEY: /{NAMES}/" + (f" & ~/({barred})/" if barred else ""))
        quote = literal('"') if self._notation.written_key("x") != "x" and not is_top else ""
        self.rules.append(f"{name}_more: {quote} {name.upper()}_KEY {quote} {literal(equals)} {self.rule(schema)}")
        return f"{name}_more"


def sequence(items: list[tuple[str, bool]], comma: str, name: str, rules: list[str], more: str | None = None) -> str:
    """Rules in their order, each there or not (those that are required: True), with commas between those that are
    there; then any number of `more`."""
    between = f"{literal(comma)} " if comma else ""
    after = f"({between}{more})*" if more else ""
    rules.append(f"{name}_after{len(items)}: {after or chr(34) * 2}")
    rules.append(f"{name}_first{len(items)}: {f'({more} {after})?' if more else chr(34) * 2}")
    for i, (item, is_required) in reversed(list(enumerate(items))):
        then = f"{name}_after{i + 1}"
        rules.append(f"{name}_after{i}: {between}{item} {then}" + ("" if is_required else f" | {then}"))
        rules.append(f"{name}_first{i}: {item} {then}" + ("" if is_required else f" | {name}_first{i + 1}"))
    return f"{name}_first0"


def string_conditions(schema: Mapping[str, Any]) -> list[str]:
    """Expressions that all of a text without quotes has to match."""
    conditions = []
    if "minLength" in schema or "maxLength" in schema:
        conditions.append(f"(?s:.{{{int(schema.get('minLength', 0))},{schema.get('maxLength', '')}}})")
    if "format" in schema:
        if schema["format"] not in FORMATS:
            raise refuse(f"the format {schema['format']!r}", f"use a pattern, or one of {', '.join(FORMATS)}")
        conditions.append(FORMATS[schema["format"]])
    if "pattern" in schema:
        conditions.append(_whole(schema["pattern"]))
    return conditions


def _whole(pattern: str) -> str:
    """An expression of a whole text, of a pattern that JSON schemas look for anywhere in it."""
    inner = pattern.removeprefix("^")
    begins = "" if inner != pattern else "(?s:.*)"
    is_closed = inner.endswith("$") and not re.search(r"(?<!\\)(\\\\)*\\\$$", inner)
    ends = "" if is_closed else "(?s:.*)"
    inner = inner[:-1] if is_closed else inner
    bare = re.sub(r"\\.|\[(?:\\.|[^\]\\])*\]", "", inner)
    if "$" in bare or "^" in bare or ("|" in re.sub(r"\([^()]*\)", "", bare) and (not begins or not ends)):
        raise refuse(f"the pattern {pattern!r:.80}", "write ^ at its beginning and $ at its end, around one group")
    if "(?" in bare and re.search(r"\(\?(=|!|<=|<!)", bare):
        raise refuse(f"the pattern {pattern!r:.80}", "write it without (?=...), (?!...), (?<=...) and (?<!...)")
    return f"{begins}(?:{inner.replace('/', chr(92) + '/') if chr(92) + '/' not in inner else inner}){ends}"
