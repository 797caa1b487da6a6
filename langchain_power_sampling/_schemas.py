"""Schemas and functions in LangChain's many forms, described once: a name, a JSON schema, and how an answer is read.

LangChain converts most of them. What it loses on the way is put right before: mappings without `properties` (arrays,
enums, unions, free objects), recursive classes, TypedDicts with keys that may be missing, Enum classes and the types of
`typing`.
"""

from __future__ import annotations

import enum
import json
import types
import typing
from collections.abc import Mapping
from typing import Any

import typing_extensions
from langchain_core.tools import BaseTool
from langchain_core.tools.base import create_schema_from_function
from langchain_core.utils.function_calling import convert_to_openai_function
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel, PydanticSchemaGenerationError, PydanticUserError, TypeAdapter

from power_sampling import ConfigurationError
from power_sampling.integrations import ReadableSchema, schema_of

__all__ = ["described", "is_object", "plain_type", "traceable"]

TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")
WORDS = frozenset(
    [
        "properties",
        "additionalProperties",
        "patternProperties",
        "required",
        "items",
        "prefixItems",
        "enum",
        "const",
        "anyOf",
        "oneOf",
        "allOf",
        "not",
        "$ref",
        "$defs",
        "pattern",
        "format",
    ]
)
UNIONS: tuple[Any, ...] = (typing.Union, types.UnionType)
MARKS: tuple[Any, ...] = (typing_extensions.NotRequired, typing_extensions.Required, typing.Annotated)
FAULTS = (ValueError, TypeError, KeyError, AttributeError, NameError, RecursionError, PydanticUserError)


def described(schema: Any, strict: bool | None = None) -> dict[str, Any]:
    """`{"name", "description", "parameters", "strict"}` of a class, a function, a tool or a mapping, where `parameters`
    is its JSON schema; only `name` is there always. Raises ConfigurationError for what has no such description."""
    try:
        if isinstance(schema, Mapping) and isinstance(function := schema.get("function"), Mapping):
            return _checked({**function, "name": _name(function)})  # OpenAI's own form is taken as it is
        function = _convertible(schema)
        if isinstance(function, dict) and strict is not None:  # LangChain expects parameters, and no other word on it
            own = {key: value for key, value in function.items() if key != "strict"}
            function = {"parameters": {"type": "object", "properties": {}}, **own} if strict else own
        return _checked(dict(convert_to_openai_function(function, strict=strict)))
    except FAULTS as error:
        raise ConfigurationError(f"{schema!r:.120} cannot be described as a schema or a function: {error}") from error


def _checked(function: dict[str, Any]) -> dict[str, Any]:
    """A description of plain JSON with a name. Raises ValueError or TypeError for another."""
    json.dumps(function, allow_nan=False)
    if not function.get("name") or not isinstance(function.get("parameters") or {}, dict):
        raise ValueError("it has no name, or parameters that are no schema")
    return function


def traceable(schema: Any) -> Any:
    """What LangChain's traces can tell of a schema: it converts that once more, and raises where it cannot."""
    try:
        return _convertible(schema)
    except FAULTS:
        return None


def _convertible(schema: Any) -> Any:
    """A schema of any kind as LangChain converts it without loss. Raises whatever a bad one makes it raise."""
    if adapter := plain_type(schema):
        found = adapter.json_schema(schema_generator=ReadableSchema)
        return {"name": found.get("title", "answer"), "parameters": found}
    return _of_mapping(schema) if isinstance(schema, Mapping) else _of_class_or_function(schema)


def is_object(schema: Mapping[str, Any]) -> bool:
    """Whether a JSON schema is of objects, as the arguments of a call have to be."""
    return schema.get("type", "object") == "object" and not {"enum", "const", "items", "prefixItems"} & set(schema)


def plain_type(schema: Any) -> TypeAdapter[Any] | None:
    """What reads values of an Enum class or of a type of `typing` (`list[int]`, `Literal["a"]`, a union); None for the
    rest."""
    if isinstance(schema, enum.EnumMeta) or (typing.get_origin(schema) is not None and not isinstance(schema, type)):
        try:
            return TypeAdapter(schema)
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            raise ConfigurationError(f"{schema!r:.120} has no JSON schema: {error}") from error
    return None


# ------------------------------------------------------------ mappings


def _of_mapping(given: Mapping[str, Any]) -> dict[str, Any]:
    """A function of a tool (OpenAI's, Anthropic's, Bedrock's), of a `response_format`, or of a JSON schema."""
    for inner in ("function", "json_schema"):
        if isinstance(given.get(inner), Mapping):
            return _of_mapping(given[inner])
    if "toolSpec" in given or {"name", "input_schema"} <= set(given):
        return dict(convert_to_openai_function(dict(given)))
    head = {key: given[key] for key in ("description", "strict") if given.get(key) is not None}
    name = _name(given)
    for inner in ("parameters", "schema"):
        if name is not None and isinstance(given.get(inner), Mapping):
            return {"name": name, **head, "parameters": dict(given[inner])}
    parameters = {key: value for key, value in given.items() if key not in ("name", "title", "description", "strict")}
    kind = given.get("type")
    if WORDS & set(given) or kind in TYPES or (isinstance(kind, list) and set(kind) <= set(TYPES)):
        return {"name": name or "answer", **head, "parameters": parameters}
    if name is None or parameters.keys() - {"parameters"}:
        raise ValueError("it has none of the words of a JSON schema, and no name with parameters or a schema")
    return {"name": name, **head}


