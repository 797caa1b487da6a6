"""ChatPowerSampling keeps LangChain's contract and the project's, on tiny random models through real LangChain."""

from __future__ import annotations

import asyncio
import json
import pickle
import re
import threading
import warnings
from contextlib import aclosing, closing
from typing import Any, cast

import pytest
from langchain.agents import create_agent
from langchain_core import exceptions
from langchain_core.language_models import BaseChatModel
from langchain_core.load import dumpd
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    RemoveMessage,
    SystemMessage,
    ToolMessage,
)
from langchain_core.rate_limiters import InMemoryRateLimiter
from langchain_core.runnables import ConfigurableField
from langgraph.graph import START, MessagesState, StateGraph

import power_sampling
from langchain_power_sampling import ChatPowerSampling
from langchain_power_sampling._messages import ChunkWriter, engine_messages, generation_of
from power_sampling import (
    ChatTemplateError,
    Chunk,
    Completion,
    ConfigurationError,
    Diagnostics,
    EngineError,
    InputError,
    InvalidToolCall,
    PowerSampler,
    PowerSamplingError,
    Progress,
    Reply,
    RequestTimeoutError,
    ToolCall,
    __version__,
)
from power_sampling.engines.torch.engine import TorchLM
from tests.support.chat import VERDICT_SCHEMA, Verdict, essence, look, merged
from tests.support.langchain import LONG, MODEL, POWER, SAMPLERS, TOKENIZER, Recorder, comes_to_rest, engine
from tests.support.tiny import gather, tiny_tokenizer


def completion(**fields: Any) -> Completion:
    """A completion whose tokens are its characters."""
    text = fields.get("text", "")
    diagnostics = Diagnostics(
        sampler="ancestral",
        alpha=1.0,
        exactness="exact",
        acceptance_rate=None,
        ess=None,
        log_z=None,
        is_budget_spent=False,
        tokens_decoded=len(text),
        tokens_prefilled=1,
        serial_steps=1,
        seconds=0.0,
    )
    whole: dict[str, Any] = {
        "text": text,
        "tokens": tuple(range(len(text))),
        "logp": -1.0,
        "token_logp": (),
        "token_text": (),
        "finish_reason": "stop",
        "stop": None,
        "prompt_tokens": 3,
        "seed": 0,
        "diagnostics": diagnostics,
    }
    return Completion(**{**whole, **fields})


def facts(completion: Completion) -> dict[str, Any]:
    return {"model_name": "m", "model_provider": "power_sampling", "finish_reason": completion.finish_reason}


# ------------------------------------------------------------ construction


def test_the_fields_every_chat_model_has_are_accepted(loads: list[str]) -> None:
    chat = ChatPowerSampling(
        model="tiny", temperature=0, max_tokens=100, timeout=60, stop=[], max_retries=2, api_key="test", streaming=True
    )
    assert (chat.max_new_tokens, chat.timeout, chat.stop, chat.max_retries) == (100, 60, (), 2)
    assert chat.api_key is not None
    assert chat.api_key.get_secret_value() == "test"
    assert "test" not in repr(chat) + str(dumpd(chat)) + str(chat._identifying_params)
    assert chat.metadata is not None
    assert chat.metadata["lc_versions"]["power-sampling"] == __version__
    assert loads == []


UNKNOWN = {  # all that ChatHuggingFace on a pipeline takes without effect, and its typos
    "typical_p": 0.5,
    "presence_penalty": 1.0,
    "frequency_penalty": 1.0,
    "pipeline_kwargs": {},
    "skip_prompt": True,
    "num_return_sequences": 2,
    "alhpa": 2.0,
    "tool_choise": "any",
    "batch_size": 4,
    "functions": [],
}


