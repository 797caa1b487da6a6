"""Tools on a small local model: one call chosen and made, and an agent.

    python examples/llamaindex_agent.py

A model of 135 million parameters seldom decides well whether to call a tool, and puts results into words badly. So the
agent's first turn is told to call one, and the result is the answer (`return_direct`). The call is decoded under the
tool's schema, and is valid whatever the model's size. Larger models need neither.
"""

import asyncio
from typing import Literal

from llama_index.core.agent.workflow import FunctionAgent, ToolCallResult
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.tools import FunctionTool

from llamaindex_power_sampling import PowerSamplingLLM

QUESTION = "What is the weather like in Oslo?"
SAMPLER = {"name": "metropolis_hastings", "block_size": 40, "num_steps": 1}


def weather(city: Literal["Paris", "Oslo", "Lima"]) -> str:
    """The weather in a city."""
    return {"Paris": "Sunny, 24 degrees.", "Oslo": "Snow, -3 degrees.", "Lima": "Fog, 18 degrees."}[city]


def elevation(city: Literal["Paris", "Oslo", "Lima"]) -> str:
    """The height of a city above the sea."""
    return {"Paris": "35 metres.", "Oslo": "23 metres.", "Lima": "154 metres."}[city]


async def main() -> None:
    llm = PowerSamplingLLM(model="embedded", sampler=SAMPLER, alpha=4.0, max_new_tokens=40, seed=1)

    tools = [FunctionTool.from_defaults(weather), FunctionTool.from_defaults(elevation)]
    response = await llm.apredict_and_call(tools, QUESTION, tool_required=True)
    for source in response.sources:
        print(f"predict_and_call: {source.tool_name}({source.raw_input['kwargs']}) = {source.content}")

    agent = FunctionAgent(
        llm=llm,
        tools=[FunctionTool.from_defaults(weather, return_direct=True)],
        system_prompt="Tell the user the weather, in one short sentence.",
        initial_tool_choice="weather",
        allow_parallel_tool_calls=False,
    )
    handler = agent.run(QUESTION, memory=ChatMemoryBuffer.from_defaults(llm=llm), max_iterations=3)
    async for event in handler.stream_events():
        if isinstance(event, ToolCallResult):
            print(f"FunctionAgent: {event.tool_name}({event.tool_kwargs}) = {event.tool_output.content}")
    print(f"FunctionAgent: {str(await handler).strip()}")


if __name__ == "__main__":
    asyncio.run(main())
