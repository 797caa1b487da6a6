"""Function calling through LlamaIndex: what the model is shown, what comes back, and the agents that live on it."""

from __future__ import annotations

import copy
import json
from types import SimpleNamespace
from typing import Any, cast

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent
from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock, ThinkingBlock, ToolCallBlock
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.program.function_program import get_function_tool
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel

from llamaindex_power_sampling import PowerSamplingLLM
from llamaindex_power_sampling._messages import calls_of, engine_messages
from llamaindex_power_sampling._responses import ChatWriter
from llamaindex_power_sampling._tools import as_tools, chosen, selections
from power_sampling import ConfigurationError, InputError, InvalidToolCall, Reply
from tests.support.llamaindex import WORKFLOWS, call, heard, speaking, tools_in, turns

pytestmark = WORKFLOWS

QUESTION = "What is 2 + 3?"


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


def multiply(a: int, b: int) -> int:
    """Multiply two numbers."""
    return a * b


ADD, MULTIPLY = FunctionTool.from_defaults(add), FunctionTool.from_defaults(multiply)
ODD = FunctionTool.from_defaults(add, name="math.add (two)")
TOOLS = [ADD, MULTIPLY]


def calculator(prompt: str) -> list[str]:
    """Calls `add` where it may, and says what came of it."""
    last = turns(prompt)[-1]
    if "<tool_response>" in last:
        return ["The sum is 5."]
    named = [tool["name"] for tool in tools_in(prompt)]
    return [call(name, a=2, b=3) for name in named] + ["I have no tool for that."]


def twice(prompt: str) -> list[str]:
    if "<tool_response>" in turns(prompt)[-1]:
        return ["Done."]
    return [f"{call('add', a=2, b=3)}\n{call('add', a=2, b=3)}"]


@pytest.fixture(scope="module")
def llm() -> PowerSamplingLLM:
    return speaking(calculator)


def names_of(message: ChatMessage) -> list[str]:
    return [selection.tool_name for selection in selections(message)]


# ---------------------------------------------------------------- the four ways


async def test_four_ways_to_call(llm: PowerSamplingLLM) -> None:
    kwargs: dict[str, Any] = {"tools": TOOLS, "user_msg": QUESTION}
    streamed = list(llm.stream_chat_with_tools(**kwargs))
    astreamed = [chunk async for chunk in await llm.astream_chat_with_tools(**kwargs)]
    for response in (llm.chat_with_tools(**kwargs), await llm.achat_with_tools(**kwargs), streamed[-1], astreamed[-1]):
        (selection,) = llm.get_tool_calls_from_response(response)
        assert (selection.tool_name, selection.tool_kwargs) == ("add", {"a": 2, "b": 3})
        assert selection.tool_id.isalnum()
        assert response.raw["finish_reason"] == "tool_calls"
        (block,) = response.message.blocks
        assert isinstance(block, ToolCallBlock)
        (also,) = response.message.additional_kwargs["tool_calls"]
        assert json.loads(json.dumps(also)) == {
            "id": selection.tool_id,
            "type": "function",
            "function": {"name": "add", "arguments": '{"a": 2, "b": 3}'},
        }
    for chunk in [*streamed[:-1], *astreamed[:-1]]:
        assert llm.get_tool_calls_from_response(chunk, error_on_no_tool_call=False) == []