@pytest.mark.parametrize("name", UNKNOWN)
async def test_nothing_is_silently_ignored(chat: ChatPowerSampling, requests: list[Any], name: str) -> None:
    unknown = {name: UNKNOWN[name]}
    expected = pytest.raises(ConfigurationError, match=f"no argument '{name}'. (Did you mean|Known:|Not here:)")
    with expected:
        ChatPowerSampling(**unknown)
    with expected:
        chat.invoke("a", **unknown)
    with expected:
        await chat.ainvoke("a", **unknown)
    with expected:
        chat.bind(**unknown).batch(["a"])
    with expected:
        list(chat.stream("a", **unknown))
    with expected:
        chat.bind_tools([look], **unknown)
    with expected:
        create_agent(chat.bind(**unknown), tools=[]).invoke({"messages": [("human", "a")]})
    assert requests == []


def test_hints_name_the_nearest_argument(chat: ChatPowerSampling) -> None:
    for name, meant in {"alhpa": "alpha", "tool_choise": "tool_choice", "max_token": "max_tokens"}.items():
        with pytest.raises(ConfigurationError, match=f"Did you mean '{meant}'"):
            chat.invoke("a", **{name: 1})
    with pytest.raises(ConfigurationError, match="no argument magic"):
        chat.with_structured_output(Verdict, magic=True)


