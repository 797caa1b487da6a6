"""Server-sent events: settled text as it comes; progress, traces and signs of life as comments that clients skip.

Pieces of all completions of a request meet in a mailbox. Its reader may be slow: pieces that wait are joined, so that
no queue grows and nobody else waits.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.types import Send

from power_sampling.runtime import PowerSampler, Prompt
from power_sampling.server.answers import Form
from power_sampling.server.asked import Asked
from power_sampling.server.faults import Fault, fault_of
from power_sampling.server.forms import form_of
from power_sampling.server.limits import Limits
from power_sampling.server.turns import Turns
from power_sampling.types import Chunk, Completion

__all__ = ["Gone", "Mailbox", "followed", "write_stream"]


class Gone(Exception):
    """Nobody reads the answer any more."""


PROGRESS_STEP = 0.01  # of the work, between two comments
HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
)
# the last one: nginx passes each piece on at once


class Mailbox:
    """Pieces of several completions, on their way from the runtime to one reader, who takes them in turn."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._pieces: dict[int, Chunk] = {}
        self._fault: Fault | None = None
        self._has_come = asyncio.Event()

    def put(self, index: int, piece: Chunk) -> None:
        """Leave a piece; one that waits already is joined with it."""
        before = self._pieces.get(index)
        self._pieces[index] = piece if before is None else _joined(before, piece)
        self._has_come.set()

    def fail(self, error: Exception) -> None:
        """Leave the error that ends all."""
        self._fault = self._fault or fault_of(error)
        self._has_come.set()

    async def take(self, patience: float | None = None) -> dict[int, Chunk]:
        """What has come, by completion; nothing after so many seconds of silence. Raises the fault that was left, when
        everything before it is taken."""
        try:
            async with asyncio.timeout(patience):
                await self._has_come.wait()
        except TimeoutError:
            return {}
        await self._turns.turn()
        pieces, self._pieces = self._pieces, {}
        if not pieces and self._fault is not None:
            raise self._fault
        if self._fault is None:
            self._has_come.clear()
        return pieces


def _joined(a: Chunk, b: Chunk) -> Chunk:
    return Chunk(
        a.text + b.text,
        b.completion,
        b.progress or a.progress,
        a.content + b.content,
        a.reasoning + b.reasoning,
        a.frames + b.frames,
    )


@asynccontextmanager
async def followed(asked: Asked, turns: Turns) -> AsyncIterator[Mailbox]:
    """The mailbox that all completions of a request come into. Leaving stops what is not done."""
    box = Mailbox(turns)
    tasks = [
        asyncio.create_task(_follow(i, sampler.astream(prompt, with_frames=asked.wants_trace), box))
        for i, (sampler, prompt) in enumerate(_streams(asked))
    ]
    try:
        yield box
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _streams(asked: Asked) -> Iterator[tuple[PowerSampler, Prompt]]:
    """A stream carries one completion; those of a prompt have the seeds that a batch would give them."""
    seed = asked.sampler.generation.seed
    for prompt in asked.prompts:
        for i in range(asked.n):
            yield asked.sampler if seed is None else asked.sampler.with_settings(seed=seed + i), prompt


async def _follow(index: int, chunks: AsyncGenerator[Chunk, None], box: Mailbox) -> None:
    try:
        async for piece in chunks:
            box.put(index, piece)
    except Exception as error:  # noqa: BLE001 - whatever it is, the reader is told
        box.fail(error)
    finally:
        await chunks.aclose()


# ------------------------------------------------------------ writing


@dataclass
class Written:
    """What has been written when a stream is over."""

    completions: list[Completion]
    fault: Fault | None = None


async def write_stream(asked: Asked, box: Mailbox, send: Send, limits: Limits) -> Written:
    """Writes the response. Raises a Fault where the request fails before anything is settled, so that it still has a
    status of its own; later on the fault is the last event. Raises Gone where nobody reads."""
    pieces, form, written = await box.take(), form_of(asked), 0.0
    await _send(send, limits, {"type": "http.response.start", "status": 200, "headers": [*HEADERS]})
    writer, loop = _Writer(asked, form), asyncio.get_running_loop()
    events = [*map(form.event, form.opening()), *await _events(writer, pieces)]
    while not writer.is_done:
        if events:
            await _write(send, limits, events)
            written = loop.time()
        try:
            pieces = await box.take(max(0.0, written + limits.keep_alive_seconds - loop.time()))
        except Fault as fault:
            await _write(send, limits, [form.event(form.fault(fault))], is_last=True)
            return Written(writer.completions(), fault)
        is_silent = loop.time() >= written + limits.keep_alive_seconds
        events = await _events(writer, pieces) or ([": keep-alive\n\n"] if is_silent else [])
    events += map(form.event, form.closing(writer.completions()))
    await _write(send, limits, [*events, form.ending], is_last=True)
    return Written(writer.completions())


async def _events(writer: _Writer, pieces: dict[int, Chunk]) -> list[str]:
    """Frames are as long as their chains: the loop does not wait until they are written out."""
    has_frames = any(piece.frames for piece in pieces.values())
    return await asyncio.to_thread(writer.events, pieces) if has_frames else writer.events(pieces)


class _Writer:
    """Events for pieces; knows which completions are done, and what progress has been told."""

    def __init__(self, asked: Asked, form: Form) -> None:
        self._form, self._number = form, asked.num_completions
        self._done: dict[int, Completion] = {}
        self._told: dict[int, float] = {}

    @property
    def is_done(self) -> bool:
        return len(self._done) == self._number

    def completions(self) -> list[Completion]:
        """Those that are done, in order."""
        return [self._done[index] for index in sorted(self._done)]

    def events(self, pieces: dict[int, Chunk]) -> list[str]:
        events: list[str] = []
        for index, piece in pieces.items():
            events += self._progress(index, piece)
            events += (_comment("trace", {"choice": index, "frame": frame.to_dict()}) for frame in piece.frames)
            events += map(self._form.event, self._form.pieces(index, piece))
            if piece.completion is not None:
                self._done[index] = piece.completion
        return events

    def _progress(self, index: int, piece: Chunk) -> Sequence[str]:
        """A comment where the work has got on and no text shows it."""
        if piece.progress is None or piece.completion is not None:
            return ()
        done, total, stats = piece.progress
        share = done / max(1, total)
        if piece.text or share < self._told.get(index, -1.0) + PROGRESS_STEP:
            return ()
        self._told[index] = share
        numbers = {name: float(value) for name, value in stats.items() if math.isfinite(value)}
        told = {"choice": index, "done": done, "total": total, "stats": numbers}
        return (_comment("progress", told),)


def _comment(kind: str, told: dict[str, Any]) -> str:
    """Every client skips it. In ASCII, since some take more than a line end for one."""
    return f": {kind} {json.dumps(told, allow_nan=False)}\n\n"


async def _write(send: Send, limits: Limits, events: Sequence[str], *, is_last: bool = False) -> None:
    body = "".join(events).encode("utf-8", "replace")
    await _send(send, limits, {"type": "http.response.body", "body": body, "more_body": not is_last})


async def _send(send: Send, limits: Limits, message: Any) -> None:
    try:
        async with asyncio.timeout(limits.send_seconds):
            await send(message)
    except TimeoutError:
        raise Gone from None