def test_text_is_streamed_without_markup() -> None:
    llm = speaking(lambda prompt: ["Let me see.\n" + call("add", a=2, b=3)])
    chunks = list(llm.stream_chat_with_tools(TOOLS, user_msg=QUESTION))
    assert len(chunks) > 3
    assert "".join(chunk.delta or "" for chunk in chunks) == chunks[-1].message.content == "Let me see."
    assert names_of(chunks[-1].message) == ["add"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, ["add"]),
        ({"tool_choice": "auto"}, ["add"]),
        ({"tool_choice": "none"}, []),
        ({"tool_required": True}, ["add"]),
        ({"tool_required": True, "tool_choice": None}, ["add"]),
        ({"tool_choice": "required"}, ["add"]),
        ({"tool_choice": "multiply"}, ["multiply"]),
        ({"tool_choice": {"type": "function", "function": {"name": "multiply"}}}, ["multiply"]),
        ({"tool_choice": "none", "tool_required": True}, []),
    ],
)
def test_tool_choice(llm: PowerSamplingLLM, options: dict[str, Any], expected: list[str]) -> None:
    response = llm.chat_with_tools(TOOLS, user_msg=QUESTION, **options)
    assert names_of(response.message) == expected


def test_a_required_call_is_always_valid() -> None:
    rambling = speaking(lambda prompt: ["I would rather talk."])
    assert names_of(rambling.chat_with_tools(TOOLS, user_msg=QUESTION).message) == []
    response = rambling.chat_with_tools(TOOLS, user_msg=QUESTION, tool_required=True)
    (selection,) = rambling.get_tool_calls_from_response(response)
    assert {type(value) for value in selection.tool_kwargs.values()} == {int}
    with pytest.raises(ValueError, match="rather talk"):
        rambling.get_tool_calls_from_response(rambling.chat_with_tools(TOOLS, user_msg=QUESTION))


def test_bad_choices_are_refused(llm: PowerSamplingLLM) -> None:
    for bad in ({"tool_choice": "subtract"}, {"tool_choice": {"type": "tool"}}):
        with pytest.raises(ConfigurationError, match="names no tool"):
            llm.chat_with_tools(TOOLS, user_msg=QUESTION, **bad)
    with pytest.raises(ConfigurationError, match="no tools"):
        chosen(None, [], required=True)
    with pytest.raises(ConfigurationError, match="tools"):
        llm.chat([ChatMessage("hi")], tools=[{"name": "naked"}])
    with pytest.raises(ConfigurationError, match="tool_choice"):
        llm.complete("hi", tool_choice="auto")


def test_parallel_calls() -> None:
    llm = speaking(twice)
    many = llm.get_tool_calls_from_response(
        llm.chat_with_tools(TOOLS, user_msg=QUESTION, allow_parallel_tool_calls=True)
    )
    assert [selection.tool_name for selection in many] == ["add", "add"]
    assert len({selection.tool_id for selection in many}) == 2
    one = llm.get_tool_calls_from_response(llm.chat_with_tools(TOOLS, user_msg=QUESTION))
    assert len(one) == 1


# ---------------------------------------------------------------- names, history, blocks


def test_names_are_mapped_there_and_back() -> None:
    llm = speaking(calculator)
    response = llm.chat_with_tools([ODD], user_msg=QUESTION, tool_choice="math.add (two)")
    assert names_of(response.message) == ["math.add (two)"]
    assert tools_in(heard(llm)[0])[0]["name"] == "math_add__two_"
    history = [ChatMessage(QUESTION), response.message, result_of(response.message, "5")]
    assert llm.chat_with_tools([ODD], chat_history=history).message.content == "The sum is 5."
    assert '"name": "math_add__two_", "arguments"' in heard(llm)[-1]
    twins = [FunctionTool.from_defaults(add, name=name) for name in ("a.b", "a b", "a_b")]
    assert [tool["function"]["name"] for tool in as_tools(twins)] == ["a_b", "a_b_2", "a_b_3"]
    assert as_tools(as_tools(twins)) == as_tools(twins)


def test_long_descriptions_pass(llm: PowerSamplingLLM) -> None:
    tool = FunctionTool.from_defaults(add, description="Add. " * 400)
    assert names_of(llm.chat_with_tools([tool], user_msg=QUESTION).message) == ["add"]


def result_of(message: ChatMessage, content: str) -> ChatMessage:
    (selection,) = selections(message)
    return ChatMessage(content, role=MessageRole.TOOL, additional_kwargs={"tool_call_id": selection.tool_id})