def test_what_the_anchor_ignores_has_an_effect(chat: ChatPowerSampling) -> None:
    usage = chat.invoke("a", max_tokens=2).usage_metadata
    assert usage is not None and (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (4, 2, 6)
    assert chat.invoke("a", seed=2).response_metadata["seed"] == 2
    assert len(chat.generate([[HumanMessage("a")]], n=3).generations[0]) == 3
    greedy = {chat.invoke("a", temperature=0, seed=seed).content for seed in range(4)}
    assert len(greedy) == 1
    assert "logprobs" in chat.invoke("a", logprobs=True).response_metadata


# ------------------------------------------------------------ invoke, stream, batch


@SAMPLERS
async def test_every_way_of_asking_gives_the_same_message(chat: ChatPowerSampling, sampler: Any) -> None:
    chat = ChatPowerSampling(model="tiny", sampler=sampler, max_new_tokens=6, seed=1)
    expected = [essence(chat.invoke("a")), essence(chat.invoke("bc"))]
    assert [essence(m) for m in chat.batch(["a", "bc"])] == expected
    assert [essence(m) for m in chat.batch(["a", "bc"], {"max_concurrency": 1})] == expected
    assert [essence(m) for m in await chat.abatch(["a", "bc"])] == expected
    assert essence(await chat.ainvoke("bc")) == expected[1]
    assert essence(merged(list(chat.stream("a")))) == expected[0]
    assert essence(merged([chunk async for chunk in chat.astream("bc")])) == expected[1]
    assert essence(chat.invoke("a", stream=True)) == expected[0]
    assert essence(chat.model_copy(update={"streaming": True}).invoke("a")) == expected[0]
    generated = chat.generate([[HumanMessage("a")], [HumanMessage("bc")]])
    assert [essence(g.message) for (g,) in cast("Any", generated.generations)] == expected


def test_the_completion_is_the_runtimes(chat: ChatPowerSampling) -> None:
    sampler = PowerSampler.from_model(MODEL, TOKENIZER, sampler=POWER, max_new_tokens=6, seed=1)
    messages = [SystemMessage("s"), HumanMessage("a"), AIMessage("b"), HumanMessage("c")]
    roles = ["system", "user", "assistant", "user"]
    asked = [{"role": role, "content": m.content} for role, m in zip(roles, messages, strict=True)]
    assert chat.invoke(messages).content == sampler.chat(asked).text


def test_concurrent_calls_are_decoded_together(loads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    chat = ChatPowerSampling(model="tiny", sampler="ancestral", max_new_tokens=32)
    before = engine(chat).cost
    gather(engine(chat), 6, monkeypatch)
    chat.batch(["a", "b", "c", "d", "e", "f"], {"max_concurrency": 6})
    assert engine(chat).cost.serial_steps - before.serial_steps <= 32


def test_parallel_nodes_of_a_graph_are_decoded_together(loads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    chat = ChatPowerSampling(model="tiny", sampler="ancestral", max_new_tokens=32)
    graph = StateGraph(MessagesState)
    for i in range(6):
        graph.add_node(f"node {i}", lambda state: {"messages": [chat.invoke(state["messages"][:1])]})
        graph.add_edge(START, f"node {i}")
    before = engine(chat).cost
    gather(engine(chat), 6, monkeypatch)
    result = graph.compile().invoke({"messages": [HumanMessage("a")]}, {"max_concurrency": 6})
    assert len(result["messages"]) == 7
    assert engine(chat).cost.serial_steps - before.serial_steps <= 32


async def test_an_abatch_is_decoded_together(loads: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    chat = ChatPowerSampling(model="tiny", sampler="ancestral", max_new_tokens=32)
    before = engine(chat).cost
    gather(engine(chat), 6, monkeypatch)
    await chat.abatch(["a", "b", "c", "d", "e", "f"])
    assert engine(chat).cost.serial_steps - before.serial_steps <= 32


@SAMPLERS
def test_metadata(chat: ChatPowerSampling, sampler: Any) -> None:
    message = chat.invoke("a", sampler=sampler, logprobs=True)
    about = message.response_metadata
    assert json.loads(json.dumps(about)) == about
    assert (about["model_name"], about["model_provider"], about["seed"]) == ("tiny", "power_sampling", 1)
    assert about["model_provider"] == chat._get_ls_params()["ls_provider"]
    usage = message.usage_metadata
    assert usage is not None
    assert usage["input_tokens"] == len(TOKENIZER("<|user|>a<|end|><|assistant|>")["input_ids"])
    assert about["finish_reason"] == ("length" if usage["output_tokens"] == 6 else "stop")
    assert len(about["logprobs"]["content"]) == usage["output_tokens"]
    assert sum(token["logprob"] for token in about["logprobs"]["content"]) == pytest.approx(about["logp"])
    assert about["power_sampling"]["sampler"] == (sampler if isinstance(sampler, str) else sampler["name"])
    assert "logprobs" not in chat.invoke("a").response_metadata


@SAMPLERS
async def test_a_stream_ends_with_the_facts(chat: ChatPowerSampling, sampler: Any) -> None:
    recorder = Recorder()
    chunks = list(chat.stream("a", {"callbacks": [recorder]}, sampler=sampler))
    assert recorder.tokens == [chunk.content for chunk in chunks]
    assert [c.chunk_position for c in chunks] == [None] * (len(chunks) - 1) + ["last"]
    for chunk in chunks[:-1]:
        assert chunk.usage_metadata is None
        assert not chunk.response_metadata
        assert chunk.content or cast("Any", chunk).power_sampling_progress
    assert sampler != "ancestral" or len([c for c in chunks if c.content]) > 2
    again = Recorder()
    assert [c.content async for c in chat.astream("a", {"callbacks": [again]}, sampler=sampler)] == recorder.tokens
    assert again.tokens == recorder.tokens
    ((generation,),) = recorder.ends[0].generations
    assert generation.text == "".join(recorder.tokens)


def test_progress_reaches_callbacks_while_the_text_settles(chat: ChatPowerSampling) -> None:
    recorder = Recorder()
    options: dict[str, Any] = {"sampler": {**POWER, "num_steps": 15}, "max_new_tokens": 8}
    whole = merged(list(chat.stream("a", {"callbacks": [recorder]}, **options)))
    told = [c.message.power_sampling_progress for c in recorder.chunks[:-1] if not c.text]
    assert 5 <= len(told) <= 20
    assert all(set(one) == {"done", "total", "stats"} for one in told)
    shares = [one["done"] / one["total"] for one in told]
    assert shares == sorted(shares)
    assert not [name for name in (*whole.response_metadata, *vars(whole)) if "progress" in name]
    assert essence(whole) == essence(chat.invoke("a", **options))


async def test_streams_survive_every_consumer(chat: ChatPowerSampling) -> None:
    chat = ChatPowerSampling(model="tiny", sampler={**POWER, "num_steps": 10}, max_new_tokens=8, seed=1)
    expected = chat.invoke("a")
    events = [event async for event in chat.astream_events("a", version="v2")]
    ended = next(e["data"]["output"] for e in events if e["event"] == "on_chat_model_end")
    assert essence(ended) == essence(expected)
    agent = create_agent(chat, tools=[])
    asked: Any = {"messages": [("human", "a")]}
    streamed: Any = [chunk for chunk, _ in agent.stream(asked, stream_mode="messages")]
    assert essence(merged([c for c in streamed if isinstance(c, AIMessageChunk)])) == essence(expected)
    with warnings.catch_warnings(action="ignore"):  # v3 is beta
        bridged = chat.stream_events("a", version="v3")
    assert bridged.output.text == expected.content
    assert bridged.output.usage_metadata["total_tokens"] == expected.usage_metadata["total_tokens"]  # type: ignore[index]
    assert bridged.output.response_metadata["finish_reason"] == expected.response_metadata["finish_reason"]
    configured: Any = chat.configurable_fields(alpha=ConfigurableField(id="alpha"))
    config: Any = {"configurable": {"alpha": 1.5}}
    with warnings.catch_warnings(action="ignore"):
        stream = await configured.bind_tools([]).astream_events("a", config, version="v3")
    assert (await stream).text == chat.invoke("a", alpha=1.5).content
    assert configured.stream_events("a", config, version="v3").output.text == chat.invoke("a", alpha=1.5).content
    assert [e async for e in configured.astream_events("a", config, version="v2")]
    v1 = ChatPowerSampling(**{**dict(chat), "output_version": "v1"})
    assert v1.invoke("a").content == expected.content_blocks
    assert merged(list(v1.stream("a"))).content == [{**block, "index": 0} for block in expected.content_blocks]


def test_streaming_can_be_switched_off_and_on(chat: ChatPowerSampling) -> None:
    recorder = Recorder()
    off = ChatPowerSampling(**{**dict(chat), "streaming": False})
    assert len(list(off.stream("a", sampler="ancestral"))) == 1
    on = ChatPowerSampling(**{**dict(chat), "streaming": True})
    on.invoke("a", {"callbacks": [recorder]}, sampler="ancestral")
    assert len(recorder.tokens) > 2
    rebuilt = chat.configurable_fields(alpha=ConfigurableField(id="alpha"))
    assert len(list(rebuilt.stream("a", {"configurable": {"alpha": 2.0}}, sampler="ancestral"))) > 2


def test_n(chat: ChatPowerSampling, requests: list[Any]) -> None:
    expected = [chat.invoke("a", seed=1 + i).content for i in range(3)]
    result: Any = chat.generate([[HumanMessage("a")]], n=3)
    assert [g.message.content for g in result.generations[0]] == expected
    usage = result.llm_output["token_usage"]
    assert usage["prompt_tokens"] == 4
    assert usage["completion_tokens"] == sum(g.message.usage_metadata["output_tokens"] for g in result.generations[0])
    several = ChatPowerSampling(**{**dict(chat), "n": 3})
    assert several.invoke("a").content == expected[0]
    with pytest.raises(ConfigurationError, match="a stream carries one"):
        list(several.stream("a"))
    with pytest.raises(ConfigurationError, match="n: expected"):
        chat.invoke("a", n=0)


def test_usage_of_several_prompts_adds_up(chat: ChatPowerSampling) -> None:
    result: Any = chat.generate([[HumanMessage("a")], [HumanMessage("bc")]])
    assert result.llm_output["model_name"] == "tiny"
    assert result.llm_output["token_usage"]["prompt_tokens"] == 4 + 5
    assert chat._combine_llm_outputs([None]) == {}


def test_stop(loads: list[str]) -> None:
    chat = ChatPowerSampling(model="tiny", sampler="ancestral", max_new_tokens=24)
    texts = ((seed, str(chat.invoke("a", seed=seed).content)) for seed in range(50))
    seed, text, word = next((s, t, m.group()) for s, t in texts if (m := re.search(r"(?<=.)[!-~]{2}", t)))
    cut = text[: text.index(word)]
    message = chat.invoke("a", seed=seed, stop=[word])
    assert (message.content, message.response_metadata["finish_reason"]) == (cut, "stop")
    assert message.response_metadata["stop"] == word
    assert merged(list(chat.stream("a", seed=seed, stop=[word]))).content == cut
    stopping = ChatPowerSampling(model="tiny", sampler="ancestral", max_new_tokens=24, seed=seed, stop=[word])
    assert stopping.invoke("a").content == cut
    assert stopping.invoke("a", stop=[]).content == text
    assert stopping.bind(stop=["never this"]).invoke("a").content == text


def test_token_counts_are_the_models_own(chat: ChatPowerSampling) -> None:
    messages: list[BaseMessage] = [SystemMessage("s"), HumanMessage("a")]
    usage = chat.invoke(messages).usage_metadata
    assert usage is not None
    assert chat.get_num_tokens_from_messages(messages) == usage["input_tokens"]
    usage = chat.bind_tools([look]).invoke(messages).usage_metadata
    assert usage is not None
    assert chat.get_num_tokens_from_messages(messages, tools=[look]) == usage["input_tokens"]
    assert chat.get_num_tokens("ab") == 2
    own = ChatPowerSampling(custom_get_token_ids=lambda text: [0] * 7)
    assert own.get_num_tokens_from_messages(messages) == 14


# ------------------------------------------------------------ messages


def test_messages_of_every_kind() -> None:
    call = {"name": "look", "args": {"x": 1}, "id": "1", "type": "tool_call"}
    messages = [
        SystemMessage("s"),
        HumanMessage("a", name="ann"),
        HumanMessage([{"type": "text", "text": "b"}, "c", {"type": "text-plain", "text": "d", "mime_type": "x"}]),
        AIMessage("", tool_calls=[call]),
        ToolMessage("seen", tool_call_id="1"),
        AIMessage([{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "e"}]),
        ToolMessage("broken", tool_call_id="1", status="error"),
        FunctionMessage("f", name="look"),
        ChatMessage("g", role="developer"),
        ChatMessage("h", role="human"),
    ]
    assert engine_messages(messages) == [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "a", "name": "ann"},
        {"role": "user", "content": "bcd"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "look", "arguments": {"x": 1}}}],
        },
        {"role": "tool", "tool_call_id": "1", "content": "seen"},
        {"role": "assistant", "content": "e", "reasoning_content": "hm"},
        {"role": "tool", "tool_call_id": "1", "content": "Error: broken"},
        {"role": "tool", "name": "look", "content": "f"},
        {"role": "developer", "content": "g"},
        {"role": "user", "content": "h"},
    ]


