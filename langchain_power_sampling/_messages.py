"""LangChain's messages as the engine's, and the engine's replies as LangChain's."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    InvalidToolCall,
    SystemMessage,
    ToolCall,
    ToolMessage,
    get_buffer_string,
)
from langchain_core.messages.ai import UsageMetadata
from langchain_core.messages.tool import ToolCallChunk, invalid_tool_call, tool_call, tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk
from langchain_core.utils.json import parse_partial_json

from power_sampling import Chunk, Completion, InputError, Progress, Reply
from power_sampling.integrations import arguments_in, call_fault, openai_call, reply_of, shortened

__all__ = ["ChunkWriter", "as_text", "engine_messages", "generation_of"]

ROLES = {"human": "user", "ai": "assistant"}  # of a ChatMessage, whose role is free
TEXT_BLOCKS = ("text", "text-plain", "input_text", "output_text")
THOUGHTS = ("reasoning", "thinking", "redacted_thinking")  # of earlier turns: the template knows what to do with them
CALLS = ("tool_use", "tool_call", "tool_call_chunk", "invalid_tool_call")
PROGRESS_STEP = 0.05


# ------------------------------------------------------------ to the engine


def engine_messages(messages: Sequence[BaseMessage], names: Collection[str] = ()) -> list[dict[str, Any]]:
    """Roles `system`, `user`, `assistant`, `tool` with plain text, calls and results, as chat templates read them.

    What answers a call that was none says what was wrong with it: agents tell the model no more than that it was
    malformed or truncated, and it writes the same again. `names` are the tools.
    """
    converted: list[dict[str, Any]] = []
    faults: dict[str, str] = {}
    for message in messages:
        if isinstance(message, AIMessage):
            faults |= {str(c["id"]): _fault(c, names) for c in message.invalid_tool_calls}
        converted.extend(_converted(message))
    for new in converted:
        fault = faults.get(new.get("tool_call_id", "")) if new["role"] == "tool" else None
        if fault and fault not in new["content"]:
            new["content"] = f"{new['content']} {fault}".strip()
    return converted


def as_text(messages: Sequence[BaseMessage]) -> str:
    """Messages as a text, for a model that has no chat template or is not to use it: LangChain's own form of that, up
    to where the assistant speaks."""
    engine_messages(messages)  # refuses images before anybody drops them
    speaks = not messages or not isinstance(messages[-1], AIMessage)  # its last message is continued
    return get_buffer_string(messages) + "\nAI:" * speaks


def _converted(message: BaseMessage) -> Iterator[dict[str, Any]]:
    match message:
        case SystemMessage():
            yield _plain("system", message)
        case HumanMessage():
            yield from _of_user(message)
        case AIMessage():
            yield _of_assistant(message)
        case ToolMessage():
            yield _result(message.content, message.tool_call_id, message.name, is_error=message.status == "error")
        case FunctionMessage():
            yield {"role": "tool", "name": message.name, "content": _text(message.content)}
        case ChatMessage():
            yield _plain(ROLES.get(message.role, message.role), message)
        case _:
            raise InputError(f"A message of type {message.type!r} has no place in a prompt: {shortened(message)}.")


def _plain(role: str, message: BaseMessage) -> dict[str, Any]:
    named = {"name": message.name} if message.name else {}
    return {"role": role, "content": _text(message.content), **named}


def _of_user(message: HumanMessage) -> Iterator[dict[str, Any]]:
    """Tool results may come inside a user's message, as Anthropic writes them: each becomes a message of its own."""
    blocks = message.content if isinstance(message.content, list) else [message.content]
    said = [block for block in blocks if not _is(block, "tool_result")]
    for block in blocks:
        if isinstance(block, dict) and _is(block, "tool_result"):
            is_error = bool(block.get("is_error"))
            yield _result(block.get("content", ""), str(block.get("tool_use_id")), None, is_error=is_error)
    if said or not blocks:
        named = {"name": message.name} if message.name else {}
        yield {"role": "user", "content": _text(said), **named}


