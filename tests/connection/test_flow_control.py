"""Flow control of streams: credit of both directions, and peers that do not keep to it (extensions: 2)."""

from __future__ import annotations

import functools
import gc
import math
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import trio
import trio.testing
from trio.testing import wait_all_tasks_blocked

import trioanytls
from trioanytls._connection.connection import multiplexer_of
from trioanytls._connection.flow_control import FlowControl
from trioanytls._connection.receive_buffer import ReceiveBudget
from trioanytls._connection.send_queue import SendQueue
from trioanytls._connection.stream import core_of
from trioanytls._connection.stream_core import StreamCore
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.frame_decoder import Frame
from trioanytls._protocol.anytls1.frames import FrameType
from trioanytls._protocol.close_codes import CloseCode
from trioanytls.testing import RecordedTransport, StreamQueue, memory_connection_pair

from ..helpers.connection_ends import ROLES, End, Role, extended_end
from ..helpers.extensions import ALL, extending
from ..helpers.raw_peer import PINGPONG, data, raw_server

Clock = trio.testing.MockClock

WINDOW = 16384
MAX_CREDIT = 2**62 - 1

in_both_roles = pytest.mark.parametrize("role", ROLES)


def settings(**options: Any) -> trioanytls.Config:
    """Return the settings of an end with all extensions, and small windows."""
    return extending(ALL, stream_window=WINDOW, **options)


def sizes(received: list[Frame], stream_id: int = 1) -> list[int]:
    """Return the sizes of the DATA frames of a stream."""
    return [len(frame[2]) for frame in received if frame[:2] == (0x0A, stream_id) and isinstance(frame[2], bytes)]


def grants(received: list[Frame], stream_id: int = 1) -> list[int]:
    """Return the increments of a stream."""
    return [frame[2] for frame in received if frame[:2] == (0x11, stream_id) and isinstance(frame[2], int)]


# Sending


@in_both_roles
async def test_a_sender_has_no_more_on_the_way_than_its_credit(role: Role, autojump_clock: Clock) -> None:
    async with extended_end(role, streams=2) as end, trio.open_nursery() as nursery:
        first, second = end.streams
        nursery.start_soon(first.send_all, bytes(100_000))
        assert sum(sizes(await end.peer.pending())) == WINDOW
        # The others go on, and so do pings.
        await second.send_all(b"x")
        assert sizes(await end.peer.pending(), 2) == [1]
        nursery.start_soon(end.connection.ping)
        assert (FrameType.PINGPONG, 0, None) in await end.peer.pending()
        await end.peer.send(frames.encode_pingpong())
        sent = WINDOW
        for increment in (1000, 256, 50_000, 2**31):
            await end.peer.send(frames.encode_window(1, increment))
            got = sum(sizes(await end.peer.pending()))
            sent += got
            assert got == min(increment, 100_000 - (sent - got))
        assert sent == 100_000


@in_both_roles
async def test_a_sender_that_gets_single_bytes_does_not_send_single_bytes(role: Role) -> None:
    async with extended_end(role, streams=1) as end, trio.open_nursery() as nursery:
        nursery.start_soon(end.streams[0].send_all, bytes(WINDOW + 300))
        assert sum(sizes(await end.peer.pending())) == WINDOW
        for _ in range(255):
            await end.peer.send(frames.encode_window(1, 1))
        assert sizes(await end.peer.pending()) == []
        await end.peer.send(frames.encode_window(1, 1))
        assert sum(sizes(await end.peer.pending())) == 256
        # The rest is less than that.
        await end.peer.send(frames.encode_window(1, 44))
        assert sum(sizes(await end.peer.pending())) == 44


@in_both_roles
async def test_empty_data_and_the_end_need_no_credit(role: Role) -> None:
    async with extended_end(role, streams=1) as end:
        (stream,) = end.streams
        await stream.send_all(bytes(WINDOW))
        await stream.send_all(b"")
        await stream.send_eof()
        received = await end.peer.pending()
        assert sum(sizes(received)) == WINDOW
        assert received[-1] == (FrameType.STREAM_FIN, 1, None)


