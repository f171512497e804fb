"""Effects of not reading: an unread stream holds up the others for a bounded time, and a peer that does not read costs
a bounded amount of memory, for a bounded time (protocol: 5).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls._connection.send_queue import MAX_DATA
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.frames import FrameType

from ..helpers.connection_ends import ROLES, Role, end_of
from ..helpers.raw_peer import PINGPONG, data

Clock = trio.testing.MockClock

#: The charge for a queued frame in addition to its payload.
OVERHEAD = 64


def resets(received: Sequence[tuple[int, int, object]]) -> list[int]:
    """Return the ids of the streams that were reset."""
    return [stream_id for kind, stream_id, _ in received if kind == FrameType.STREAM_RST]


# Unread streams


@pytest.mark.parametrize("role", ROLES)
async def test_a_stream_nobody_reads_holds_the_others_for_stall_timeout_and_is_closed_alone(
    role: Role, autojump_clock: Clock
) -> None:
    config = trioanytls.Config(receive_buffer_size=1000, stall_timeout=15)
    async with end_of(role, config, streams=3) as end:
        unread, *others = end.streams
        start = trio.current_time()
        await end.peer.send(data(1, bytes(2000)))
        await trio.testing.wait_all_tasks_blocked()
        await end.peer.send(data(2, b"after it"), data(3, b"as well"), PINGPONG)
        held = end.connection.stats.bytes_received
        await trio.sleep(14.9)
        # Until then it may still be read, and no more data arrives that would have to be buffered.
        assert end.connection.stats.bytes_received == held
        assert await end.peer.pending() == []
        assert await others[0].receive_some() == b"after it"
        assert trio.current_time() - start == 15
        assert await others[1].receive_some() == b"as well"
        received = await end.peer.pending()
        assert resets(received) == [1]
        assert (FrameType.PINGPONG, 0, None) in received
        # The data received before can still be read. Then an error follows, and no end of file.
        assert await unread.receive_some() == bytes(2000)
        for operation in (unread.receive_some, lambda: unread.send_all(b"x")):
            with pytest.raises(trioanytls.StreamTimeout, match="stall_timeout"):
                await operation()
        # Data that the peer sends before it knows is dropped. The other streams go on.
        await end.peer.send(data(1, bytes(100_000)), data(2, b"further"))
        assert await others[0].receive_some() == b"further"
        assert trio.current_time() - start == 15
        assert not end.connection.closed
        if end.service is not None:
            assert sum(end.service.counts.streams_timed_out.values()) == 1


@pytest.mark.parametrize("unread", [2, 3, 10])
@pytest.mark.parametrize("role", ROLES)
async def test_many_streams_that_nobody_reads_hold_the_others_no_longer_than_one(
    role: Role, unread: int, autojump_clock: Clock
) -> None:
    config = trioanytls.Config(receive_buffer_size=1000, stall_timeout=15)
    async with end_of(role, config, streams=unread + 1) as end:
        start = trio.current_time()
        await end.peer.send(*(data(stream_id, bytes(2000)) for stream_id in range(1, unread + 1)))
        await trio.testing.wait_all_tasks_blocked()
        await end.peer.send(data(unread + 1, b"after them"))
        assert await end.streams[-1].receive_some() == b"after them"
        assert trio.current_time() - start == 15
        assert resets(await end.peer.pending()) == [*range(1, unread + 1)]


@pytest.mark.parametrize("role", ROLES)
async def test_many_streams_that_hold_a_little_make_room_together(role: Role, autojump_clock: Clock) -> None:
    config = trioanytls.Config(connection_receive_buffer_size=1000, stall_timeout=15)
    async with end_of(role, config, streams=11) as end:
        start = trio.current_time()
        # Discarding any one of them is not enough.
        await end.peer.send(*(data(stream_id, bytes(100 + stream_id)) for stream_id in range(1, 11)))
        await trio.testing.wait_all_tasks_blocked()
        await end.peer.send(data(11, b"after them"))
        assert await end.streams[-1].receive_some() == b"after them"
        assert trio.current_time() - start == 15
        # The largest ones are discarded, and no more of them than needed.
        assert resets(await end.peer.pending()) == [10, 9, 8, 7, 6]
        assert [len(await stream.receive_some()) for stream in end.streams[:5]] == [101, 102, 103, 104, 105]


@pytest.mark.parametrize("role", ROLES)
async def test_a_stream_that_is_read_in_time_is_not_closed(role: Role, autojump_clock: Clock) -> None:
    config = trioanytls.Config(receive_buffer_size=1000, stall_timeout=15)
    async with end_of(role, config, streams=2) as end:
        slow, other = end.streams
        for _ in range(10):
            await end.peer.send(data(1, bytes(2000)))
            await trio.testing.wait_all_tasks_blocked()
            await end.peer.send(data(2, b"x"))
            await trio.sleep(14.9)
            assert len(await slow.receive_some()) == 2000
            assert await other.receive_some() == b"x"
        assert resets(await end.peer.pending()) == []


@pytest.mark.parametrize("role", ROLES)
async def test_of_several_the_one_that_is_read_in_time_is_not_closed(role: Role, autojump_clock: Clock) -> None:
    config = trioanytls.Config(receive_buffer_size=1000, stall_timeout=15)
    async with end_of(role, config, streams=3) as end:
        await end.peer.send(data(1, bytes(2000)), data(2, bytes(2000)), data(3, bytes(2000)))
        await trio.sleep(10)
        assert len(await end.streams[1].receive_some()) == 2000
        await trio.sleep(10)
        assert resets(await end.peer.pending()) == [1, 3]


@pytest.mark.parametrize("role", ROLES)
async def test_a_ping_has_its_whole_time_after_nothing_could_be_read(role: Role, autojump_clock: Clock) -> None:
    config = trioanytls.Config(
        receive_buffer_size=1000, stall_timeout=100, keepalive_interval=10, keepalive_timeout=5, close_timeout=1
    )
    for answered in (True, False):
        async with end_of(role, config, streams=2) as end:
            await end.peer.pending()
            await trio.sleep(12)
            assert await end.peer.receive() == (FrameType.PINGPONG, 0, None)
            await end.peer.send(data(1, bytes(2000)))
            await trio.sleep(19)
            assert len(await end.streams[0].receive_some()) == 2000
            await trio.sleep(4.9)
            assert not end.connection.closed
            if answered:
                await end.peer.send(PINGPONG)
            await trio.sleep(0.2)
            assert end.connection.closed != answered


class Whole(trio.abc.Stream):
    """A transport without half-close."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._stream.aclose()


