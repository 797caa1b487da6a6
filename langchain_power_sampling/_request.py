"""One call of the chat model: what the model is to see, and LangChain's result of what it answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult

from langchain_power_sampling._base import generation_info, token_usage
from langchain_power_sampling._messages import as_text, engine_messages, generation_of
from langchain_power_sampling._tools import as_tools, chosen, is_strict, shown
from power_sampling import Completion, Conversation, InputError, PowerSampler
from power_sampling.integrations import PROVIDER, finish_reason, reply_of

__all__ = ["CONVERSATION_OPTIONS", "USAGE", "Request", "conversation_of", "prompt_of"]

CONVERSATION_OPTIONS = ("tools", "tool_choice", "strict", "parallel_tool_calls")  # of a call, beside its settings
USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")
DETAILS = "prompt_tokens_details"


class Request(NamedTuple):
    """The runtime under the settings of the call, what the model is to see, and how many answers are wanted."""

    sampler: PowerSampler
    prompt: Conversation | str
    n: int

    def metadata(self, completion: Completion) -> dict[str, Any]:
        """What `response_metadata` tells of a reply."""
        info = generation_info(completion, logprobs=self.sampler.generation.has_logprobs)
        if "logprobs" in info:
            info["logprobs"] = {"content": info["logprobs"]}
        info["finish_reason"] = finish_reason(completion, has_calls=bool(reply_of(completion).tool_calls))
        info["token_usage"] = {name: info.pop(name) for name in (*USAGE, DETAILS)}  # where merging `result` puts it
        return {"model_name": self.sampler.model_name, "model_provider": PROVIDER, **info}

    def result(self, completions: list[Completion]) -> ChatResult:
        """The answer to a call that was not streamed."""
        return ChatResult(
            generations=[generation_of(completion, self.metadata(completion)) for completion in completions],
            llm_output={
                "model_name": self.sampler.model_name,
                "token_usage": token_usage(completions, n=len(completions)),
            },
        )


def prompt_of(messages: Sequence[BaseMessage], options: Mapping[str, Any], *, as_is: bool) -> Conversation | str:
    """What the model is to see: a conversation, or, where no chat template is to be used, a text."""
    conversation = conversation_of(messages, options)
    if not as_is:
        return conversation
    if conversation.tools and conversation.tool_choice != "none":
        raise InputError(
            "Tools are shown through the chat template, and use_chat_template=False uses none. Leave it out, or leave "
            "the tools out."
        )
    return as_text(messages)


def conversation_of(messages: Sequence[BaseMessage], options: Mapping[str, Any]) -> Conversation:
    """Messages and tools in the engine's form; `options` are CONVERSATION_OPTIONS, each optional."""
    strict = options.get("strict")
    tools = as_tools(options.get("tools"), strict)
    return Conversation(
        messages=engine_messages(messages, [tool["function"]["name"] for tool in tools]),
        tools=[shown(tool) for tool in tools],
        tool_choice=chosen(options.get("tool_choice"), tools),
        parallel_tool_calls=options.get("parallel_tool_calls"),
        strict=is_strict(tools, strict),
    )