Waiting = Callable[[trioanytls.Stream], Awaitable[None]]


async def _send(stream: trioanytls.Stream) -> None:
    await stream.send_all(b"more")


async def _wait_to_send(stream: trioanytls.Stream) -> None:
    await stream.wait_send_all_might_not_block()


in_both_ways = pytest.mark.parametrize("wait", [_send, _wait_to_send])


async def exhaust(end: End) -> trioanytls.Stream:
    """Use up the credit of the first stream."""
    await end.streams[0].send_all(bytes(WINDOW))
    await end.peer.pending()
    return end.streams[0]


@in_both_roles
@in_both_ways
async def test_a_wait_for_credit_can_be_cancelled(role: Role, wait: Waiting, autojump_clock: Clock) -> None:
    async with extended_end(role, streams=1) as end:
        stream = await exhaust(end)
        with trio.move_on_after(1) as scope:
            await wait(stream)
        assert scope.cancelled_caught
        # Nothing is lost, and nothing left behind.
        await end.peer.send(frames.encode_window(1, 1000))
        await trio.testing.wait_all_tasks_blocked()
        with trio.fail_after(0.001):
            await wait(stream)
            await stream.send_all(b"and on")
        assert sizes(await end.peer.pending())[-1] == 6


@in_both_roles
@in_both_ways
async def test_a_wait_for_credit_excludes_other_senders(role: Role, wait: Waiting) -> None:
    async with extended_end(role, streams=1) as end, trio.open_nursery() as nursery:
        stream = await exhaust(end)
        nursery.start_soon(wait, stream)
        await trio.testing.wait_all_tasks_blocked()
        for other in (stream.send_eof, functools.partial(stream.send_all, b"x"), stream.wait_send_all_might_not_block):
            with pytest.raises(trio.BusyResourceError):
                await other()
        await end.peer.send(frames.encode_window(1, 1000))


async def _close(end: End) -> None:
    await end.streams[0].aclose()


async def _reset(end: End) -> None:
    await end.peer.send(frames.encode_reset(1, 10, b"too much"))


async def _rst(end: End) -> None:
    await end.peer.send(frames.encode_rst(1))


async def _be_idle(end: End) -> None:
    await trio.sleep(100)


async def _close_connection(end: End) -> None:
    multiplexer_of(end.connection).close_after_write_error()


async def _lose_transport(end: End) -> None:
    await end.peer.transport.aclose()


@in_both_roles
@in_both_ways
@pytest.mark.parametrize(
    ("act", "error"),
    [
        (_close, trio.ClosedResourceError),
        (_reset, trioanytls.StreamReset),
        (_rst, trioanytls.StreamReset),
        (_be_idle, trioanytls.StreamTimeout),
        (_close_connection, trioanytls.ConnectionClosed),
        (_lose_transport, trioanytls.ConnectionClosed),
    ],
)
async def test_the_end_of_a_stream_ends_the_wait_for_credit(
    role: Role,
    wait: Waiting,
    act: Callable[[End], Awaitable[None]],
    error: type[Exception],
    autojump_clock: Clock,
) -> None:
    config = settings(stream_idle_timeout=100, close_timeout=1)
    async with extended_end(role, config, streams=1) as end, trio.open_nursery() as nursery:
        stream = await exhaust(end)
        ended = trio.Event()

        async def expect() -> None:
            with pytest.raises(error):
                await wait(stream)
            ended.set()

        nursery.start_soon(expect)
        await trio.testing.wait_all_tasks_blocked()
        await act(end)
        with trio.fail_after(10):
            await ended.wait()


