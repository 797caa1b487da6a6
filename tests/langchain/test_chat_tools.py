"""Tools, structured output and agents on ChatPowerSampling: whatever a model would say, it is valid."""

from __future__ import annotations

import json
from enum import Enum
from typing import Annotated, Any, Literal, NotRequired, Required, TypedDict, cast

import pydantic.v1
import pytest
from langchain.agents import create_agent
from langchain.agents.structured_output import ProviderStrategy
from langchain_core import exceptions
from langchain_core.messages import (
    AIMessage,
    HumanMessage,
    ToolMessage,
)
from langchain_core.runnables import RunnableBinding
from langchain_core.tools import tool
from pydantic import BaseModel, Field

from langchain_power_sampling import ChatPowerSampling
from langchain_power_sampling._request import conversation_of
from langchain_power_sampling._structured import structured
from langchain_power_sampling._tools import as_tools, wanted_schema
from power_sampling import (
    ConfigurationError,
)
from tests.support.chat import VERDICT_SCHEMA, VERDICT_TOOL, ForceOnce, Verdict, essence, look, merged, switch
from tests.support.langchain import TOKENIZER


class OldVerdict(pydantic.v1.BaseModel):
    """A verdict."""

    good: bool


class TypedVerdict(TypedDict):
    """A verdict."""

    good: Annotated[bool, ..., "whether it is good"]


# ------------------------------------------------------------ tools


@pytest.mark.parametrize(
    "choice",
    [
        "any",
        "required",
        True,
        "switch",
        {"type": "function", "function": {"name": "switch"}},
        {"type": "tool", "name": "switch"},
        {"type": "any"},
    ],
    ids=str,
)
def test_a_call_that_is_asked_for_is_made(caller: ChatPowerSampling, choice: Any) -> None:
    bound = caller.bind_tools([switch], tool_choice=choice)
    assert isinstance(bound, RunnableBinding)
    message = bound.invoke("Switch it on.")
    (call,) = message.tool_calls
    assert (call["name"], set(call["args"])) == ("switch", {"on"})
    assert isinstance(call["args"]["on"], bool)
    assert call["id"]
    assert message.response_metadata["finish_reason"] == "tool_calls"


async def test_every_way_of_asking_makes_the_same_call(caller: ChatPowerSampling) -> None:
    bound: Any = caller.bind_tools([switch], tool_choice="any")
    message = bound.invoke("Switch it on.")
    assert essence(merged(list(bound.stream("Switch it on.")))) == essence(message)
    assert essence(await bound.ainvoke("Switch it on.")) == essence(message)
    ids = {merged(list(bound.stream("Switch it on."))).tool_calls[0]["id"], message.tool_calls[0]["id"]}
    assert len(ids) == 1  # seeded, as all of the answer
    assert bound.invoke("Switch it off.").tool_calls[0]["id"] not in ids


def test_a_tool_by_name_among_several(caller: ChatPowerSampling) -> None:
    ids = set()
    for name in ("switch", "look", "look"):
        (call,) = caller.bind_tools([switch, look], tool_choice=name).invoke("a").tool_calls
        assert call["name"] == name
        ids.add(call["id"])
    assert len(ids) == 2  # one seed and one prompt: equal calls are the same call


def test_tools_of_every_kind(chat: ChatPowerSampling) -> None:
    def function(good: bool) -> bool:
        """A verdict."""
        return good

    anthropic = {"name": "Verdict", "description": "A verdict.", "input_schema": VERDICT_SCHEMA}
    kinds: list[Any] = [function, switch, Verdict, TypedVerdict, VERDICT_SCHEMA, VERDICT_TOOL, anthropic]
    bound = cast("Any", chat.bind_tools(kinds, parallel_tool_calls=False, alpha=2.0))
    assert [t["function"]["name"] for t in bound.kwargs["tools"]] == [
        "function",
        "switch",
        "Verdict",
        "TypedVerdict",
        "Verdict",
        "Verdict",
        "Verdict",
    ]
    assert (bound.kwargs["parallel_tool_calls"], bound.kwargs["alpha"]) == (False, 2.0)
    assert "tool_choice" not in bound.kwargs
    for choice in (None, False, "", "auto"):
        assert cast("Any", chat.bind_tools([], tool_choice=choice)).kwargs["tools"] == []