@pytest.mark.parametrize("limit", ["receive_buffer_size", "connection_receive_buffer_size"])
@pytest.mark.parametrize("role", ROLES)
async def test_leaving_does_not_wait_for_what_nobody_reads(role: Role, limit: str, autojump_clock: Clock) -> None:
    config = trioanytls.Config(stall_timeout=100, close_timeout=1000, **dict[str, Any]({limit: 1000}))
    near, far = (Whole(stream) for stream in trio.testing.memory_stream_pair())
    async with end_of(role, config, 2, (near, far)) as end, trio.open_nursery() as nursery:
        await end.peer.send(data(1, bytes(2000)))
        await trio.testing.wait_all_tasks_blocked()
        assert end.connection._multiplexer.progress.is_stalled
        start = trio.current_time()
        nursery.start_soon(end.connection.aclose)
        while (await end.peer.receive()) != (FrameType.CLOSE, 0, 0):
            pass
        await end.peer.transport.aclose()
        # Not `wait_closed`: the autojump clock would not advance if the reader were in a busy loop.
        for _ in range(100):
            await trio.lowlevel.checkpoint()
        assert end.connection._closed.is_set()
        assert trio.current_time() == start


# Slowly read streams. Each has 4,000 bytes too many, and must free a quarter of them in each stall_timeout.


async def read_slowly(stream: trioanytls.Stream, size: int, pause: float) -> None:
    """Read that many bytes after every pause, until the stream is closed."""
    with contextlib.suppress(trioanytls.StreamTimeout):
        while True:
            await stream.receive_some(size)
            await trio.sleep(pause)


@pytest.mark.parametrize(
    ("size", "pause", "held", "closed"),
    [
        # Just fast enough: the last bytes one pause before four times stall_timeout.
        (100, 1.5, 58.5, []),
        (1000, 15 - 1e-6, 45, []),
        (400, 1.5, 13.5, []),
        # At intervals.
        (2100, 29, 29, []),
        # Slower: the first stream was read once more in the first stall_timeout.
        (999, 15 - 1e-6, 30, [1]),
        (90, 1.5, 15, [1]),
        (1, 14, 15, [1]),
        (1, 0.1, 15, [1]),
    ],
)
@pytest.mark.parametrize("role", ROLES)
async def test_a_stream_that_is_read_slowly_is_not_closed_if_it_frees_the_others_in_time(
    role: Role, size: int, pause: float, held: float, closed: list[int], autojump_clock: Clock
) -> None:
    config = trioanytls.Config(receive_buffer_size=1064, stall_timeout=15, idle_timeout=1000)
    async with end_of(role, config, streams=2) as end, trio.open_nursery() as nursery:
        slow, other = end.streams
        await end.peer.send(data(1, bytes(5000)))
        await trio.testing.wait_all_tasks_blocked()
        await end.peer.send(data(2, b"after it"))
        start = trio.current_time()
        nursery.start_soon(read_slowly, slow, size, pause)
        assert await other.receive_some() == b"after it"
        assert trio.current_time() - start == pytest.approx(held, abs=0.01)
        assert resets(await end.peer.pending()) == closed
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("role", ROLES)
async def test_a_stream_that_is_read_no_more_is_closed_after_another_stall_timeout(
    role: Role, autojump_clock: Clock
) -> None:
    config = trioanytls.Config(receive_buffer_size=1064, stall_timeout=15)
    async with end_of(role, config, streams=2) as end:
        await end.peer.send(data(1, bytes(5000)))
        await trio.testing.wait_all_tasks_blocked()
        await end.peer.send(data(2, b"after it"))
        start = trio.current_time()
        # More than required, for the whole first stall_timeout.
        assert len(await end.streams[0].receive_some(3000)) == 3000
        assert await end.streams[1].receive_some() == b"after it"
        assert trio.current_time() - start == 30
        assert resets(await end.peer.pending()) == [1]


