"""The part of the LLM that calls tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse
from llama_index.core.chat_engine.types import AgentChatResponse
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools.types import BaseTool

from llamaindex_power_sampling._tools import as_tools, chosen, selections

__all__ = ["ToolCalling"]


class ToolCalling(FunctionCallingLLM):
    """What agents and `predict_and_call` ask of a model that calls tools."""

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        tool_choice: str | Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Arguments of `chat`. `tool_choice` is None, `auto`, `none`, `required`, a tool's name or OpenAI's dictionary;
        a settled choice comes before `tool_required`. The history is copied."""
        said = [] if user_msg is None else [ChatMessage(user_msg) if isinstance(user_msg, str) else user_msg]
        converted = as_tools(tools)
        return {
            "messages": [*(chat_history or ()), *said],
            "tools": converted,
            "tool_choice": chosen(tool_choice, converted, required=tool_required),
            "parallel_tool_calls": allow_parallel_tool_calls,
            **kwargs,
        }

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The calls of a response, under the names of the tools. A stream has none before its last chunk.

        Raises ValueError, as core's consumers expect, where there is none and one was wanted.
        """
        found = selections(response.message)
        if error_on_no_tool_call and not found:
            raise ValueError(
                f"Expected at least one tool call, but the model answered {response.message.content!r:.200}."
            )
        return found

    def predict_and_call(self, tools: Sequence[BaseTool], *args: Any, **kwargs: Any) -> AgentChatResponse:
        """Let the model choose a tool, and call it. The call is decoded under the tools' schemas, so it names one of
        them and has its arguments."""
        return super().predict_and_call(tools, *args, **self._strictly(kwargs))

    async def apredict_and_call(self, tools: Sequence[BaseTool], *args: Any, **kwargs: Any) -> AgentChatResponse:
        """`predict_and_call`, without blocking the event loop."""
        return await super().apredict_and_call(tools, *args, **self._strictly(kwargs))

    def _strictly(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        return {"strict": True, **kwargs} if self.metadata.is_function_calling_model else dict(kwargs)
