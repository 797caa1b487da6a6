"""A request to /v1/responses as the chat that it stands for. Every field is honoured or refused."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from power_sampling.server.asked import Asked, Served, asked_chat, refused
from power_sampling.server.faults import Fault, unreadable
from power_sampling.server.responses.wire import (
    FunctionCall,
    FunctionOutput,
    Item,
    MessageItem,
    NamedTool,
    ReasoningItem,
    ResponseRequest,
    SchemaFormat,
    TextPart,
)
from power_sampling.server.wire import ChatRequest

__all__ = ["asked_response"]

Json = dict[str, Any]
LOGPROBS = "message.output_text.logprobs"
# fields of their protocol alone: what they may be, and what to do else
NEUTRAL: Mapping[str, tuple[tuple[Any, ...], str]] = {
    "background": ((False,), "answers are not kept; wait for it, or stream it"),
    "previous_response_id": ((), "nothing is stored here; send the items of the conversation as input"),
    "conversation": ((), "nothing is stored here; send the items of the conversation as input"),
    "prompt": ((), "no prompts are stored here; send its text"),
    "max_tool_calls": ((), "the tools are called by you; end the loop when there were enough"),
    "truncation": (("disabled",), "shorten the conversation yourself"),
    "prompt_cache_retention": (("in_memory",), "prompts are remembered as long as there is memory; leave it out"),
}
SAME = (
    *("model", "stream", "temperature", "parallel_tool_calls", "metadata", "user", "safety_identifier", "top_p"),
    *("prompt_cache_key", "top_logprobs", "service_tier", "store", "seed", "stop", "sampler", "alpha", "time_budget"),
    *("timeout", "regex", "choices", "grammar", "trace", "top_k", "min_p", "bad_words"),
    "chat_template_kwargs",
)
NAMES = {  # of a chat's fields, in this protocol
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "reasoning_effort": "reasoning.effort",
    "verbosity": "text.verbosity",
    "response_format": "text.format",
    "messages": "input",
}


def asked_response(request: ResponseRequest, served: Served) -> Asked:
    """Raises a Fault or a PowerSamplingError for what cannot be honoured."""
    _check(request)
    try:
        asked = asked_chat(_chat(request), served)
    except Fault as fault:
        raise _renamed(fault) from None
    return replace(asked, response=_echoed(request, asked))


def _check(request: ResponseRequest) -> None:
    for name, (accepted, advice) in NEUTRAL.items():
        value = getattr(request, name)
        if value is not None and value not in accepted:
            raise refused(name, value, advice)
    if wrong := [name for name in request.include or () if name != LOGPROBS]:
        raise refused("include", wrong[0], f"only {LOGPROBS} can be included")
    if request.top_logprobs and LOGPROBS not in (request.include or ()):
        raise refused("top_logprobs", request.top_logprobs, f"it needs include: [{LOGPROBS!r}]")
    for name in ("summary", "generate_summary"):
        if request.reasoning is not None and (value := getattr(request.reasoning, name)) is not None:
            raise refused(f"reasoning.{name}", value, "reasoning comes in full, as reasoning_text; leave it out")
    options = request.stream_options
    if options is not None and not request.stream:
        raise refused("stream_options", options.model_dump(exclude_none=True), "it needs stream: true")
    if options is not None and options.include_obfuscation:
        raise refused("stream_options.include_obfuscation", True, "pieces are never padded; leave it out")


def _renamed(fault: Fault) -> Fault:
    name = NAMES.get(fault.param or "")
    if name is None:
        return fault
    message = str(fault).replace(f"{fault.param}:", f"{name}:", 1)
    return Fault(fault.status, message, code=fault.code, param=name, headers=fault.headers)


def _chat(request: ResponseRequest) -> ChatRequest:
    items = [MessageItem(role="user", content=request.input)] if isinstance(request.input, str) else request.input
    before = [] if request.instructions is None else [{"role": "system", "content": request.instructions}]
    fields: Json = {name: getattr(request, name) for name in SAME}
    fields |= {
        "messages": [*before, *_messages(items)],
        "max_completion_tokens": request.max_output_tokens,
        "logprobs": LOGPROBS in (request.include or ()),
        "tools": [_tool(tool.model_dump(exclude_none=True)) for tool in request.tools or ()] or None,
        "tool_choice": _choice(request),
        "reasoning_effort": request.reasoning and request.reasoning.effort,
    }
    if request.text is not None:
        fields |= {"verbosity": request.text.verbosity, "response_format": _format(request)}
    try:
        return ChatRequest.model_validate(fields)
    except ValidationError as error:  # of what this protocol leaves open and a chat does not
        raise unreadable(error, json.dumps(fields, default=str).encode(), ()) from None


def _tool(tool: Json) -> Json:
    return {"type": tool.pop("type"), "function": tool}


def _choice(request: ResponseRequest) -> Any:
    choice = request.tool_choice
    return {"type": "function", "function": {"name": choice.name}} if isinstance(choice, NamedTool) else choice


def _format(request: ResponseRequest) -> Json | None:
    form = request.text.format if request.text else None
    if isinstance(form, SchemaFormat):
        asked = {"name": form.name, "description": form.description, "schema": form.schema_, "strict": form.strict}
        return {"type": "json_schema", "json_schema": asked}
    return None if form is None else {"type": form.type}


# ------------------------------------------------------------ items


def _messages(items: Sequence[Item]) -> Iterator[Json]:
    """Messages of a chat: what the assistant thought, said and called in one turn is one of them."""
    turn: Json = {}
    for item in items:
        match item:
            case ReasoningItem():
                if turn:
                    yield _assistant(turn)
                turn = {"reasoning_content": _text(item.content or item.summary)}
            case MessageItem(role="assistant"):
                if "content" in turn or "tool_calls" in turn:
                    yield _assistant(turn)
                    turn = {}
                turn["content"] = _text(item.content)
            case FunctionCall():
                function = {"name": item.name, "arguments": item.arguments}
                call = {"id": item.call_id, "type": "function", "function": function}
                turn.setdefault("tool_calls", []).append(call)
            case _:
                if turn:
                    yield _assistant(turn)
                turn = {}
                yield _said(item)
    if turn:
        yield _assistant(turn)


def _assistant(turn: Json) -> Json:
    return {"role": "assistant", "content": None, **turn}


def _said(item: MessageItem | FunctionOutput) -> Json:
    if isinstance(item, MessageItem):
        return {"role": item.role, "content": _text(item.content)}
    named = {"name": item.name} if item.name else {}
    return {"role": "tool", "tool_call_id": item.call_id, "content": _text(item.output), **named}


def _text(content: str | Sequence[TextPart]) -> str:
    return content if isinstance(content, str) else "".join((p.text or "") + (p.refusal or "") for p in content)


# ------------------------------------------------------------ what comes back


def _echoed(request: ResponseRequest, asked: Asked) -> Json:
    """The fields of a request that its response repeats, those left out with what they meant."""
    given = request.model_dump(exclude_none=True, by_alias=True)
    told: Json = {
        "instructions": None,
        "max_output_tokens": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "temperature": asked.sampler.generation.temperature,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_logprobs": 0,
        "top_p": 1.0,
        "truncation": "disabled",
        "user": None,
        "safety_identifier": None,
        "prompt_cache_key": None,
    }
    echoed = {name: given.get(name, value) for name, value in told.items()}
    return {**echoed, "background": False, "store": False}