@pytest.mark.parametrize("role", ROLES)
async def test_only_those_are_closed_that_are_not_read(role: Role, autojump_clock: Clock) -> None:
    config = trioanytls.Config(receive_buffer_size=1064, stall_timeout=15, idle_timeout=1000)
    async with end_of(role, config, streams=4) as end, trio.open_nursery() as nursery:
        await end.peer.send(*(data(stream_id, bytes(5000)) for stream_id in (1, 2, 3)))
        await trio.testing.wait_all_tasks_blocked()
        await end.peer.send(data(4, b"after them"))
        start = trio.current_time()
        nursery.start_soon(read_slowly, end.streams[0], 100, 1.5)
        nursery.start_soon(read_slowly, end.streams[1], 50, 1.5)
        assert await end.streams[3].receive_some() == b"after them"
        assert trio.current_time() - start == pytest.approx(58.5)
        assert resets(await end.peer.pending()) == [2, 3]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(("size", "held", "closed"), [(100, 58.5, []), (90, 15, [2])])
@pytest.mark.parametrize("role", ROLES)
async def test_streams_that_are_read_slowly_make_room_together(
    role: Role, size: int, held: float, closed: list[int], autojump_clock: Clock
) -> None:
    config = trioanytls.Config(connection_receive_buffer_size=6128, stall_timeout=15, idle_timeout=1000)
    async with end_of(role, config, streams=3) as end, trio.open_nursery() as nursery:
        await end.peer.send(data(1, bytes(5000)), data(2, bytes(5000)))
        await trio.testing.wait_all_tasks_blocked()
        await end.peer.send(data(3, b"after them"))
        start = trio.current_time()
        nursery.start_soon(read_slowly, end.streams[0], size, 1.5)
        assert await end.streams[2].receive_some() == b"after them"
        assert trio.current_time() - start == pytest.approx(held)
        assert resets(await end.peer.pending()) == closed
        nursery.cancel_scope.cancel()


async def test_a_stream_that_was_alone_is_closed_when_it_has_held_up_another(autojump_clock: Clock) -> None:
    config = trioanytls.Config(receive_buffer_size=1000, stall_timeout=15)
    async with end_of("client", config, streams=1) as end:
        await end.peer.send(data(1, bytes(2000)))
        await trio.sleep(100)
        assert resets(await end.peer.pending()) == []
        # Data that the server sends on this one waits after that of the other.
        start = trio.current_time()
        stream = await end.connection.open_stream()
        await end.peer.send(data(2, b"after it"))
        assert await stream.receive_some() == b"after it"
        assert trio.current_time() - start <= 15
        assert resets(await end.peer.pending()) == [1]


@pytest.mark.parametrize("role", ROLES)
async def test_what_is_held_does_not_grow_while_nobody_reads(role: Role, autojump_clock: Clock) -> None:
    read = 64 * 1024
    config = trioanytls.Config(receive_buffer_size=10_000, connection_receive_buffer_size=100_000, stall_timeout=15)
    async with end_of(role, config, streams=20) as end:
        budget, most = end.connection._multiplexer.budget, 0
        for _ in range(40):
            for stream_id in range(1, 21):
                await end.peer.send(data(stream_id, b"x" * 100) * 20)
            await trio.sleep(1)
            most = max(most, budget.total)
        # The data of one read comes on top, and each of its pieces costs more than its length.
        assert 100_000 < most <= 100_000 + 2 * read
        assert not end.connection.closed


# A peer that does not read


