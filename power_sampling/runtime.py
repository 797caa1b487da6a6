"""Text or messages in, completions out: sync, async, streamed, batched. What adapters and the command line stand on.

Every call becomes requests to the worker of the model; this file encodes, submits, waits and decodes.
"""

from __future__ import annotations

import asyncio
import queue
import secrets
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, Unpack, overload

from power_sampling.errors import ConfigurationError, RequestCancelledError, shortened
from power_sampling.fields import GenerationFields
from power_sampling.prepared import Prompt, listed, listed_conversations, listed_texts, prepare
from power_sampling.progress import ProgressBar
from power_sampling.reading import StreamReader, Submitted, completions_of
from power_sampling.resuming import Resuming
from power_sampling.serving.job import Update, too_late
from power_sampling.types import Chunk, Completion, Message

Listener = Callable[[Update], None]
Listeners = Callable[[int], Listener]

__all__ = ["PowerSampler", "Prompt", "check_count"]

_DONE = object()
MOST_REQUESTS = 100_000  # of one call


class PowerSampler(Resuming):
    """Draws completions of one model from p(x)^alpha, or plainly, as its settings say.

        sampler = PowerSampler.from_pretrained("Qwen/Qwen2.5-7B-Instruct", alpha=4.0)
        sampler.complete("The capital of France is").text
        sampler.chat([{"role": "user", "content": "Why is the sky blue?"}], sampler="ancestral").text

    Every generation field (`GenerationConfig`) can be given to the constructor and overridden per call. Weights are
    loaded on first use, once per process for equal model settings. A prompt is a string (completed as it stands) or
    a list of messages (through the chat template); a list of prompts is decoded as one batch. With a seed, a request
    gives the same completion whatever runs beside it (bit for bit in float64; in float32 up to the rounding of a
    different batch, which can change a token about once in a million; in 16-bit types batches do change tokens).
    Equal prompts with equal seeds give equal completions, within one batch too.

    Raises ConfigurationError for a field that cannot be honoured, InputError for a prompt that cannot be answered,
    ModelError while loading, GenerationError when a request was stopped or the model raised.
    """

    # ------------------------------------------------------------ sync

    @overload
    def complete(  # type: ignore[overload-overlap]  # a str is a Sequence[str], and means one text
        self, prompts: str, *, n: None = None, show_progress: bool = False, **overrides: Unpack[GenerationFields]
    ) -> Completion: ...
    @overload
    def complete(
        self, prompts: str, *, n: int, show_progress: bool = False, **overrides: Unpack[GenerationFields]
    ) -> list[Completion]: ...
    @overload
    def complete(
        self,
        prompts: Sequence[str],
        *,
        n: int | None = None,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> list[Completion]: ...
    def complete(
        self,
        prompts: str | Sequence[str],
        *,
        n: int | None = None,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> Completion | list[Completion]:
        """Complete one text, or several as one batch. With `n`, a list of `n` completions per text, as `generate`."""
        batch = listed_texts(prompts)
        completions = self.generate(batch, n=1 if n is None else n, show_progress=show_progress, **overrides)
        return completions[0] if isinstance(prompts, str) and n is None else completions

    @overload
    def chat(
        self,
        conversations: Sequence[Message],
        *,
        n: None = None,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> Completion: ...
    @overload
    def chat(
        self,
        conversations: Sequence[Message],
        *,
        n: int,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> list[Completion]: ...
    @overload
    def chat(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        n: int | None = None,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> list[Completion]: ...
    def chat(
        self,
        conversations: Sequence[Message] | Sequence[Sequence[Message]],
        *,
        n: int | None = None,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> Completion | list[Completion]:
        """The assistant's next turn in one conversation, or in several as one batch. With `n`, a list of `n` turns per
        conversation, as `generate`."""
        batch, is_single = listed_conversations(conversations)
        completions = self.generate(batch, n=1 if n is None else n, show_progress=show_progress, **overrides)
        return completions[0] if is_single and n is None else completions

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int = 1,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> list[Completion]:
        """`n` completions per prompt, texts and conversations mixed, decoded as one batch, in order: those of the first
        prompt first. With a seed, the i-th of a prompt (from 0) is the one that seed + i gives.

        The first error stops the other requests of the call and is raised.
        """
        prompts = listed(prompts)
        with ProgressBar(len(prompts) * check_count(n, len(prompts)), is_shown=show_progress) as bar:
            submitted = self._submit(prompts, n, overrides, _listeners(bar) if show_progress else None)
            try:
                return completions_of(submitted, [s.job.future.result() for s in submitted])
            finally:
                _cancel(submitted)

    def stream(
        self, prompt: Prompt, *, with_frames: bool = False, **overrides: Unpack[GenerationFields]
    ) -> Generator[Chunk, None, None]:
        """Settled text as it comes; the last chunk carries the completion. Nothing runs before the first `next`.

        The texts join to the completion's. Plain sampling settles every token at once, sequential Monte Carlo the
        prefix its particles share, Metropolis-Hastings everything at the end; progress comes with every chunk. With
        `with_frames` what the sampler did comes too, step by step, and changes nothing. Closing the iterator stops the
        work.
        """
        updates: queue.SimpleQueue[Any] = queue.SimpleQueue()
        (submitted,) = self._submit([prompt], 1, overrides, lambda _: updates.put, wants_events=with_frames)
        submitted.job.future.add_done_callback(lambda _: updates.put(_DONE))
        reader = StreamReader(submitted)
        try:
            while (update := updates.get()) is not _DONE:
                if (chunk := reader.chunk(update)) is not None:
                    yield chunk
            yield reader.last(submitted.job.future.result())
        finally:
            _cancel([submitted])

    # ------------------------------------------------------------ async

    @overload
    async def acomplete(  # type: ignore[overload-overlap]  # a str is a Sequence[str], and means one text
        self, prompts: str, *, n: None = None, show_progress: bool = False, **overrides: Unpack[GenerationFields]
    ) -> Completion: ...
    @overload
    async def acomplete(
        self, prompts: str, *, n: int, show_progress: bool = False, **overrides: Unpack[GenerationFields]
    ) -> list[Completion]: ...
    @overload
    async def acomplete(
        self,
        prompts: Sequence[str],
        *,
        n: int | None = None,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> list[Completion]: ...
    async def acomplete(
        self,
        prompts: str | Sequence[str],
        *,
        n: int | None = None,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> Completion | list[Completion]:
        """`complete`, without blocking the event loop; cancelling the task stops the work."""
        batch = listed_texts(prompts)
        completions = await self.agenerate(batch, n=1 if n is None else n, show_progress=show_progress, **overrides)
        return completions[0] if isinstance(prompts, str) and n is None else completions

    @overload
    async def achat(
        self,
        conversations: Sequence[Message],
        *,
        n: None = None,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> Completion: ...
    @overload
    async def achat(
        self,
        conversations: Sequence[Message],
        *,
        n: int,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> list[Completion]: ...
    @overload
    async def achat(
        self,
        conversations: Sequence[Sequence[Message]],
        *,
        n: int | None = None,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> list[Completion]: ...
    async def achat(
        self,
        conversations: Sequence[Message] | Sequence[Sequence[Message]],
        *,
        n: int | None = None,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> Completion | list[Completion]:
        """`chat`, without blocking the event loop; cancelling the task stops the work."""
        batch, is_single = listed_conversations(conversations)
        completions = await self.agenerate(batch, n=1 if n is None else n, show_progress=show_progress, **overrides)
        return completions[0] if is_single and n is None else completions

    async def agenerate(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int = 1,
        show_progress: bool = False,
        **overrides: Unpack[GenerationFields],
    ) -> list[Completion]:
        """`generate`, without blocking the event loop; cancelling the task stops the work."""
        prompts = listed(prompts)
        with ProgressBar(len(prompts) * check_count(n, len(prompts)), is_shown=show_progress) as bar:
            submitted = await self._asubmit(prompts, n, overrides, _listeners(bar) if show_progress else None)
            try:
                outcomes = await asyncio.gather(*[asyncio.wrap_future(s.job.future) for s in submitted])
                return completions_of(submitted, outcomes)
            finally:
                _cancel(submitted)

    async def astream(
        self, prompt: Prompt, *, with_frames: bool = False, **overrides: Unpack[GenerationFields]
    ) -> AsyncGenerator[Chunk, None]:
        """`stream` for an event loop. `aclose`, or cancelling the task, stops the work."""
        updates = _Arrivals()
        (submitted,) = await self._asubmit([prompt], 1, overrides, lambda _: updates.put, wants_events=with_frames)
        reader = StreamReader(submitted)
        try:
            submitted.job.future.add_done_callback(lambda _: updates.put(_DONE))
            while (update := await updates.get()) is not _DONE:
                # frames take as long as their chains are long: the loop does not wait for them
                chunk = await asyncio.to_thread(reader.chunk, update) if update.events else reader.chunk(update)
                if chunk is not None:
                    yield chunk
            yield reader.last(submitted.job.future.result())
        finally:
            _cancel([submitted])

    # ------------------------------------------------------------ the one way in

    def _submit(
        self,
        prompts: Sequence[Prompt],
        n: int,
        overrides: Mapping[str, Any],
        listener_of: Listeners | None,
        is_wanted: Callable[[], bool] = lambda: True,
        wants_events: bool = False,
    ) -> list[Submitted]:
        """Encode all, refuse what cannot be answered, then submit all: no request runs if another is refused. Their
        limits count from here."""
        config, loaded = self._overridden(overrides), self._model.load()
        started = time.monotonic()
        prepared = [prepare(prompt, loaded, config) for prompt in _wanted(prompts, config.timeout, started, is_wanted)]
        seeds = [secrets.randbits(63) if config.seed is None else config.seed + i for _ in prepared for i in range(n)]
        prepared = [one for one in prepared for _ in range(n)]
        requests = [
            one.request(seed, started, listener_of(i) if listener_of else None, wants_events=wants_events)
            for i, (one, seed) in enumerate(zip(prepared, seeds, strict=True))
        ]
        jobs, model = loaded.worker.submit_all(requests), weakref.ref(self._model)
        return [Submitted(*each, model) for each in zip(jobs, prepared, seeds, strict=True)]

    async def _asubmit(
        self,
        prompts: Sequence[Prompt],
        n: int,
        overrides: Mapping[str, Any],
        listener_of: Listeners | None,
        wants_events: bool = False,
    ) -> list[Submitted]:
        """`_submit` on another thread, since it may load the model. A caller cancelled meanwhile leaves no work."""
        gone = threading.Event()
        task = asyncio.create_task(
            asyncio.to_thread(self._submit, prompts, n, overrides, listener_of, lambda: not gone.is_set(), wants_events)
        )
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            gone.set()
            task.add_done_callback(lambda t: None if t.cancelled() or t.exception() else _cancel(t.result()))
            raise


class _Arrivals:
    """What other threads put, in order, for one reader in an event loop. The loop is woken once for all that waits:
    where it is behind, a wake for every item would leave it further behind."""

    def __init__(self) -> None:
        self._loop, self._come = asyncio.get_running_loop(), asyncio.Event()
        self._put: deque[Any] = deque()
        self._taken: deque[Any] = deque()
        self._is_told = False

    def put(self, item: Any) -> None:
        self._put.append(item)
        # a closed loop has no reader any more; its `finally` has cancelled the job
        if not self._is_told and not self._loop.is_closed():
            self._is_told = True
            self._loop.call_soon_threadsafe(self._come.set)

    async def get(self) -> Any:
        while not self._taken:  # what is put meanwhile waits for the loop's next turn: others have theirs
            await self._come.wait()
            self._come.clear()
            self._is_told = False  # before it is counted: what comes from now on tells
            self._taken.extend(self._put.popleft() for _ in range(len(self._put)))
        return self._taken.popleft()


def check_count(n: Any, num_prompts: int = 1) -> int:
    """`n`, where it is a number of completions of each of so many prompts. Raises ConfigurationError."""
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ConfigurationError(
            f"n: expected a whole number of completions per prompt, at least 1, got {shortened(n)}."
        )
    if n * num_prompts > MOST_REQUESTS:
        way_out = f"lower n to {MOST_REQUESTS // num_prompts}" if num_prompts <= MOST_REQUESTS else "make several calls"
        raise ConfigurationError(
            f"n: {num_prompts} prompts with n completions each are more than the {MOST_REQUESTS} completions of one "
            f"call; {way_out}."
        )
    return n


def _wanted(
    prompts: Sequence[Prompt], timeout: float | None, started: float, is_wanted: Callable[[], bool]
) -> Iterator[Prompt]:
    """The prompts one by one, as long as somebody waits for their answers."""
    for prompt in prompts:
        if not is_wanted():
            raise RequestCancelledError("The call was cancelled while its prompts were made ready.")
        if timeout is not None and time.monotonic() - started >= timeout:
            raise too_late(timeout)
        yield prompt


def _listeners(bar: ProgressBar) -> Listeners:
    """For each request of a call, by its place, what moves the bar."""
    return lambda request: lambda update: bar.show(update.progress, request)


def _cancel(submitted: Sequence[Submitted]) -> None:
    for s in submitted:
        if not s.job.future.done():
            s.job.cancel()
