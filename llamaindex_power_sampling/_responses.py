"""Completions of the engine as LlamaIndex's responses, whole or in pieces. Responses are cumulative, deltas are not."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Generic, NamedTuple, TypeVar

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    LogProb,
    MessageRole,
    TextBlock,
    ThinkingBlock,
    ToolCallBlock,
)

from power_sampling import Chunk, Completion, InvalidToolCall
from power_sampling.integrations import arguments_in, completion_facts, finish_reason, reply_of, token_logprobs

__all__ = ["ChatWriter", "CompletionWriter", "Response", "Writer"]

Response = TypeVar("Response", bound=CompletionResponse | ChatResponse)


class _Call(NamedTuple):
    id: str
    name: str
    arguments: dict[str, Any]


class Writer(ABC, Generic[Response]):
    """The responses of one request."""

    def __init__(self, *, is_text: bool, logprobs: bool) -> None:
        self._is_text = is_text  # the prompt was no conversation, so there is nothing to take apart
        self._logprobs = logprobs
        self._content = self._reasoning = ""

    def whole(self, completion: Completion) -> Response:
        """The response to a request that was not streamed."""
        reply = reply_of(completion)
        self._content, self._reasoning = reply.content, reply.reasoning
        return self._last(completion, None, "")

    def piece(self, chunk: Chunk) -> Response | None:
        """The next response of a stream; nobody downstream has use for mere progress."""
        delta = chunk.text if self._is_text else chunk.content
        self._content += delta
        self._reasoning += chunk.reasoning
        if chunk.completion is not None:
            return self._last(chunk.completion, delta, chunk.reasoning)
        return self._respond(delta, chunk.reasoning) if delta or chunk.reasoning else None

    @abstractmethod
    def _last(self, completion: Completion, delta: str | None, reasoning: str) -> Response: ...

    @abstractmethod
    def _respond(self, delta: str | None, reasoning: str) -> Response: ...

    def _facts(self, completion: Completion, *, has_calls: bool = False) -> dict[str, Any]:
        """The fields both kinds of response have for what is known of a completion."""
        raw = completion_facts(completion) | {"finish_reason": finish_reason(completion, has_calls=has_calls)}
        facts: dict[str, Any] = {"raw": raw, "additional_kwargs": completion.usage}
        if self._logprobs:
            facts["logprobs"] = [_log_probs(token) for token in token_logprobs(completion)]
        return facts


def _log_probs(fact: Mapping[str, Any]) -> list[LogProb]:
    """Of one position: the token of the answer, then the likeliest ones, where they were asked for. It may be one of
    them, and stands there again."""
    return [LogProb(token=each["token"], logprob=each["logprob"]) for each in (fact, *fact.get("top_logprobs", ()))]


class CompletionWriter(Writer[CompletionResponse]):
    """Texts. What a model thought before it answered is no part of them and stands in `additional_kwargs`."""

    def _last(self, completion: Completion, delta: str | None, reasoning: str) -> CompletionResponse:
        facts = self._facts(completion)
        if self._reasoning:
            facts["additional_kwargs"]["reasoning"] = self._reasoning
        return CompletionResponse(text=self._content, delta=delta, **facts)

    def _respond(self, delta: str | None, reasoning: str) -> CompletionResponse:
        return CompletionResponse(text=self._content, delta=delta)


class ChatWriter(Writer[ChatResponse]):
    """Messages: thoughts, text, and on the last one the tool calls, as blocks and in `additional_kwargs` (consumers
    read either). `names` are the tools on offer: name shown to the model, name of the tool."""

    def __init__(self, *, names: Mapping[str, str], is_text: bool, logprobs: bool) -> None:
        super().__init__(is_text=is_text, logprobs=logprobs)
        self._names = names

    def _last(self, completion: Completion, delta: str | None, reasoning: str) -> ChatResponse:
        reply = reply_of(completion)
        calls = [_Call(c.id, self._names.get(c.name, c.name), dict(c.arguments)) for c in reply.tool_calls]
        for invalid in reply.invalid_tool_calls:
            if (call := self._unknown_tool(invalid)) is not None:
                calls.append(call)
            else:  # not to be taken for a call, and not to be lost either
                delta = None if delta is None else delta + invalid.arguments
                self._content += invalid.arguments
        facts = self._facts(completion, has_calls=bool(calls))
        message = self._message(calls)
        if reply.invalid_tool_calls:
            message.additional_kwargs["invalid_tool_calls"] = [
                {"id": c.id, "name": c.name, "arguments": c.arguments, "error": c.error}
                for c in reply.invalid_tool_calls
            ]
        facts["additional_kwargs"] |= {"thinking_delta": reasoning} if reasoning else {}
        return ChatResponse(message=message, delta=delta, **facts)

    def _respond(self, delta: str | None, reasoning: str) -> ChatResponse:
        thinking = {"thinking_delta": reasoning} if reasoning else {}
        return ChatResponse(message=self._message(()), delta=delta, additional_kwargs=thinking)

    def _unknown_tool(self, call: InvalidToolCall) -> _Call | None:
        """A well-formed call of a tool that is none: agents answer it themselves, so that the model may try again."""
        if call.name is None or call.name in self._names:
            return None
        try:
            arguments = json.loads(arguments_in(call.arguments, call.name))
        except (ValueError, RecursionError):
            return None
        return _Call(call.id, call.name, arguments) if isinstance(arguments, dict) else None

    def _message(self, calls: list[_Call] | tuple[()]) -> ChatMessage:
        blocks: list[Any] = []
        if self._reasoning:
            blocks.append(ThinkingBlock(content=self._reasoning))
        if self._content or not calls:
            blocks.append(TextBlock(text=self._content))
        blocks += [ToolCallBlock(tool_call_id=c.id, tool_name=c.name, tool_kwargs=c.arguments) for c in calls]
        also = [
            {
                "id": c.id,
                "type": "function",
                "function": {"name": c.name, "arguments": json.dumps(c.arguments, ensure_ascii=False)},
            }
            for c in calls
        ]
        kwargs = {"tool_calls": also} if also else {}
        return ChatMessage(role=MessageRole.ASSISTANT, blocks=blocks, additional_kwargs=kwargs)