def test_messages_as_anthropic_writes_them() -> None:
    messages = [
        AIMessage(
            [
                {"type": "thinking", "thinking": "hm"},
                {"type": "text", "text": "a"},
                {
                    "type": "tool_use",
                    "id": "1",
                    "name": "look",
                    "input": {"x": 1},
                },
            ]
        ),
        HumanMessage(
            [
                {
                    "type": "tool_result",
                    "tool_use_id": "1",
                    "content": [{"type": "text", "text": "b"}],
                    "is_error": True,
                },
                {"type": "text", "text": "c"},
            ]
        ),
    ]
    assistant, result, user = engine_messages(messages)
    assert assistant["content"] == "a"
    assert assistant["tool_calls"][0]["function"] == {"name": "look", "arguments": {"x": 1}}
    assert result == {"role": "tool", "tool_call_id": "1", "content": "Error: b"}
    assert user == {"role": "user", "content": "c"}


def test_an_invalid_call_is_shown_to_the_model_again() -> None:
    broken = {"name": "look", "args": '{"x": ', "id": "1", "error": "broken", "type": "invalid_tool_call"}
    (message,) = engine_messages([AIMessage("", invalid_tool_calls=[cast("Any", broken)])])
    assert message["tool_calls"][0]["function"] == {"name": "look", "arguments": '{"x": '}