def test_history_is_shown_once_and_not_changed(llm: PowerSamplingLLM) -> None:
    first = llm.chat_with_tools(TOOLS, user_msg=QUESTION)
    history = [ChatMessage("Use tools.", role="system"), ChatMessage(QUESTION), first.message]
    history.append(result_of(first.message, "5"))
    before = copy.deepcopy(history)
    assert llm.chat_with_tools(TOOLS, chat_history=history).message.content == "The sum is 5."
    llm.chat_with_tools(TOOLS, user_msg="Again.", chat_history=history)
    assert history == before
    prompt = heard(llm)[-2]
    assert prompt.count("<tool_call>\n{") == 2  # one in the instructions of the template
    assert '{"name": "add", "arguments": {"a": 2, "b": 3}}' in prompt
    assert "<tool_response>\n5\n</tool_response>" in prompt


def test_calls_are_read_in_every_form() -> None:
    function = {"name": "add", "arguments": '{"a": 1}'}
    block = ToolCallBlock(tool_call_id="x", tool_name="add", tool_kwargs={"a": 1})
    nameless = ToolCallBlock(tool_name="add", tool_kwargs={"a": 1})
    openai = {"id": "x", "type": "function", "function": function}
    ollama = {"function": {"name": "add", "arguments": {"a": 1}}}
    for blocks, also in (
        ([block], []),
        ([], [openai]),
        ([block], [openai]),
        ([nameless], [ollama]),
        ([], [ollama]),
        ([], [selections(ChatMessage(blocks=[block]))[0]]),
    ):
        message = ChatMessage(role="assistant", blocks=blocks, additional_kwargs={"tool_calls": also})
        (selection,) = selections(message)
        assert (selection.tool_name, selection.tool_kwargs) == ("add", {"a": 1})
    assert len(calls_of(ChatMessage(blocks=[nameless, nameless]))) == 2
    broken = ToolCallBlock(tool_name="add", tool_kwargs='{"a": ')
    assert selections(ChatMessage(blocks=[broken]))[0].tool_kwargs == {}


def test_thoughts_and_calls_are_no_text() -> None:
    message = ChatMessage(
        role="assistant",
        blocks=[ThinkingBlock(content="Hm."), TextBlock(text="So."), ToolCallBlock(tool_name="add")],
    )
    (converted,) = engine_messages([message])
    assert converted["content"] == "So."
    assert converted["reasoning_content"] == "Hm."
    assert converted["tool_calls"][0]["function"] == {"name": "add", "arguments": {}}


def test_thinking_has_a_block_of_its_own() -> None:
    llm = speaking(lambda prompt: ["<think>\nTwo and three.\n</think>\n\nFive."])
    chunks = list(llm.stream_chat([ChatMessage(QUESTION)]))
    for response in (llm.chat([ChatMessage(QUESTION)]), chunks[-1]):
        thinking, text = response.message.blocks
        assert isinstance(thinking, ThinkingBlock) and isinstance(text, TextBlock)
        assert (thinking.content.strip(), text.text) == ("Two and three.", "Five.")
    thoughts = [chunk.additional_kwargs.get("thinking_delta", "") for chunk in chunks]
    assert "".join(thoughts).strip() == "Two and three."
    assert "".join(chunk.delta or "" for chunk in chunks) == "Five."
    completed = llm.complete(QUESTION)
    assert completed.text == "Five."
    assert completed.additional_kwargs["reasoning"].strip() == "Two and three."


def test_tools_need_a_template() -> None:
    llm = speaking(calculator, messages_to_prompt=str)
    assert not llm.metadata.is_function_calling_model
    with pytest.raises(InputError, match="ReActAgent"):
        llm.chat_with_tools(TOOLS, user_msg=QUESTION)


# ---------------------------------------------------------------- what models get wrong


