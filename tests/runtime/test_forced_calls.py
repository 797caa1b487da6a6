"""Forced and strict calls of every family, and constraints after its thoughts, on a tiny random model whose tokenizer
has that family's own tokens."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from power_sampling import Conversation, PowerSampler
from power_sampling.text.formats import tool_format
from tests.support.calls import SAMPLES, TOOLS, Sample, tokenizer_of
from tests.support.tiny import tiny_model

USER = {"role": "user", "content": "x"}
TURN = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
Short = Annotated[str, Field(max_length=8)]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class Weather(Strict):
    city: Short
    days: int = Field(0, ge=0, le=9)


class Stop(Strict):
    at: Short
    open: bool = False


class Plan(Strict):
    stops: list[Stop] = Field(min_length=1, max_length=2)
    mode: Literal["foot", "rail"]
    note: Annotated[str, Field(max_length=3)] | None = None


ARGUMENTS: dict[str, type[Strict]] = {"weather": Weather, "plan": Plan, "now": Strict}  # as TOOLS have them
CHOICES = (*ARGUMENTS, "required", "auto")
DEFAULT = {("gemma4", "weather")}  # qwen3_coder is in test_reasoning.py
METHODS: dict[str, Any] = {
    "low_temperature": "low_temperature",
    "mh": {"name": "metropolis_hastings", "num_steps": 2},
    "smc": {"name": "sequential_monte_carlo", "num_particles": 2},
}
CASES = [
    pytest.param(
        sample,
        choice,
        method,
        id=f"{sample.family}-{choice}-{method}",
        marks=[] if (sample.family, choice) in DEFAULT and method == "low_temperature" else pytest.mark.slow,
    )
    for sample in SAMPLES
    for choice in CHOICES
    for method in (METHODS if choice in ("required", "auto") else ["low_temperature"])
]


@pytest.mark.parametrize(("sample", "choice", "method"), CASES)
def test_a_random_model_calls_what_it_must_as_the_schema_has_it(sample: Sample, choice: str, method: str) -> None:
    """Where the model may choose, a bias has it begin calls; they are strict then."""
    tokenizer = tokenizer_of(sample.family, sample.template + TURN)
    form = tool_format(sample.template, {})
    begin = tokenizer.encode(form.marker, add_special_tokens=False)[0]
    sampler = PowerSampler.from_model(
        tiny_model(layers=1, vocab_size=len(tokenizer), max_position_embeddings=2048),
        tokenizer,
        sampler=METHODS[method],
        alpha=2.0,
        max_new_tokens=400,
        thinking_budget=0 if form.may_reason else None,
        logit_bias={begin: 10.0} if choice == "auto" else {},
    )
    talk = Conversation(messages=[USER], tools=TOOLS, tool_choice=choice, strict=choice == "auto")
    [completion] = sampler.generate([talk], seed=1)
    reply = completion.reply
    assert reply is not None and not reply.invalid_tool_calls
    # spelled out, a bias on its first letter makes no call
    assert reply.tool_calls or (choice == "auto" and form.marker not in sample.tokens)
    assert choice == "auto" or not reply.content.strip()
    for call in reply.tool_calls:
        assert choice in (call.name, "required", "auto")
        ARGUMENTS[call.name].model_validate(call.arguments)


REASONING = [
    pytest.param(sample, id=sample.family, marks=[] if sample.family == "seed" else pytest.mark.slow)
    for sample in SAMPLES
    if tool_format(sample.template, {}).may_reason
]


@pytest.mark.parametrize("sample", REASONING)
def test_a_constraint_begins_after_the_thought(sample: Sample) -> None:
    """A bias has the model think and say nothing but a; the template opens the thought."""
    tokenizer = tokenizer_of(sample.family, f"{sample.template}{TURN}{sample.thoughts[0]}")
    (letter,) = tokenizer.encode("a", add_special_tokens=False)
    sampler = PowerSampler.from_model(
        tiny_model(layers=1, vocab_size=len(tokenizer)),
        tokenizer,
        sampler="low_temperature",
        max_new_tokens=100,
        thinking_budget=5,
        regex="[ab]{3}",
        logit_bias={letter: 50.0},
    )
    [completion] = sampler.generate([[USER]], seed=1)
    assert completion.reply is not None
    assert (completion.reply.reasoning, completion.reply.content) == ("aaaaa", "aaa")
