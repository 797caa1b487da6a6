"""Haystack: a chat generator, its stream, an agent with two tools, an error."""

import sys

import openai
from haystack.components.agents import Agent
from haystack.components.generators.chat import OpenAIChatGenerator
from haystack.dataclasses import ChatMessage
from haystack.tools import create_tool_from_function
from haystack.utils import Secret

url, answer = sys.argv[1:]
asked = []


def generator(name: str = "M", **fields) -> OpenAIChatGenerator:
    return OpenAIChatGenerator(
        api_key=Secret.from_token("key"), model=name, api_base_url=url, max_retries=0, timeout=60, **fields
    )


def look() -> str:
    """Look at the light."""
    asked.append("look")
    return "the light is on"


def switch(on: bool) -> str:
    """Switch the light."""
    asked.append(f"switch {on}")
    return f"light: {on}"


hello = [ChatMessage.from_user("Hello?")]
assert generator("M:smc").run(hello)["replies"][0].text == answer
pieces = []
generator(streaming_callback=lambda chunk: pieces.append(chunk.content)).run(hello)
assert "".join(pieces) == answer
agent = Agent(chat_generator=generator(), tools=[create_tool_from_function(f) for f in (look, switch)])
result = agent.run(messages=[ChatMessage.from_user("Light, please.")])
assert result["messages"][-1].text == answer and asked == ["look", "switch True"], (result["messages"], asked)
try:
    generator("nobody").run(hello)
    raise AssertionError("a model that is not there answered")
except openai.NotFoundError:
    pass
