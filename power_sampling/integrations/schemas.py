"""JSON schemas of pydantic's classes, such that whatever obeys them is read."""

from __future__ import annotations

import math
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

__all__ = ["ReadableSchema", "schema_of"]

LARGEST = 1e15  # below it a float has every whole number; without an end 1e999 would be one, and read as infinite


def schema_of(model: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a class. It differs from pydantic's own where that admits what the class refuses."""
    return model.model_json_schema(schema_generator=ReadableSchema)


class ReadableSchema(GenerateJsonSchema):
    """Pydantic writes a Decimal as a number or any text at all; here it is a number, with the decimals it may have."""

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> JsonSchemaValue:
        digits, places = schema.get("max_digits"), schema.get("decimal_places")
        if digits is None:
            return self._number(schema, places, LARGEST)
        choices = range(digits + 1) if places is None else [places]  # as many before the point as those behind it leave
        numbers = [self._number(schema, behind, 10.0 ** (digits - behind)) for behind in choices]
        return numbers[0] if len(numbers) == 1 else {"anyOf": numbers}

    def _number(self, schema: core_schema.DecimalSchema, places: int | None, end: float) -> JsonSchemaValue:
        """Numbers of so many decimals between -end and end, both excluded."""

        def bound(name: str, otherwise: float) -> float:
            given = schema.get(name)
            return otherwise if given is None else float(given)  # type: ignore[arg-type]  # a bound is a Decimal

        found: dict[str, Any] = {
            "minimum": bound("ge", -math.inf),
            "maximum": bound("le", math.inf),
            "exclusiveMinimum": max(bound("gt", -math.inf), -end),
            "exclusiveMaximum": min(bound("lt", math.inf), end),
        }
        found = {"type": "number"} | {word: value for word, value in found.items() if math.isfinite(value)}
        if places is not None or schema.get("multiple_of") is not None:
            found["multipleOf"] = bound("multiple_of", 10.0 ** -(places or 0))
        return found