def test_unknown_tools_are_for_the_agent_to_answer() -> None:
    llm = speaking(lambda prompt: [call("subtract", a=2)])
    response = llm.chat_with_tools(TOOLS, user_msg=QUESTION, allow_parallel_tool_calls=True)
    assert names_of(response.message) == ["subtract"]
    assert "no tool 'subtract'" in response.message.additional_kwargs["invalid_tool_calls"][0]["error"]


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ('{"name": "sun", "arguments": {"x": 1}}', {"x": 1}),
        ('{"name": "sun", "parameters": "{}"}', {}),
        ('{"x": 1}', {"x": 1}),  # of a family that writes the name before them
        ("5", None),
        ("true", None),
        ('"a"', None),
        ("[" * 5000, None),
        ("<function=sun>", None),
    ],
)
def test_the_arguments_of_an_unknown_tool(text: str, arguments: Any) -> None:
    reply = Reply(content="", invalid_tool_calls=(InvalidToolCall(name="sun", arguments=text, id="1", error="!"),))
    done = cast("Any", SimpleNamespace(reply=reply, text=text))
    writer = ChatWriter(names={"add": "add"}, is_text=False, logprobs=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "_facts", lambda completion, *, has_calls: {"additional_kwargs": {}})
        message = writer.whole(done).message
    assert [call.tool_kwargs for call in selections(message)] == ([] if arguments is None else [arguments])
    assert (message.content or "") == (text if arguments is None else "")


def test_an_answer_that_was_cut_is_not_told_as_finished() -> None:
    said = call("add", a=2, b=3)
    llm = speaking(lambda prompt: [f"{said}\nAnd now"], max_new_tokens=len(said) + 3)
    response = llm.chat_with_tools(TOOLS, user_msg=QUESTION, allow_parallel_tool_calls=True)
    assert names_of(response.message) == ["add"] and response.raw["finish_reason"] == "length"


def test_broken_calls_are_text() -> None:
    llm = speaking(lambda prompt: ['<tool_call>\n{"name": "add", "arguments": {"a": \n</tool_call>'])
    chunks = list(llm.stream_chat_with_tools(TOOLS, user_msg=QUESTION, allow_parallel_tool_calls=True))
    assert names_of(chunks[-1].message) == []
    assert (
        "".join(chunk.delta or "" for chunk in chunks)
        == chunks[-1].message.content
        == '{"name": "add", "arguments": {"a":'
    )
    assert "JSON" in chunks[-1].message.additional_kwargs["invalid_tool_calls"][0]["error"]
    strict = list(llm.stream_chat_with_tools(TOOLS, user_msg=QUESTION, allow_parallel_tool_calls=True, strict=True))
    assert names_of(strict[-1].message) == ["add"]


# ---------------------------------------------------------------- what core builds on it


async def test_predict_and_call(llm: PowerSamplingLLM) -> None:
    for response in (
        llm.predict_and_call(TOOLS, QUESTION),
        await llm.apredict_and_call(TOOLS, QUESTION),
        llm.predict_and_call([ODD], QUESTION),
    ):
        assert response.response == "5"
        (source,) = response.sources
        assert source.raw_output == 5
    both = speaking(twice).predict_and_call(TOOLS, QUESTION, allow_parallel_tool_calls=True)
    assert both.response == "5\n\n5"
    liar = speaking(lambda prompt: [call("subtract", a=2)])
    (source,) = liar.predict_and_call(TOOLS, QUESTION).sources
    assert source.tool_name in ("add", "multiply") and not source.is_error


def memory(llm: PowerSamplingLLM) -> ChatMemoryBuffer:
    """The default one leaves an SQLite connection open."""
    return ChatMemoryBuffer.from_defaults(llm=llm)