def _of_assistant(message: AIMessage) -> dict[str, Any]:
    blocks = message.content if isinstance(message.content, list) else [message.content]
    said = [block for block in blocks if not _is(block, *THOUGHTS, *CALLS)]
    calls = [openai_call(c["id"], c["name"], c["args"]) for c in message.tool_calls]
    calls += [openai_call(c["id"], c["name"], _meant(c)) for c in message.invalid_tool_calls]
    known = {call["id"] for call in calls}
    for block in blocks:
        if isinstance(block, dict) and _is(block, "tool_use", "tool_call") and block.get("id") not in known:
            arguments = block["input"] if "input" in block else block.get("args")
            calls.append(openai_call(block.get("id"), block.get("name"), arguments))
    converted: dict[str, Any] = {"role": "assistant", "content": _text(said)}
    converted |= {"name": message.name} if message.name else {}
    converted |= {"reasoning_content": thoughts} if (thoughts := _thoughts_of(message, blocks)) else {}
    return converted | ({"tool_calls": calls} if calls else {})


def _fault(call: InvalidToolCall, names: Collection[str]) -> str:
    """What was wrong with a call; what a stream was made of has lost its error."""
    return call_fault(call["args"] or "", names, call["name"]) or call.get("error") or ""


def _meant(call: InvalidToolCall) -> str:
    """The text of the arguments, as the model wrote it."""
    text = call["args"] or ""
    with suppress(ValueError, RecursionError):  # it is no JSON
        if isinstance(quoted := json.loads(text), str):  # by `_unparsable`
            text = quoted
    return arguments_in(text, call["name"])


def _thoughts_of(message: AIMessage, blocks: Sequence[Any]) -> str:
    """What the model thought, as this adapter keeps it, or in blocks as others do."""
    kept = message.additional_kwargs.get("reasoning_content")
    if isinstance(kept, str) and kept:
        return kept
    found = [block.get(block["type"]) for block in blocks if _is(block, "reasoning", "thinking")]
    return "\n".join(text for text in found if isinstance(text, str))


def _result(content: Any, identity: str, name: str | None, *, is_error: bool) -> dict[str, Any]:
    text = _text(content)
    if is_error and not text.lower().startswith("error"):
        text = f"Error: {text}"  # templates have no other place for it
    named = {"name": name} if name else {}
    return {"role": "tool", "tool_call_id": identity, "content": text, **named}


def _is(block: Any, *types: str) -> bool:
    return isinstance(block, dict) and block.get("type") in types


def _text(content: Any) -> str:
    """The text of a message's content. Everything else than text is refused, never dropped."""
    if isinstance(content, str):
        return content
    return "".join(_text_of_block(block) for block in content or ())


def _text_of_block(block: Any) -> str:
    if isinstance(block, str):
        return block
    if isinstance(block, Mapping):
        if block.get("type") in TEXT_BLOCKS and isinstance(block.get("text"), str):
            return str(block["text"])
        if block.get("type") == "refusal":
            return str(block.get("refusal", ""))
        if "type" not in block:
            return _written(block)
    kind = block.get("type") if isinstance(block, Mapping) else type(block).__name__
    raise InputError(
        f"The model reads text only; a message holds a block of type {kind!r}. Describe it in words, or use a model "
        "that takes such input."
    )


def _written(value: Mapping[Any, Any]) -> str:
    """What a tool returned."""
    try:
        return json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"What a tool returned is no JSON ({error}): {shortened(value)}.") from error


# ------------------------------------------------------------ from the engine


def generation_of(completion: Completion, metadata: dict[str, Any]) -> ChatGeneration:
    """A finished reply as a message: text in `content`, thoughts in `additional_kwargs`, calls as `tool_calls`."""
    reply = reply_of(completion)
    message = AIMessage(
        content=reply.content,
        additional_kwargs=_thoughts(reply.reasoning),
        tool_calls=[_tool_call(call.name, call.arguments, call.id) for call in reply.tool_calls],
        invalid_tool_calls=_invalid_calls(reply),
        usage_metadata=_usage(completion),
        response_metadata=metadata,
    )
    return ChatGeneration(message=message, generation_info={"finish_reason": metadata["finish_reason"]})