def test_tools_that_cannot_be_honoured_are_refused_when_bound(chat: ChatPowerSampling) -> None:
    with pytest.raises(ConfigurationError, match=r"names no tool.*\['look'\]"):
        chat.bind_tools([look], tool_choice="lock")
    with pytest.raises(ConfigurationError, match="there are no tools"):
        chat.bind_tools([], tool_choice="any")
    with pytest.raises(ConfigurationError, match="a provider runs"):
        chat.bind_tools([{"type": "web_search_preview"}])
    with pytest.raises(ConfigurationError, match="cannot be described"):
        chat.bind_tools([{"nothing": 1}])


def test_strict_reaches_the_engine_from_the_call_and_from_the_tools(chat: ChatPowerSampling) -> None:
    inside = {"type": "function", "function": {**VERDICT_TOOL["function"], "strict": True}}
    asked = {
        "call": conversation_of([], {"tools": [VERDICT_TOOL], "strict": True}),
        "tool": conversation_of([], {"tools": [inside]}),
        "off": conversation_of([], {"tools": [inside], "strict": False}),
        "unsaid": conversation_of([], {"tools": [VERDICT_TOOL]}),
    }
    assert {name: c.strict for name, c in asked.items()} == {"call": True, "tool": True, "off": False, "unsaid": False}
    assert all("strict" not in c.tools[0]["function"] for c in asked.values())
    bound = cast("Any", chat.bind_tools([look], strict=True)).kwargs
    assert (bound["strict"], bound["tools"][0]["function"]["strict"]) == (True, True)


def test_tools_reach_the_prompt_and_results_are_rendered_back(chat: ChatPowerSampling, requests: list[Any]) -> None:
    call = {"name": "switch", "args": {"on": True}, "id": "1", "type": "tool_call"}
    history = [
        HumanMessage("a"),
        AIMessage("", tool_calls=[call]),
        ToolMessage("the bulb is broken", tool_call_id="1", status="error"),
    ]
    chat.bind_tools([switch]).invoke(history)
    prompt = TOKENIZER.decode(requests[0].prompt)
    assert "Switch the light." in prompt
    assert "Error: the bulb is broken" in prompt
    assert '"on": true' in prompt
    chat.bind_tools([switch], tool_choice="none").invoke("a")
    assert "Switch the light." not in TOKENIZER.decode(requests[1].prompt)


# ------------------------------------------------------------ structured output


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize("schema", [Verdict, OldVerdict, TypedVerdict, VERDICT_SCHEMA, VERDICT_TOOL])
async def test_structured_output_is_always_valid(caller: ChatPowerSampling, schema: Any, method: Any) -> None:
    model = caller.with_structured_output(schema, method=method)
    for answer in (await model.ainvoke("a"), list(model.stream("a"))[-1]):
        if isinstance(schema, type) and schema is not TypedVerdict:
            assert isinstance(answer, schema)
        else:
            assert isinstance(cast("Any", answer)["good"], bool)


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Tree(BaseModel):
    """A tree."""

    good: bool
    branches: list[Tree] = Field(default=[], max_length=1)


class Loose(TypedDict, total=False):
    """May lack anything but the mark."""

    marks: Required[Literal[7]]
    words: Annotated[list[Literal["a"]], ..., "some words"]
    verdict: TypedVerdict | None


class Tight(TypedDict):
    words: NotRequired[list[Literal["a"]]]


