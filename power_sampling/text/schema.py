"""JSON schemas as the parser takes them: what it reads in another way than people mean is written so that both agree.

What the parser cannot enforce is refused, with the name of the key and a way out; nothing is dropped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from power_sampling.errors import ConfigurationError, shortened

__all__ = ["fault_in", "json_rule", "refusal"]

# one line, as json.dumps writes it: free whitespace would let a model spend its horizon on blanks
JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
AS_THEY_ARE = ("const", "enum", "default", "examples")  # values, and no schemas
OPENING = {"allOf", "anyOf", "oneOf", "$ref", "patternProperties", "additionalProperties"}
HOURS = r"([01][0-9]|2[0-3]):[0-5][0-9]"
# the parser's own `time` asks for a zone, which times of pydantic seldom have: models would invent one
TIME = rf"^{HOURS}:[0-5][0-9](\.[0-9]{{1,6}})?(Z|[+-]{HOURS})?$"
BY_NAME = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
IN_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
ALONE = ("items", "additionalProperties", "not", "if", "then", "else", "contains", "propertyNames")
COUNTS = ("minLength", "maxLength", "minItems", "maxItems")
FORMS: Mapping[str, tuple[Callable[[Any], bool], str]] = {  # of what keywords say, where readers go by it
    **dict.fromkeys(BY_NAME, (lambda value: isinstance(value, Mapping), "schemas by their names")),
    **dict.fromkeys(IN_LISTS, (lambda value: isinstance(value, list), "a list of schemas")),
    "type": (lambda value: isinstance(value, str) or _are_texts(value), "a type or a list of types"),
    "enum": (lambda value: isinstance(value, list), "a list of values"),
    "required": (lambda value: _are_texts(value), "a list of names"),
    "$ref": (lambda value: isinstance(value, str), "a text such as '#/$defs/Name'"),
    **dict.fromkeys(("pattern", "format"), (lambda value: isinstance(value, str), "a text")),
    **dict.fromkeys(COUNTS, (lambda value: isinstance(value, int | float), "a number")),
}
WAYS_OUT = {
    "uniqueItems": "use an object with a boolean for each item, or check the answer yourself",
    "oneOf": "write anyOf",
    "not": "say what is allowed, by enum, pattern or type",
    "if": "write the cases as anyOf",
    "contains": "give prefixItems",
    "dependentRequired": "write the cases as anyOf",
    "propertyNames": "use patternProperties with additionalProperties: false",
    "look-around": "write the pattern without (?=...), (?!...), (?<=...) and (?<!...)",
}


def json_rule(schema: Mapping[str, Any]) -> str:
    """JSON under a schema, as the right-hand side of a Lark rule, written as `json.dumps` writes it. Objects that list
    their properties have no others, unless the schema says so: a name nobody declared is nothing anybody asked for."""
    try:
        return "%json " + json.dumps({"x-guidance": JSON_STYLE, **_repaired(schema, schema)}, ensure_ascii=False)
    except RecursionError as error:
        raise ConfigurationError("json_schema: it is nested too deeply; give parts a name in $defs.") from error
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"json_schema: {error}; give plain JSON values.") from error


def fault_in(schema: Any, place: str = "") -> str:
    """What makes a value no JSON schema: where it stands, what was expected and what came. Nothing, where it is one."""
    if isinstance(schema, bool):
        return ""
    if not isinstance(schema, Mapping):
        return f"{place}: expected a schema, got {shortened(schema)}"
    for key, value in schema.items():
        at = f"{place}.{key}" if place else key
        is_right, expected = FORMS.get(key, (lambda _: True, ""))
        if not is_right(value):
            return f"{at}: expected {expected}, got {shortened(value)}"
        if fault := next(filter(None, (fault_in(part, at + name) for name, part in _inside(key, value))), ""):
            return fault
    return ""


def _inside(key: str, value: Any) -> Iterable[tuple[str, Any]]:
    """The schemas under a keyword, each with its place there."""
    if key in BY_NAME:
        return ((f".{name}", part) for name, part in value.items())
    if key in IN_LISTS or (key == "items" and isinstance(value, list)):  # an older form of prefixItems
        return ((f".{i}", part) for i, part in enumerate(value))
    return [("", value)] if key in ALONE else ()


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _repaired(schema: Any, root: Mapping[str, Any]) -> Any:
    if isinstance(schema, list):
        return [_repaired(item, root) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    new = {key: value if key in AS_THEY_ARE else _repaired(value, root) for key, value in schema.items()}
    if schema.get("format") == "time" and "pattern" not in schema and schema.get("type") == "string":
        del new["format"]
        new["pattern"] = TIME
    properties = schema.get("properties")
    if schema.get("type") == "object" and isinstance(properties, Mapping) and not OPENING & set(schema):
        required = schema.get("required", ())
        unlisted = [name for name in required if name not in properties] if isinstance(required, list | tuple) else []
        new["properties"] |= {name: {} for name in unlisted}  # of any value
        new["additionalProperties"] = False
    pattern = _pattern_of_names(schema.get("propertyNames"), root)
    if pattern is not None and not {"properties", "patternProperties"} & set(schema):
        del new["propertyNames"]
        new["patternProperties"] = {pattern: new.get("additionalProperties", {})}
        new["additionalProperties"] = False
    return new


def _pattern_of_names(schema: Any, root: Mapping[str, Any]) -> str | None:
    """The pattern that says the same of a property's name as its schema does; None where that is not plain."""
    if isinstance(schema, Mapping) and isinstance(schema.get("$ref"), str):
        named = root.get("$defs")
        schema = named.get(schema["$ref"].removeprefix("#/$defs/")) if isinstance(named, Mapping) else None
    if not isinstance(schema, Mapping) or schema.get("type", "string") != "string":
        return None
    said = {key: value for key, value in schema.items() if key not in ("type", "title", "description")}
    names = said["enum"] if set(said) == {"enum"} else [said["const"]] if set(said) == {"const"} else []
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return "^(" + "|".join(re.sub(r"([\\.+*?()|\[\]{}^$])", r"\\\1", name) for name in names) + ")$"
    if set(said) == {"pattern"} and isinstance(said["pattern"], str):
        return said["pattern"]
    if said and set(said) <= {"minLength", "maxLength"}:
        return rf"^[\s\S]{{{said.get('minLength', 0)},{said.get('maxLength', '')}}}$"
    return None


def refusal(error: str) -> str | None:
    """What a user is told about a schema that the parser refuses; None: it is no matter of a schema."""
    if "JSON schema" not in error:
        return None
    reason = re.split(r"\n *\d+ \| ", error.split("failed to compile JSON schema:")[-1])[0].strip()
    keys = re.findall(r'"([\w$]+)"', reason) if "Unimplemented keys" in reason else []
    if keys:
        reason = f"{', '.join(keys)} cannot be enforced while the answer is written"
    elif "look-around" in error:
        keys, reason = ["look-around"], "a pattern that looks around cannot be enforced while the answer is written"
    elif "oneOf constraints" in error:
        keys, reason = ["oneOf"], "oneOf cannot be enforced where its schemas may overlap"
    advice = [WAYS_OUT[key] for key in keys if key in WAYS_OUT]
    return f"the schema: {reason:.400}. {f'Instead, {advice[0]}.' if advice else 'Mend it, or leave it out.'}"
