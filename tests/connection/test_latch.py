"""An event that is small until a task waits for it."""

from __future__ import annotations

import trio
import trio.testing

from trioanytls._connection.latch import Latch


async def test_all_that_wait_are_woken_then_nobody_waits() -> None:
    latch, woken = Latch(), list[int]()

    async def wait(number: int) -> None:
        await latch.wait()
        woken.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(wait, number)
        await trio.testing.wait_all_tasks_blocked()
        assert not latch.is_set()
        assert not woken
        latch.set()
        latch.set()
    assert sorted(woken) == [0, 1, 2]
    assert latch.is_set()
    with trio.testing.assert_checkpoints():
        await latch.wait()


async def test_a_wait_that_is_cancelled_leaves_it_as_it_was() -> None:
    latch = Latch()
    with trio.move_on_after(0):
        await latch.wait()
    assert not latch.is_set()
    latch.set()
    with trio.CancelScope() as scope:
        scope.cancel()
        await latch.wait()
    assert scope.cancelled_caught
