"""What the chat model is shown of odd histories, and what is told of a model that is none for chats."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, ChatMessage, HumanMessage, ToolMessage

from langchain_power_sampling import ChatPowerSampling, PowerSamplingLLM
from langchain_power_sampling._messages import engine_messages
from langchain_power_sampling._request import conversation_of
from power_sampling import ConfigurationError, InputError
from tests.support.chat import VERDICT_TOOL, essence, look, merged
from tests.support.langchain import TOKENIZER
from tests.support.llamaindex import Speaker, call
from tests.support.scripted import TOKENIZER as SCRIPTED

BROKEN = {"name": "look", "args": '{"name": "look", "arguments": {"where": "in th', "id": "1", "error": "cut"}
GENERIC = "Tool call look with id 1 could not be executed - arguments were malformed or truncated."


@pytest.mark.parametrize("quoted", [False, True])
def test_an_agent_tells_the_model_what_was_wrong_with_its_call(quoted: bool) -> None:
    """LangChain's agents answer a broken call in words that say nothing of it."""
    arguments = json.dumps(BROKEN["args"]) if quoted else BROKEN["args"]
    call = {**BROKEN, "args": arguments, "type": "invalid_tool_call"}
    history = [
        HumanMessage("a"),
        AIMessage("", invalid_tool_calls=[call]),  # type: ignore[list-item]
        ToolMessage(GENERIC, tool_call_id="1", status="error"),
    ]
    said = conversation_of(history, {"tools": [look]}).messages[-1]["content"]
    assert said.startswith(
        f"Error: {GENERIC} The call of 'look' is no valid JSON: it was cut short in argument 'where'."
    )
    unknown = AIMessage(
        "",
        invalid_tool_calls=[{**call, "name": "sun", "args": '{"name": "sun", "arguments": {}}'}],  # type: ignore[list-item]
    )
    said = conversation_of([history[0], unknown, history[2]], {"tools": [look]}).messages[-1]["content"]
    assert said.endswith("There is no tool 'sun'; the tools are: look.")


@pytest.mark.parametrize("quoted", [False, True])
def test_of_an_unknown_tools_call_the_arguments_go_back(quoted: bool) -> None:
    text = '{"name": "sun", "arguments": {"where": "here"}}'
    call = {**BROKEN, "name": "sun", "args": json.dumps(text) if quoted else text, "type": "invalid_tool_call"}
    (message,) = engine_messages([AIMessage("", invalid_tool_calls=[call])])  # type: ignore[list-item]
    assert message["tool_calls"][0]["function"] == {"name": "sun", "arguments": '{"where": "here"}'}


@pytest.mark.parametrize(
    ("name", "error", "told"),
    [
        ("sun", None, "There is no tool 'sun'; the tools are: look."),
        ("look", "The call of 'look' cannot be read.", "The call of 'look' cannot be read."),
        ("look", None, GENERIC),
    ],
)
def test_the_fault_of_a_call_that_is_written_in_no_json(name: str, error: str | None, told: str) -> None:
    call = {**BROKEN, "name": name, "args": f"<function={name}>", "error": error, "type": "invalid_tool_call"}
    history = [AIMessage("", invalid_tool_calls=[call]), ToolMessage(GENERIC, tool_call_id="1", status="error")]  # type: ignore[list-item]
    assert conversation_of(history, {"tools": [look]}).messages[-1]["content"].endswith(told)


def test_calls_deeper_than_python_reads_come_out_of_a_stream() -> None:
    speaker = Speaker(lambda prompt: ["<tool_call>\n" + "[" * 1500])
    chat = ChatPowerSampling.from_model(speaker, SCRIPTED, sampler="ancestral", max_new_tokens=1600).bind_tools([look])
    for answer in (chat.invoke("a"), merged(list(chat.stream("a")))):  # type: ignore[arg-type]
        [broken] = answer.invalid_tool_calls
        assert broken["args"] in ("[" * 1500, json.dumps("[" * 1500)) and answer.content == ""


