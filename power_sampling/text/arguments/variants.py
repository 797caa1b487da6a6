"""A JSON schema as the plain cases that it allows, for notations that are not JSON and need a grammar of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from power_sampling.errors import ConfigurationError
from power_sampling.text.schema import WAYS_OUT

__all__ = ["TYPES", "Expected", "Variants", "refuse"]

TYPES = ("string", "integer", "number", "boolean", "null", "array", "object")
_SAYS_NOTHING = {"title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly", "$comment"}
_REFUSED = (
    *("not", "if", "then", "else", "contains", "dependentRequired", "dependentSchemas", "propertyNames"),
    *("patternProperties", "uniqueItems", "minProperties", "maxProperties", "prefixItems", "$dynamicRef"),
)
_DEEPEST = 64  # of references to references


def refuse(what: str, advice: str = "") -> ConfigurationError:
    """The error about a schema that the notation of a family cannot enforce."""
    return ConfigurationError(
        f"Tools: {what} cannot be enforced while calls are written as this model writes them. "
        f"{f'Instead, {advice}' if advice else 'Leave it out'}, or set tool_format='hermes', which writes JSON."
    )


class Variants:
    """The cases of schemas that stand inside of one `root`, whose definitions they may name. Where it `enforces` them,
    a schema that no grammar can tell is refused; otherwise what cannot be told is left out."""

    def __init__(self, root: Mapping[str, Any], *, enforces: bool = True) -> None:
        self._root, self._enforces = root, enforces
        self.definitions = {key: root[key] for key in ("$defs", "definitions") if key in root}

    def of(self, schema: Any, depth: int = 0) -> Iterator[Mapping[str, Any]]:
        """Schemas with one `type` each, or `enum`; an empty one stands for any value."""
        schema = self.resolved(schema, depth)
        for key in _REFUSED:
            if key in schema and self._enforces:
                raise refuse(repr(key), WAYS_OUT.get(key, ""))
        if "const" in schema:
            yield {"enum": [schema["const"]]}
        elif "enum" in schema:
            yield {"enum": list(schema["enum"])}
        elif cases := schema.get("anyOf") or schema.get("oneOf"):
            yield from self._cases(schema, cases, depth)
        else:
            types = schema.get("type", _implied(schema))
            for kind in [types] if isinstance(types, str) else types:
                if kind not in TYPES:
                    raise refuse(f"the type {kind!r}", f"use one of {', '.join(TYPES)}")
                yield {**schema, "type": kind}
            if not types:
                yield {}

    def _cases(self, schema: Mapping[str, Any], cases: Any, depth: int) -> Iterator[Mapping[str, Any]]:
        beside = {key: value for key, value in schema.items() if key not in ("anyOf", "oneOf")}
        found = [case for one in cases for case in self.of({**beside, **self.resolved(one, depth + 1)}, depth + 1)]
        kinds = [case.get("type") for case in found]
        overlap = "anyOf" in schema or None in kinds or len(set(kinds)) < len(kinds)
        if "oneOf" in schema and overlap and self._enforces:
            raise refuse("oneOf whose schemas may overlap", WAYS_OUT["oneOf"])
        yield from found

    def resolved(self, schema: Any, depth: int = 0) -> dict[str, Any]:
        """A schema without references, words that say nothing, and parts that all hold."""
        if schema is True:
            return {}
        if not isinstance(schema, Mapping) or depth > _DEEPEST:
            raise refuse(f"the schema {schema!r:.80}")
        own = {key: value for key, value in schema.items() if key not in _SAYS_NOTHING}
        reference, parts = own.pop("$ref", None), own.pop("allOf", ())
        found: dict[str, Any] = {}
        for part in [*([] if reference is None else [self._definition(reference)]), *parts, own]:
            new = self.resolved(part, depth + 1) if part is not own else own
            found = self._both(found, new)
        return found

    def _definition(self, reference: str) -> Any:
        found: Any = self._root
        if reference == "#":
            return found
        for piece in reference.removeprefix("#/").split("/"):
            piece = piece.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or piece not in found:
                raise refuse(f"the reference {reference!r}", "name a part of the same schema")
            found = found[piece]
        return found

    def _both(self, one: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
        """What two schemas say together, where neither says again what the other says."""
        joined = {**one, **other}
        for key in one.keys() & other.keys():
            if key == "properties":
                joined[key] = {**one[key], **other[key]}
            elif key == "required":
                joined[key] = [*one[key], *other[key]]
            elif one[key] != other[key] and key not in ("$defs", "definitions") and self._enforces:
                raise refuse(f"{key!r} said twice", "say it once")
        return joined


def _implied(schema: Mapping[str, Any]) -> Any:
    if {"properties", "required", "additionalProperties"} & schema.keys():
        return "object"
    if {"items", "minItems", "maxItems"} & schema.keys():
        return "array"
    if {"pattern", "minLength", "maxLength", "format"} & schema.keys():
        return "string"
    if {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"} & schema.keys():
        return "number"
    return ()


class Expected:
    """What a reader may expect of the arguments of a tool. What it cannot tell, it leaves open; it refuses nothing."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        self._variants = Variants(schema, enforces=False)
        wholes = self._cases(schema)
        self._properties: dict[str, list[Any]] = {}
        for whole in wholes:
            for key, value in whole.get("properties", {}).items():
                self._properties.setdefault(key, []).append(value)
        self._others = [whole.get("additionalProperties", True) for whole in wholes]
        self.required = set[str].intersection(*(set(whole.get("required", ())) for whole in wholes))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._properties)

    def of(self, key: str) -> list[Mapping[str, Any]]:
        """The cases of an argument, as those of `Variants`."""
        return [case for schema in self._properties.get(key, self._others) for case in self._cases(schema)]

    def _cases(self, schema: Any) -> list[Mapping[str, Any]]:
        try:
            return list(self._variants.of(schema))
        except ConfigurationError:
            return [schema if isinstance(schema, Mapping) and schema.get("type") in TYPES else {}]