@pytest.mark.parametrize(
    "block",
    [
        {"type": "image", "url": "http://x/y.png"},
        {"type": "image_url", "image_url": {"url": "http://x/y.png"}},
        {"type": "audio", "base64": "AA==", "mime_type": "audio/wav"},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
        {"type": "video", "url": "http://x/y.mp4"},
        {"type": "file", "base64": "AA==", "mime_type": "application/pdf"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}},
    ],
    ids=lambda block: str(block["type"]),
)
def test_anything_but_text_is_refused(chat: ChatPowerSampling, block: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="reads text only"):
        chat.invoke([HumanMessage([{"type": "text", "text": "what is it"}, block])])
    with pytest.raises(InputError, match="reads text only"):
        list(chat.stream([HumanMessage("a"), ToolMessage([block], tool_call_id="1")]))
    with pytest.raises(InputError, match="no place in a prompt"):
        engine_messages([RemoveMessage(id="1")])


@pytest.mark.parametrize("output_version", ["v0", "v1"])
def test_replies_become_messages_streamed_or_not(chat: ChatPowerSampling, output_version: str) -> None:
    reply = Reply(
        content="so",
        reasoning="hm hm",
        tool_calls=(ToolCall(name="look", arguments={"é": 1}, id="a1"), ToolCall(name="look", arguments={}, id="a2")),
        invalid_tool_calls=(
            InvalidToolCall(name="nope", arguments='{"x": 1}', id="b1", error="unknown tool"),
            InvalidToolCall(name="look", arguments='{"x": ', id="b2", error="broken"),
            InvalidToolCall(name="look", arguments="", id="b3", error="broken"),
        ),
    )
    done = completion(text="hm hm so", reply=reply, finish_reason="stop")
    whole = generation_of(done, facts(done)).message
    writer = ChunkWriter(facts)
    pieces = [
        Chunk("hm ", reasoning="hm "),
        Chunk("hm", reasoning="hm"),
        Chunk("s", content="s"),
        Chunk("o", done, content="o"),
    ]
    chunks = [c for piece in pieces for c in writer.chunks(piece)]
    streamed = merged([cast("AIMessageChunk", c.message) for c in chunks])
    assert isinstance(whole, AIMessage)
    assert essence(streamed) == essence(whole)
    assert [c["id"] for c in streamed.tool_calls] == ["a1", "a2"]
    assert [c["id"] for c in streamed.invalid_tool_calls] == ["b1", "b2", "b3"]
    kinds = [block["type"] for block in whole.content_blocks]
    assert kinds == ["reasoning", "text", "tool_call", "tool_call"]
    assert [b["type"] for b in streamed.content_blocks if b["type"] != "invalid_tool_call"] == kinds

    class Replaying(ChatPowerSampling):
        def _stream(self, *args: Any, **kwargs: Any) -> Any:
            writer = ChunkWriter(facts)
            return (c for piece in pieces for c in writer.chunks(piece))

    again = merged(list(Replaying(output_version=output_version).stream("a")))
    unparsed = ("invalid_tool_call", "tool_call_chunk")  # LangChain leaves invalid calls as they came in v1 content
    assert [b["type"] for b in again.content_blocks if b["type"] not in unparsed] == kinds
    assert essence(again)["calls"] == essence(whole)["calls"]
    assert again.text == "so"