@in_both_roles
async def test_a_wait_for_credit_holds_no_room_in_the_send_queue(role: Role, autojump_clock: Clock) -> None:
    config = settings(send_buffer_size=1)
    async with extended_end(role, config, streams=3) as end, trio.open_nursery() as nursery:
        for stream in end.streams[:2]:
            nursery.start_soon(stream.send_all, bytes(100_000))
        await end.peer.pending()
        with trio.fail_after(1):
            for _ in range(10):
                await end.streams[2].send_all(b"x")
                await end.peer.pending()
        nursery.cancel_scope.cancel()


async def test_the_optimistic_data_counts(autojump_clock: Clock) -> None:
    async with raw_server(settings()) as (client, peer), trio.open_nursery() as nursery:
        stream = await client.open_stream()
        # Before the negotiation, there is no credit.
        await stream.send_all(bytes(30_000))
        await peer.receive_auth()
        assert sum(sizes(await peer.pending())) == 30_000
        await peer.send(frames.encode_server_nego(b"v=1\next=window\nwindow=20000\n"))
        peer.know(FrameType.STREAM_WINDOW)
        assert sizes(await peer.pending()) == []
        assert core_of(stream).credit == -10_000
        nursery.start_soon(stream.send_all, bytes(1000))
        await peer.send(frames.encode_window(1, 10_000))
        assert sizes(await peer.pending()) == []
        await peer.send(frames.encode_window(1, 400))
        assert sum(sizes(await peer.pending())) == 400
        await peer.send(frames.encode_window(1, 600))
        assert sum(sizes(await peer.pending())) == 600


async def test_data_that_waits_for_room_while_the_negotiation_comes_counts(autojump_clock: Clock) -> None:
    async with raw_server(settings(send_buffer_size=1)) as (client, peer), trio.open_nursery() as nursery:
        stream = await client.open_stream()
        nursery.start_soon(stream.send_all, bytes(1_000_000))
        await peer.receive_auth()
        await peer.send(frames.encode_server_nego(b"v=1\next=window\nwindow=20000\n"))
        await trio.testing.wait_all_tasks_blocked()
        sent = sum(sizes(await peer.pending()))
        # What was accepted before is sent, and no more.
        assert core_of(stream).credit == 20_000 - sent <= 0
        nursery.cancel_scope.cancel()


# Granting


@in_both_roles
async def test_bytes_that_were_read_are_granted_and_others_are_not(role: Role) -> None:
    async with extended_end(role, streams=1) as end:
        (stream,) = end.streams
        await end.peer.send(data(1, bytes(WINDOW)))
        assert grants(await end.peer.pending()) == []
        granted = 0
        for read in range(1024, WINDOW + 1, 1024):
            assert len(await stream.receive_some(1024)) == 1024
            granted += sum(grants(await end.peer.pending()))
            # Not later than at a half. The window may grow.
            assert granted >= read // 2 // 8192 * 8192
        assert granted >= WINDOW // 2


@in_both_roles
async def test_grants_of_several_streams_go_out_in_one_write(role: Role) -> None:
    async with extended_end(role, settings(shape_server=False), streams=10) as end:
        # Until nothing is shaped any more.
        for _ in range(20):
            await end.streams[0].send_all(b"x")
            await end.peer.pending()
        await end.peer.send(*(data(stream.stream_id, bytes(6000)) for stream in end.streams))
        await trio.testing.wait_all_tasks_blocked()
        writes = end.connection.stats.writes
        async with trio.open_nursery() as nursery:
            for stream in end.streams:
                nursery.start_soon(stream.receive_some)
        received = await end.peer.pending()
        assert all(len(grants(received, stream.stream_id)) == 1 for stream in end.streams)
        # The round trip is measured as well.
        assert end.connection.stats.writes - writes <= 2