def test_an_answer_that_was_cut_is_not_told_as_finished() -> None:
    said = call("look", where="here")
    settings: Any = {"sampler": "ancestral", "max_new_tokens": len(said) + 3}
    chat = ChatPowerSampling.from_model(Speaker(lambda prompt: [f"{said}\nAnd now"]), SCRIPTED, **settings)
    answer: Any = chat.bind_tools([look]).invoke("a")
    assert [c["name"] for c in answer.tool_calls] == ["look"] and answer.response_metadata["finish_reason"] == "length"


def test_pending_calls_of_the_last_message_are_shown(chat: ChatPowerSampling, requests: list[Any]) -> None:
    call = {"name": "look", "args": {"where": "here"}, "id": "1", "type": "tool_call"}
    chat.invoke([HumanMessage("a"), AIMessage("Let me see.", tool_calls=[call])], max_tokens=1)  # type: ignore[list-item]
    prompt = TOKENIZER.decode(requests[0].prompt)
    assert "Let me see." in prompt
    assert '"where": "here"' in prompt


async def test_a_chat_without_a_template_is_a_text(loads: list[str], requests: list[Any]) -> None:
    options: dict[str, Any] = {"model": "tiny", "sampler": "ancestral", "max_new_tokens": 4, "seed": 1}
    chat = ChatPowerSampling(use_chat_template=False, **options)
    messages = [("system", "s"), ("human", "h")]
    answer = chat.invoke(messages)
    assert TOKENIZER.decode(requests[0].prompt) == "System: s\nHuman: h\nAI:"
    plain = PowerSamplingLLM(use_chat_template=False, **options)
    assert answer.content == plain.invoke("System: s\nHuman: h\nAI:")
    assert essence(merged(list(chat.stream(messages)))) == essence(answer)  # type: ignore[arg-type]
    assert essence(await chat.ainvoke(messages)) == essence(answer)
    assert chat.get_num_tokens_from_messages([HumanMessage("h")]) == len(TOKENIZER("Human: h\nAI:")["input_ids"])
    chat.invoke([HumanMessage("h"), AIMessage("I")])
    assert TOKENIZER.decode(requests[-1].prompt) == "Human: h\nAI: I"
    with pytest.raises(InputError, match="use_chat_template=False"):
        chat.bind_tools([VERDICT_TOOL]).invoke("a")
    assert isinstance(chat.with_structured_output({"title": "E", "enum": [1, 2]}).invoke("a"), int)


def test_the_profile_of_a_base_model_claims_no_tools(loads: list[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"max_position_embeddings": 100}')
    for template, may in (({}, False), ({"chat_template": "x"}, True)):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 9, **template}))
        profile: Any = ChatPowerSampling(model=str(tmp_path), max_new_tokens=30).profile
        assert (profile["tool_calling"], profile["tool_choice"], profile["structured_output"]) == (may,) * 3
        assert (profile["max_input_tokens"], profile["max_output_tokens"]) == (70, 30)
    base: Any = ChatPowerSampling(model=str(tmp_path), use_chat_template=False).profile
    assert (base["tool_calling"], base["structured_output"]) == (False, True)
    for odd in ("[]", "{", '{"text_config": 3}'):
        (tmp_path / "config.json").write_text(odd)
        assert "max_input_tokens" not in (ChatPowerSampling(model=str(tmp_path)).profile or {})
    assert ChatPowerSampling(model="~nobody-at-all/x").profile


def test_roles_of_other_names_are_never_dropped(chat: ChatPowerSampling, requests: list[Any]) -> None:
    said = {"human": "<|user|>", "ai": "<|assistant|>", "developer": "<|system|>"}
    for role, mark in said.items():
        chat.invoke([HumanMessage("a"), ChatMessage("b", role=role), HumanMessage("c")], max_tokens=1)
        assert f"{mark}b" in TOKENIZER.decode(requests[-1].prompt), role


def test_errors_of_settings_name_the_class(loads: list[str]) -> None:
    with pytest.raises(ConfigurationError, match="ChatPowerSampling"):
        ChatPowerSampling(alhpa=3)  # type: ignore[call-arg]
