"""What comes at once is done in several rounds of the loop, in order; who gives up takes no turn."""

from __future__ import annotations

import asyncio

import pytest

from power_sampling.server.turns import Turns

pytestmark = pytest.mark.asyncio


async def rounds_of(turns: Turns, number: int) -> list[int]:
    """The round of the event loop in which each of so many gets its turn."""
    found: list[int] = []
    now = 0

    async def one() -> None:
        await turns.turn()
        found.append(now)

    tasks = [asyncio.create_task(one()) for _ in range(number)]
    while len(found) < number:
        now += 1
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    return found


async def test_a_round_has_so_many_turns() -> None:
    turns = Turns(3)
    for _ in range(2):  # and afterwards it is as before
        found = await rounds_of(turns, 20)
        assert found == sorted(found) and all(found.count(number) <= 3 for number in found)
        await asyncio.sleep(0.001)
    assert len(set(await rounds_of(turns, 3))) == 1, "few need not wait"


async def test_turns_come_in_the_order_in_which_they_were_asked_for() -> None:
    turns, order = Turns(1), []

    async def one(number: int) -> None:
        await turns.turn()
        order.append(number)
        if number == 2:  # who comes later waits behind those that wait
            await one(9)

    await asyncio.gather(*map(one, range(5)))
    assert order == [0, 1, 2, 3, 4, 9]


async def test_who_is_cancelled_takes_no_turn() -> None:
    turns = Turns(1)
    tasks = [asyncio.create_task(turns.turn()) for _ in range(4)]
    await asyncio.sleep(0)
    for task in tasks[1:3]:
        task.cancel()
    await asyncio.wait_for(tasks[3], timeout=5)
    assert tasks[1].cancelled() and tasks[2].cancelled()


async def test_a_loop_that_has_ended_leaves_nothing_behind() -> None:
    turns = Turns(1)

    def another_loop() -> None:
        loop = asyncio.new_event_loop()
        tasks = [loop.create_task(turns.turn()) for _ in range(3)]
        loop.run_until_complete(asyncio.sleep(0))
        assert sum(task.done() for task in tasks) < 3
        for task in tasks:
            task.cancel()
        loop.run_until_complete(asyncio.wait(tasks))
        loop.close()

    await asyncio.to_thread(another_loop)
    await asyncio.wait_for(turns.turn(), timeout=5)