class ChunkWriter:
    """The pieces of one stream as LangChain's chunks.

    Merging chunks concatenates strings and adds numbers up, so usage and metadata stand on the last one alone. Progress
    is an attribute of its chunk, which merging leaves behind: what a graph keeps is the message alone.
    """

    def __init__(self, metadata: Callable[[Completion], dict[str, Any]], *, is_text: bool = False) -> None:
        self._metadata = metadata
        self._is_text = is_text  # the prompt was no conversation, so there is nothing to take apart
        self._shown = 0.0  # the share of the work that text or progress has told of

    def chunks(self, piece: Chunk) -> Iterator[ChatGenerationChunk]:
        """What is to be told of a piece: its text, its progress where there is none, and at the end the facts."""
        content = piece.text if self._is_text else piece.content
        if content or piece.reasoning:
            yield _chunk(content=content, additional_kwargs=_thoughts(piece.reasoning))
        if piece.progress is not None:
            share = piece.progress.done / max(1, piece.progress.total)
            if not (content or piece.reasoning or piece.completion) and share >= self._shown + PROGRESS_STEP:
                yield _chunk(content="", power_sampling_progress=_progress(piece.progress))
                self._shown = share
            elif content or piece.reasoning:
                self._shown = share
        if piece.completion is not None:
            yield from self._end(piece.completion)

    def _end(self, completion: Completion) -> Iterator[ChatGenerationChunk]:
        if calls := _call_chunks(reply_of(completion)):
            yield _chunk(content="", tool_call_chunks=calls)
        metadata = self._metadata(completion)
        last = AIMessageChunk(
            content="", usage_metadata=_usage(completion), response_metadata=metadata, chunk_position="last"
        )
        yield ChatGenerationChunk(message=last, generation_info={"finish_reason": metadata["finish_reason"]})


def _chunk(**fields: Any) -> ChatGenerationChunk:
    return ChatGenerationChunk(message=AIMessageChunk(**fields))


def _progress(progress: Progress) -> dict[str, Any]:
    stats = {name: float(value) for name, value in progress.stats.items()}
    return {"done": progress.done, "total": progress.total, "stats": stats}


def _thoughts(reasoning: str) -> dict[str, Any]:
    return {"reasoning_content": reasoning} if reasoning else {}  # `content_blocks` finds it there


def _tool_call(name: str, arguments: Mapping[str, Any], identity: str) -> ToolCall:
    return tool_call(name=name, args=dict(arguments), id=identity)


def _invalid_calls(reply: Reply) -> list[InvalidToolCall]:
    return [
        invalid_tool_call(name=call.name, args=call.arguments, id=call.id, error=call.error)
        for call in reply.invalid_tool_calls
    ]


def _call_chunks(reply: Reply) -> list[ToolCallChunk]:
    """Each call in one piece. Its index is its place among the blocks of the message, where v1 content puts it."""
    arguments = [(c.name, json.dumps(dict(c.arguments), ensure_ascii=False), c.id) for c in reply.tool_calls]
    broken = [(c.name, _unparsable(c.arguments), c.id) for c in reply.invalid_tool_calls]
    first = bool(reply.reasoning) + bool(reply.content)
    return [
        tool_call_chunk(name=name, args=text, id=identity, index=first + i)
        for i, (name, text, identity) in enumerate([*arguments, *broken])
    ]


def _unparsable(arguments: str) -> str:
    """LangChain parses the arguments of merged chunks, and completes broken JSON: what is invalid must stay so."""
    try:
        is_object = isinstance(parse_partial_json(arguments), dict) if arguments else True
    except json.JSONDecodeError:
        return arguments
    except RecursionError:  # LangChain would run into it too
        is_object = True
    return json.dumps(arguments) if is_object else arguments


def _usage(completion: Completion) -> UsageMetadata:
    usage = completion.usage
    return UsageMetadata(
        input_tokens=usage["prompt_tokens"],
        output_tokens=usage["completion_tokens"],
        total_tokens=usage["total_tokens"],
        input_token_details={"cache_read": completion.cached_tokens},
    )
