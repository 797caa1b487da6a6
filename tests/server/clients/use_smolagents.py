"""smolagents: a ToolCallingAgent with two tools, a stream, an error."""

import sys

import openai
from smolagents import OpenAIServerModel, ToolCallingAgent, tool

url, answer = sys.argv[1:]
asked = []


@tool
def look() -> str:
    """Look at the light."""
    asked.append("look")
    return "the light is on"


@tool
def switch(on: bool) -> str:
    """Switch the light.

    Args:
        on: whether it is to be on.
    """
    asked.append(f"switch {on}")
    return f"light: {on}"


def model(name: str = "M") -> OpenAIServerModel:
    return OpenAIServerModel(name, api_base=url, api_key="key", client_kwargs={"max_retries": 0}, retry=False)


messages = [{"role": "user", "content": [{"type": "text", "text": "Hello?"}]}]
assert model().generate(messages).content == answer
assert "".join(delta.content or "" for delta in model("M:smc").generate_stream(messages)) == answer
agent = ToolCallingAgent(tools=[look, switch], model=model(), max_steps=4, verbosity_level=0)
final = agent.run("Light, please.")  # ends by the agent's own tool `final_answer`
assert asked == ["look", "switch True"] and isinstance(final, str), (asked, final)
try:
    model("nobody").generate(messages)
    raise AssertionError("a model that is not there answered")
except openai.NotFoundError:
    pass
