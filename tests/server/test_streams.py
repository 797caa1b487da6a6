"""Streams through OpenAI's own client and as raw events: deltas, usage, comments, errors, clients that go away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from itertools import count
from typing import Any

import httpx
import pytest
from openai import APIError, OpenAI

from power_sampling import EngineError, PowerSampler
from power_sampling.server import Limits, app
from power_sampling.server.asked import Served, asked_chat
from power_sampling.server.faults import Fault
from power_sampling.server.streams import Gone, Mailbox, followed, write_stream
from power_sampling.server.turns import Turns
from power_sampling.server.wire import ChatRequest
from power_sampling.types import Chunk, Progress
from tests.support.llamaindex import broken, call
from tests.support.scripted import ANSWER, tools_in
from tests.support.server import endless, is_idle, listening, spoken, until

USER: Any = {"role": "user", "content": "Hello?"}
LOOK: Any = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
THOUGHT = "<think>\nHm, hm.\n</think>\n\n"


def rule(prompt: str) -> list[str]:
    if tools_in(prompt):
        return [f"{THOUGHT}I look.\n" + call("look") + call("look"), call("look")]
    return [THOUGHT + ANSWER]


@pytest.fixture(scope="module")
def sampler() -> PowerSampler:
    return spoken(rule)


@pytest.fixture(scope="module")
def url(sampler: PowerSampler) -> Iterator[str]:
    with listening(app(sampler, name="M")) as url:
        yield url


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[OpenAI]:
    with OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def merged(chunks: Any) -> dict[int, dict[str, Any]]:
    """What a client makes of the deltas, by choice."""
    found: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            whole = found.setdefault(choice.index, {"content": "", "reasoning": "", "calls": {}, "ends": []})
            delta = choice.delta.model_dump()
            whole["content"] += delta.get("content") or ""
            whole["reasoning"] += delta.get("reasoning_content") or ""
            for piece in delta.get("tool_calls") or ():
                asked = whole["calls"].setdefault(piece["index"], {"id": piece["id"], "name": "", "arguments": ""})
                asked["name"] += piece["function"]["name"] or ""
                asked["arguments"] += piece["function"]["arguments"] or ""
            whole["ends"] += [choice.finish_reason] if choice.finish_reason else []
            if choice.logprobs is not None:
                whole["logprobs"] = [t.logprob for t in choice.logprobs.content]
            whole |= choice.model_extra or {}
    return found


@pytest.mark.parametrize("model", ["M", "M:mh@num_steps=2", "M:smc@num_particles=3"])
def test_a_stream_joins_to_the_answer(client: OpenAI, model: str) -> None:
    asked: Any = {"model": model, "messages": [USER], "seed": 5, "n": 2, "logprobs": True}
    whole = client.chat.completions.create(**asked)
    found = merged(client.chat.completions.create(**asked, stream=True))
    assert found.keys() == {0, 1}
    for choice in whole.choices:
        stream = found[choice.index]
        assert stream["content"] == choice.message.content == ANSWER
        assert stream["reasoning"] == choice.message.model_extra["reasoning_content"] == "Hm, hm."  # type: ignore[index]
        assert stream["ends"] == [choice.finish_reason]
        assert stream["logprobs"] == [t.logprob for t in choice.logprobs.content]  # type: ignore[union-attr]
        ours, theirs = stream["power_sampling"], choice.model_extra["power_sampling"]  # type: ignore[index]
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


def test_plain_sampling_is_read_while_it_is_drawn() -> None:
    slow, steps, may_go_on = spoken(lambda _: [ANSWER]), count(), threading.Event()
    engine: Any = slow._model.load().engine
    step = engine.step

    def held() -> Any:
        assert next(steps) < 10 or may_go_on.wait(20), "the beginning is read before the end is drawn"
        return step()

    engine.step = held
    with listening(app(slow, name="M")) as url, OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        text = ""
        for number, chunk in enumerate(client.chat.completions.create(model="M", messages=[USER], stream=True)):
            assert (chunk.choices[0].delta.role == "assistant") == (number == 0)
            text += chunk.choices[0].delta.content or ""
            if text:
                may_go_on.set()
        assert text == ANSWER


def test_tools_and_reasoning_have_deltas_of_their_own(client: OpenAI) -> None:
    (found,) = merged(client.chat.completions.create(model="M", messages=[USER], tools=[LOOK], stream=True)).values()
    assert (found["reasoning"], found["content"], found["ends"]) == ("Hm, hm.", "I look.", ["tool_calls"])
    assert [(c["name"], c["arguments"]) for c in found["calls"].values()] == [("look", "{}")] * 2
    assert len({c["id"] for c in found["calls"].values()}) == 2


def test_usage_comes_last_where_it_is_asked_for(client: OpenAI) -> None:
    asked: Any = {"model": "M", "messages": [USER], "stream": True, "n": 2}
    assert all(chunk.choices and chunk.usage is None for chunk in client.chat.completions.create(**asked))
    *others, last = client.chat.completions.create(**asked, stream_options={"include_usage": True})
    assert all(chunk.choices and chunk.usage is None for chunk in others) and not last.choices
    whole = client.chat.completions.create(model="M", messages=[USER], n=2)
    assert last.usage == whole.usage


def test_texts_stream_too(client: OpenAI) -> None:
    asked: Any = {"model": "M", "prompt": ["ab", "cd"], "max_tokens": 9, "seed": 1, "n": 2, "echo": True}
    whole, texts = client.completions.create(**asked), ["", "", "", ""]
    for chunk in client.completions.create(**asked, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices] and texts[3].startswith("cd")


def test_what_was_streamed_is_counted() -> None:
    with listening(app(spoken(rule), name="M")) as url:
        for number in range(1, 4):
            assert lines(url, n=2)[-1] == "data: [DONE]"
            until(lambda n=number: f'status="200"}} {n}.0' in httpx.get(f"{url}/metrics").text)  # type: ignore[misc]
        text = httpx.get(f"{url}/metrics").text
        tokens = 3 * 2 * (len(THOUGHT + ANSWER) + 1)
        assert f'power_sampling_tokens_total{{kind="completion",sampler="ancestral"}} {float(tokens)}' in text
        assert 'status="499"' not in text


def lines(url: str, **fields: Any) -> list[str]:
    body = {"model": "M", "messages": [USER], "stream": True, **fields}
    with httpx.stream("POST", f"{url}/v1/chat/completions", json=body) as answer:
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        return [line for line in answer.iter_lines() if line]


def test_progress_comes_as_comments(url: str) -> None:
    found = lines(url, model="M:mh@num_steps=8")
    told = [json.loads(line.removeprefix(": progress ")) for line in found if line.startswith(": progress ")]
    assert told and all(one["choice"] == 0 and 0 <= one["done"] <= one["total"] for one in told)
    assert {line.partition(":")[0] for line in found} == {"", "data"} and found[-1] == "data: [DONE]"


def test_a_refusal_has_a_status_of_its_own(client: OpenAI, sampler: PowerSampler) -> None:
    with pytest.raises(APIError, match="must be a JSON schema of type object") as caught:
        tool: Any = {"type": "function", "function": {"name": "f", "parameters": {"type": "array"}}}
        client.chat.completions.create(model="M", messages=[USER], tools=[tool], stream=True)
    assert caught.value.code == "invalid_input"


# ------------------------------------------------------------ what goes wrong


def test_an_error_on_the_way_is_the_last_event() -> None:
    slow = endless()
    with listening(app(slow, name="M")) as url, OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        stream = client.chat.completions.create(model="M", messages=[USER], stream=True)
        next(stream)
        with broken(slow._model.load().engine), pytest.raises(APIError, match="its log says why"):
            list(stream)
        assert client.chat.completions.create(model="M:plain", messages=[USER]).choices[0].finish_reason


@pytest.mark.parametrize("is_stream", [True, False])
def test_a_client_that_goes_away_stops_its_work(is_stream: bool) -> None:
    slow = endless()
    with listening(app(slow, name="M")) as url, httpx.Client(base_url=url, timeout=30) as http:
        body = {"model": "M", "messages": [USER], "stream": is_stream, "n": 4}
        asked: Any = {"json": body, "timeout": 30 if is_stream else 1}
        with contextlib.suppress(httpx.ReadTimeout), http.stream("POST", "/v1/chat/completions", **asked) as answer:
            pieces = answer.iter_bytes()  # the response is closed with it
            next(pieces)
            until(lambda: len(slow._model.load().worker._live) == 4)
            assert is_stream
        until(lambda: is_idle(slow))
        until(lambda: 'status="499"} 1.0' in http.get("/metrics").text)
        assert "power_sampling_completions_running 0.0" in http.get("/metrics").text


# ------------------------------------------------------------ slow readers and silence


async def test_pieces_that_wait_are_joined() -> None:
    box = Mailbox(Turns())
    for i in range(1000):
        box.put(0, Chunk(str(i % 10), None, Progress(i, 1000, {}), str(i % 10), "r"))
    box.put(1, Chunk("x"))
    box.fail(EngineError("broken"))
    pieces = await box.take()
    assert pieces[0] == Chunk("0123456789" * 100, None, Progress(999, 1000, {}), "0123456789" * 100, "r" * 1000)
    assert pieces[1].text == "x"
    for _ in range(2):
        with pytest.raises(Fault):
            await box.take()
    assert await Mailbox(Turns()).take(0.001) == {}


def of_chat(sampler: PowerSampler, limits: Limits) -> Any:
    request = ChatRequest.model_validate({"model": "M", "messages": [USER], "stream": True})
    return asked_chat(request, Served(sampler, "M", limits))


async def test_silence_is_broken_by_comments() -> None:
    limits, sent, asked = Limits(keep_alive_seconds=0.02), list[bytes](), of_chat(spoken(rule), Limits())
    box, last = Mailbox(Turns()), [piece async for piece in asked.sampler.astream(asked.prompts[0])][-1]

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))
        if b"".join(sent).count(b": keep-alive\n\n") == 2:
            box.put(0, last)

    box.put(0, Chunk("", None, Progress(0, 9, {})))
    await write_stream(asked, box, send, limits)
    assert b"".join(sent).count(b": keep-alive\n\n") == 2 and sent[-1].endswith(b"data: [DONE]\n\n")


async def test_who_does_not_read_is_given_up_and_holds_nobody_up() -> None:
    slow = endless()
    asked, limits = of_chat(slow, Limits()), Limits(send_seconds=0.05)

    async def send(message: Any) -> None:
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    with pytest.raises(Gone):
        async with followed(asked, Turns()) as box:
            await box.take()  # it is under way
            assert (await slow.with_settings(sampler="ancestral").achat([USER])).finish_reason, "others are answered"
            assert not is_idle(slow)
            await write_stream(asked, box, send, limits)
    until(lambda: is_idle(slow))
