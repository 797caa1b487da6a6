"""AutoGen: an agent with two tools, a typed answer, a stream, an error."""

import asyncio
import sys

import openai
from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import ModelInfo, UserMessage
from autogen_ext.models.openai import OpenAIChatCompletionClient
from pydantic import BaseModel

url, answer = sys.argv[1:]
asked = []
told = ModelInfo(vision=False, function_calling=True, json_output=True, structured_output=True, family="unknown")


class Verdict(BaseModel):
    good: bool
    marks: int


def client(name: str = "M") -> OpenAIChatCompletionClient:
    return OpenAIChatCompletionClient(model=name, base_url=url, api_key="key", model_info=told, max_retries=0)


async def look() -> str:
    """Look at the light."""
    asked.append("look")
    return "the light is on"


async def switch(on: bool) -> str:
    """Switch the light."""
    asked.append(f"switch {on}")
    return f"light: {on}"


async def main() -> None:
    agent = AssistantAgent("a", client("M:mh@num_steps=2"), tools=[look, switch], max_tool_iterations=4)
    result = await agent.run(task="Light, please.")
    assert result.messages[-1].content == answer and asked == ["look", "switch True"], (result.messages, asked)
    hello = [UserMessage(content="Hello?", source="user")]
    *pieces, last = [piece async for piece in client().create_stream(hello)]
    assert "".join(pieces) == last.content == answer
    typed = await client().create(hello, json_output=Verdict)
    Verdict.model_validate_json(typed.content)
    try:
        await client("nobody").create(hello)
        raise AssertionError("a model that is not there answered")
    except openai.NotFoundError:
        pass


asyncio.run(main())
