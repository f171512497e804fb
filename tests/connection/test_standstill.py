"""No timer acts on a peer's silence while data of the peer is in the socket: the event loop may have been stopped (a
blocking call, SIGSTOP, a suspended machine), or the timer's task runs before the reader.

A test that depends on the order of tasks is repeated: Trio runs the tasks of a pass in random order.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls._client.pool import Client, run_client
from trioanytls._connection import reader
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.frames import FrameType

from ..helpers.connection_ends import AUTH, NEGO, PASSWORD, ROLES, End, Pair, Role, end_of, server_that_heard
from ..helpers.raw_peer import PINGPONG, SERVER_NEGO, RawPeer, data

Clock = trio.testing.MockClock
EACH_ROLE = pytest.mark.parametrize("role", ROLES)

#: The old code passed one run in two.
TIMES = 16


def socket_pair() -> Pair:
    """Connect two sockets: data sent on one is in the other at once."""
    first, second = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair())
    return first, second


def send_now(peer: RawPeer, *pieces: bytes) -> None:
    """Send without running any other task."""
    assert isinstance(peer.transport, trio.SocketStream)
    received = b"".join(pieces)
    # The descriptor is non-blocking, as Trio's are.
    with socket.socket(fileno=socket.dup(peer.transport.socket.fileno())) as ours:
        ours.setblocking(False)
        assert ours.send(received) == len(received)


def read_now(peer: RawPeer) -> int:
    """Read all data that has arrived, without running any other task. Return the number of bytes."""
    assert isinstance(peer.transport, trio.SocketStream)
    size = 0
    with socket.socket(fileno=socket.dup(peer.transport.socket.fileno())) as ours:
        ours.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while received := ours.recv(1024 * 1024):
                size += len(received)
    return size


async def settle() -> None:
    """Run all tasks that are due."""
    await trio.sleep(1.5)
    await trio.testing.wait_all_tasks_blocked()


# Timers of a connection


@EACH_ROLE
async def test_a_ping_whose_answer_has_arrived_is_answered(autojump_clock: Clock, role: Role) -> None:
    config = trioanytls.Config(keepalive_interval=10, keepalive_timeout=5)
    for _ in range(TIMES):
        async with end_of(role, config, 1, socket_pair()) as end:
            await trio.sleep(12)
            assert (FrameType.PINGPONG, 0, None) in await end.peer.pending()
            send_now(end.peer, PINGPONG)
            autojump_clock.jump(20)
            await settle()
            assert not end.connection.closed


@EACH_ROLE
async def test_an_answer_behind_much_else_counts_as_well(
    autojump_clock: Clock, role: Role, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frame comes with the last of many reads, each of which takes one pass."""
    monkeypatch.setattr(reader, "_READ_SIZE", 1000)
    config = trioanytls.Config(keepalive_interval=10, keepalive_timeout=5)
    for _ in range(TIMES):
        async with end_of(role, config, 1, socket_pair()) as end:
            await trio.sleep(12)
            send_now(end.peer, frames.encode_padding(50_000), PINGPONG)
            autojump_clock.jump(3)
            await trio.testing.wait_all_tasks_blocked()
            assert not end.connection.closed
            assert end.connection._multiplexer.ping is None


@EACH_ROLE
async def test_a_connection_that_was_not_idle_is_not_closed(autojump_clock: Clock, role: Role) -> None:
    for _ in range(TIMES):
        async with end_of(role, trioanytls.Config(idle_timeout=40), 1, socket_pair()) as end:
            await trio.sleep(30)
            send_now(end.peer, frames.encode_padding(3))
            autojump_clock.jump(20)
            await settle()
            assert not end.connection.closed
            await trio.sleep(37)
            assert not end.connection.closed
            await trio.sleep(3)
            assert end.connection.closed


@EACH_ROLE
async def test_a_stream_that_was_not_idle_is_not_closed(autojump_clock: Clock, role: Role) -> None:
    for _ in range(TIMES):
        async with end_of(role, trioanytls.Config(stream_idle_timeout=20), 1, socket_pair()) as end:
            await end.peer.pending()
            received: list[bytes] = []

            async def receive(end: End = end, received: list[bytes] = received) -> None:
                received.append(await end.streams[0].receive_some())
                await end.streams[0].send_all(b"y")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                await trio.sleep(15)
                send_now(end.peer, data(1, b"x"))
                autojump_clock.jump(10)
                await settle()
            assert received == [b"x"]
            assert await end.peer.pending() == [(FrameType.STREAM_DATA, 1, b"y")]


async def test_a_handler_whose_stream_was_not_idle_is_not_cancelled(autojump_clock: Clock) -> None:
    ended: list[float] = []

    async def handler(_stream: trioanytls.Stream) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    for _ in range(TIMES):
        config = trioanytls.Config(stream_idle_timeout=20)
        async with server_that_heard(AUTH + NEGO, config, handler=handler, pair=socket_pair()) as end:
            await end.peer.send(frames.encode_open(1))
            await trio.sleep(15)
            ended.clear()
            send_now(end.peer, b"\x08\x01")
            autojump_clock.jump(10)
            now = trio.current_time()
            await settle()
            assert ended == []
            await trio.sleep(30)
            assert ended == [now + 20]