@pytest.mark.parametrize("role", ROLES)
async def test_a_peer_that_takes_nothing_holds_a_bounded_amount_and_is_given_up(
    role: Role, autojump_clock: Clock
) -> None:
    config = trioanytls.Config(send_buffer_size=20_000, write_timeout=60, close_timeout=1)
    async with end_of(role, config, streams=10) as end:
        end.block()
        start = trio.current_time()
        most = 0
        given_up: list[float] = []

        async def send(stream: trioanytls.Stream) -> None:
            nonlocal most
            with pytest.raises(trioanytls.ConnectionClosed, match="write_timeout"):
                while True:
                    await stream.send_all(bytes(150_000))
            given_up.append(trio.current_time() - start)

        async with trio.open_nursery() as nursery:
            for stream in end.streams:
                nursery.start_soon(send, stream)
            while not end.connection.closed:
                most = max(most, end.charged)
                await trio.sleep(1)
        assert 20_000 <= most <= 20_000 + MAX_DATA + OVERHEAD
        assert given_up == [60] * 10
        await end.connection.wait_closed()
        # The data that it did not accept is discarded, and it is sent nothing more.
        assert end.charged == 0
        assert end.connection.close_reason.code is None


def config_with_few_answers(role: Role, *, write_timeout: float) -> tuple[trioanytls.Config, int]:
    """Return settings, and the number of answers that they allow: `max_streams` is a setting of the server only."""
    streams: dict[str, Any] = {"max_streams": 5} if role == "server" else {}
    config = trioanytls.Config(max_pending_control=10, write_timeout=write_timeout, close_timeout=1, **streams)
    return config, 10 + 2 * config.max_streams


@pytest.mark.parametrize("role", ROLES)
async def test_a_peer_that_takes_no_answers_holds_a_bounded_number_and_is_given_up(
    role: Role, autojump_clock: Clock
) -> None:
    config, limit = config_with_few_answers(role, write_timeout=60)
    async with end_of(role, config) as end:
        await end.peer.pending()
        end.block()
        await end.peer.send(PINGPONG)
        await trio.testing.wait_all_tasks_blocked()
        start = trio.current_time()
        # As many as allowed, which alone has no effect.
        await end.peer.send(PINGPONG * limit)
        await trio.testing.wait_all_tasks_blocked()
        assert end.connection._multiplexer.send_queue.pending_control == limit
        while not end.connection.closed:
            # Any frame that needs no answer.
            await end.peer.send(frames.encode_padding(10))
            await trio.sleep(1)
        assert trio.current_time() - start == pytest.approx(60, abs=1)
        assert "write_timeout" in end.connection.close_reason.reason
        await end.connection.wait_closed()
        assert end.connection._multiplexer.send_queue.pending_control == 0


@pytest.mark.parametrize("role", ROLES)
async def test_a_peer_that_takes_no_answers_and_asks_on_is_given_up_at_once(role: Role, autojump_clock: Clock) -> None:
    config, limit = config_with_few_answers(role, write_timeout=math.inf)
    async with end_of(role, config) as end:
        await end.peer.pending()
        end.block()
        asked = 0
        for count in (1, limit // 2):
            asked += count
            await end.peer.send(PINGPONG * count)
            await trio.testing.wait_all_tasks_blocked()
        while not end.connection.closed:
            await end.peer.send(PINGPONG)
            asked += 1
            await trio.testing.wait_all_tasks_blocked()
        # The transport holds one, `limit` are queued, one exceeds the limit, and one was not processed any more.
        assert asked == limit + 3
        # It does not accept the CLOSE either.
        start = trio.current_time()
        await end.connection.wait_closed()
        assert trio.current_time() - start == 1


async def test_refusals_that_are_not_read_are_answers_as_well(autojump_clock: Clock) -> None:
    config = trioanytls.Config(max_pending_control=10, max_streams=1, write_timeout=math.inf, close_timeout=1)
    async with end_of("server", config, streams=1) as end:
        end.block()
        opened = 1
        while not end.connection.closed:
            opened += 1
            await end.peer.send(frames.encode_open(opened))
            await trio.testing.wait_all_tasks_blocked()
        assert end.connection.close_reason.code is trioanytls.CloseCode.LIMIT_EXCEEDED
        assert opened <= 1 + 1 + 12 + 2


@pytest.mark.parametrize("role", ROLES)
async def test_a_peer_that_takes_a_little_now_and_then_is_not_given_up(role: Role, autojump_clock: Clock) -> None:
    config = trioanytls.Config(send_buffer_size=20_000, write_timeout=60, close_timeout=1)
    async with end_of(role, config, streams=1) as end:
        unblocked = end.block()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(end.streams[0].send_all, bytes(500_000))
            received = 0
            while received < 500_000:
                await trio.sleep(59)
                unblocked.set()
                await trio.lowlevel.checkpoint()
                unblocked = end.block()
                for kind, _, payload in await end.peer.pending():
                    assert kind == FrameType.STREAM_DATA
                    assert isinstance(payload, bytes)
                    received += len(payload)
            unblocked.set()
        assert not end.connection.closed