OTHER_SCHEMAS: list[tuple[Any, dict[str, Any]]] = [  # a schema, and what JSON schema it stands for
    ({"title": "N", "type": "array", "items": {"enum": [1]}, "maxItems": 2}, {"type": "array"}),
    ({"title": "M", "type": "object", "additionalProperties": {"enum": [1]}}, {"type": "object"}),
    ({"name": "V", "strict": True, "schema": VERDICT_SCHEMA}, VERDICT_SCHEMA),
    ({"type": "json_schema", "json_schema": {"name": "V", "schema": VERDICT_SCHEMA}}, VERDICT_SCHEMA),
    ({"title": "E", "enum": [1, 2]}, {"enum": [1, 2]}),
    ({"name": "E", "enum": [1, 2]}, {"enum": [1, 2]}),
    ({"title": "U", "anyOf": [{"enum": ["a"]}, {"type": "null"}]}, {"anyOf": [{"enum": ["a"]}, {"type": "null"}]}),
    ({"title": "C", "const": 4}, {"const": 4}),
    (Colour, {"enum": ["red", "blue"]}),
    (Literal["a", "b"], {"enum": ["a", "b"]}),
    (list[Colour], {"items": {"$ref": "#/$defs/Colour"}}),
    (Tree, {"required": ["good"]}),
    (Loose, {"required": ["marks"]}),
    (Tight, {"type": "object"}),
]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize(("schema", "wanted"), OTHER_SCHEMAS, ids=str)
def test_no_schema_is_lost_on_its_way(caller: ChatPowerSampling, schema: Any, wanted: Any, method: Any) -> None:
    options = structured(schema, method, None, {}).options
    if method == "json_schema":
        found = wanted_schema(options["response_format"])
    else:
        parameters = options["tools"][0]["function"]["parameters"]
        found = parameters["properties"].get("value", parameters) if "properties" in parameters else parameters
    assert found is not None
    ours = {key: value for key, value in wanted.items() if key not in ("title", "description")}
    assert {key: found.get(key) for key in ours} == ours


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
@pytest.mark.parametrize(
    "schema",
    [Colour, list[Colour], Tree, Loose, {"title": "N", "type": "array", "items": {"enum": [1]}, "maxItems": 2}],
)
def test_answers_of_every_schema_are_of_its_kind(caller: ChatPowerSampling, schema: Any, method: Any) -> None:
    model = caller.with_structured_output(schema, method=method)
    answer: Any = model.invoke("a")
    if schema is Colour:
        assert isinstance(answer, Colour)
    elif schema is Tree:
        assert isinstance(answer, Tree)
    elif schema is Loose:
        assert answer["marks"] == 7
    else:
        assert set(answer) <= {Colour.RED, Colour.BLUE, 1}


def test_a_recursive_class_keeps_its_recursion_as_a_tool() -> None:
    def plant(tree: Tree) -> str:
        """Plant a tree."""
        return str(tree)

    for kind in (Tree, plant, tool(plant)):
        function = as_tools([kind])[0]["function"]
        assert function["parameters"]["$defs"]["Tree"]["properties"]["branches"]["items"] == {"$ref": "#/$defs/Tree"}
        assert set(function["parameters"]["properties"]) == ({"good", "branches"} if kind is Tree else {"tree"})
        assert "title" not in json.dumps(function)
    assert "$defs" not in as_tools([Verdict])[0]["function"]["parameters"]


@pytest.mark.parametrize(
    "bad", [{}, {"name": "x"}, {"title": "x"}, {"title": 3, "type": "array"}, {"type": "magic"}, 7, int]
)
def test_what_is_no_schema_is_refused(caller: ChatPowerSampling, bad: Any) -> None:
    with pytest.raises(ConfigurationError, match="response_format: expected"):
        caller.with_structured_output(bad)


@pytest.mark.parametrize("bad", [Colour, {"title": "N", "type": "array", "items": {}}, {"title": "E", "enum": [1]}, 7])
def test_what_has_no_arguments_is_no_tool(caller: ChatPowerSampling, bad: Any) -> None:
    with pytest.raises(ConfigurationError, match="tools: "):
        caller.bind_tools([bad])


@pytest.mark.parametrize("strict", [None, False, True])
@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_structured_output_with_the_raw_message(caller: ChatPowerSampling, method: Any, strict: Any) -> None:
    answer: Any = caller.with_structured_output(Verdict, method=method, strict=strict, include_raw=True).invoke("a")
    assert isinstance(answer["raw"], AIMessage)
    assert isinstance(answer["parsed"], Verdict)
    assert answer["parsing_error"] is None