@pytest.mark.parametrize("last", [frames.encode_rst(1), frames.encode_close(0)], ids=["RST", "CLOSE"])
async def test_a_handler_may_finish_after_an_end_that_came_while_the_loop_stood_still(
    autojump_clock: Clock, last: bytes
) -> None:
    """The handler has `stream_idle_timeout` from then on, and not from the last frame."""
    finished: list[float] = []

    async def handler(stream: trioanytls.Stream) -> None:
        with contextlib.suppress(trioanytls.ConnectionClosed):
            assert [piece async for piece in stream] == []
        try:
            await trio.sleep(19)
            finished.append(trio.current_time())
            await trio.sleep_forever()
        finally:
            finished.append(trio.current_time())

    config = trioanytls.Config(stream_idle_timeout=20, close_timeout=1)
    async with server_that_heard(AUTH + NEGO, config, handler=handler, pair=socket_pair()) as end:
        await end.peer.send(frames.encode_open(1))
        await trio.sleep(15)
        send_now(end.peer, last)
        autojump_clock.jump(1000)
        now = trio.current_time()
        await trio.sleep(30)
        assert finished == [now + 19, now + 20]


@EACH_ROLE
async def test_a_write_that_the_peer_has_made_room_for_is_not_given_up(autojump_clock: Clock, role: Role) -> None:
    config = trioanytls.Config(write_timeout=60, send_buffer_size=100_000)
    for _ in range(TIMES):
        async with end_of(role, config, 1, socket_pair()) as end, trio.open_nursery() as nursery:
            nursery.start_soon(end.streams[0].send_all, bytes(1_000_000))
            # So much that one write is blocked in its middle.
            await trio.sleep(50)
            assert end.connection._multiplexer.writer.writing_since is not None
            taken = read_now(end.peer)
            autojump_clock.jump(20)
            await settle()
            assert not end.connection.closed
            while taken < 1_000_000:
                taken += read_now(end.peer)
                await trio.sleep(1)


@pytest.mark.parametrize(("hello", "rest"), [(b"", AUTH + NEGO), (AUTH[:20], AUTH[20:] + NEGO), (AUTH, NEGO)])
async def test_a_client_that_has_authenticated_in_time_is_not_closed(
    autojump_clock: Clock, hello: bytes, rest: bytes
) -> None:
    for _ in range(TIMES):
        async with server_that_heard(hello, trioanytls.Config(auth_timeout=3), pair=socket_pair()) as end:
            await trio.sleep(2)
            send_now(end.peer, rest)
            autojump_clock.jump(20)
            await settle()
            assert not end.connection.closed
            assert end.connection.user is not None


@EACH_ROLE
async def test_a_stream_that_the_application_is_about_to_read_is_not_closed(autojump_clock: Clock, role: Role) -> None:
    config = trioanytls.Config(receive_buffer_size=1000, stall_timeout=15)
    for _ in range(TIMES):
        async with end_of(role, config, 2, socket_pair()) as end:

            async def read_late(stream: trioanytls.Stream = end.streams[0]) -> None:
                await trio.sleep(14.9)
                assert await stream.receive_some() == bytes(2000)
                await stream.send_all(b"y")

            await end.peer.pending()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_late)
                await end.peer.send(data(1, bytes(2000)))
                await trio.sleep(10)
                autojump_clock.jump(20)
                await settle()
            assert await end.peer.pending() == [(FrameType.STREAM_DATA, 1, b"y")]


@EACH_ROLE
async def test_the_application_is_about_to_read_one_of_many(autojump_clock: Clock, role: Role) -> None:
    config = trioanytls.Config(connection_receive_buffer_size=1000, stall_timeout=15)
    for _ in range(TIMES):
        async with end_of(role, config, 2, socket_pair()) as end:

            async def read_late(stream: trioanytls.Stream = end.streams[0]) -> None:
                await trio.sleep(14.9)
                assert await stream.receive_some() == bytes(900)
                await stream.send_all(b"y")

            await end.peer.pending()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_late)
                await end.peer.send(data(1, bytes(900)), data(2, bytes(900)))
                await trio.sleep(10)
                autojump_clock.jump(20)
                await settle()
            assert await end.peer.pending() == [(FrameType.STREAM_DATA, 1, b"y")]


@EACH_ROLE
async def test_a_ping_that_was_not_on_its_way_has_its_time_from_then_on(autojump_clock: Clock, role: Role) -> None:
    """The loop stops after the timer's task has run, and before the writer runs."""
    config = trioanytls.Config(keepalive_interval=10, keepalive_timeout=5)
    for _ in range(TIMES):
        async with end_of(role, config, 0, socket_pair()) as end:
            await end.peer.pending()
            await trio.sleep(9)
            autojump_clock.jump(1)
            while end.connection._multiplexer.ping is None:
                await trio.lowlevel.checkpoint()
            autojump_clock.jump(20)
            assert await end.peer.receive() == (FrameType.PINGPONG, 0, None)
            await trio.sleep(4)
            await end.peer.send(PINGPONG)
            await settle()
            assert not end.connection.closed


