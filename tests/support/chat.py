"""What the tests of the chat model share: tools, schemas, an agent's middleware, what messages have in common."""

from __future__ import annotations

from typing import Any

from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field


@tool
def switch(on: bool) -> str:
    """Switch the light.

    Args:
        on: whether it is to be on.
    """
    return f"light: {on}"


@tool
def look() -> str:
    """Look at the light."""
    return "the light is on"


class Verdict(BaseModel):
    """A verdict."""

    good: bool
    marks: int = Field(ge=0, le=9)


VERDICT_SCHEMA = {
    "title": "Verdict",
    "description": "A verdict.",
    "type": "object",
    "properties": {"good": {"type": "boolean"}},
    "required": ["good"],
}
VERDICT_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {"name": "Verdict", "description": "A verdict.", "parameters": {**VERDICT_SCHEMA}},
}


class ForceOnce(AgentMiddleware[Any, Any]):
    """Asks for a call in the first turn, as an application does that must look something up; reads usage."""

    def __init__(self) -> None:
        super().__init__()
        self.usage: list[Any] = []

    def wrap_model_call(self, request: Any, handler: Any) -> Any:
        has_result = any(isinstance(m, ToolMessage) for m in request.messages)
        response = handler(request.override(tool_choice="none" if has_result else "any"))
        self.usage += [m.usage_metadata for m in response.result]
        return response


def merged(chunks: list[AIMessageChunk]) -> AIMessageChunk:
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole = whole + chunk
    return whole


def essence(message: BaseMessage) -> dict[str, Any]:
    """What an invoked and a streamed message have in common."""
    assert isinstance(message, AIMessage)
    facts = {k: v for k, v in message.response_metadata.items() if not k.startswith("power_sampling")}
    if "logp" in facts:
        facts["logp"] = round(facts["logp"], 6)  # a batch of another size rounds in another way
    if "token_usage" in facts:
        facts["token_usage"] = {k: v for k, v in facts["token_usage"].items() if k != "prompt_tokens_details"}
    usage = {k: v for k, v in (message.usage_metadata or {}).items() if k != "input_token_details"}  # what was cached
    return {
        "text": message.text,
        "calls": [(c["name"], c["args"]) for c in message.tool_calls],
        "invalid": [c["name"] for c in message.invalid_tool_calls],
        "reasoning": message.additional_kwargs.get("reasoning_content"),
        "usage": usage,
        "facts": facts,
    }