@in_both_roles
async def test_grants_wait_for_a_quarter_of_the_window_or_another_write(role: Role, autojump_clock: Clock) -> None:
    async with extended_end(role, settings(max_stream_window=8 * WINDOW), streams=2) as end:
        for stream in end.streams:
            # A window grows while it is read within two round trips, once the ping has shown how long these are.
            for _ in range(8):
                await end.peer.send(data(stream.stream_id, bytes(WINDOW)))
                assert len(await stream.receive_some()) == WINDOW
                if (FrameType.PINGPONG, 0, None) in await end.peer.pending():
                    await end.peer.send(frames.encode_pingpong())
            window = core_of(stream).window
            assert window is not None
            assert window.size == 8 * WINDOW
        first, second = end.streams

        async def read(stream: trioanytls.Stream, size: int) -> list[Frame]:
            await end.peer.send(data(stream.stream_id, bytes(size)))
            assert len(await stream.receive_some()) == size
            return await end.peer.pending()

        # An eighth of each window: both go out in one write, as soon as one of them is a quarter.
        await end.peer.pending()
        while not grants(await read(first, WINDOW)):
            pass
        assert await read(first, WINDOW) == []
        assert await read(second, WINDOW) == []
        received = await read(first, WINDOW)
        assert grants(received) == [2 * WINDOW]
        assert grants(received, 2) == [WINDOW]
        # Another write takes a grant along.
        assert await read(first, WINDOW) == []
        await second.send_all(b"x")
        assert grants(await end.peer.pending()) == [WINDOW]


async def test_while_writes_are_shaped_each_frame_is_one_delivery(autojump_clock: Clock) -> None:
    near, far = trio.testing.memory_stream_pair()
    recorded = RecordedTransport(near)
    scheme = trioanytls.PaddingScheme.parse(
        b"stop=20\n0=30-30\n" + b"".join(b"%d=500-500\n" % index for index in range(1, 20))
    )
    queue = StreamQueue()
    async with memory_connection_pair(
        queue,
        client_config=settings(),
        server_config=settings(),
        transports=(recorded, far),
        padding_scheme=scheme,
        server_padding_scheme=scheme,
    ) as (client, _):
        stream = await client.open_stream()
        other = await queue.get()
        await other.send_all(bytes(6000))
        await trio.testing.wait_all_tasks_blocked()
        before = len(recorded.sent)
        assert await stream.receive_some()
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        await stream.reset()
        await trio.testing.wait_all_tasks_blocked()
        # STREAM_WINDOW and PINGPONG, STREAM_FIN, STREAM_RESET.
        kinds = [write[0] for write in recorded.sent[before:]]
        assert sorted(kinds) in ([0x11, 0x12, 0x13], [0x07, 0x11, 0x12, 0x13])
        assert [len(write) for write in recorded.sent[before:]] == [500] * len(kinds)


@in_both_roles
async def test_nothing_is_granted_on_a_stream_that_the_peer_has_ended(role: Role) -> None:
    async with extended_end(role, streams=2) as end:
        await end.peer.send(data(1, bytes(WINDOW)), frames.encode_fin(1), data(2, bytes(WINDOW)), frames.encode_rst(2))
        for stream in end.streams:
            assert len(await stream.receive_some()) == WINDOW
        received = await end.peer.pending()
        assert grants(received, 1) == grants(received, 2) == []


@in_both_roles
async def test_a_window_that_has_grown_is_used_by_new_streams(role: Role, autojump_clock: Clock) -> None:
    queue = StreamQueue()
    pair = memory_connection_pair(queue, client_config=settings(), server_config=settings())
    async with pair as ends, trio.open_nursery() as nursery:
        await ends[0].ping()
        near = await ends[0].open_stream()
        far = await queue.get()
        sender, receiver = (far, near) if role == "client" else (near, far)
        nursery.start_soon(sender.send_all, bytes(4_000_000))
        size = 0
        while size < 4_000_000:
            size += len(await receiver.receive_some())
        windows = multiplexer_of(receiver.connection).flow_control.windows
        assert windows is not None
        assert windows.total > WINDOW
        await near.aclose()
        await far.aclose()
        later = await ends[0].open_stream()
        other = await queue.get()
        sender = other if role == "client" else later
        await trio.testing.wait_all_tasks_blocked()
        if role == "client":
            # A server learns of it when the stream is read. It has not acknowledged that the client sends at all.
            assert core_of(sender).credit > WINDOW
        before = windows.total
        for stream in (later, other):
            await stream.aclose()
        assert windows.total == 0 < before


