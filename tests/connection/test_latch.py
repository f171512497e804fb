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


async def test_a_wait_that_is_cancelled_does_not_end_others() -> None:
    latch, woken = Latch(), list[int]()
    scopes = [trio.CancelScope() for _ in range(3)]

    async def wait(number: int) -> None:
        with scopes[number]:
            await latch.wait()
            woken.append(number)

    for cancelled in range(3):
        async with trio.open_nursery() as nursery:
            latch, woken, scopes = Latch(), [], [trio.CancelScope() for _ in range(3)]
            for number in range(3):
                nursery.start_soon(wait, number)
                await trio.testing.wait_all_tasks_blocked()
            scopes[cancelled].cancel()
            await trio.testing.wait_all_tasks_blocked()
            latch.set()
        assert sorted(woken) == sorted({0, 1, 2} - {cancelled})


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
