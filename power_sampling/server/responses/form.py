"""A completion as a response: items of output, whole or event by event. The whole is what the events lead to."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any

from power_sampling.integrations import reply_of
from power_sampling.server.answers import calls_of, chat_logprobs, facts_of
from power_sampling.server.asked import Asked
from power_sampling.server.faults import Fault
from power_sampling.types import Chunk, Completion

__all__ = ["ResponseForm"]

Json = dict[str, Any]
PART: dict[str, Json] = {  # of an item's content, still empty
    "message": {"type": "output_text", "text": "", "annotations": [], "logprobs": []},
    "reasoning": {"type": "reasoning_text", "text": ""},
}
PREFIX = {"message": "msg", "reasoning": "rs", "function_call": "fc"}


class ResponseForm:
    """How /v1/responses writes its answer."""

    ending = ""

    def __init__(self, asked: Asked) -> None:
        assert asked.response is not None
        self._asked, self._echoed = asked, asked.response
        self._id, self._created = _identity("resp"), int(time.time())
        self._output: list[Json] = []
        self._number = 0  # of the next event

    def answer(self, completions: Sequence[Completion]) -> Json:
        (completion,) = completions
        reply = reply_of(completion)
        for _ in self.pieces(0, Chunk("", completion, content=reply.content, reasoning=reply.reasoning)):
            continue
        return self._response(completion)

    def opening(self) -> Iterator[Json]:
        yield self._event("response.created", response=self._response(None))
        yield self._event("response.in_progress", response=self._response(None))

    def pieces(self, index: int, piece: Chunk) -> Iterator[Json]:
        yield from self._said("reasoning", piece.reasoning)
        yield from self._said("message", piece.content)
        if (completion := piece.completion) is None:
            return
        calls, leftover = calls_of(reply_of(completion))
        yield from self._said("message", leftover)
        if not calls and not self._output:
            yield from self._begun("message")
        yield from self._ended(completion)
        for call in calls:
            yield from self._called(call)

    def closing(self, completions: Sequence[Completion]) -> Iterator[Json]:
        response = self._response(completions[0])
        yield self._event(f"response.{response['status']}", response=response)

    def event(self, chunk: Json) -> str:
        return f"event: {chunk['type']}\ndata: {json.dumps(chunk, ensure_ascii=False, separators=(',', ':'))}\n\n"

    def fault(self, fault: Fault) -> Json:
        told = fault.body()["error"]
        return self._event("error", code=told["code"], message=told["message"], param=told["param"])

    # ------------------------------------------------------------ items

    def _said(self, kind: str, text: str) -> Iterator[Json]:
        """More of what is thought or said. Each is one item, open to the end: some models think again after they spoke,
        and pieces that were joined on their way no longer tell in which order."""
        if not text:
            return
        at = next((i for i, item in enumerate(self._output) if item["type"] == kind), len(self._output))
        if at == len(self._output):
            yield from self._begun(kind)
        part = self._output[at]["content"][0]
        part["text"] += text
        further: Json = {"logprobs": []} if kind == "message" else {}
        yield self._event(f"response.{part['type']}.delta", delta=text, **further, **self._place(at))

    def _begun(self, kind: str) -> Iterator[Json]:
        item: Json = {"type": kind, "id": _identity(PREFIX[kind]), "status": "in_progress", "content": []}
        further: Json = {"role": "assistant"} if kind == "message" else {"summary": []}
        item |= further
        at = len(self._output)
        self._output.append(item)
        yield self._event("response.output_item.added", item={**item}, output_index=at)
        item["content"] = [{**PART[kind]}]
        yield self._event("response.content_part.added", part={**PART[kind]}, **self._place(at))

    def _ended(self, completion: Completion) -> Iterator[Json]:
        """All that was thought and said; only the last item can have been cut."""
        for at, item in enumerate(self._output):
            part = item["content"][0]
            item["status"] = _status(completion) if item is self._output[-1] else "completed"
            further: Json = {}
            if item["type"] == "message":
                if self._asked.wants_logprobs:
                    part["logprobs"] = chat_logprobs(completion)["content"]
                further = {"logprobs": part["logprobs"]}
            yield self._event(f"response.{part['type']}.done", text=part["text"], **further, **self._place(at))
            yield self._event("response.content_part.done", part=part, **self._place(at))
            yield self._event("response.output_item.done", item=item, output_index=at)

    def _called(self, call: Json) -> Iterator[Json]:
        """In one delta."""
        name, arguments, at = call["function"]["name"], call["function"]["arguments"], len(self._output)
        item = {"type": "function_call", "id": _identity("fc"), "call_id": call["id"], "name": name}
        place = {"item_id": item["id"], "output_index": at}
        begun = {**item, "arguments": "", "status": "in_progress"}
        self._output.append({**item, "arguments": arguments, "status": "completed"})
        yield self._event("response.output_item.added", item=begun, output_index=at)
        yield self._event("response.function_call_arguments.delta", delta=arguments, **place)
        yield self._event("response.function_call_arguments.done", arguments=arguments, name=name, **place)
        yield self._event("response.output_item.done", item=self._output[-1], output_index=at)

    def _place(self, at: int) -> Json:
        return {"item_id": self._output[at]["id"], "output_index": at, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> Json:
        self._number += 1
        return {"type": kind, "sequence_number": self._number - 1, **fields}

    # ------------------------------------------------------------ the whole

    def _response(self, completion: Completion | None) -> Json:
        """As far as it is known; with the completion all of it."""
        whole = {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": "in_progress" if completion is None else _status(completion),
            "error": None,
            "incomplete_details": None,
            "model": self._asked.model,
            "output": [*self._output],
            "usage": None,
            **self._echoed,
        }
        if completion is not None:
            if whole["status"] == "incomplete":
                whole["incomplete_details"] = {"reason": "max_output_tokens"}
            else:
                whole["completed_at"] = int(time.time())
            whole |= {"usage": _usage(completion), "power_sampling": facts_of(completion)}
        return whole


def _identity(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def _status(completion: Completion) -> str:
    return "incomplete" if completion.finish_reason == "length" else "completed"


def _usage(completion: Completion) -> Json:
    """Reasoning is counted where its end falls together with that of a token."""
    counted = _reasoning_tokens(completion)
    return {
        "input_tokens": completion.prompt_tokens,
        "input_tokens_details": {"cached_tokens": completion.cached_tokens},
        "output_tokens": len(completion.tokens),
        "output_tokens_details": {} if counted is None else {"reasoning_tokens": counted},
        "total_tokens": completion.prompt_tokens + len(completion.tokens),
        "decoded_tokens": completion.diagnostics.tokens_decoded,
    }


def _reasoning_tokens(completion: Completion) -> int | None:
    """Tokens up to the end of the reasoning; None where tokens do not tell their text."""
    text, reasoning = completion.text, reply_of(completion).reasoning
    if not reasoning:
        return 0
    if (start := text.find(reasoning)) < 0:
        return None
    at, end = 0, start + len(reasoning)
    for number, token in enumerate(completion.token_text, 1):
        if not text.startswith(token[: end - at], at):
            return None
        if (at := at + len(token)) >= end:
            return number
    return None
