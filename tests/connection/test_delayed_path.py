"""The rates of streams over a path with a round-trip time of 100 ms, on a clock that makes them exact."""

from __future__ import annotations

import contextlib
import math
from collections.abc import AsyncIterator, Collection

import pytest
import trio
import trio.testing
from attrs import define

import trioanytls
from trioanytls.testing import StreamQueue, memory_connection_pair

from ..helpers.connection_ends import ROLES, Role
from ..helpers.delayed_path import DelayedStream, Path, delayed_stream_pair
from ..helpers.extensions import NO_EXTENSIONS, extending

Clock = trio.testing.MockClock

#: A round-trip time of 100 ms, and 10 MB/s: one megabyte is on the way.
PATH = Path()
PIECE = bytes(64 * 1024)


# The path itself


async def test_a_delayed_stream_behaves_as_a_stream(autojump_clock: Clock) -> None:
    async def make() -> tuple[DelayedStream, DelayedStream]:
        return delayed_stream_pair(PATH)

    await trio.testing.check_two_way_stream(make, None)


async def test_the_times_of_a_path(autojump_clock: Clock) -> None:
    near, far = delayed_stream_pair(Path(delay=0.05, rate=1000, capacity=500))
    begun = trio.current_time()

    async def send() -> None:
        await near.send_all(bytes(500))
        assert trio.current_time() == begun
        await near.send_all(b"x")
        # The first bytes were read when they had arrived, and the sender learned of it.
        assert trio.current_time() == pytest.approx(begun + 0.5 + 0.1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        assert await far.receive_some() == bytes(500)
        assert trio.current_time() == pytest.approx(begun + 0.5 + 0.05)
        assert await far.receive_some() == b"x"
        assert trio.current_time() == pytest.approx(begun + 0.6 + 0.001 + 0.05)


# Streams


@define
class Flow:
    """A stream on which one end sends as much as it can.

    Attributes:
      sent, received: the bytes so far.
    """

    sender: trioanytls.Stream
    receiver: trioanytls.Stream
    sent: int = 0
    received: int = 0

    async def send(self) -> None:
        while True:
            await self.sender.send_all(PIECE)
            self.sent += len(PIECE)

    async def receive(self) -> None:
        async for data in self.receiver:
            self.received += len(data)

    @property
    def outstanding(self) -> int:
        """The bytes in all buffers, and those on the way."""
        return self.sent - self.received


@define
class Flows:
    """A connection over a path, whose end `sends` is the sender of all flows."""

    client: trioanytls.Connection
    queue: StreamQueue
    sends: Role

    async def open(self) -> Flow:
        near = await self.client.open_stream()
        # The server learns of the stream with its first frame.
        await near.send_all(b"x")
        far = await self.queue.get()
        assert await far.receive_some(1) == b"x"
        return Flow(near, far) if self.sends == "client" else Flow(far, near)


@contextlib.asynccontextmanager
async def flows(sends: Role, extensions: Collection[str], **options: int) -> AsyncIterator[Flows]:
    config = extending(extensions, stall_timeout=math.inf, **options)
    queue = StreamQueue()
    pair = memory_connection_pair(
        queue, client_config=config, server_config=config, transports=delayed_stream_pair(PATH)
    )
    async with pair as (client, _):
        yield Flows(client, queue, sends)


async def rate_of_one(sends: Role, extensions: Collection[str], seconds: float) -> float:
    """Return the bytes per second that one stream transfers in its first `seconds`."""
    async with flows(sends, extensions) as made, trio.open_nursery() as nursery:
        flow = await made.open()
        nursery.start_soon(flow.send)
        nursery.start_soon(flow.receive)
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()
    return flow.received / seconds


@pytest.mark.parametrize("sends", ROLES)
async def test_one_stream_without_a_window_has_the_rate_of_the_path(sends: Role, autojump_clock: Clock) -> None:
    assert await rate_of_one(sends, NO_EXTENSIONS, 10) > 0.95 * PATH.rate


@pytest.mark.parametrize("sends", ROLES)
async def test_one_stream_with_a_window_has_nearly_the_same_rate(sends: Role, autojump_clock: Clock) -> None:
    without = await rate_of_one(sends, NO_EXTENSIONS, 10)
    assert await rate_of_one(sends, ["window"], 10) >= 0.9 * without


@pytest.mark.parametrize("extensions", [NO_EXTENSIONS, ["window"]])
@pytest.mark.parametrize("sends", ROLES)
async def test_sixteen_streams_share_evenly(sends: Role, extensions: Collection[str], autojump_clock: Clock) -> None:
    async with flows(sends, extensions) as made, trio.open_nursery() as nursery:
        sixteen = [await made.open() for _ in range(16)]
        for flow in sixteen:
            nursery.start_soon(flow.send)
            nursery.start_soon(flow.receive)
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    received = [flow.received for flow in sixteen]
    mean = sum(received) / len(received)
    assert mean * 16 > 0.9 * 10 * PATH.rate
    assert min(received) > 0.8 * mean
    assert max(received) < 1.2 * mean


@pytest.mark.parametrize("sends", ROLES)
async def test_a_window_that_has_grown_shrinks_when_others_need_the_budget(sends: Role, autojump_clock: Clock) -> None:
    async with flows(sends, ["window"]) as made, trio.open_nursery() as nursery:

        async def unread(flow: Flow, seconds: float) -> int:
            """Read a flow for some time. Then wait until its sender has no credit. Return the bytes on the way."""
            with trio.move_on_after(seconds):
                await flow.receive()
            await trio.sleep(5)
            return flow.outstanding

        first = await made.open()
        nursery.start_soon(first.send)
        alone = await unread(first, 5)
        for flow in [await made.open() for _ in range(16)]:
            nursery.start_soon(flow.send)
            nursery.start_soon(flow.receive)
        among_others = await unread(first, 15)
        nursery.cancel_scope.cancel()
    assert alone > 2e6
    # Half of the budget is divided among all.
    share = trioanytls.Config().connection_receive_buffer_size / 2 / 17
    assert 0.8 * share < among_others < 1.2 * share
