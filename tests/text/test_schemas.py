"""JSON schemas: a valid answer every time, whatever the limit, or a refusal at once that names the key."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import ipaddress
import json
import uuid
from typing import Annotated, Any, Literal, Optional, Union

import annotated_types as at
import pytest
from pydantic import AnyUrl, BaseModel, Field, HttpUrl, TypeAdapter

from power_sampling import ConfigurationError, PowerSampler
from power_sampling.text.formats import tool_format
from power_sampling.types import Conversation
from tests.support.scripted import TOOL_TEMPLATE
from tests.support.tiny import tiny_model, tiny_tokenizer

Email = Annotated[str, Field(json_schema_extra={"format": "email"})]  # its own type wants a library


class Colour(enum.Enum):
    RED, BLUE = "red", "blue"


class Level(enum.IntEnum):
    LOW, HIGH = 1, 22


class Point(BaseModel):
    x: int
    y: int = 0


class Tree(BaseModel):
    value: int
    children: list[Tree]


class Linked(BaseModel):
    head: bool
    tail: Linked | None = None


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=0, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]
    good: bool


class Person(BaseModel):
    name: Annotated[str, Field(min_length=1, max_length=12)]
    born: dt.date
    mail: Email | None = None


Short = Annotated[str, Field(max_length=4)]
PLAIN: list[Any] = [bool, int, float, str, None, Short, Colour, Level, Point, Tree, Linked, Cat, Person]
FORMATS: list[Any] = [dt.date, dt.datetime, dt.time, uuid.UUID, Email, AnyUrl, HttpUrl, dt.timedelta]
FORMATS += [ipaddress.IPv4Address, ipaddress.IPv6Address]
NUMBERS: list[Any] = [Annotated[int, at.Ge(low), at.Le(high)] for low in (-30, 0, 7, 100) for high in (100, 255, 10**6)]
NUMBERS += [Annotated[float, at.Gt(0), at.Lt(1)], Annotated[int, at.MultipleOf(5)], decimal.Decimal]
TEXTS: list[Any] = [Annotated[str, Field(min_length=n, max_length=n + m)] for n in (0, 1, 5, 17) for m in (0, 1, 9)]
TEXTS += [Annotated[str, Field(pattern=p)] for p in (r"^[A-Z]{2}\d{4}$", r"^(a|bc)+$", r"^\d+Z$", r"^[^@]+@[^@]+$")]
TEXTS += [Literal["a"], Literal["yes", "no", "perhaps"], Literal[1, "one", None], Literal["long " * 8, "s"]]
INNER: list[Any] = [bool, int, Short, Colour, Point, dt.date, Literal["a", "bcd"], dt.time]
NESTED: list[Any] = [list[t] for t in INNER] + [dict[str, t] for t in INNER] + [Optional[t] for t in INNER]  # noqa: UP045
NESTED += [Annotated[list[t], Field(min_length=2, max_length=3)] for t in INNER]
NESTED += [tuple[t, bool] for t in INNER] + [Union[t, Cat] for t in INNER] + [dict[Literal["k", "l"], t] for t in INNER]  # noqa: UP007
NESTED += [dict[Colour, int], dict[Short, bool], dict[Annotated[str, Field(pattern="^x[0-9]$")], None]]
NESTED += [list[list[int]], list[Cat | Dog], dict[str, list[Point]], tuple[int, ...], list[Tree], tuple[str, int, None]]
TYPES = [*PLAIN, *FORMATS, *NUMBERS, *TEXTS, *NESTED]
QUICK = [dt.time, HttpUrl, Email, Tree, Literal["long " * 8, "s"], dict[str, list[Point]], dict[Colour, int]]

TOKENIZER = tiny_tokenizer()
SAMPLERS: list[Any] = [
    "ancestral",
    {"name": "sequential_monte_carlo", "num_particles": 4},
    {"name": "metropolis_hastings", "num_steps": 2, "block_size": 32},
]


def check(kind: Any, sampler: Any, limit: int) -> None:
    adapter = TypeAdapter(kind)
    model = PowerSampler.from_model(tiny_model(layers=1), TOKENIZER, sampler=sampler, alpha=1.3, seed=1)
    done = model.complete("a", json_schema=adapter.json_schema(), max_new_tokens=limit)
    assert len(done.tokens) <= limit
    value = json.loads(done.text, parse_float=decimal.Decimal)
    if kind is decimal.Decimal:  # pydantic's parser makes a float of it first, and 1e999 is none
        adapter.validate_python(value)
    elif kind not in (Email, AnyUrl, HttpUrl, dt.timedelta) and "format" not in str(adapter.json_schema()):
        adapter.validate_json(done.text)  # what a format means in full is wider there than here, or narrower


def test_the_table_is_long_enough() -> None:
    assert len(TYPES) >= 120


@pytest.mark.parametrize("kind", QUICK, ids=str)
def test_formats_and_recursion_end_in_time(kind: Any) -> None:
    check(kind, "ancestral", 64)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
@pytest.mark.parametrize("limit", [64, 100, 256])
@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_a_valid_answer_every_time(kind: Any, limit: int, sampler: Any) -> None:
    check(kind, sampler, limit)


@pytest.mark.parametrize(
    ("schema", "match"),
    [
        ({"type": "array", "uniqueItems": True, "items": {"type": "integer"}}, "uniqueItems.*boolean for each"),
        ({"type": "string", "pattern": "^(?!a)b"}, "looks around"),
        ({"not": {"type": "string"}}, "not cannot be enforced"),
        ({"type": "array", "contains": {"type": "integer"}}, "contains.*prefixItems"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "oneOf.*anyOf"),
        ({"type": "object", "propertyNames": {"format": "date"}}, "propertyNames.*patternProperties"),
        ({"$ref": "#"}, "cannot be followed"),
    ],
    ids=str,
)
def test_what_cannot_be_enforced_is_refused_by_name(schema: dict[str, Any], match: str) -> None:
    sampler = PowerSampler.from_model(tiny_model(layers=1), TOKENIZER, sampler="ancestral", max_new_tokens=30)
    with pytest.raises(ConfigurationError, match=match) as refused:
        sampler.complete("a", json_schema=schema)
    assert len(str(refused.value)) < 600


def test_what_is_required_and_not_listed_may_be_anything() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a", "b"]}
    sampler = PowerSampler.from_model(tiny_model(layers=1), TOKENIZER, sampler="ancestral", seed=2)
    assert set(json.loads(sampler.complete("a", json_schema=schema, max_new_tokens=40).text)) == {"a", "b"}


def test_times_need_no_zone() -> None:
    sampler = PowerSampler.from_model(tiny_model(layers=1), TOKENIZER, sampler="ancestral", seed=2)
    zones = set()
    for done in sampler.generate(["a"], n=12, json_schema={"type": "string", "format": "time"}, max_new_tokens=10):
        zones.add(dt.time.fromisoformat(json.loads(done.text)).tzinfo)
    assert zones == {None}  # ten tokens leave no room for one


def test_parameters_are_an_object_whether_they_say_so_or_not() -> None:
    parameters = {"properties": {"x": {"type": "integer"}}, "required": ["x"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": parameters}}
    conversation = Conversation(messages=({"role": "user", "content": "go"},), tools=(tool,), tool_choice="required")
    lark = tool_format(TOOL_TEMPLATE, {}).grammar(conversation, None, starts_in_reasoning=False)
    assert lark is not None and '"type": "object"' in lark