def test_progress_is_told_at_most_every_twentieth() -> None:
    writer = ChunkWriter(facts)
    told = [c for i in range(1000) for c in writer.chunks(Chunk("", progress=Progress(i, 1000, {"ess": 1.0})))]
    assert len(told) == 19
    assert list(writer.chunks(Chunk("a", content="a", progress=Progress(990, 1000, {}))))
    assert not list(writer.chunks(Chunk("", progress=Progress(1000, 1000, {}))))


# ------------------------------------------------------------ callbacks, tracing, limits


def test_traces_show_the_settings_of_the_call(chat: ChatPowerSampling) -> None:
    recorder = Recorder()
    chat.bind_tools([look]).invoke("a", {"callbacks": [recorder]}, alpha=1.5, stop=["never this"])
    (start,) = recorder.starts
    assert start["invocation_params"]["alpha"] == 1.5
    assert start["invocation_params"]["sampler"]["num_steps"] == 2
    assert start["invocation_params"]["tools"]
    assert start["serialized"]["id"][-1] == "ChatPowerSampling"
    assert start["metadata"]["ls_provider"] == "power_sampling"
    assert chat._get_ls_params(stop=["x"], max_tokens=3, temperature=0.5) == {
        "ls_provider": "power_sampling",
        "ls_model_type": "chat",
        "ls_model_name": "tiny",
        "ls_temperature": 0.5,
        "ls_max_tokens": 3,
        "ls_stop": ["x"],
    }
    assert "ls_stop" not in chat._get_ls_params()
    assert chat.asdict()["_type"] == chat._llm_type == "power-sampling-chat"
    chat.with_structured_output(VERDICT_SCHEMA).with_retry(stop_after_attempt=1)


