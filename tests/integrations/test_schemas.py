"""Schemas of classes: what obeys them is read by the class."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any

import pytest
from llama_index.core.program.function_program import get_function_tool
from pydantic import BaseModel, Field, create_model

from langchain_power_sampling._tools import as_json_schema
from llamaindex_power_sampling._tools import as_tools
from power_sampling import PowerSampler
from power_sampling.integrations import schema_of
from tests.support.tiny import tiny_model, tiny_tokenizer

AMOUNTS = [
    Decimal,
    Annotated[Decimal, Field(decimal_places=2)],
    Annotated[Decimal, Field(max_digits=3)],
    Annotated[Decimal, Field(max_digits=5, decimal_places=2)],
    Annotated[Decimal, Field(gt=0, le=125)],
    Annotated[Decimal, Field(multiple_of=Decimal("0.25"), lt=100, max_digits=4, decimal_places=2)],
]


@pytest.fixture(scope="module")
def sampler() -> PowerSampler:
    return PowerSampler.from_model(tiny_model(), tiny_tokenizer(), sampler="ancestral", max_new_tokens=40, seed=1)


@pytest.mark.parametrize("amount", AMOUNTS, ids=str)
def test_a_decimal_is_a_number_that_its_class_reads(sampler: PowerSampler, amount: Any) -> None:
    price = create_model("Price", amount=(amount, ...))
    for answer in sampler.generate(["b"], n=12, json_schema=schema_of(price)):
        assert isinstance(price.model_validate_json(answer.text).amount, Decimal)  # type: ignore[attr-defined]


def test_the_classes_of_both_frameworks_are_described_so() -> None:
    class Bill(BaseModel):
        """A bill."""

        total: Decimal

    assert as_json_schema(Bill)["properties"]["total"]["type"] == "number"
    assert as_tools([get_function_tool(Bill)])[0]["function"]["parameters"]["properties"]["total"]["type"] == "number"


def test_nothing_else_changes() -> None:
    class Item(BaseModel):
        name: str
        price: float | None = None
        parts: list[Item] = []

    assert schema_of(Item) == Item.model_json_schema()
