"""Completions as the endpoints for chats and texts answer with them, whole or piece by piece."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import Any, Protocol

from power_sampling.integrations import arguments_in, completion_facts, finish_reason, reply_of, token_logprobs
from power_sampling.server.asked import Asked
from power_sampling.server.faults import Fault
from power_sampling.types import Chunk, Completion, Reply, TopToken

__all__ = [
    "ChatForm",
    "Form",
    "TextForm",
    "calls_of",
    "chat_logprobs",
    "facts_of",
    "usage",
]

Json = dict[str, Any]


class Form(Protocol):
    """How one endpoint writes its answer."""

    def answer(self, completions: Sequence[Completion]) -> Json:
        """The whole answer; completions in the order of the prompts."""

    def opening(self) -> Iterator[Json]:
        """Chunks before there is any text."""

    def pieces(self, index: int, piece: Chunk) -> Iterator[Json]:
        """Chunks for a piece of one completion; the last piece carries the completion."""

    def closing(self, completions: Sequence[Completion]) -> Iterator[Json]:
        """Chunks behind the last text."""

    def event(self, chunk: Json) -> str:
        """A chunk as it is sent."""

    def fault(self, fault: Fault) -> Json:
        """The last chunk of a stream that fails."""

    @property
    def ending(self) -> str:
        """What is sent behind the last chunk."""


def usage(completions: Sequence[Completion], n: int) -> Json:
    """Tokens of each prompt once and of all answers; `decoded_tokens` is what the samplers drew to find them."""
    prompts = completions[::n]
    prompt_tokens = sum(c.prompt_tokens for c in prompts)
    completion_tokens = sum(len(c.tokens) for c in completions)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": sum(c.cached_tokens for c in prompts)},
        "decoded_tokens": sum(c.diagnostics.tokens_decoded for c in completions),
    }


def facts_of(completion: Completion) -> Json:
    """How it was found, and what it cost."""
    facts = completion_facts(completion)
    return {"logp": facts["logp"], "seed": facts["seed"], "stop": facts["stop"], **facts["power_sampling"]}


class _Base:
    kind: str
    prefix: str
    ending = "data: [DONE]\n\n"

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._head = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": asked.model,
        }

    def closing(self, completions: Sequence[Completion]) -> Iterator[Json]:
        """The usage, where it was asked for."""
        if self._asked.wants_usage:
            yield self._chunk([], usage=usage(completions, self._asked.n))

    def event(self, chunk: Json) -> str:
        return f"data: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"

    def fault(self, fault: Fault) -> Json:
        return fault.body()

    def _whole(self, kind: str, choices: Sequence[Json], completions: Sequence[Completion]) -> Json:
        return {**self._head, "object": kind, "choices": choices, "usage": usage(completions, self._asked.n)}

    def _chunk(self, choices: Sequence[Json], **further: Any) -> Json:
        told = {"usage": None} if self._asked.wants_usage else {}
        return {**self._head, "object": self.kind, "choices": choices, **told, **further}


# ------------------------------------------------------------ /v1/chat/completions


class ChatForm(_Base):
    kind, prefix = "chat.completion.chunk", "chatcmpl"

    def answer(self, completions: Sequence[Completion]) -> Json:
        whole = self._whole("chat.completion", [self._choice(i, c) for i, c in enumerate(completions)], completions)
        return whole | ({} if self._asked.metadata is None else {"metadata": dict(self._asked.metadata)})

    def opening(self) -> Iterator[Json]:
        for index in range(self._asked.num_completions):
            yield self._delta(index, {"role": "assistant", "content": ""})

    def pieces(self, index: int, piece: Chunk) -> Iterator[Json]:
        if piece.reasoning:
            yield self._delta(index, {"reasoning_content": piece.reasoning})
        if piece.content:
            yield self._delta(index, {"content": piece.content})
        if (completion := piece.completion) is None:
            return
        calls, leftover = calls_of(reply_of(completion))
        if leftover:
            yield self._delta(index, {"content": leftover})
        for at, call in enumerate(calls):
            yield self._delta(index, {"tool_calls": [{"index": at, **call}]})
        if self._asked.wants_logprobs:
            yield self._delta(index, {}, logprobs=chat_logprobs(completion))
        reason = finish_reason(completion, has_calls=bool(calls))
        yield self._delta(index, {}, finish_reason=reason, power_sampling=facts_of(completion))

    def _choice(self, index: int, completion: Completion) -> Json:
        reply = reply_of(completion)
        calls, leftover = calls_of(reply)
        content = reply.content + leftover
        message: Json = {"role": "assistant", "content": content if content or not calls else None, "refusal": None}
        message |= {"reasoning_content": reply.reasoning} if reply.reasoning else {}
        message |= {"tool_calls": calls} if calls else {}
        return {
            "index": index,
            "message": message,
            "finish_reason": finish_reason(completion, has_calls=bool(calls)),
            "logprobs": chat_logprobs(completion) if self._asked.wants_logprobs else None,
            "power_sampling": facts_of(completion),
        }

    def _delta(self, index: int, delta: Json, **further: Any) -> Json:
        return self._chunk([{"index": index, "delta": delta, "finish_reason": None, "logprobs": None, **further}])


def calls_of(reply: Reply) -> tuple[list[Json], str]:
    """The calls, those with broken arguments or of an unknown tool too: the client sees what the model wrote. What has
    not even a name is text after all."""
    calls = [_call(c.id, c.name, json.dumps(dict(c.arguments), ensure_ascii=False)) for c in reply.tool_calls]
    calls += [_call(c.id, c.name, arguments_in(c.arguments, c.name)) for c in reply.invalid_tool_calls if c.name]
    return calls, "\n".join(c.arguments for c in reply.invalid_tool_calls if not c.name)


def _call(identity: str, name: str, arguments: str) -> Json:
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def chat_logprobs(completion: Completion) -> Json:
    """Of all tokens, what ended the completion included: they sum to log p of the completion."""
    content = [
        {**_with_bytes(fact), "top_logprobs": [_with_bytes(each) for each in fact.get("top_logprobs", ())]}
        for fact in token_logprobs(completion)
    ]
    return {"content": content, "refusal": None}


def _with_bytes(fact: Json) -> Json:
    return {"token": fact["token"], "logprob": fact["logprob"], "bytes": _bytes(fact["token"])}


def _bytes(token: str) -> list[int] | None:
    return None if "\ufffd" in token else list(token.encode())  # a part of a character has no text of its own


# ------------------------------------------------------------ /v1/completions


class TextForm(_Base):
    kind, prefix = "text_completion", "cmpl"

    def answer(self, completions: Sequence[Completion]) -> Json:
        choices = [
            self._choice(i, self._before(i) + c.text, finish_reason=c.finish_reason, **self._at_end(c))
            for i, c in enumerate(completions)
        ]
        return self._whole(self.kind, choices, completions)

    def opening(self) -> Iterator[Json]:
        for index in range(self._asked.num_completions):
            if text := self._before(index):
                yield self._chunk([self._choice(index, text)])

    def pieces(self, index: int, piece: Chunk) -> Iterator[Json]:
        if piece.text:
            yield self._chunk([self._choice(index, piece.text)])
        if (c := piece.completion) is not None:
            yield self._chunk([self._choice(index, "", finish_reason=c.finish_reason, **self._at_end(c))])

    def _before(self, index: int) -> str:
        return self._asked.echo[index // self._asked.n] if self._asked.echo else ""

    def _choice(self, index: int, text: str, **further: Any) -> Json:
        return {"index": index, "text": text, "finish_reason": None, "logprobs": None, **further}

    def _at_end(self, completion: Completion) -> Json:
        logprobs = _text_logprobs(completion) if self._asked.wants_logprobs else None
        return {"logprobs": logprobs, "power_sampling": facts_of(completion)}


def _text_logprobs(completion: Completion) -> Json:
    tokens = list(completion.token_text)
    return {
        "tokens": tokens,
        "token_logprobs": list(completion.token_logp),
        "top_logprobs": [_by_text(top) for top in completion.top_logprobs] or None,
        "text_offset": [0, *accumulate(map(len, tokens))][: len(tokens)],
    }


def _by_text(top: Sequence[TopToken]) -> dict[str, float]:
    """As this endpoint has it: of tokens that print alike, the likeliest."""
    found: dict[str, float] = {}
    for each in top:
        found.setdefault(each.text, each.logp)
    return found