# Streams that nobody reads or keeps


@in_both_roles
async def test_an_unread_stream_does_not_hold_up_others(role: Role, autojump_clock: Clock) -> None:
    # The peer does not answer the ping that measures the round trip.
    config = settings(stream_idle_timeout=math.inf, idle_timeout=math.inf, stall_timeout=1, keepalive_timeout=math.inf)
    async with extended_end(role, config, streams=2) as end:
        await end.peer.send(data(1, bytes(WINDOW)))
        for _ in range(100):
            await end.peer.send(data(2, bytes(4096)))
            assert len(await end.streams[1].receive_some()) == 4096
            await trio.sleep(100)
        assert not end.streams[0].closed
        assert len(await end.streams[0].receive_some()) == WINDOW


@in_both_roles
async def test_tiny_frames_within_the_credit_are_joined(role: Role, autojump_clock: Clock) -> None:
    config = settings(receive_buffer_size=1000, stall_timeout=5)
    async with extended_end(role, config, streams=2) as end:
        await end.peer.send(*[data(1, b"x")] * WINDOW)
        await end.peer.send(data(2, b"here"))
        with trio.fail_after(0.001):
            assert await end.streams[1].receive_some() == b"here"
        assert multiplexer_of(end.connection).budget.total <= 2 * (WINDOW + 64 * 1024)
        assert await end.streams[0].receive_some() == b"x" * WINDOW
        assert multiplexer_of(end.connection).budget.total == 0


@in_both_roles
async def test_a_peer_that_ignores_its_credit_harms_itself(role: Role, autojump_clock: Clock) -> None:
    config = settings(receive_buffer_size=100_000, stall_timeout=5, stream_idle_timeout=math.inf)
    async with extended_end(role, config, streams=2) as end, trio.open_nursery() as nursery:
        # More than the credit is no violation.
        await end.peer.send(data(1, bytes(50_000)))
        await end.peer.send(data(2, b"here"))
        assert await end.streams[1].receive_some() == b"here"
        # Beyond the buffer, the connection is not read.
        nursery.start_soon(end.peer.send, data(1, bytes(100_000)), data(2, b"late"))
        start = trio.current_time()
        assert await end.streams[1].receive_some() == b"late"
        assert trio.current_time() - start == pytest.approx(5)
        assert not end.connection.closed
        assert (FrameType.STREAM_RESET, 1) in [frame[:2] for frame in await end.peer.pending()]
        # What came later was for a stream that is closed.
        assert len(await end.streams[0].receive_some()) >= 100_000
        with pytest.raises(trioanytls.StreamTimeout):
            await end.streams[0].receive_some()


@in_both_roles
async def test_streams_that_have_ended_unread_are_within_the_budget_of_the_connection(
    role: Role, autojump_clock: Clock
) -> None:
    """The peer gets the window of a stream back with STREAM_FIN. The data of all streams is bounded nevertheless."""
    config = extending(ALL, stream_idle_timeout=math.inf, idle_timeout=math.inf, keepalive_timeout=math.inf)
    count = 1_500 if role == "client" else config.max_streams
    async with extended_end(role, config, streams=count, window=65536) as end:
        await end.peer.pending()
        multiplexer = multiplexer_of(end.connection)
        limit = multiplexer.budget.limit + 64 * 1024 + 64
        assert multiplexer.budget.limit == 64 * 2**20
        for stream in end.streams:
            await end.peer.send(data(stream.stream_id, bytes(65536)), frames.encode_fin(stream.stream_id))
            if not stream.stream_id % 16:
                await trio.testing.wait_all_tasks_blocked()
                assert multiplexer.budget.total <= limit
        assert multiplexer.flow_control.windows is not None
        assert multiplexer.flow_control.windows.total < limit
        # The connection is not read, and the streams that hold most are closed. What they held does not look whole.
        await trio.sleep(100 * config.stall_timeout)
        assert multiplexer.budget.total <= limit
        assert not end.connection.closed
        closed = 0
        for stream in end.streams:
            try:
                received = b"".join([piece async for piece in stream])
            except trioanytls.StreamTimeout:
                closed += 1
            else:
                assert len(received) == 65536
        assert 0 < closed < count


