"""One call: what the model is given, and the four ways to wait for its answer. No events in here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import aclosing, closing
from dataclasses import dataclass
from typing import Any, Generic, Protocol, cast

from llamaindex_power_sampling._responses import Response, Writer
from power_sampling import Conversation, PowerSampler
from power_sampling.integrations import OverflowPolicy, fit_context

__all__ = ["Call"]


class MakeWriter(Protocol[Response]):
    """Makes the writer of one request."""

    def __call__(self, *, is_text: bool, logprobs: bool) -> Writer[Response]: ...


@dataclass(frozen=True)
class Call(Generic[Response]):
    """`sampler` has the settings of this call, already checked; `prompt` and whatever follows may load the model, so
    none of it runs on an event loop."""

    sampler: PowerSampler
    prompt: Callable[[], str | Conversation]
    make_writer: MakeWriter[Response]
    overflow: OverflowPolicy

    def _ready(self) -> tuple[PowerSampler, str | Conversation, Writer[Response]]:
        sampler, prompt = fit_context(self.sampler, self.prompt(), self.overflow)
        writer = self.make_writer(is_text=isinstance(prompt, str), logprobs=sampler.generation.has_logprobs)
        return sampler, prompt, writer

    def answer(self) -> Response:
        sampler, prompt, writer = self._ready()
        (completion,) = sampler.generate([prompt])
        return writer.whole(completion)

    async def aanswer(self) -> Response:
        sampler, prompt, writer = await asyncio.to_thread(self._ready)
        (completion,) = await sampler.agenerate([prompt])
        return writer.whole(completion)

    def stream(self) -> Generator[Response, None, None]:
        """Nothing runs before it is read."""

        def responses() -> Generator[Response, None, None]:
            sampler, prompt, writer = self._ready()
            with closing(sampler.stream(prompt)) as chunks:
                for chunk in chunks:
                    if (response := writer.piece(chunk)) is not None:
                        yield response

        return cast("Generator[Response, None, None]", _Stream(responses))

    def astream(self) -> AsyncGenerator[Response, None]:
        """Nothing runs before it is read."""

        async def responses() -> AsyncGenerator[Response, None]:
            sampler, prompt, writer = await asyncio.to_thread(self._ready)
            async with aclosing(sampler.astream(prompt)) as chunks:
                async for chunk in chunks:
                    if (response := writer.piece(chunk)) is not None:
                        yield response

        return cast("AsyncGenerator[Response, None]", _Stream(responses))


@Generator.register
@AsyncGenerator.register
class _Stream:
    """A stream that core's decorators take for a generator, and loop over once.

    They never close what they loop over, and it lives as long as any event that keeps their exception. The iterator
    made here belongs to their loop alone: it ends with the loop, and its `finally` stops the work.
    """

    def __init__(self, start: Callable[[], Any]) -> None:
        self._start = start

    def __iter__(self) -> Any:
        return self._start()

    __aiter__ = __iter__
