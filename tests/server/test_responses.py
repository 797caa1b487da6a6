"""POST /v1/responses through OpenAI's own client, on a scripted model behind the whole production path."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import httpx
import pytest
from openai import BadRequestError, OpenAI
from pydantic import BaseModel

from power_sampling import Chunk, PowerSampler, Reply
from power_sampling.server import Limits, app
from power_sampling.server.responses.asked import NEUTRAL as REFUSED_ELSE
from power_sampling.server.responses.form import ResponseForm
from power_sampling.server.responses.wire import ResponseRequest
from tests.support.llamaindex import broken, call, turns
from tests.support.scripted import ANSWER, tools_in
from tests.support.server import endless, is_idle, listening, spoken, until

THOUGHT = "<think>\nHm, hm.\n</think>\n\n"
WEATHER: Any = {
    "type": "function",
    "name": "weather",
    "description": "The weather at a place.",
    "parameters": {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
    "strict": False,
}
PLAN = [call("weather", place="Oslo"), call("weather", place="Rome"), "Oslo is colder."]


def rule(prompt: str) -> list[str]:
    said = prompt.split("<|end|>")[-2]
    if "think" in said:
        return [THOUGHT + ("I look." + call("weather", place="Oslo") if tools_in(prompt) else "Yes.")]
    if tools_in(prompt):
        return [PLAN[prompt.count("<tool_response>")], *PLAN]
    return [ANSWER, '{"city": "Oslo"}', "yes"]


@pytest.fixture(scope="module")
def sampler() -> PowerSampler:
    return spoken(rule)


@pytest.fixture(scope="module")
def client(sampler: PowerSampler) -> Iterator[OpenAI]:
    limits = Limits(max_tokens=500)
    with (
        listening(app(sampler, name="M", limits=limits)) as url,
        OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client,
    ):
        yield client


def heard(sampler: PowerSampler) -> list[str]:
    engine: Any = sampler._model.load().engine
    return turns(engine.prompts[-1])


def posted(client: OpenAI, **fields: Any) -> httpx.Response:
    return httpx.post(f"{client.base_url}responses", json={"model": "M", "input": "Hello?", **fields}, timeout=30)


def test_a_text_in_the_protocols_form(client: OpenAI, sampler: PowerSampler) -> None:
    told: Any = {"metadata": {"run": "1"}, "instructions": "Be kind.", "max_output_tokens": 90, "temperature": 0.5}
    answer = client.responses.create(model="M:mh@num_steps=2", input="Hello?", **told, extra_body={"seed": 7})
    assert (answer.object, answer.status, answer.output_text, answer.error) == ("response", "completed", ANSWER, None)
    (message,) = answer.output
    assert message.type == "message" and (message.role, message.status) == ("assistant", "completed")
    assert {name: getattr(answer, name) for name in told} == told
    assert answer.id.startswith("resp_") and message.id.startswith("msg_") and answer.previous_response_id is None
    assert answer.usage is not None and answer.usage.total_tokens == answer.usage.input_tokens + len(ANSWER) + 1
    assert answer.usage.output_tokens_details.reasoning_tokens == 0
    found: Any = answer.model_extra
    assert (found["power_sampling"]["sampler"], found["power_sampling"]["seed"]) == ("metropolis_hastings", 7)
    assert heard(sampler)[:2] == ["<|system|>Be kind.", "<|user|>Hello?"]


def test_an_answer_that_is_cut_is_incomplete(client: OpenAI) -> None:
    answer = client.responses.create(model="M", input="Hello?", max_output_tokens=5)
    assert (answer.status, answer.output_text) == ("incomplete", ANSWER[:5])
    assert answer.incomplete_details is not None and answer.incomplete_details.reason == "max_output_tokens"
    assert answer.output[0].status == "incomplete"  # type: ignore[union-attr]
    *_, last = client.responses.create(model="M", input="Hello?", max_output_tokens=5, stream=True)
    assert last.type == "response.incomplete" and last.response.output_text == ANSWER[:5]


@pytest.mark.parametrize("model", ["M", "M:smc@num_particles=3"])
def test_a_stream_is_the_answer_event_by_event(client: OpenAI, model: str) -> None:
    asked: Any = {"model": model, "input": "think", "tools": [WEATHER], "extra_body": {"seed": 3}}
    whole = client.responses.create(**asked)
    assert [item.type for item in whole.output] == ["reasoning", "message", "function_call"]
    events = list(client.responses.create(**asked, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"] and kinds[-1] == "response.completed"
    assert [kind for kind in dict.fromkeys(kinds[2:-1]) if "delta" not in kind] == [
        "response.output_item.added",
        "response.content_part.added",
        "response.reasoning_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_text.done",
        "response.function_call_arguments.done",
    ]
    text: dict[tuple[str, int], str] = {}
    done: dict[int, Any] = {}
    for event in events:
        if event.type.endswith(".delta"):
            place = event.type.split(".")[1], event.output_index  # type: ignore[union-attr]
            text[place] = text.get(place, "") + event.delta  # type: ignore[union-attr]
        if event.type == "response.output_item.done":
            done[event.output_index] = event.item
    last: Any = events[-1].response  # type: ignore[union-attr]
    assert [done[i] for i in range(3)] == last.output
    assert list(text.values()) == ["Hm, hm.", "I look.", '{"place": "Oslo"}']
    assert [comparable(item) for item in last.output] == [comparable(item) for item in whole.output]
    assert last.usage == whole.usage and last.output_text == whole.output_text == "I look."
    assert last.usage.output_tokens_details.reasoning_tokens >= len("Hm, hm.")


def test_a_model_that_thinks_again_has_one_item_of_each(sampler: PowerSampler) -> None:
    done = sampler.chat([{"role": "user", "content": "Hello?"}], seed=1)
    done = replace(done, reply=Reply(content="b\n\nd", reasoning="a\n\nc"))
    asked = cast("Any", SimpleNamespace(response={}, model="M", wants_logprobs=False))
    streamed, whole = ResponseForm(asked), ResponseForm(asked)
    pieces = [("a", ""), ("", "b"), ("\n\nc", ""), ("", "\n\nd")]
    events = [event for thought, said in pieces for event in streamed.pieces(0, Chunk("", None, None, said, thought))]
    events += [*streamed.pieces(0, Chunk("", done)), *streamed.closing([done])]
    items = events[-1]["response"]["output"]
    assert [{**item, "id": None} for item in items] == [{**item, "id": None} for item in whole.answer([done])["output"]]
    assert [item["content"][0]["text"] for item in items] == ["a\n\nc", "b\n\nd"]
    for at, item in enumerate(items):
        told = [event for event in events if event.get("output_index") == at]
        assert "".join(event.get("delta", "") for event in told) == item["content"][0]["text"]
        assert told[-1]["item"] == item


def comparable(item: Any) -> dict[str, Any]:
    return {**item.model_dump(), "id": None}


def test_the_clients_own_accumulation_agrees(client: OpenAI) -> None:
    with client.responses.stream(model="M", input="think", tools=[WEATHER]) as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert text == final.output_text == "I look." and final.output[2].arguments == '{"place": "Oslo"}'  # type: ignore[union-attr]


def test_tools_in_a_loop_of_two_calls(client: OpenAI, sampler: PowerSampler) -> None:
    items: list[Any] = [{"role": "user", "content": "Where is it colder?"}]
    for place in ("Oslo", "Rome"):
        answer = client.responses.create(model="M", input=items, tools=[WEATHER])
        (asked,) = answer.output
        assert asked.type == "function_call" and json.loads(asked.arguments) == {"place": place}
        result = {"type": "function_call_output", "call_id": asked.call_id, "output": f"{place}: 3"}
        items += [asked, result]
    assert client.responses.create(model="M", input=items, tools=[WEATHER]).output_text == "Oslo is colder."
    said = "".join(heard(sampler))
    assert said.index('"place": "Oslo"') < said.index("Oslo: 3") < said.index('"place": "Rome"') < said.index("Rome: 3")


def test_items_of_one_turn_are_one_message(client: OpenAI, sampler: PowerSampler) -> None:
    first = client.responses.create(model="M", input="think", tools=[WEATHER])
    outputs: list[Any] = [{"type": "function_call_output", "call_id": first.output[2].call_id, "output": "3"}]  # type: ignore[union-attr]
    client.responses.create(model="M", input=[{"role": "user", "content": "think"}, *first.output, *outputs])  # type: ignore[list-item]
    roles = [turn.split("|>")[0] for turn in heard(sampler)]
    assert roles == ["<|user", "<|assistant", "<|user"]
    assert "I look." in heard(sampler)[1] and '"place": "Oslo"' in heard(sampler)[1]
    several: Any = [
        {
            "role": "developer",
            "content": [{"type": "input_text", "text": "Be "}, {"type": "input_text", "text": "kind."}],
        },
        {"role": "user", "content": "a"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "b", "annotations": []}]},
        {"role": "user", "content": "c"},
    ]
    client.responses.create(model="M", input=several)
    assert heard(sampler)[:4] == ["<|system|>Be kind.", "<|user|>a", "<|assistant|>b", "<|user|>c"]


def test_tool_choices_and_formats_are_decoded_under_their_schemas(client: OpenAI) -> None:
    named: Any = {"type": "function", "name": "weather"}
    for choice in ("required", named):
        answer = client.responses.create(model="M", input="Hello?", tools=[WEATHER], tool_choice=choice)
        assert [item.type for item in answer.output] == ["function_call"]
        assert answer.tool_choice == choice or answer.tool_choice.model_dump() == named  # type: ignore[union-attr]
    none = client.responses.create(model="M", input="Hello?", tools=[WEATHER], tool_choice="none")
    assert [item.type for item in none.output] == ["message"]

    class City(BaseModel):
        city: str

    assert client.responses.parse(model="M", input="Hello?", text_format=City).output_parsed == City(city="Oslo")
    answer = client.responses.create(model="M", input="Hello?", text={"format": {"type": "json_object"}})
    assert isinstance(json.loads(answer.output_text), dict)
    assert client.responses.create(model="M", input="Hello?", extra_body={"choices": ["yes"]}).output_text == "yes"


def test_log_probabilities_come_with_the_text(client: OpenAI) -> None:
    asked: Any = {"model": "M", "input": "Hello?", "include": ["message.output_text.logprobs"]}
    answer = client.responses.create(**asked)
    found: Any = answer.output[0].content[0]  # type: ignore[union-attr,index]
    assert sum(t.logprob for t in found.logprobs) == pytest.approx(answer.model_extra["power_sampling"]["logp"])  # type: ignore[index]
    (done,) = [e for e in client.responses.create(**asked, stream=True) if e.type == "response.output_text.done"]
    assert [t.logprob for t in done.logprobs] == [t.logprob for t in found.logprobs]
    ranked = client.responses.create(**asked, top_logprobs=2).output[0].content[0].logprobs[0]  # type: ignore[union-attr,index]
    assert ranked.top_logprobs[0].token == ranked.token and len(ranked.top_logprobs) <= 2
    plain = client.responses.create(model="M", input="Hello?")
    assert plain.output[0].content[0].logprobs == []  # type: ignore[union-attr,index]


ACCEPTED: dict[str, Any] = {
    "store": False,
    "background": False,
    "truncation": "disabled",
    "service_tier": "auto",
    "top_p": 1.0,
    "top_logprobs": 0,
    "top_k": 500,
    "min_p": 0,
    "bad_words": [],
    "parallel_tool_calls": True,
    "prompt_cache_key": "k",
    "prompt_cache_retention": "in_memory",
    "safety_identifier": "x",
    "user": "ann",
    "metadata": {"a": "b"},
    "include": [],
    "reasoning": {"effort": None, "summary": None},
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tools": [],
    "tool_choice": "none",
    "stream": False,
    "instructions": "Be kind.",
    "max_output_tokens": 90,
    "temperature": 0.7,
    "alpha": 2,
    "sampler": {"name": "mh", "num_steps": 1},
    "time_budget": 20,
    "timeout": 25,
    "stop": ["x"],
    "seed": 3,
}
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"store": True}, "store", "nothing is stored"),
    ({"background": True}, "background", "wait for it"),
    ({"previous_response_id": "resp_1"}, "previous_response_id", "items of the conversation"),
    ({"conversation": "conv_1"}, "conversation", "items of the conversation"),
    ({"prompt": {"id": "p"}}, "prompt", "send its text"),
    ({"max_tool_calls": 3}, "max_tool_calls", "end the loop"),
    ({"truncation": "auto"}, "truncation", "shorten"),
    ({"prompt_cache_retention": "24h"}, "prompt_cache_retention", "leave it out"),
    ({"include": ["reasoning.encrypted_content"]}, "include", "logprobs"),
    ({"reasoning": {"summary": "auto"}}, "reasoning.summary", "in full"),
    ({"stream_options": {"include_obfuscation": False}}, "stream_options", "stream: true"),
    ({"stream_options": {"include_obfuscation": True}, "stream": True}, "stream_options.include_obfuscation", "padded"),
    ({"trace": True}, "trace", "stream: true"),
    ({"top_logprobs": 3}, "top_logprobs", "output_text.logprobs"),
    ({"top_logprobs": 21}, "top_logprobs", "less than or equal to 20"),
    ({"top_p": 1.5}, "top_p", "less than or equal to 1"),
    ({"max_output_tokens": 501}, "max_output_tokens", "at most 500"),
    ({"text": {"verbosity": "high"}}, "text.verbosity", "in the prompt"),
    ({"tools": [{"type": "web_search"}]}, "tools.0.type", "function"),
    ({"tool_choice": "maybe"}, "tool_choice", "required"),
    ({"input": []}, "input", "at least one"),
    ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0", "nothing is stored"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        "input.0.content.0",
        "text",
    ),
    ({"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]}, "input.0.encrypted_content", "null"),
    ({"chat_template_kwargs": {"mood": 1}}, "chat_template_kwargs.mood", "does not read it"),
    ({"messages": []}, "messages", "no such field"),
    ({"temprature": 1}, "temprature", "temperature"),
    ({"model": "N"}, "model", "no model"),
]


def test_fields_at_values_that_mean_nothing_are_accepted(client: OpenAI) -> None:
    answer = posted(client, **ACCEPTED)
    assert answer.status_code == 200, answer.text
    assert answer.json()["output"][0]["content"][0]["text"] == ANSWER


@pytest.mark.parametrize(("fields", "param", "says"), REFUSED, ids=lambda x: str(x)[:40])
def test_what_cannot_be_honoured_is_refused(client: OpenAI, fields: dict[str, Any], param: str, says: str) -> None:
    answer = posted(client, **fields)
    assert answer.status_code == (404 if param == "model" else 400), answer.text
    error = answer.json()["error"]
    assert error["param"] == param and says in error["message"], error


def test_no_field_is_without_a_test() -> None:
    tested = ACCEPTED.keys() | {name for fields, *_ in REFUSED for name in fields}
    assert ResponseRequest.model_fields.keys() <= tested | {"input", "model", "choices", "regex", "grammar"}
    assert REFUSED_ELSE.keys() <= {param for _, param, _ in REFUSED}


def test_faults_before_and_within_a_stream(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="nothing is stored"):
        client.responses.create(model="M", input="Hello?", previous_response_id="resp_1")
    slow = endless()
    with listening(app(slow, name="M")) as url, OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as other:
        stream = other.responses.create(model="M", input="1", stream=True)
        assert next(stream).type == "response.created"
        with broken(slow._model.load().engine):
            *_, last = stream
        assert last.type == "error" and last.code == "internal_error" and "its log says why" in last.message


def test_a_client_that_goes_away_ends_its_request() -> None:
    busy = endless()
    with listening(app(busy, name="M")) as url:
        body = {"model": "M", "input": "1", "stream": True}
        with httpx.stream("POST", f"{url}/v1/responses", json=body, timeout=30) as answer:
            for line in answer.iter_lines():
                if line.startswith("event: response.in_progress"):
                    break
        until(lambda: is_idle(busy))


def test_a_trace_comes_in_comments(client: OpenAI) -> None:
    body = {"stream": True, "trace": True, "sampler": {"name": "mh", "num_steps": 1}}
    lines = posted(client, **body).text.split("\n")
    told = [json.loads(line.removeprefix(": trace ")) for line in lines if line.startswith(": trace ")]
    assert {one["frame"]["kind"] for one in told} == {"extended", "moved"}