@pytest.mark.parametrize("streaming", [True, False])
async def test_function_agent(llm: PowerSamplingLLM, streaming: bool) -> None:
    agent = FunctionAgent(llm=llm, tools=TOOLS, system_prompt="Use tools.", streaming=streaming)
    output = await agent.run(QUESTION, memory=memory(llm))
    assert str(output) == "The sum is 5."
    (result,) = output.tool_calls
    assert (result.tool_name, result.tool_output.raw_output) == ("add", 5)
    json.dumps(output.raw)


async def test_function_agent_recovers_from_an_unknown_tool() -> None:
    def rule(prompt: str) -> list[str]:
        if "not found" in turns(prompt)[-1]:
            return [call("add", a=2, b=3)]
        return ["The sum is 5."] if "<tool_response>" in turns(prompt)[-1] else [call("subtract", a=2)]

    llm = speaking(rule)
    output = await FunctionAgent(llm=llm, tools=TOOLS).run(QUESTION, memory=memory(llm))
    assert str(output) == "The sum is 5."


async def test_function_agent_with_parallel_calls_and_an_initial_choice() -> None:
    llm = speaking(twice)
    agent = FunctionAgent(llm=llm, tools=TOOLS, initial_tool_choice="multiply")
    output = await agent.run(QUESTION, memory=memory(llm))
    assert output.tool_calls[0].tool_name == "multiply"
    output = await FunctionAgent(llm=llm, tools=TOOLS).run(QUESTION, memory=memory(llm))
    assert [result.tool_output.raw_output for result in output.tool_calls] == [5, 5]
    assert heard(llm)[-1].count("<tool_response>\n5") == 2


@pytest.mark.parametrize("streaming", [True, False])
async def test_react_agent(streaming: bool) -> None:
    def rule(prompt: str) -> list[str]:
        if "Observation: 5" in turns(prompt)[-1]:
            return ["Thought: I can answer without using any more tools.\nAnswer: The sum is 5."]
        return ['Thought: I need to use a tool.\nAction: add\nAction Input: {"a": 2, "b": 3}']

    llm = speaking(rule, is_function_calling_model=False)
    agent = ReActAgent(llm=llm, tools=TOOLS, streaming=streaming)
    assert str(await agent.run(QUESTION, memory=memory(llm))) == "The sum is 5."


async def test_workflow_with_a_hand_off() -> None:
    def rule(prompt: str) -> list[str]:
        if "You greet" in prompt:
            return [call("handoff", to_agent="counter", reason="Numbers.")]
        return calculator(prompt)

    llm = speaking(rule)
    greeter = FunctionAgent(
        name="greeter", description="Greets.", system_prompt="You greet.", llm=llm, can_handoff_to=["counter"]
    )
    counter = FunctionAgent(name="counter", description="Counts.", system_prompt="You count.", llm=llm, tools=TOOLS)
    workflow = AgentWorkflow(agents=[greeter, counter], root_agent="greeter")
    output = await workflow.run(QUESTION, memory=memory(llm))
    assert str(output) == "The sum is 5."
    assert output.current_agent_name == "counter"


async def test_workflow_of_functions_chooses_the_agent(llm: PowerSamplingLLM) -> None:
    calls = AgentWorkflow.from_tools_or_functions([add], llm=llm)
    assert isinstance(next(iter(calls.agents.values())), FunctionAgent)
    speaks = speaking(calculator, is_function_calling_model=False)
    by_text = AgentWorkflow.from_tools_or_functions([add], llm=speaks)
    assert isinstance(next(iter(by_text.agents.values())), ReActAgent)


def test_a_class_that_holds_itself_keeps_its_fields_as_a_tool() -> None:
    class Tree(BaseModel):
        """A tree."""

        good: bool
        branches: list[Tree] = []

    Tree.model_rebuild(_types_namespace={"Tree": Tree})
    parameters = as_tools([get_function_tool(Tree)])[0]["function"]["parameters"]
    assert set(parameters["properties"]) == {"good", "branches"}
    assert parameters["$defs"]["Tree"]["properties"]["branches"]["items"] == {"$ref": "#/$defs/Tree"}
