"""What clients do, on a real model: chat, stream, tools in a loop, a schema, n, log-probabilities, errors, cancel.

SERVED_GGUF names a GGUF file of an instruct model that calls tools, such as Qwen2.5-Coder-0.5B-Instruct.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool
from openai import BadRequestError, NotFoundError, OpenAI
from pydantic import BaseModel

from power_sampling import PowerSampler
from power_sampling.server import app
from tests.support.chat import merged
from tests.support.clients import chat_openai, openai_like
from tests.support.server import is_idle, listening, until

FILE = os.environ.get("SERVED_GGUF", "")
USER: Any = {"role": "user", "content": "What is the capital of France? One word."}
POWER = "M:mh@num_steps=2,alpha=2"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not FILE, reason="SERVED_GGUF names no model"),
]


def tool(name: str, **properties: str) -> Any:
    parameters = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in properties.items()},
        "required": list(properties),
    }
    return {
        "type": "function",
        "function": {"name": name, "description": f"The {name} of a city.", "parameters": parameters},
    }


TOOLS = [tool("weather", city="string"), tool("population", city="string", year="integer")]


@pytest.fixture(scope="module")
def sampler() -> PowerSampler:
    return PowerSampler.from_pretrained(FILE, sampler="ancestral", max_new_tokens=64)


@pytest.fixture(scope="module")
def client(sampler: PowerSampler) -> Iterator[OpenAI]:
    with (
        listening(app(sampler, name="M")) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=600) as client,
    ):
        yield client


@pytest.mark.parametrize("model", ["M:plain", POWER, "M:smc@num_particles=2,alpha=2"])
def test_chat_and_its_stream(client: OpenAI, model: str) -> None:
    asked: Any = {"model": model, "messages": [USER], "temperature": 0.3, "seed": 1}
    answer = client.chat.completions.create(**asked)
    assert "Paris" in (answer.choices[0].message.content or "")
    stream = client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **asked)
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Paris" in text and chunks[-1].usage is not None and chunks[-1].usage.completion_tokens > 0


@pytest.mark.parametrize("model", ["M:plain", POWER])
def test_two_tools_in_a_loop(client: OpenAI, model: str) -> None:
    messages: list[Any] = [{"role": "user", "content": "Weather and population (2020) of Paris, please."}]
    for name in ("weather", "population"):
        choice: Any = {"type": "function", "function": {"name": name}}
        answer = client.chat.completions.create(model=model, messages=messages, tools=TOOLS, tool_choice=choice, seed=3)
        message = answer.choices[0].message
        messages.append(message.model_dump(exclude_none=True))
        (call,) = message.tool_calls or ()
        assert call.type == "function" and call.function.name == name
        given = json.loads(call.function.arguments)
        assert isinstance(given["city"], str) and isinstance(given.get("year", 0), int)
        messages.append(
            {"role": "tool", "tool_call_id": call.id, "content": '{"weather": "rain", "population": 2100000}'}
        )
    answer = client.chat.completions.create(model=model, messages=messages, tools=TOOLS, tool_choice="none", seed=3)
    assert answer.choices[0].message.content and not answer.choices[0].message.tool_calls


def tool_of(name: str) -> Any:
    def called(city: str) -> str:
        return "rain" if name == "weather" else "2100000"

    called.__name__, called.__doc__ = name, f"The {name} of a city."
    return called


@pytest.mark.parametrize("model", ["M:plain", POWER])
def test_langchains_client(client: OpenAI, model: str) -> None:
    chat = chat_openai(str(client.base_url), model=model, temperature=0.3, seed=1, timeout=600)
    assert "Paris" in chat.invoke(USER["content"]).text
    assert "Paris" in merged(list(chat.stream(USER["content"]))).text  # type: ignore[arg-type]
    messages: list[Any] = [HumanMessage("Weather and population of Paris, please.")]
    tools = {name: tool_of(name) for name in ("weather", "population")}
    for name in tools:
        answer: Any = chat.bind_tools([*tools.values()], tool_choice=name).invoke(messages)
        (call,) = answer.tool_calls
        messages += [answer, ToolMessage(tools[call["name"]](**call["args"]), tool_call_id=call["id"])]
    assert chat.invoke(messages).text
    city: Any = chat.with_structured_output(City, method="json_schema").invoke("Describe Paris as JSON.")
    assert isinstance(city, City)


@pytest.mark.parametrize("model", ["M:plain", POWER])
def test_llamaindex_client(client: OpenAI, model: str) -> None:
    llm = openai_like(str(client.base_url), model=model, temperature=0.3, timeout=600)
    message = ChatMessage(role="user", content=USER["content"])
    assert "Paris" in str(llm.chat([message]).message.content)
    *_, last = llm.stream_chat([message])
    assert "Paris" in str(last.message.content)
    tools = [FunctionTool.from_defaults(tool_of(name)) for name in ("weather", "population")]
    for tool in tools:
        found = llm.predict_and_call([tool], "Weather and population of Paris, please.")
        assert str(found) in ("rain", "2100000")


class City(BaseModel):
    name: str
    is_capital: bool
    population: int


@pytest.mark.parametrize("model", ["M:plain", POWER])
def test_structured_output(client: OpenAI, model: str) -> None:
    question: Any = {"role": "user", "content": "Describe Paris as JSON with name, is_capital and population."}
    parsed = client.chat.completions.parse(model=model, messages=[question], response_format=City, seed=1)
    city = parsed.choices[0].message.parsed
    assert city is not None and "Paris" in city.name


def test_several_answers_and_their_log_probabilities(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=POWER, messages=[USER], n=3, seed=5, logprobs=True, top_logprobs=2, max_tokens=12
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    for choice in answer.choices:
        facts: Any = choice.model_extra
        assert choice.logprobs is not None and choice.logprobs.content is not None
        drawn = choice.logprobs.content
        assert sum(t.logprob for t in drawn) == pytest.approx(facts["power_sampling"]["logp"], abs=1e-3)
        assert all(len(t.top_logprobs) == 2 for t in drawn)
    again = client.chat.completions.create(model=POWER, messages=[USER], n=1, seed=6, max_tokens=12)
    assert again.choices[0].message.content == answer.choices[1].message.content


def test_errors(client: OpenAI) -> None:
    with pytest.raises(NotFoundError, match="There is no model"):
        client.chat.completions.create(model="nobody", messages=[USER])
    with pytest.raises(BadRequestError) as caught:
        client.chat.completions.create(model="M", messages=[{"role": "user", "content": "long " * 50_000}])
    assert caught.value.code == "context_length_exceeded"


def test_a_client_that_goes_away(client: OpenAI, sampler: PowerSampler) -> None:
    asked: Any = {"messages": [USER], "extra_body": {"sampler": {"name": "mh", "num_steps": 1000}}}
    with client.chat.completions.create(model="M", stream=True, n=2, **asked) as stream:
        next(iter(stream))
        assert not is_idle(sampler)
    until(lambda: is_idle(sampler))