async def test_a_stream_that_the_application_drops_gives_its_window_back(autojump_clock: Clock) -> None:
    config = settings(stream_idle_timeout=50)
    async with memory_connection_pair(StreamQueue(), client_config=config, server_config=config) as (client, _):
        await client.ping()
        for _ in range(10):
            await client.open_stream()
        gc.collect()
        windows = multiplexer_of(client).flow_control.windows
        assert windows is not None
        assert windows.total == 10 * WINDOW
        await trio.sleep(60)
        assert client.stats.open_streams == windows.total == 0


@in_both_roles
async def test_a_grant_that_is_sent_restarts_the_idle_timer(role: Role, autojump_clock: Clock) -> None:
    config = settings(stream_idle_timeout=10, idle_timeout=math.inf)
    async with extended_end(role, config, streams=1) as end:
        (stream,) = end.streams
        await end.peer.send(data(1, bytes(WINDOW)))
        granted = 0
        for _ in range(3):
            await trio.sleep(7)
            assert len(await stream.receive_some(5000)) == 5000
            granted += sum(grants(await end.peer.pending()))
        assert not stream.closed
        assert granted
        await trio.sleep(11)
        assert stream.closed


# Peers that break the rules, or use them


@in_both_roles
@pytest.mark.parametrize("increment", [0, MAX_CREDIT - WINDOW + 1, MAX_CREDIT])
async def test_increments_out_of_range_are_violations(role: Role, increment: int, autojump_clock: Clock) -> None:
    async with extended_end(role, settings(close_timeout=1), streams=1) as end:
        await end.peer.send(frames.encode_window(1, increment))
        assert (await end.peer.pending())[-1][0] == FrameType.ALERT
        assert end.connection.close_reason.code is CloseCode.PROTOCOL_ERROR


@in_both_roles
async def test_the_credit_may_have_its_maximum(role: Role, autojump_clock: Clock) -> None:
    async with extended_end(role, streams=1) as end:
        await end.peer.send(frames.encode_window(1, MAX_CREDIT - WINDOW))
        await end.streams[0].send_all(bytes(200_000))
        assert sum(sizes(await end.peer.pending())) == 200_000
        await end.peer.send(frames.encode_window(1, 200_000))
        await trio.testing.wait_all_tasks_blocked()
        assert not end.connection.closed


@in_both_roles
async def test_grants_for_closed_and_for_never_opened_streams(role: Role, autojump_clock: Clock) -> None:
    async with extended_end(role, settings(close_timeout=1), streams=2) as end:
        await end.streams[0].aclose()
        await end.peer.send(frames.encode_rst(2))
        await end.peer.send(frames.encode_window(1, 1000), frames.encode_window(2, 1000))
        await trio.testing.wait_all_tasks_blocked()
        assert not end.connection.closed
        await end.peer.send(frames.encode_window(3, 1000))
        assert (await end.peer.pending())[-1][0] == FrameType.ALERT


