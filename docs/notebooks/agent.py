# %% [markdown]
# # An agent with LangGraph
#
# A graph of two nodes: the model, and its tool. A model of 135 million parameters seldom decides well whether to call
# a tool, so the first turn has to: the call is then decoded under the tool's schema, and is valid whatever the
# model's size. Larger models are left `auto`.

# %%
from typing import Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langgraph.graph import START, MessagesState, StateGraph
from langgraph.prebuilt import ToolNode, tools_condition

from langchain_power_sampling import ChatPowerSampling


@tool
def weather(city: Literal["Paris", "Oslo", "Lima"]) -> str:
    """The weather in a city."""
    return {"Paris": "Sunny, 24 degrees.", "Oslo": "Snow, -3 degrees.", "Lima": "Fog, 18 degrees."}[city]


# %% [markdown]
# One model under two sets of settings; the weights are loaded once.

# %%
moves = {"name": "metropolis_hastings", "block_size": 32, "num_steps": 1}
model = ChatPowerSampling(model="embedded", sampler=moves, alpha=4.0, max_tokens=32, seed=1)
caller, speaker = model.bind_tools([weather], tool_choice="weather"), model.bind(max_tokens=16)


def answer(state: MessagesState) -> dict:
    has_result = isinstance(state["messages"][-1], ToolMessage)
    return {"messages": [(speaker if has_result else caller).invoke(state["messages"])]}


# %%
graph = StateGraph(MessagesState)
graph.add_node("answer", answer)
graph.add_node("tools", ToolNode([weather]))
graph.add_edge(START, "answer")
graph.add_conditional_edges("answer", tools_condition)
graph.add_edge("tools", "answer")
agent = graph.compile()

messages = agent.invoke({"messages": [HumanMessage("What is the weather like in Oslo?")]})["messages"]
for message in messages:
    calls = [f"{call['name']}({call['args']})" for call in getattr(message, "tool_calls", [])]
    print(f"{message.type:<6} {', '.join(calls) or message.text}")

# %% [markdown]
# What the turns have cost: the tokens that came out, and those that were drawn to find them.

# %%
for message in messages:
    if message.type == "ai":
        facts = message.response_metadata["power_sampling"]
        print(message.usage_metadata["output_tokens"], "tokens,", facts["tokens_decoded"], "drawn:", facts["exactness"])
