"""openai-agents: over chat completions and over responses; two tools, a typed answer, a stream, an error."""

import asyncio
import sys

import openai
from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from pydantic import BaseModel

url, answer = sys.argv[1:]
set_tracing_disabled(True)
client = openai.AsyncOpenAI(base_url=url, api_key="key", max_retries=0)


class Verdict(BaseModel):
    good: bool
    marks: int


@function_tool
def look() -> str:
    """Look at the light."""
    return "the light is on"


@function_tool
def switch(on: bool) -> str:
    """Switch the light."""
    return f"light: {on}"


async def main() -> None:
    for kind in (OpenAIChatCompletionsModel, OpenAIResponsesModel):
        model = kind(model="M", openai_client=client)
        agent = Agent(name="a", instructions="Be brief.", model=model, tools=[look, switch])
        result = await Runner.run(agent, "Light, please.")
        called = [item.raw_item.name for item in result.new_items if item.type == "tool_call_item"]
        assert (result.final_output, called) == (answer, ["look", "switch"]), (kind, result.final_output, called)
        typed = await Runner.run(Agent(name="t", model=model, output_type=Verdict), "Good?")
        assert isinstance(typed.final_output, Verdict)
        streamed = Runner.run_streamed(agent, "Light, please.")
        kinds = [event.type async for event in streamed.stream_events()]
        assert streamed.final_output == answer and "raw_response_event" in kinds
        try:
            await Runner.run(Agent(name="n", model=kind(model="nobody", openai_client=client)), "Hello?")
            raise AssertionError("a model that is not there answered")
        except openai.NotFoundError:
            pass


asyncio.run(main())
