"""A small real model calls the right tool of three, through the agents of LangChain and of LlamaIndex.

AGENT_GGUF=FILE.gguf pytest -m slow tests/integrations/test_real_agents.py

The file is of an instruct model that calls tools, such as Qwen2.5-Coder-0.5B-Instruct.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest
from langchain.agents import create_agent
from llama_index.core.agent.workflow import AgentOutput, FunctionAgent
from workflows.errors import WorkflowCancelledByUser

from langchain_power_sampling import ChatPowerSampling
from llamaindex_power_sampling import PowerSamplingLLM
from tests.support.llamaindex import WORKFLOWS

FILE = Path(os.environ.get("AGENT_GGUF", ""))

pytestmark = [
    WORKFLOWS,
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not FILE.is_file(), reason="AGENT_GGUF names no GGUF file of an instruct model"),
]


def weather(city: str) -> str:
    """The weather in a city now."""
    return f"Sunny in {city}, 24 degrees."


def multiply(a: int, b: int) -> str:
    """Multiply two whole numbers."""
    return str(a * b)


def send_mail(to: str, text: str) -> str:
    """Send an e-mail to an address."""
    return f"Sent to {to}."


TOOLS: list[Any] = [weather, multiply, send_mail]
REQUESTS = {
    "What is the weather like in Oslo?": "weather",
    "Is it warm in Lima today?": "weather",
    "Does it rain in Paris right now?": "weather",
    "Tell me the weather of Cairo, please.": "weather",
    "What is 17 times 23?": "multiply",
    "Multiply 6 by 912.": "multiply",
    "How much is 41 * 77?": "multiply",
    "Send an e-mail to ann@example.org that says: see you at noon.": "send_mail",
    "Write a mail to bob@example.org: the parcel has come.": "send_mail",
    "E-mail carl@example.org the text 'thank you'.": "send_mail",
}
ENOUGH = 8


SETTINGS: dict[str, Any] = {
    "engine": "torch",
    "dtype": "float32",
    "sampler": "low_temperature",
    "alpha": 4.0,
    "max_new_tokens": 64,
    "seed": 1,
}


def check(called: dict[str, str | None]) -> None:
    assert sum(called[request] == tool for request, tool in REQUESTS.items()) >= ENOUGH, called


@pytest.fixture(scope="module")
def chat() -> ChatPowerSampling:
    return ChatPowerSampling(model=str(FILE), **SETTINGS)


def test_create_agent_calls_the_right_tool(chat: ChatPowerSampling) -> None:
    agent = create_agent(chat, tools=TOOLS)
    called: dict[str, str | None] = {}
    for request in REQUESTS:
        for step in agent.stream(cast("Any", {"messages": [("human", request)]}), stream_mode="updates"):
            (said,) = step["model"]["messages"]
            called[request] = said.tool_calls[0]["name"] if said.tool_calls else None
            break  # what it calls first, not what it makes of the result
    check(called)


async def test_function_agent_calls_the_right_tool(chat: ChatPowerSampling) -> None:
    """Equal settings share the model that `chat` has loaded."""
    agent = FunctionAgent(llm=PowerSamplingLLM(model=str(FILE), **SETTINGS), tools=TOOLS)
    called: dict[str, str | None] = {}
    for request in REQUESTS:
        run = agent.run(request)
        async for event in run.stream_events():
            if isinstance(event, AgentOutput):
                called[request] = event.tool_calls[0].tool_name if event.tool_calls else None
                await run.cancel_run()
                break
        with suppress(WorkflowCancelledByUser):
            await run
    check(called)
