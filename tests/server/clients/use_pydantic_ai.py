"""pydantic-ai: an agent with two tools, a typed answer by a tool and by the server's schema, a stream, an error."""

import asyncio
import sys

from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

url, answer = sys.argv[1:]


class Verdict(BaseModel):
    good: bool
    marks: int


def model(name: str = "M") -> OpenAIChatModel:
    return OpenAIChatModel(name, provider=OpenAIProvider(base_url=url, api_key="key"))


async def main() -> None:
    asked = []
    agent = Agent(model("M:mh@num_steps=2"))

    @agent.tool_plain
    def look() -> str:
        """Look at the light."""
        asked.append("look")
        return "the light is on"

    @agent.tool_plain
    def switch(on: bool) -> str:
        """Switch the light."""
        asked.append(f"switch {on}")
        return f"light: {on}"

    done = await agent.run("Light, please.")
    assert (done.output, asked) == (answer, ["look", "switch True"]), (done.output, asked)
    assert done.usage().output_tokens > len(answer)

    plain = Agent(model())
    async with plain.run_stream("Hello?") as stream:
        assert [text async for text in stream.stream_text()][-1] == answer
    for output in (Verdict, NativeOutput(Verdict)):
        verdict = (await Agent(model(), output_type=output).run("Good?")).output
        assert isinstance(verdict, Verdict), verdict
    try:
        await Agent(model("nobody")).run("Hello?")
        raise AssertionError("a model that is not there answered")
    except ModelHTTPError as error:
        assert error.status_code == 404 and "M" in str(error.body), error.body


asyncio.run(main())