@in_both_roles
@pytest.mark.parametrize("sending", [False, True])
async def test_a_million_grants_of_one_byte_are_limited(role: Role, sending: bool, autojump_clock: Clock) -> None:
    async with extended_end(role, settings(close_timeout=1), streams=1) as end, trio.open_nursery() as nursery:

        async def send() -> None:
            with pytest.raises(trioanytls.ConnectionClosed):
                await end.streams[0].send_all(bytes(10_000_000))

        if sending:
            nursery.start_soon(send)
            await end.peer.pending()
        sent = 0
        while not end.connection.closed:
            await end.peer.send(frames.encode_window(1, 1) * 100)
            await trio.testing.wait_all_tasks_blocked()
            sent += 100
        assert 10_000 <= sent <= (11_000 if sending else 10_100)
        assert end.connection.close_reason.code is CloseCode.LIMIT_EXCEEDED


@in_both_roles
@pytest.mark.parametrize("chunk", [100, 4096, WINDOW, 60_000], ids=["100 bytes", "4 KiB", "16 KiB", "60000 bytes"])
async def test_an_upload_is_not_limited(role: Role, chunk: int, autojump_clock: Clock) -> None:
    # The receiver sends nothing but grants, several for each piece of data, and more than max_idle_frames in all.
    config = settings(max_idle_frames=100)
    async with extended_end(role, config, streams=1, window=65536) as end:
        (stream,) = end.streams
        step = min(chunk, 4096)
        for _ in range(200):
            await stream.send_all(bytes(chunk))
            await end.peer.pending()
            for start in range(0, chunk, step):
                await end.peer.send(frames.encode_window(1, min(step, chunk - start)))
            await trio.testing.wait_all_tasks_blocked()
        assert not end.connection.closed


