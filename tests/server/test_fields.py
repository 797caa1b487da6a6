"""Every field of the protocol is honoured or refused, in OpenAI's error shape and with a hint; none is ignored."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from power_sampling import PowerSampler
from power_sampling.server import Limits, app
from power_sampling.server.wire import ChatRequest, CompletionRequest
from tests.support.scripted import ANSWER
from tests.support.server import listening, spoken

LIMITS = Limits(max_n=4, max_tokens=500, max_effort=64, max_seconds=30)


@pytest.fixture(scope="module")
def sampler() -> PowerSampler:
    return spoken(lambda _: [ANSWER])


@pytest.fixture(scope="module")
def client(sampler: PowerSampler) -> Iterator[httpx.Client]:
    with listening(app(sampler, name="M", limits=LIMITS)) as url, httpx.Client(base_url=url) as client:
        yield client


def chat(client: httpx.Client, **fields: Any) -> httpx.Response:
    body = {"model": "M", "messages": [{"role": "user", "content": "Hello?"}], **fields}
    return client.post("/v1/chat/completions", json=body)


def completion(client: httpx.Client, **fields: Any) -> httpx.Response:
    return client.post("/v1/completions", json={"model": "M", "prompt": "ab", "max_tokens": 3, **fields})


NEUTRAL: dict[str, Any] = {
    "top_p": 1.0,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "repetition_penalty": 1,
    "logit_bias": {},
    "top_logprobs": 0,
    "store": False,
    "service_tier": "auto",
    "modalities": ["text"],
    "verbosity": "medium",
    "user": "ann",
    "safety_identifier": "x",
    "prompt_cache_key": "k",
    "metadata": {"a": "b"},
    "n": 1,
    "parallel_tool_calls": True,
    "response_format": {"type": "text"},
    "tools": [],
    "tool_choice": "none",
    "stream": False,
    "logprobs": False,
    "stop": [],
    "temperature": 1,
}


def test_what_frameworks_send_without_meaning_it_is_accepted(client: httpx.Client) -> None:
    plain = chat(client, seed=1).json()["choices"][0]["message"]
    assert chat(client, seed=1, **NEUTRAL).json()["choices"][0]["message"] == plain
    nulls = dict.fromkeys(ChatRequest.model_fields.keys() - {"model", "messages"})
    assert chat(client, **nulls).status_code == 200
    nulls = dict.fromkeys(CompletionRequest.model_fields.keys() - {"model", "prompt"})
    assert completion(client, **nulls | {"best_of": 1, "suffix": "", "echo": False}).status_code == 200


REFUSED: list[tuple[dict[str, Any], str | None, str]] = [
    ({"sampler": {"name": "marginal", "parser": "os:system"}}, "sampler.parser", "a request can name exact, numeric"),
    ({"sampler": {"name": "marginal", "parser": ["regex:(a*)*"]}}, "sampler.parser", "a request can name exact"),
    ({"model": "M:marginal@parser=os:system"}, "sampler.parser", "a request can name exact"),
    ({"top_p": 1.5}, "top_p", "less than or equal to 1"),
    ({"frequency_penalty": 0.1}, "frequency_penalty", "power alpha"),
    ({"presence_penalty": -1}, "presence_penalty", "power alpha"),
    ({"repetition_penalty": 1.1}, "repetition_penalty", "power alpha"),
    ({"logit_bias": {"5": 101}}, None, "logit_bias.5: Input should be less than or equal to 100"),
    ({"logit_bias": {"x": 1}}, None, "logit_bias.x"),
    ({"logit_bias": {"99999": 1}}, None, "there is no token 99999"),
    ({"top_k": 0}, "top_k", "greater than or equal to 1"),
    ({"bad_words": [""]}, None, "bad_words.0"),
    ({"top_logprobs": 3}, "top_logprobs", "needs logprobs"),
    ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "less than or equal to 20"),
    ({"reasoning_effort": "high"}, "reasoning_effort", "template does not read it; leave it out."),
    ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs.enable_thinking", "leave it out"),
    ({"chat_template_kwargs": {"tools": []}}, None, "the conversation says it"),
    ({"chat_template_kwargs": []}, "chat_template_kwargs", "an object"),
    ({"store": True}, "store", "nothing is stored"),
    ({"service_tier": "flex"}, "service_tier", "one tier"),
    ({"modalities": ["text", "audio"]}, "modalities", "text"),
    ({"verbosity": "low"}, "verbosity", "prompt"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options.include_obfuscation", "padded"),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"max_tokens": "5"}, "max_tokens", "valid integer, got '5'"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, None, "give one"),
    ({"max_tokens": 501}, "max_tokens", "at most 500"),
    ({"n": 5}, "n", "at most 4"),
    ({"n": 0}, "n", "greater than or equal to 1"),
    ({"seed": -1}, "seed", "greater than or equal to 0"),
    ({"temperature": -0.1}, "temperature", "greater than or equal to 0"),
    ({"stop": ""}, None, "empty string"),
    ({"stop": 5}, "stop", "valid string"),
    ({"alpha": 0.5}, None, "alpha: Input should be greater than or equal to 1"),
    ({"alhpa": 2}, "alhpa", "Did you mean 'alpha'?"),
    ({"functions": []}, "functions", "no such field"),
    ({"sampler": "mhh"}, None, "no sampler 'mhh'"),
    ({"sampler": {"name": "mh", "num_step": 2}}, None, "Did you mean 'num_steps'?"),
    ({"sampler": {"name": "mh", "num_steps": 65}}, "sampler.num_steps", "at most 64"),
    ({"timeout": 31}, "timeout", "at most 30"),
    ({"time_budget": 0}, None, "greater than 0"),
    ({"regex": "a", "choices": ["b"]}, None, "one constraint"),
    ({"grammar": "start: ["}, None, "cannot be compiled"),
    ({"response_format": {"type": "xml"}}, "response_format", "json_schema"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "required"),
    ({"response_format": {"type": "json_object"}, "regex": "a"}, None, "one constraint"),
    ({"tools": [{"type": "web_search"}]}, "tools.0.type", "'function'"),
    ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools.0.function.name", "at least 1"),
    ({"tool_choice": "required"}, None, "there are no tools"),
    ({"messages": []}, "messages", "at least 1"),
    ({"messages": [{"role": "usr", "content": ""}]}, "messages.0", "'developer'"),
    ({"messages": [{"role": "user"}]}, "messages.0.content", "required"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id", "required"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "a text or a list of text parts"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages.0.content.0",
        "reads text only",
    ),
    ({"messages": [{"role": "user", "content": "x", "nmae": "y"}]}, "messages.0.nmae", "no such field"),
    ({"model": "N"}, "model", "This server has 'M'"),
    ({"model": "Mini"}, "model", "This server has 'M'"),
    ({"model": "M:mh", "sampler": "smc"}, None, "give one"),
    ({"model": "M@alpha=2", "alpha": 3}, None, "give one"),
    ({"model": "M:"}, None, "NAME:SAMPLER@OPTION=VALUE"),
    ({"model": "M:mh@"}, None, "NAME:SAMPLER@OPTION=VALUE"),
    ({"model": "M:mh@alpha"}, None, "OPTION=VALUE"),
    ({"model": "M:mh@num_steps=x"}, None, "num_steps"),
    ({"model": "M:mh@num_steps=100"}, "sampler.num_steps", "at most 64"),
    ({"trace": True}, "trace", "stream: true"),
    ({"model": "M@num_steps=4"}, None, "name it too"),
    ({"model": "M:mh@max_tokens=4"}, None, "max_tokens"),
    ({"model": "M@alhpa=2"}, None, "'alhpa' is nothing that a model's name can say. Did you mean 'alpha'?"),
    ({"model": "M:mh@alhpa=2"}, None, "'alhpa' is no option of mh. Did you mean 'alpha'?"),
    ({"model": "M:mh@num_stps=2"}, None, "Did you mean 'num_steps'?"),
]


@pytest.mark.parametrize(("fields", "param", "says"), REFUSED, ids=lambda x: str(x)[:50])
def test_what_cannot_be_honoured_is_refused(
    client: httpx.Client, fields: dict[str, Any], param: str | None, says: str
) -> None:
    answer = chat(client, **fields)
    assert answer.status_code == (404 if param == "model" else 400), answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert error["param"] == param and says in error["message"] and error["code"]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"logprobs": 21}, "logprobs"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "logprobs": 0}, "echo"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2]}, "prompt.0"),
        ({"prompt": ["a"] * 5}, "n"),
        ({"prompt": ""}, None),
        ({"messages": []}, "messages"),
        ({"tools": []}, "tools"),
    ],
    ids=str,
)
def test_what_a_text_completion_cannot_have_is_refused(
    client: httpx.Client, fields: dict[str, Any], param: str | None
) -> None:
    answer = completion(client, **fields)
    assert answer.status_code == 400 and answer.json()["error"]["param"] == param, answer.text


def test_no_field_is_without_a_test() -> None:
    """Fields that are honoured have tests of what they do, in test_chat.py."""
    honoured = {
        "messages",
        "prompt",
        "max_completion_tokens",
        "choices",
        "grammar",
        "regex",
        "echo",
        "best_of",
        "suffix",
    }
    honoured |= {"seed", "max_tokens", "timeout", "time_budget", "alpha", "sampler", "model", "stream_options"}
    honoured |= {"min_p"}
    tested = honoured | NEUTRAL.keys() | {name for fields, *_ in REFUSED for name in fields}
    assert ChatRequest.model_fields.keys() | CompletionRequest.model_fields.keys() <= tested


def test_the_documents_name_every_path_and_field(client: httpx.Client) -> None:
    document, page = client.get("/openapi.json").json(), client.get("/docs").text
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics"):
        assert path in document["paths"] and path in page
    schema = document["components"]["schemas"]["ChatRequest"]
    assert schema["properties"].keys() == ChatRequest.model_fields.keys()
    assert all(f"<code>{name}</code>" in page for name in ChatRequest.model_fields)
    assert not any(word in page for word in ("src=", "http://", "https://", "@import", "url(")), "nothing from outside"