def test_json_mode_is_some_object(caller: ChatPowerSampling) -> None:
    model: Any = caller.with_structured_output(None, method="json_mode")  # type: ignore[arg-type]
    bound = model.first
    assert bound.kwargs["response_format"] == {"type": "json_object"}
    asked = {"response_format": bound.kwargs["response_format"]}
    assert caller._request([HumanMessage("a")], None, asked).sampler.generation.json_schema == {"type": "object"}
    with pytest.raises(ConfigurationError, match="strict"):
        caller.with_structured_output(Verdict, method="json_mode", strict=True)
    with pytest.raises(ConfigurationError, match="method: expected one of"):
        caller.with_structured_output(Verdict, method="magic")  # type: ignore[arg-type]


def test_parsing_errors_come_with_the_raw_message(chat: ChatPowerSampling) -> None:
    class Broken(ChatPowerSampling):
        def _generate(self, *args: Any, **kwargs: Any) -> Any:
            return super()._generate([HumanMessage("a")], sampler="ancestral")

    model = Broken(model="tiny", max_new_tokens=4, seed=1).with_structured_output(Verdict, include_raw=True)
    answer: Any = model.invoke("a")
    assert answer["parsed"] is None
    assert isinstance(answer["parsing_error"], exceptions.OutputParserException)


def test_response_format_in_all_forms(chat: ChatPowerSampling) -> None:
    def schema_of(response_format: Any) -> Any:
        regexed = ChatPowerSampling(**{**dict(chat), "regex": "a+"})
        return regexed._request([HumanMessage("a")], None, {"response_format": response_format}).sampler.generation

    wanted = {"type": "json_schema", "json_schema": {"name": "v", "schema": VERDICT_SCHEMA, "strict": True}}
    assert schema_of(wanted).json_schema == VERDICT_SCHEMA
    assert schema_of(Verdict).json_schema["required"] == ["good", "marks"]
    assert schema_of(VERDICT_SCHEMA).json_schema["required"] == ["good"]
    assert schema_of({"type": "text"}).regex is None
    assert schema_of({"enum": [1, 2]}).json_schema == {"enum": [1, 2]}
    assert schema_of(None).regex == "a+"
    for bad in ({"type": "json_schema"}, {"type": "magic"}, 7):
        with pytest.raises(ConfigurationError, match="response_format"):
            schema_of(bad)


@pytest.mark.parametrize(
    "constraint", [{"choices": ["yes", "no"]}, {"regex": "yes|no"}, {"json_schema": {"enum": [1, 2]}}]
)
async def test_constraints_are_fields_and_call_options(caller: ChatPowerSampling, constraint: Any) -> None:
    legal = {"yes", "no", "1", "2"}
    assert ChatPowerSampling(**{**dict(caller), **constraint}).invoke("a").content in legal
    assert (await caller.ainvoke("a", **constraint)).content in legal
    assert merged(list(caller.stream("a", **constraint))).content in legal


# ------------------------------------------------------------ agents


def test_an_agent_runs_a_tool_loop(caller: ChatPowerSampling, loads: list[str]) -> None:
    middleware = ForceOnce()
    agent = create_agent(caller.bind(max_tokens=160), tools=[switch], middleware=[middleware])
    result = agent.invoke(cast("Any", {"messages": [("human", "Switch it on.")]}))
    kinds = [message.type for message in result["messages"]]
    assert kinds == ["human", "ai", "tool", "ai"]
    assert result["messages"][2].content.startswith("light: ")
    assert len(middleware.usage) == 2
    assert all(usage["output_tokens"] > 0 for usage in middleware.usage)
    assert loads == ["tiny"]


def test_an_agent_answers_under_a_schema(caller: ChatPowerSampling) -> None:
    for response_format in (Verdict, ProviderStrategy(Verdict)):
        agent = create_agent(caller, tools=[], response_format=response_format)
        result = agent.invoke(cast("Any", {"messages": [("human", "a")]}))
        assert isinstance(result["structured_response"], Verdict)
