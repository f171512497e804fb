"""Cancelling any stream operation at any await leaves the connection and all other streams intact."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls.testing import StreamQueue, memory_connection_pair

SMALL = trioanytls.Config(send_buffer_size=2000, receive_buffer_size=2000)

Operation = Callable[[], Awaitable[object]]


class CancelAt(trio.abc.Instrument):
    """Cancels a scope when a task has run a number of times, that is, at its n-th await."""

    def __init__(self, steps: int) -> None:
        self.task: trio.lowlevel.Task | None = None
        self.scope = trio.CancelScope()
        self._left = steps

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self.task:
            self._left -= 1
            if self._left == 0:
                self.scope.cancel()


async def cancelled_at(steps: int, operation: Operation) -> bool:
    """Run the operation and cancel it at its n-th await. Return whether it had that many."""
    instrument = CancelAt(steps)
    started = trio.Event()

    async def run() -> None:
        instrument.task = trio.lowlevel.current_task()
        started.set()
        with instrument.scope:
            await operation()

    trio.lowlevel.add_instrument(instrument)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            with trio.move_on_after(5):
                await started.wait()
    finally:
        trio.lowlevel.remove_instrument(instrument)
    return instrument.scope.cancel_called


class Scene:
    """A connection with a stream that the operation works on, and another one that must not be affected."""

    def __init__(self, client: trioanytls.Connection, queue: StreamQueue) -> None:
        self.client = client
        self.queue = queue
        self.other: trioanytls.Stream
        self.other_far: trioanytls.Stream
        self.near: trioanytls.Stream
        self.far: trioanytls.Stream

    async def prepare(self) -> None:
        self.other = await self.client.open_stream()
        self.other_far = await self.queue.get()
        self.near = await self.client.open_stream()
        self.far = await self.queue.get()

    async def check(self) -> None:
        """Check that the connection and the other stream work in both directions."""
        assert not self.client.closed
        await self.client.ping()
        for size in (1, 5000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.other.send_all, bytes(size))
                nursery.start_soon(self.other_far.send_all, bytes(size))
                nursery.start_soon(self._receive, self.other, size)
                nursery.start_soon(self._receive, self.other_far, size)
        fresh = await self.client.open_stream()
        far = await self.queue.get()
        while far.stream_id != fresh.stream_id:
            # A stream that a cancelled `open_stream` had opened.
            far = await self.queue.get()
        await fresh.send_all(b"x")
        assert await far.receive_some() == b"x"

    @staticmethod
    async def _receive(stream: trioanytls.Stream, size: int) -> None:
        while size:
            size -= len(await stream.receive_some())


async def send_little(scene: Scene) -> None:
    await scene.near.send_all(b"x")


async def send_much(scene: Scene) -> None:
    async def drain() -> None:
        while True:
            await scene.far.receive_some()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain)
        await scene.near.send_all(bytes(300_000))
        nursery.cancel_scope.cancel()


async def receive_waiting(scene: Scene) -> None:
    async with trio.open_nursery() as nursery:

        async def send_later() -> None:
            await trio.testing.wait_all_tasks_blocked()
            await scene.far.send_all(b"late")

        nursery.start_soon(send_later)
        await scene.near.receive_some()


async def receive_buffered(scene: Scene) -> None:
    await scene.far.send_all(b"there")
    await trio.testing.wait_all_tasks_blocked()
    await scene.near.receive_some()


async def wait_might_not_block(scene: Scene) -> None:
    await scene.near.wait_send_all_might_not_block()


async def close(scene: Scene) -> None:
    await scene.near.send_all(b"x")
    await scene.near.aclose()


async def open_stream(scene: Scene) -> None:
    await scene.client.open_stream()


async def wait_acknowledged(scene: Scene) -> None:
    stream = await scene.client.open_stream()
    await stream.wait_acknowledged()


async def ping(scene: Scene) -> None:
    await scene.client.ping()


OPERATIONS = [
    send_little,
    send_much,
    receive_waiting,
    receive_buffered,
    wait_might_not_block,
    close,
    open_stream,
    wait_acknowledged,
    ping,
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
async def test_cancelled_at_each_await(operation: Callable[[Scene], Awaitable[None]]) -> None:
    steps = 1
    while True:
        queue = StreamQueue()
        async with memory_connection_pair(queue, client_config=SMALL, server_config=SMALL) as (client, _):
            scene = Scene(client, queue)
            await scene.prepare()
            reached = await cancelled_at(steps, lambda scene=scene: operation(scene))  # type: ignore[misc]  # its default binds the loop's variable
            if operation is send_much:
                # Data sent before the cancellation must not clog the connection.
                await scene.far.aclose()
            await scene.check()
        if not reached:
            break
        steps += 1
    # Each was cancelled at every await, and ran to its end once.
    assert steps > 1


async def test_a_cancelled_receive_loses_nothing() -> None:
    async with memory_connection_pair(queue := StreamQueue()) as (client, _):
        near = await client.open_stream()
        far = await queue.get()
        received = b""
        sent = bytes(range(256)) * 4
        for start in range(0, len(sent), 16):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def receive() -> None:
                        nonlocal received
                        received += await near.receive_some(7)

                    nursery.start_soon(receive)
                    await far.send_all(sent[start : start + 16])
                    scope.cancel()
        while len(received) < len(sent):
            received += await near.receive_some()
        assert received == sent


async def test_a_cancelled_send_leaves_whole_frames() -> None:
    async with memory_connection_pair(queue := StreamQueue(), client_config=SMALL, server_config=SMALL) as (client, _):
        near = await client.open_stream()
        far = await queue.get()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(near.send_all, b"a" * 1_000_000)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, b"b")
            received = b""
            while not received.endswith(b"b"):
                received += await far.receive_some()
        assert received.strip(b"a") == b"b"


async def test_cancelling_the_block_ends_the_connection_in_bounded_time(autojump_clock: trio.testing.MockClock) -> None:
    with trio.move_on_after(10) as scope:
        async with memory_connection_pair(StreamQueue()) as (client, _):
            await client.open_stream()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    assert trio.current_time() <= 10 + trioanytls.Config().close_timeout
    assert client.closed


async def test_a_connection_that_begins_in_a_cancelled_scope_ends_in_bounded_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    near, _far = trio.testing.memory_stream_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        async with trioanytls.wrap_client(near, password="x") as client:
            await client.open_stream()
    assert scope.cancelled_caught
    assert client.closed
    assert trio.current_time() <= trioanytls.Config().close_timeout