@EACH_ROLE
@pytest.mark.parametrize("late", [0, 0.25, 1000])
async def test_a_peer_that_has_said_nothing_is_given_up_at_once(autojump_clock: Clock, role: Role, late: float) -> None:
    config = trioanytls.Config(keepalive_interval=10, keepalive_timeout=5, close_timeout=1)
    async with end_of(role, config, 0, socket_pair()) as end:
        await trio.sleep(14)
        assert not end.connection.closed
        autojump_clock.jump(1 + late)
        now = trio.current_time()
        await trio.testing.wait_all_tasks_blocked()
        assert trio.current_time() == now
        assert end.connection.close_reason.code is trioanytls.CloseCode.IDLE_TIMEOUT


@EACH_ROLE
async def test_data_without_end_does_not_hold_up_a_timer(autojump_clock: Clock, role: Role) -> None:
    """A peer that answers no ping is abandoned even if it sends all the time."""
    config = trioanytls.Config(keepalive_interval=10, keepalive_timeout=5, close_timeout=1)
    async with end_of(role, config, 0, socket_pair()) as end, trio.open_nursery() as nursery:
        await trio.sleep(12)
        autojump_clock.jump(3)

        async def chatter() -> None:
            with contextlib.suppress(trio.BrokenResourceError):
                while True:
                    await end.peer.send(frames.encode_padding(3))

        nursery.start_soon(chatter)
        for _ in range(1000):
            await trio.lowlevel.checkpoint()
        assert end.connection.closed
        nursery.cancel_scope.cancel()


# Timers of a pool


async def with_client(pool: trioanytls.PoolConfig, test: Callable[[Client, list[RawPeer]], Awaitable[None]]) -> None:
    """Call `test` with a client and the peers of the connections that it has made."""
    peers: list[RawPeer] = []

    async def dial(_timeout: float) -> trio.abc.Stream:
        near, far = socket_pair()
        peers.append(RawPeer(far))
        await trio.lowlevel.checkpoint()
        return near

    client = Client(
        dial,
        key="server:443",
        password=PASSWORD,
        padding_scheme=None,
        config=trioanytls.Config(close_timeout=1),
        pool=pool,
    )
    async with run_client(client):
        try:
            await test(client, peers)
        finally:
            for peer in peers:
                await peer.transport.aclose()


@pytest.mark.parametrize("answer", [PINGPONG, frames.encode_padding(3)])
async def test_a_connection_of_a_pool_that_has_answered_is_used(autojump_clock: Clock, answer: bytes) -> None:
    async def test(client: Client, peers: list[RawPeer]) -> None:
        await client.open_stream()
        await peers[0].receive_auth()
        await peers[0].send(SERVER_NEGO, frames.encode_ack(1))
        await trio.sleep(10)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.open_stream)
            await trio.sleep(2)
            assert client.stats.verified == 1
            send_now(peers[0], answer)
            autojump_clock.jump(5)
            await settle()
            assert (len(peers), client.stats.streams) == (1, 2)

    for _ in range(TIMES):
        await with_client(trioanytls.PoolConfig(verify_timeout=3), test)


async def test_a_stream_of_a_pool_that_was_accepted_in_time_is_not_closed(autojump_clock: Clock) -> None:
    async def test(client: Client, peers: list[RawPeer]) -> None:
        streams = [await client.open_stream() for _ in range(3)]
        await peers[0].receive_auth()
        await trio.sleep(25)
        send_now(peers[0], SERVER_NEGO, *(frames.encode_ack(stream.stream_id) for stream in streams))
        autojump_clock.jump(20)
        await settle()
        assert all(stream.is_acknowledged for stream in streams)
        assert not any(stream.closed for stream in streams)
        assert client.stats.streams_unacknowledged == 0

    for _ in range(TIMES):
        await with_client(trioanytls.PoolConfig(acknowledge_timeout=30, check_interval=1000), test)


async def test_streams_of_many_connections_are_given_up_together(autojump_clock: Clock) -> None:
    async def test(client: Client, peers: list[RawPeer]) -> None:
        streams = [await client.open_stream() for _ in range(8)]
        assert len(peers) == 8
        await trio.sleep(25)
        assert not any(stream.closed for stream in streams)
        autojump_clock.jump(20)
        await trio.testing.wait_all_tasks_blocked()
        assert all(stream.closed for stream in streams)
        assert client.stats.streams_unacknowledged == 8

    pool = trioanytls.PoolConfig(acknowledge_timeout=30, check_interval=1000, max_streams_per_connection=1)
    await with_client(pool, test)
