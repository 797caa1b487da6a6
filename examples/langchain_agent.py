"""Two agents with a tool on a small local model: LangChain's `create_agent`, and a LangGraph graph.

    pip install 'power-sampling[langchain]' langchain langgraph
    python examples/langchain_agent.py

A model of 135 million parameters seldom decides well whether to call a tool. So the first turn is told to: the call is
then decoded under the tool's schema, and is valid whatever the model's size. Larger models are left `auto`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from langchain.agents import AgentState, create_agent
from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import AnyMessage, HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition
from langgraph.runtime import Runtime

from langchain_power_sampling import ChatPowerSampling

QUESTION = "What is the weather like in Oslo?"


@tool
def weather(city: Literal["Paris", "Oslo", "Lima"]) -> str:
    """The weather in a city."""
    return {"Paris": "Sunny, 24 degrees.", "Oslo": "Snow, -3 degrees.", "Lima": "Fog, 18 degrees."}[city]


class CallFirst(AgentMiddleware):
    """A tool is called in the first turn, and its result put into words in the next."""

    def wrap_model_call(self, request: ModelRequest, handler: Callable[[ModelRequest], ModelResponse]) -> ModelResponse:
        if _has_result(request.messages):
            return handler(request.override(tool_choice="none", model_settings={"max_tokens": 16}))
        return handler(request.override(tool_choice="any"))


class CountTokens(AgentMiddleware):
    """What the model's turns have cost: the tokens that came out, and those that were drawn to find them."""

    def __init__(self) -> None:
        super().__init__()
        self.turns = self.answered = self.drawn = 0

    def after_model(self, state: AgentState[Any], runtime: Runtime[Any]) -> None:
        message: Any = state["messages"][-1]
        self.turns += 1
        self.answered += message.usage_metadata["output_tokens"]
        self.drawn += message.response_metadata["power_sampling"]["tokens_decoded"]


def _has_result(messages: list[AnyMessage]) -> bool:
    return any(isinstance(message, ToolMessage) for message in messages)


def with_create_agent(model: ChatPowerSampling) -> list[AnyMessage]:
    tokens = CountTokens()
    agent = create_agent(model, tools=[weather], middleware=[CallFirst(), tokens])
    found: list[AnyMessage] = agent.invoke({"messages": [HumanMessage(QUESTION)]})["messages"]
    print(f"create_agent: {tokens.turns} turns, {tokens.answered} tokens in them, {tokens.drawn} drawn to find them")
    return found


def with_langgraph(model: ChatPowerSampling) -> list[AnyMessage]:
    caller, speaker = model.bind_tools([weather], tool_choice="weather"), model.bind(max_tokens=16)

    def answer(state: MessagesState) -> dict[str, Any]:
        messages = state["messages"]
        return {"messages": [(speaker if _has_result(messages) else caller).invoke(messages)]}

    graph = StateGraph(MessagesState)
    graph.add_node("answer", answer)
    graph.add_node("tools", ToolNode([weather]))
    graph.add_edge(START, "answer")
    graph.add_conditional_edges("answer", tools_condition)
    graph.add_edge("tools", "answer")
    print("LangGraph:")
    found: list[AnyMessage] = graph.compile().invoke({"messages": [HumanMessage(QUESTION)]})["messages"]
    return found


def main() -> None:
    sampler = {"name": "metropolis_hastings", "block_size": 32, "num_steps": 1}
    model = ChatPowerSampling(model="embedded", sampler=sampler, alpha=4.0, max_new_tokens=32, seed=1)
    for run in (with_create_agent, with_langgraph):
        for message in run(model):
            calls = [f"{call['name']}({call['args']})" for call in getattr(message, "tool_calls", [])]
            print(f"    {message.type:<6} {', '.join(calls) or message.text}")


if __name__ == "__main__":
    main()
