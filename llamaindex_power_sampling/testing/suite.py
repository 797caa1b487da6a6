"""What the suite is told of an integration, and what its tests share."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import pytest
from llama_index.core.base.llms.types import ChatMessage
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events import BaseEvent
from llama_index.core.llms import LLM
from llama_index_instrumentation import get_dispatcher
from pydantic import PrivateAttr

__all__ = ["ENDPOINTS", "Limiter", "Recorder", "Suite"]

KINDS = ("complete", "stream_complete", "chat", "stream_chat")
ENDPOINTS = tuple(prefix + kind for kind in KINDS for prefix in ("", "a"))


class Recorder(BaseEventHandler):
    """Keeps the events of every LLM."""

    _events: list[BaseEvent] = PrivateAttr(default_factory=list)

    def handle(self, event: BaseEvent, **kwargs: Any) -> None:
        """Keep it."""
        self._events.append(event)

    def take(self) -> list[BaseEvent]:
        """What came since the last time."""
        events, self._events = self._events, []
        return events


class Limiter:
    """A rate limiter that counts."""

    def __init__(self) -> None:
        self.acquired = 0

    def acquire(self) -> None:
        self.acquired += 1

    async def async_acquire(self) -> None:
        self.acquired += 1


class Suite:
    """Subclass it, name the class `Test...`, and implement `make_llm`."""

    prompt: ClassVar[str] = "Why is the sky blue?"
    other_prompt: ClassVar[str] = "Name a colour."
    repeats_beside_others: ClassVar[bool] = True
    """Whether the same call has the same answer whatever else is answered. Not where rounding depends on that and is
    coarse, as llama.cpp's of quantised weights is."""
    streams_text_as_it_comes: ClassVar[bool] = True

    # ------------------------------------------------------------ what a subclass tells

    def make_llm(self, **fields: Any) -> LLM:
        """A short-answering LLM, made of these fields too; equal prompts get equal answers."""
        raise NotImplementedError

    @property
    def shorter(self) -> dict[str, Any] | None:
        """Arguments of a call that make its answer shorter."""
        return None

    @property
    def long(self) -> dict[str, Any] | None:
        """Fields of `make_llm` that make an answer take seconds, for tests that stop it."""
        return None

    @property
    def too_long(self) -> str | None:
        """A prompt that does not fit the context window."""
        return None

    def prompt_tokens(self, llm: Any, prompt: str) -> int | None:
        """How many tokens the model is given for a user's message, by its own tokenizer and template."""
        return None

    def broken(self, llm: Any) -> AbstractContextManager[None] | None:
        """A context in which the model of `llm` raises RuntimeError("broken")."""
        return None

    @property
    def roomy(self) -> dict[str, Any]:
        """Fields of `make_llm` that leave room for a tool call or an object, a hundred tokens or so."""
        return {}

    # ------------------------------------------------------------ fixtures

    @pytest.fixture
    def llm(self) -> LLM:
        return self.make_llm()

    @pytest.fixture
    def recorder(self) -> Iterator[Recorder]:
        root, handler = get_dispatcher(), Recorder()
        root.add_event_handler(handler)
        yield handler
        root.event_handlers.remove(handler)

    # ------------------------------------------------------------ helpers

    def _calls(self, llm: LLM) -> dict[str, Callable[[], Any]]:
        """Every endpoint, called and read to its end."""
        prompt, messages = self.prompt, [ChatMessage(self.prompt)]

        async def now(call: Callable[[], Any]) -> Any:
            result = call()
            return list(result) if inspect.isgenerator(result) or hasattr(result, "__next__") else result

        async def drain(opening: Any) -> Any:
            stream: AsyncGenerator[Any, None] = await opening
            return [chunk async for chunk in stream]

        return {
            "complete": lambda: now(lambda: llm.complete(prompt)),
            "acomplete": lambda: llm.acomplete(prompt),
            "stream_complete": lambda: now(lambda: llm.stream_complete(prompt)),
            "astream_complete": lambda: drain(llm.astream_complete(prompt)),
            "chat": lambda: now(lambda: llm.chat(messages)),
            "achat": lambda: llm.achat(messages),
            "stream_chat": lambda: now(lambda: llm.stream_chat(messages)),
            "astream_chat": lambda: drain(llm.astream_chat(messages)),
        }
