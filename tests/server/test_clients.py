"""The clients that LangChain and LlamaIndex have for the OpenAI protocol, pointed at the server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.tools import FunctionTool

from power_sampling.server import app
from tests.support.chat import Verdict, look, merged, switch
from tests.support.clients import chat_openai, openai_like
from tests.support.llamaindex import call
from tests.support.scripted import ANSWER
from tests.support.server import listening, spoken


def rule(prompt: str) -> list[str]:
    """Calls the tools on offer one after the other, then answers."""
    names = re.findall(r'"function": {"name": "(\w+)"', prompt)
    tools = [call(name, **({"on": True} if name == "switch" else {})) for name in names]
    return [*tools[prompt.count("<tool_response>") :], ANSWER, '{"good": true, "marks": 3}']


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with listening(app(spoken(rule), name="M", api_keys=["key"])) as url:
        yield f"{url}/v1"


# ------------------------------------------------------------ LangChain


def test_langchain_chat_and_stream(url: str) -> None:
    model = chat_openai(url, temperature=1, max_tokens=50, seed=1, extra_body={"sampler": "smc"})
    answer = model.invoke("Hello?")
    assert answer.text == ANSWER and answer.response_metadata["finish_reason"] == "stop"
    assert isinstance(answer, AIMessage) and answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == len(ANSWER) + 1
    stream: Any = list(model.stream("Hello?", stream_usage=True))
    whole = merged(stream)
    assert whole.text == ANSWER and whole.usage_metadata == answer.usage_metadata
    logprobs = chat_openai(url, logprobs=True).invoke("Hello?").response_metadata["logprobs"]["content"]
    assert [t["token"] for t in logprobs[:5]] == list("Hello")
    assert len(chat_openai(url, n=3).generate([[HumanMessage("Hello?")]]).generations[0]) == 3


async def test_langchain_async(url: str) -> None:
    model = chat_openai(url, model="M:mh@num_steps=2")
    assert [m.text for m in await model.abatch(["Hello?"] * 3)] == [ANSWER] * 3
    assert "".join([str(chunk.text) async for chunk in model.astream("Hello?")]) == ANSWER


@pytest.mark.parametrize("is_stream", [False, True])
def test_langchain_tools_in_a_loop(url: str, is_stream: bool) -> None:
    model, tools = chat_openai(url).bind_tools([look, switch]), {"look": look, "switch": switch}
    messages: list[Any] = [HumanMessage("Light, please.")]
    asked = []
    while True:
        answer: Any = merged(list(model.stream(messages))) if is_stream else model.invoke(messages)  # type: ignore[arg-type]
        messages.append(answer)
        if not answer.tool_calls:
            break
        for wanted in answer.tool_calls:
            asked.append(wanted["name"])
            messages.append(ToolMessage(tools[wanted["name"]].invoke(wanted["args"]), tool_call_id=wanted["id"]))
    assert asked == ["look", "switch"] and answer.text == ANSWER


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchain_structured_output(url: str, method: Any) -> None:
    verdict = chat_openai(url).with_structured_output(Verdict, method=method).invoke("Good?")
    assert isinstance(verdict, Verdict) and 0 <= verdict.marks <= 9


# ------------------------------------------------------------ LlamaIndex


def test_llamaindex_chat_and_stream(url: str) -> None:
    llm = openai_like(url, model="M:mh@num_steps=2")
    message = ChatMessage(role="user", content="Hello?")
    assert llm.chat([message]).message.content == ANSWER and str(llm.complete("Hello?")) == ANSWER
    *_, last = llm.stream_chat([message])
    assert last.message.content == ANSWER
    text = openai_like(url, is_chat_model=False, is_function_calling_model=False, max_tokens=4)
    assert len(str(text.complete("ab"))) <= 4
    *_, piece = text.stream_complete("ab")
    assert piece.text == str(text.complete("ab"))


async def test_llamaindex_async(url: str) -> None:
    assert str(await openai_like(url).acomplete("Hello?")) == ANSWER


def test_llamaindex_tools(url: str) -> None:
    def turn(on: bool) -> str:
        """Turn the light."""
        return f"light {on}"

    tool = FunctionTool.from_defaults(turn, name="switch")
    llm = openai_like(url)
    answer = llm.chat_with_tools([tool], user_msg="Light, please.")
    (wanted,) = llm.get_tool_calls_from_response(answer)
    assert (wanted.tool_name, wanted.tool_kwargs) == ("switch", {"on": True})
    answer = llm.predict_and_call([tool], user_msg="Light, please.")
    assert str(answer) == "light True"


def test_llamaindex_structured_output(url: str) -> None:
    verdict = openai_like(url).as_structured_llm(Verdict).complete("Good?").raw
    assert isinstance(verdict, Verdict) and json.loads(verdict.model_dump_json())