@in_both_roles
async def test_an_upload_to_our_own_end_is_not_limited(role: Role, autojump_clock: Clock) -> None:
    config = settings(max_idle_frames=50, max_stream_window=WINDOW)
    queue = StreamQueue()
    async with memory_connection_pair(queue, client_config=config, server_config=config) as (client, _):
        near = await client.open_stream()
        far = await queue.get()
        sender, receiver = (near, far) if role == "client" else (far, near)
        total = 20_000_000
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for size in [1, 100, 5000, 30_000, 100_000] * (total // 135_101):
                    await sender.send_all(bytes(size))
                await sender.aclose()

            nursery.start_soon(send)
            while await receiver.receive_some(10_000):
                pass
        grants_received = sender.connection.stats.frames_received["STREAM_WINDOW"]
        assert grants_received > 2 * config.max_idle_frames
        assert not client.closed


@in_both_roles
async def test_grants_that_the_peer_does_not_read_are_one_frame_a_stream(role: Role, autojump_clock: Clock) -> None:
    config = settings(max_pending_control=10, max_stream_window=WINDOW, write_timeout=math.inf)
    async with extended_end(role, config, streams=2) as end:
        queue = multiplexer_of(end.connection).send_queue
        go_on = end.block()
        limit = config.max_pending_control + 2 * config.max_streams
        # A peer without credit that sends nevertheless: our own reading causes the grants.
        for _ in range(limit + 100):
            for stream in end.streams:
                await end.peer.send(data(stream.stream_id, bytes(WINDOW)))
                assert await stream.receive_some()
            # The first one is being written, and the ping that measures the round trip is an answer to nothing.
            assert queue.queued_control <= 3
        go_on.set()
        received = await end.peer.pending()
        for stream in end.streams:
            granted = grants(received, stream.stream_id)
            assert len(granted) <= 2
            assert sum(granted) == (limit + 100) * WINDOW
        assert not end.connection.closed


async def test_the_grants_of_many_streams_do_not_count_as_unread_answers(autojump_clock: Clock) -> None:
    config = settings(max_stream_window=WINDOW, write_timeout=math.inf)
    count = 5_000
    async with extended_end("client", config, streams=count) as end:
        assert count > config.max_pending_control + 2 * config.max_streams
        await end.peer.pending()
        go_on = end.block()
        for stream in end.streams:
            await end.peer.send(data(stream.stream_id, bytes(WINDOW)))
            assert await stream.receive_some()
        # The application's own reading has caused them. The peer may even ask for answers of its own.
        await end.peer.send(PINGPONG, data(1, b"on"))
        assert await end.streams[0].receive_some() == b"on"
        go_on.set()
        received = await end.peer.pending()
        assert all(grants(received, stream.stream_id) == [WINDOW] for stream in end.streams)
        assert not end.connection.closed


@in_both_roles
@pytest.mark.parametrize("how", ["RST", "STREAM_FIN", "STREAM_RESET", "aclose"])
async def test_the_grants_that_the_peer_does_not_read_end_with_their_streams(
    role: Role, how: str, autojump_clock: Clock
) -> None:
    config = settings(max_stream_window=WINDOW, write_timeout=math.inf)
    ends = {"RST": frames.encode_rst, "STREAM_FIN": frames.encode_fin}
    async with extended_end(role, config, streams=20) as end:
        queue = multiplexer_of(end.connection).send_queue
        go_on = end.block()
        for stream in end.streams:
            await end.peer.send(data(stream.stream_id, bytes(WINDOW)))
            assert await stream.receive_some()
            if how == "aclose":
                await stream.aclose()
            elif how == "STREAM_RESET":
                await end.peer.send(frames.encode_reset(stream.stream_id, 1, b""))
            else:
                await end.peer.send(ends[how](stream.stream_id))
            await wait_all_tasks_blocked()
        # The ping that measures the round trip, and what closes a stream on this side.
        assert queue.queued_control <= 1 + 2 * len(end.streams) * (how == "aclose")
        go_on.set()
        received = await end.peer.pending()
        # The first one was being written.
        assert [stream.stream_id for stream in end.streams if grants(received, stream.stream_id)] in ([], [1])
        assert not end.connection.closed


@pytest.mark.parametrize("rounds", range(4))
async def test_a_window_that_shrinks_leaves_no_peer_without_credit(rounds: int, autojump_clock: Clock) -> None:
    """A grant that waits for another write must not be all the credit that the peer has."""
    config = settings(connection_receive_buffer_size=128 * WINDOW)
    send_queue = SendQueue(config.send_buffer_size)
    sent: list[int] = []

    def encode_window(stream_id: int, increment: int) -> bytes:
        sent.append(increment)
        return frames.encode_window(stream_id, increment)

    protocol: Any = SimpleNamespace(receive_window=WINDOW, send_window=WINDOW, encode_window=encode_window)
    flow_control = FlowControl(send_queue, lambda: 0.1, mock.Mock())
    flow_control.begin(protocol, config)

    def open_stream(stream_id: int) -> StreamCore:
        now = trio.current_time()
        core = StreamCore(stream_id, send_queue, ReceiveBudget(2**30), config, now, by_peer=True)
        flow_control.add_stream(core, now)
        return core

    async def write() -> None:
        while await send_queue.wait():
            send_queue.take_batch(trio.current_time(), math.inf)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        stream, received = open_stream(1), 0

        async def exchange() -> None:
            """Send what the credit allows, at most 1 KiB, and read it."""
            nonlocal received
            await wait_all_tasks_blocked()
            size = min(1024, WINDOW + sum(sent) - received)
            assert size > 0
            received += size
            stream.until_check -= size
            if stream.until_check <= 0:
                flow_control.check_window(stream)

        while stream.window is None or stream.window.size < 32 * WINDOW:
            await exchange()
        # Up to the middle between two writes, at several points.
        for _ in range((rounds + 1) * stream.window.size // 8 // 1024):
            await exchange()
        for stream_id in range(2, 100):
            open_stream(stream_id)
        for _ in range(2 * 32 * WINDOW // 1024):
            await exchange()
        assert stream.window.size == WINDOW
        send_queue.finish(None, drain=True)