def test_structured_output_is_traced(caller: ChatPowerSampling) -> None:
    recorder = Recorder()
    caller.with_structured_output(Verdict).invoke("a", {"callbacks": [recorder]})
    assert recorder.starts[0]["options"]["ls_structured_output_format"]["schema"]["title"] == "Verdict"


def test_the_rate_limiter_is_asked(chat: ChatPowerSampling) -> None:
    class Counting(InMemoryRateLimiter):
        asked = 0

        def acquire(self, *, blocking: bool = True) -> bool:
            Counting.asked += 1
            return True

    limited = ChatPowerSampling(**{**dict(chat), "rate_limiter": Counting()})
    limited.invoke("a")
    list(limited.stream("a"))
    limited.batch(["a", "b"])
    assert Counting.asked == 4


def test_errors_are_the_engines_and_langchains(chat: ChatPowerSampling, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    with pytest.raises(exceptions.ContextOverflowError) as overflow:
        chat.invoke("a" * 2000, {"callbacks": [recorder]})
    assert isinstance(overflow.value, power_sampling.ContextOverflowError)
    with pytest.raises(exceptions.ModelTimeoutError) as late:
        list(chat.stream("a", timeout=1e-6))
    assert isinstance(late.value, RequestTimeoutError)
    assert late.value.is_retryable
    with pytest.raises(exceptions.ModelInvalidRequestError):
        chat.invoke("a", alpha=0.5)
    outcomes = chat.batch(["a", "b" * 2000], return_exceptions=True)
    assert isinstance(outcomes[0], AIMessage)
    assert isinstance(cast("Any", outcomes[1]), power_sampling.ContextOverflowError)
    assert type(pickle.loads(pickle.dumps(overflow.value))) is type(overflow.value)
    bare = ChatPowerSampling.from_model(MODEL, tiny_tokenizer(chat_template=None))
    with pytest.raises(ChatTemplateError):
        bare.invoke("a")
    monkeypatch.setattr(TorchLM, "step", lambda self: 1 / 0)
    with pytest.raises(EngineError, match="ZeroDivisionError") as broken:
        chat.invoke("a")
    for caught in (overflow, late, broken):
        assert isinstance(caught.value, PowerSamplingError)
        assert not isinstance(caught.value, (ValueError, TypeError))
    assert len(recorder.errors) == 1


def test_a_missing_model_is_langchains_error_too() -> None:
    with pytest.raises(exceptions.ModelNotFoundError) as caught:
        ChatPowerSampling(model="/no/such/folder").invoke("a")
    assert isinstance(caught.value, power_sampling.ModelNotFoundError)


# ------------------------------------------------------------ cancellation, the event loop


def test_a_closed_stream_stops_the_work(chat: ChatPowerSampling, slow_steps: None) -> None:
    expected = chat.invoke("a").content
    threads = set(threading.enumerate())
    with closing(chat.stream("a", **LONG)) as stream:
        next(cast("Any", stream))
    assert comes_to_rest(chat)
    with closing(cast("Any", chat._stream([HumanMessage("a")], **LONG))) as pieces:
        next(pieces)
    assert comes_to_rest(chat)
    assert set(threading.enumerate()) <= threads
    assert chat.invoke("a").content == expected


async def test_a_closed_async_stream_stops_the_work(chat: ChatPowerSampling, slow_steps: None) -> None:
    expected = chat.invoke("a").content
    async with aclosing(cast("Any", chat.astream("a", **LONG))) as stream:
        await anext(stream)
    assert await asyncio.to_thread(comes_to_rest, chat)
    assert (await chat.ainvoke("a")).content == expected


async def test_cancelling_the_task_stops_the_work(chat: ChatPowerSampling, slow_steps: None) -> None:
    expected = chat.invoke("a").content
    before = engine(chat).cost
    task = asyncio.create_task(chat.ainvoke("a", **LONG))
    while engine(chat).cost == before:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(comes_to_rest, chat)
    assert (await chat.ainvoke("a")).content == expected


def test_a_timeout_stops_the_work(chat: ChatPowerSampling, slow_steps: None) -> None:
    expected = chat.invoke("a").content
    with pytest.raises(RequestTimeoutError):
        chat.invoke("a", timeout=0.1, **LONG)
    assert comes_to_rest(chat)
    assert chat.invoke("a").content == expected


async def test_the_event_loop_stays_free(loads: list[str]) -> None:
    chat = ChatPowerSampling(model="tiny", sampler="ancestral", max_new_tokens=20)
    await chat.abatch([f"a{i}" for i in range(16)])  # imports, threads
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.create_task(tick())
    for _ in range(3):
        await chat.abatch([f"a{i}" for i in range(16)])
    ticking.cancel()
    assert ticks > 200  # calls that block let it go round a few times between each other only; no time is asserted


def test_chat_is_a_chat_model() -> None:
    assert issubclass(ChatPowerSampling, BaseChatModel)
    assert isinstance(ChatPowerSampling.__doc__, str)
    sections = ["Setup", "Key init args", "Instantiate", "Invoke", "Stream", "Async", "Tool calling"]
    sections += ["Structured output", "Token usage", "Logprobs", "Response metadata"]
    places = [
        ChatPowerSampling.__doc__.index(section + ("" if section == "Key init args" else ":")) for section in sections
    ]
    assert places == sorted(places)


@pytest.mark.parametrize(
    "message",
    [
        AIMessage("", tool_calls=[{"name": "f", "args": {"x": {1}}, "id": "1"}]),
        AIMessage([{"type": "tool_use", "id": 3, "name": [], "input": {}}]),
        HumanMessage([{"no type": {1}}]),
        HumanMessage("\ud800"),
        ChatMessage("x", role="<|user|>"),
    ],
)
def test_odd_messages_are_typed_errors(message: BaseMessage) -> None:
    model = ChatPowerSampling.from_model(MODEL, TOKENIZER, max_new_tokens=1)
    with pytest.raises(InputError):
        model.invoke([HumanMessage("a"), message, HumanMessage("b")])