def _name(given: Mapping[str, Any]) -> str | None:
    name = given.get("name") or given.get("title")
    if not isinstance(name, str | None):
        raise TypeError("its name is no text")
    return name


# ------------------------------------------------------------ classes and functions


def _of_class_or_function(given: Any) -> Any:
    """What LangChain converts without loss."""
    if typing_extensions.is_typeddict(given):
        return _without_marks(given, ())
    model, name, about = _model_of(given)
    if model is None:
        return given
    schema = schema_of(model)
    if not _is_recursive(schema) and schema == model.model_json_schema():
        return given
    defs = schema.get("$defs", {})
    root = {**defs.get(str(schema.get("$ref", "")).rpartition("/")[2], schema), "$defs": defs}
    title, description = root.pop("title", None), root.pop("description", "")
    return {"name": name or title, "description": about or description, "parameters": _untitled(root)}


def _model_of(given: Any) -> tuple[type[BaseModel] | None, str | None, str | None]:
    """The pydantic class of what a class, a tool or a function takes, and the name and the words of the latter two."""
    model: Any = None
    if isinstance(given, type):
        is_new = is_basemodel_subclass(given) and issubclass(given, BaseModel)
        return (given if is_new else None), None, None
    if isinstance(given, BaseTool):
        model, name, about = given.tool_call_schema, given.name, given.description
    elif callable(given) and hasattr(given, "__name__"):
        name, about = given.__name__, None
        model = create_schema_from_function(
            name, given, filter_args=(), parse_docstring=True, error_on_invalid_docstring=False, include_injected=False
        )
    else:
        return None, None, None
    return (model if isinstance(model, type) and issubclass(model, BaseModel) else None), name, about


def _is_recursive(schema: Mapping[str, Any]) -> bool:
    """Whether a definition comes back to itself."""
    definitions = {f"#/$defs/{name}": value for name, value in schema.get("$defs", {}).items()}
    reached: dict[str, set[str]] = {name: _references(value) for name, value in definitions.items()}

    def meets(name: str, seen: frozenset[str]) -> bool:
        return name in seen or any(meets(other, seen | {name}) for other in reached.get(name, ()))

    return any(meets(name, frozenset()) for name in reached)


def _references(value: Any) -> set[str]:
    if isinstance(value, list):
        return set().union(*map(_references, value))
    if not isinstance(value, Mapping):
        return set()
    own = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
    return own.union(*map(_references, value.values()))


def _untitled(value: Any, *, is_names: bool = False) -> Any:
    """A schema without its titles, which pydantic makes of the names that stand beside them."""
    if isinstance(value, list):
        return [_untitled(item) for item in value]
    if not isinstance(value, Mapping):
        return value
    named = ("properties", "$defs")
    return {
        key: _untitled(item, is_names=key in named and not is_names)
        for key, item in value.items()
        if is_names or key != "title" or not isinstance(item, str)
    }


def _without_marks(given: Any, outer: tuple[Any, ...]) -> Any:
    """A TypedDict that says as LangChain understands it which keys may be missing: by a default of None."""
    if given in outer:
        raise ValueError(f"the TypedDict {given.__name__} holds itself; use a pydantic class")
    fields = {}
    for key, hint in typing_extensions.get_type_hints(given, include_extras=True).items():
        notes: tuple[Any, ...] = ()
        is_required = key in given.__required_keys__
        while (origin := typing_extensions.get_origin(hint)) in MARKS:
            hint, *others = typing_extensions.get_args(hint)
            notes = tuple(others) or notes
            is_required = {MARKS[0]: False, MARKS[1]: True}.get(origin, is_required)
        hint = _marks_inside(hint, (*outer, given))
        if not is_required:
            notes = (None if notes[:1] in ((), (...,)) else notes[0], *notes[1:])
        fields[key] = typing.Annotated[(hint, *notes)] if notes else hint
    make: Any = typing_extensions.TypedDict
    new = make(given.__name__, fields)
    new.__doc__ = given.__doc__ or ""  # LangChain would take that of dict
    return new


def _marks_inside(hint: Any, outer: tuple[Any, ...]) -> Any:
    """The same for the TypedDicts in a type."""
    if typing_extensions.is_typeddict(hint):
        return _without_marks(hint, outer)
    origin: Any = typing_extensions.get_origin(hint)
    arguments = typing_extensions.get_args(hint)
    if origin is None or not any(typing_extensions.is_typeddict(a) or typing_extensions.get_args(a) for a in arguments):
        return hint
    changed = tuple(_marks_inside(argument, outer) for argument in arguments)
    return typing.Union[changed] if origin in UNIONS else origin[changed]  # noqa: UP007 - made at run time
