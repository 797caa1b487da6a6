"""`with_structured_output`: what is bound to the model for a schema, and what parses its answer."""

from __future__ import annotations

from collections.abc import Mapping
from operator import itemgetter
from typing import Any, Literal, NamedTuple, TypeAlias

from langchain_core.language_models import LanguageModelInput
from langchain_core.output_parsers import JsonOutputParser, PydanticOutputParser
from langchain_core.output_parsers.openai_tools import JsonOutputKeyToolsParser, PydanticToolsParser
from langchain_core.runnables import Runnable, RunnableLambda, RunnableMap, RunnablePassthrough
from langchain_core.utils.pydantic import is_basemodel_subclass
from pydantic import BaseModel

from langchain_power_sampling._schemas import described, is_object, plain_type, traceable
from langchain_power_sampling._tools import as_json_schema
from power_sampling import ConfigurationError

__all__ = ["Method", "Structured", "StructuredRunnable", "structured"]

Method: TypeAlias = Literal["function_calling", "json_schema", "json_mode"]
METHODS = ("function_calling", "json_schema", "json_mode")
StructuredRunnable: TypeAlias = Runnable[LanguageModelInput, dict[str, Any] | BaseModel]


class Structured(NamedTuple):
    """What `with_structured_output` makes of a schema: call options, and a parser of the answer."""

    options: dict[str, Any]
    parser: Runnable[Any, Any]

    def chain(self, model: Runnable[LanguageModelInput, Any], *, include_raw: bool) -> StructuredRunnable:
        """The model, bound to the options, and its parser."""
        if not include_raw:
            return model | self.parser
        parsed = RunnablePassthrough.assign(parsed=itemgetter("raw") | self.parser, parsing_error=lambda _: None)
        failed = RunnablePassthrough.assign(parsed=lambda _: None)
        return RunnableMap(raw=model) | parsed.with_fallbacks([failed], exception_key="parsing_error")


def structured(schema: Any, method: str, strict: bool | None, unknown: Mapping[str, Any]) -> Structured:
    """The options and the parser of a schema: a pydantic class (v1 or v2), a TypedDict, an Enum class, a type of
    `typing`, a JSON schema, an OpenAI tool.

    Every method decodes under a grammar. `function_calling` forces a call of the one tool, `json_schema` an answer
    under the schema, `json_mode` any JSON object.
    """
    if unknown:
        raise ConfigurationError(
            f"with_structured_output has no argument {', '.join(sorted(unknown))}. Known: include_raw, method, strict; "
            "settings of the calls are fields of the model."
        )
    if method not in METHODS:
        raise ConfigurationError(f"method: expected one of {', '.join(METHODS)}, got {method!r}.")
    if method == "json_mode" and strict:
        raise ConfigurationError("strict: json_mode has no schema to be strict about; use method='json_schema'.")
    traced = {"ls_structured_output_format": {"kwargs": {"method": method}, "schema": traceable(schema)}}
    read = _reads(schema)
    if method == "function_calling":
        tool, parser = _tool_of(schema, strict)
        name = tool["function"]["name"]
        options = {"tools": [tool], "tool_choice": name, "parallel_tool_calls": False}
        return Structured({**options, **traced}, parser if read is None else parser | read)
    if isinstance(schema, type) and is_basemodel_subclass(schema):
        return Structured(
            {"response_format": _response_format(schema, method, strict), **traced},
            PydanticOutputParser(pydantic_object=schema),
        )
    json_parser: Runnable[Any, Any] = JsonOutputParser()
    return Structured(
        {"response_format": _response_format(schema, method, strict), **traced},
        json_parser if read is None else json_parser | read,
    )


def _reads(schema: Any) -> Runnable[Any, Any] | None:
    """What makes a member of an Enum class, or a value of a type of `typing`, of plain JSON."""
    adapter = plain_type(schema)
    return None if adapter is None else RunnableLambda(lambda value: adapter.validate_python(value))


def _tool_of(schema: Any, strict: bool | None) -> tuple[dict[str, Any], Runnable[Any, Any]]:
    """A tool with the schema's arguments, and the parser of its calls. What is no object becomes the one argument
    `value`."""
    wanted = described(schema, strict)
    if is_object(wanted.get("parameters") or {}):
        if isinstance(schema, type) and is_basemodel_subclass(schema):
            return {"type": "function", "function": wanted}, PydanticToolsParser(tools=[schema], first_tool_only=True)
        parser: Runnable[Any, Any] = JsonOutputKeyToolsParser(key_name=wanted["name"], first_tool_only=True)
        return {"type": "function", "function": wanted}, parser
    inner = dict(wanted["parameters"])
    lifted = {"$defs": inner.pop("$defs")} if "$defs" in inner else {}  # where references look for them
    wrapped = {"type": "object", "properties": {"value": inner}, "required": ["value"], **lifted}
    tool = {"type": "function", "function": {**wanted, "parameters": wrapped}}
    parser = JsonOutputKeyToolsParser(key_name=wanted["name"], first_tool_only=True) | itemgetter("value")
    if isinstance(schema, type) and issubclass(schema, BaseModel):  # a RootModel
        root: Any = schema
        return tool, parser | RunnableLambda(lambda value: root.model_validate(value))
    return tool, parser


def _response_format(schema: Any, method: str, strict: bool | None) -> dict[str, Any]:
    if method == "json_mode":
        return {"type": "json_object"}
    wanted = as_json_schema(schema, strict)
    described: dict[str, Any] = {"name": wanted.get("title", "answer"), "schema": wanted}
    if strict is not None:
        described["strict"] = strict
    return {"type": "json_schema", "json_schema": described}
