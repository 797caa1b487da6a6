"""What a thread puts reaches the reader in an event loop: all, in order, and with one wake for what waits."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from power_sampling.runtime import _Arrivals


@pytest.fixture
def _threads_take_turns_often() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("_threads_take_turns_often")
async def test_nothing_is_lost_between_threads() -> None:
    arrivals, number = _Arrivals(), 5000

    def put(thread: int) -> None:
        for i in range(number):
            arrivals.put((thread, i))

    for thread in range(2):
        threading.Thread(target=put, args=[thread]).start()
    found = [await asyncio.wait_for(arrivals.get(), 20) for _ in range(2 * number)]
    for thread in range(2):
        assert [i for by, i in found if by == thread] == list(range(number))


async def test_the_loop_is_woken_once_for_all_that_waits_and_others_have_their_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, wakes, turns = asyncio.get_running_loop(), list[Any](), list[int]()
    call = loop.call_soon_threadsafe
    monkeypatch.setattr(loop, "call_soon_threadsafe", lambda *told: (wakes.append(told), call(*told))[1])
    arrivals = _Arrivals()
    for i in range(100):
        arrivals.put(i)
    assert [await arrivals.get() for _ in range(100)] == list(range(100)) and len(wakes) == 1

    async def other() -> None:
        while len(turns) < 10:
            turns.append(len(turns))
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    for _ in range(100):  # put as fast as it is read
        arrivals.put(0)
        await arrivals.get()
    assert len(turns) == 10 and task.done()
