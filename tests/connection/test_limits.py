"""Each limit in `Config`: the behaviour at the limit, and beyond it.

`LIMITS` names the tests of each limit, and is compared with the settings of `Config`, and with the page for users,
`docs/limits.md`.
"""

from __future__ import annotations

import contextlib
import gc
import math
import re
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
import pytest
import trio
import trio.testing

import trioanytls
from trioanytls._connection.connection import run_connection
from trioanytls._connection.receive_buffer import ReceiveBudget, ReceiveBuffer
from trioanytls._connection.send_queue import MAX_DATA
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.base import BaseProtocol
from trioanytls._protocol.anytls1.client import ClientProtocol
from trioanytls._protocol.anytls1.frames import FrameType
from trioanytls._protocol.anytls1.server import ServerProtocol
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.credentials import UserTable
from trioanytls._protocol.exceptions import LimitExceeded
from trioanytls._protocol.limits import ProtocolLimits
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._server.connection import ServerConnection
from trioanytls._server.context import ServerContext
from trioanytls._transport.handshake import handshake
from trioanytls.testing import StreamQueue

from ..conftest import HOST, Serving
from ..helpers.connection_ends import (
    AUTH,
    HELLO,
    PASSWORD,
    ROLES,
    USER,
    End,
    Role,
    client_that_heard,
    end_of,
    server_that_heard,
)
from ..helpers.raw_peer import SCHEME, data
from ..helpers.wire_bytes import (
    ACK_1,
    CLIENT_NEGO,
    HELLO_1,
    OPEN_1,
    PINGPONG,
    RST_1,
    SERVER_NEGO,
    Pieces,
    byte_by_byte,
    cut_at,
    frame,
    number,
    take,
)
from ..helpers.wire_bytes import AUTH as AUTH_OF_ALICE
from ..helpers.wire_bytes import PASSWORD as PASSWORD_OF_ALICE
from ..server import test_admission, test_rate_limit
from ..server.test_admission import entered
from . import test_windows

PAGE = Path(__file__).parent.parent.parent / "docs" / "limits.md"

Clock = trio.testing.MockClock

#: The cost of a piece of received data, or of a queued frame, in addition to its bytes.
OVERHEAD = 64

LIMITS = {
    "max_connections": ["test_connections_beyond_the_limit_are_closed_as_they_come"],
    "max_unauthenticated": [
        "test_strangers_beyond_the_limit_are_closed_as_they_come",
        "test_a_count_is_what_there_is_whatever_comes_and_goes",
    ],
    "max_unauthenticated_per_address": [
        "test_strangers_of_one_address_beyond_the_limit_are_closed_as_they_come",
        "test_one_address_is_one_of_ipv4_and_a_network_of_ipv6",
    ],
    "max_fallbacks": [
        "test_fallbacks_beyond_the_limit_are_closed_without_a_byte",
        "test_the_fallback_has_as_many_connections_as_it_may",
        "test_those_that_have_the_most_make_room_first",
    ],
    "max_fallbacks_per_address": [
        "test_an_address_has_as_many_connections_with_the_fallback_as_it_may",
        "test_the_one_that_is_idle_for_longest_makes_room",
    ],
    "max_streams": [
        "test_streams_beyond_the_limit_are_refused",
        "test_a_handler_that_goes_on_after_its_stream_counts",
        "test_streams_that_were_reset_before_they_began_start_no_handler",
    ],
    "max_stream_rate": ["test_streams_beyond_the_rate_are_refused", "test_a_bucket_gives_no_more_than_its_rate"],
    "receive_buffer_size": ["test_a_full_stream_holds_the_transport"],
    "connection_receive_buffer_size": [
        "test_full_streams_together_hold_the_transport",
        "test_the_stream_that_holds_the_most_makes_room",
        "test_streams_that_have_ended_count_until_they_are_read_or_gone",
    ],
    "send_buffer_size": ["test_what_is_not_taken_is_bounded"],
    "max_pending_control": ["test_answers_that_are_not_read_are_counted"],
    "max_idle_frames": [
        "test_frames_that_carry_nothing_are_counted",
        "test_a_frame_that_carries_something_ends_the_row",
        "test_what_comes_late_for_streams_of_ones_own_is_no_idling",
    ],
    "max_idle_bytes": ["test_padding_is_counted_however_it_comes"],
    "max_control_payload": ["test_blocks_have_at_most_so_many_bytes"],
    "max_auth_padding": ["test_auth_has_at_most_so_much_padding"],
    "max_scheme_size": ["test_a_scheme_has_at_most_so_many_bytes"],
    "max_scheme_stop": ["test_a_scheme_is_for_at_most_so_many_delivers"],
    "max_scheme_deliver": ["test_a_deliver_of_a_scheme_has_at_most_so_many_bytes"],
    "max_scheme_total": ["test_all_delivers_of_a_scheme_have_at_most_so_many_bytes"],
    "stream_window": ["test_a_window_is_filled_up_when_a_quarter_of_it_was_read"],
    "max_stream_window": [
        "test_a_window_that_is_read_within_two_round_trips_doubles_up_to_the_maximum",
        "test_one_stream_may_have_the_whole_budget_and_no_more",
    ],
}


# Connections, over sockets


async def until(condition: Callable[[], bool]) -> None:
    """Wait until other tasks have processed the data that has arrived on a socket."""
    with trio.fail_after(10):
        while not condition():
            await trio.lowlevel.checkpoint()


async def is_closed(transport: trio.SocketStream) -> bool:
    """Wait until the server has closed the connection, and discard what it sends."""
    with contextlib.suppress(trio.BrokenResourceError):
        while await transport.receive_some():
            pass
    return True


class Server:
    """A server on loopback, with connections to it."""

    def __init__(self, port: int, control: trioanytls.ServerControl, context: ssl.SSLContext) -> None:
        self.opened: list[trio.SocketStream] = []
        self._port = port
        self._control = control
        self._context = context

    @property
    def stats(self) -> trioanytls.ServerStats:
        return self._control.snapshot()

    @property
    def refused(self) -> dict[str, int]:
        return dict(self.stats.connections_refused)

    async def connect_silently(self, address: str | None = None) -> trio.SocketStream:
        """Open a connection that sends only a PROXY header."""
        before = self.stats.connections_accepted
        transport = await trio.open_tcp_stream(HOST, self._port)
        self.opened.append(transport)
        if address is not None:
            version, own = ("6", "2001:db8::1") if ":" in address else ("4", "192.0.2.1")
            await transport.send_all(f"PROXY TCP{version} {address} {own} 4711 443\r\n".encode())
        await until(lambda: self.stats.connections_accepted > before)
        return transport

    @contextlib.asynccontextmanager
    async def client(self, address: str | None = None) -> AsyncIterator[trioanytls.Connection]:
        """Open a connection of a user."""
        transport = await self.connect_silently(address)
        secured = await handshake(transport, self._context, timeout=10, server_hostname=HOST)
        async with trioanytls.wrap_client(secured, password=PASSWORD) as client:
            await client.ping()
            yield client


#: `async with limited(max_connections=2) as server:`
Limited = Callable[..., contextlib.AbstractAsyncContextManager[Server]]


@pytest.fixture
def limited(serving: Serving, client_context: ssl.SSLContext) -> Limited:
    @contextlib.asynccontextmanager
    async def start(trusted_proxies: Sequence[str] = (), **settings: int) -> AsyncIterator[Server]:
        control = trioanytls.ServerControl()
        config = trioanytls.Config(**dict[str, Any](settings))
        async with serving(
            users={USER: PASSWORD}, config=config, control=control, trusted_proxies=trusted_proxies
        ) as port:
            server = Server(port, control, client_context)
            yield server
            for transport in server.opened:
                await trio.aclose_forcefully(transport)

    return start


async def test_connections_beyond_the_limit_are_closed_as_they_come(limited: Limited) -> None:
    async with limited(max_connections=2) as server:
        silent = await server.connect_silently()
        async with server.client():
            # In any state.
            assert server.stats.connections == 2
            assert await is_closed(await server.connect_silently())
            assert server.refused == {"max_connections": 1}
            await silent.aclose()
            await until(lambda: server.stats.connections == 1)
            async with server.client():
                assert await is_closed(await server.connect_silently())
        await until(lambda: server.stats.connections == 0)
        assert server.refused == {"max_connections": 2}


async def test_strangers_beyond_the_limit_are_closed_as_they_come(limited: Limited) -> None:
    async with limited(max_unauthenticated=1) as server, server.client():
        # An authenticated connection is not one.
        assert server.stats.unauthenticated == 0
        silent = await server.connect_silently()
        assert server.stats.unauthenticated == 1
        assert await is_closed(await server.connect_silently())
        assert server.refused == {"max_unauthenticated": 1}
        await silent.aclose()
        await until(lambda: server.stats.unauthenticated == 0)
        async with server.client():
            assert server.stats.connections == 2


@pytest.mark.parametrize(
    ("one", "other", "another"),
    [
        ("203.0.113.7", "203.0.113.7", "203.0.113.8"),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff:ffff:ffff:ffff", "2001:db8:1:3::1"),
        ("::ffff:203.0.113.7", "203.0.113.7", "::ffff:203.0.113.8"),
    ],
    ids=["IPv4", "IPv6", "mapped"],
)
async def test_strangers_of_one_address_beyond_the_limit_are_closed_as_they_come(
    limited: Limited, one: str, other: str, another: str
) -> None:
    async with limited(trusted_proxies=[HOST], max_unauthenticated_per_address=1) as server:
        async with server.client(one):
            # An authenticated connection does not count any more.
            unauthenticated = [await server.connect_silently(address) for address in (one, other)]
            await until(lambda: server.refused == {"max_unauthenticated_per_address": 1})
            await until(lambda: server.stats.unauthenticated == 1)
            # Clients with other addresses are not affected.
            async with server.client(another):
                assert await is_closed(await server.connect_silently(one))
        for silent in unauthenticated:
            await silent.aclose()
        await until(lambda: server.stats.connections == 0)
        async with server.client(other), server.client(one):
            assert server.refused == {"max_unauthenticated_per_address": 2}


async def test_fallbacks_beyond_the_limit_are_closed_without_a_byte() -> None:
    taken: list[trioanytls.FallbackStream] = []
    enough = trio.Event()

    async def fallback(stream: trioanytls.FallbackStream) -> None:
        taken.append(stream)
        await enough.wait()

    config = trioanytls.Config(max_fallbacks=2)
    service = ServerContext(StreamQueue(), UserTable({USER: PASSWORD}), SCHEME, config, fallback)

    async def serve(transport: trio.abc.Stream) -> None:
        ticket = entered(service.admission)
        await run_connection(ServerConnection(transport, service, ticket))
        ticket.release()

    async def connect(nursery: trio.Nursery) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        nursery.start_soon(serve, far)
        await near.send_all(b"GET / HTTP/1.1")
        await trio.testing.wait_all_tasks_blocked()
        return near

    async with trio.open_nursery() as nursery:
        peers = [await connect(nursery) for _ in range(3)]
        assert len(taken) == service.admission.fallbacks == service.counts.fallbacks == 2
        assert await peers[2].receive_some() == b""
        enough.set()
        await trio.testing.wait_all_tasks_blocked()
        assert service.admission.fallbacks == service.admission.open == 0
        await connect(nursery)
        assert len(taken) == 3


# Streams


async def test_streams_beyond_the_limit_are_refused() -> None:
    async with end_of("server", trioanytls.Config(max_streams=2), streams=2) as end:
        await end.peer.send(frames.encode_open(3), data(3, b"early"), PINGPONG)
        # Refused by RST without STREAM_ACK. Data that the client sent before it knew is dropped.
        assert Counter(await end.peer.pending()) == Counter([(FrameType.STREAM_RST, 3, None), (7, 0, None)])
        assert end.service is not None
        assert end.service.counts.streams_refused == {"max_streams": 1}
        await end.streams[0].aclose()
        assert await end.peer.pending() == [(FrameType.STREAM_RST, 1, None)]
        await end.peer.send(frames.encode_open(4))
        assert await end.peer.pending() == [(FrameType.STREAM_ACK, 4, None)]
        assert not end.connection.closed


async def test_a_handler_that_goes_on_after_its_stream_counts() -> None:
    begun: list[int] = []
    enough = trio.Event()

    async def handler(stream: trioanytls.Stream) -> None:
        begun.append(stream.stream_id)
        await enough.wait()

    async with server_that_heard(HELLO, trioanytls.Config(max_streams=1), handler=handler) as end:
        await end.peer.send(OPEN_1)
        await end.peer.pending()
        await end.peer.send(RST_1)
        await trio.testing.wait_all_tasks_blocked()
        assert end.connection.stats.open_streams == 0
        await end.peer.send(frames.encode_open(2))
        assert await end.peer.pending() == [(FrameType.STREAM_RST, 2, None)]
        enough.set()
        await trio.testing.wait_all_tasks_blocked()
        await end.peer.send(frames.encode_open(3))
        assert (FrameType.STREAM_ACK, 3, None) in await end.peer.pending()
        assert begun == [1, 3]


@pytest.mark.parametrize("acknowledge", ["auto", "manual"])
async def test_streams_that_were_reset_before_they_began_start_no_handler(
    acknowledge: Literal["auto", "manual"],
) -> None:
    begun: list[int] = []

    async def handler(stream: trioanytls.Stream) -> None:
        begun.append(stream.stream_id)

    config = trioanytls.Config(acknowledge=acknowledge)
    async with server_that_heard(HELLO, config, handler=handler) as end:
        await end.peer.pending()
        for first in (1, 1001):
            ids = range(first, first + 1000)
            await end.peer.send(*(frames.encode_open(number) + frames.encode_rst(number) for number in ids))
            assert await end.peer.pending() == []
        # Both flags in one frame.
        await end.peer.send(b"\x0d" + number(3000), b"\x0f" + number(3001) + b"\x00")
        assert await end.peer.pending() == []
        assert begun == []
        assert isinstance(end.connection, ServerConnection)
        assert end.connection.handlers == 0
        await end.peer.send(frames.encode_open(4000))
        await end.peer.pending()
        assert begun == [4000]


async def test_streams_beyond_the_rate_are_refused(autojump_clock: Clock) -> None:
    async with server_that_heard(HELLO, trioanytls.Config(max_stream_rate=5), handler=trioanytls.testing.echo) as end:
        await end.peer.pending()
        first = 1
        for pause, accepted in ((0, 5), (1, 5), (0.5, 2), (0.1, 1), (0, 0), (100, 5)):
            await trio.sleep(pause)
            ids = range(first, first + 7)
            await end.peer.send(*map(frames.encode_open, ids))
            expected = {
                (FrameType.STREAM_ACK if place < accepted else FrameType.STREAM_RST, stream_id, None)
                for place, stream_id in enumerate(ids)
            }
            assert set(await end.peer.pending()) == expected
            first += 7
        assert end.service is not None
        assert end.service.counts.streams_refused == {"max_stream_rate": 6 * 7 - 18}
        assert not end.connection.closed


# Received data


@pytest.mark.parametrize("role", ROLES)
async def test_a_full_stream_holds_the_transport(role: Role, autojump_clock: Clock) -> None:
    config = trioanytls.Config(receive_buffer_size=1000, stall_timeout=math.inf)
    async with end_of(role, config, streams=2) as end:
        full, other = end.streams
        progress = end.connection._multiplexer.progress
        await end.peer.send(data(1, bytes(1000 - OVERHEAD)), data(2, b"one"))
        assert await other.receive_some() == b"one"
        await trio.testing.wait_all_tasks_blocked()
        assert not progress.is_stalled
        # One more than allowed.
        await end.peer.send(data(1, b"x"), data(2, b"two"))
        assert await other.receive_some() == b"two"
        assert progress.is_stalled
        received = progress.bytes_received
        await end.peer.send(data(2, b"three"))
        await trio.sleep(200)
        assert progress.bytes_received == received
        assert other._core.received.size == 0
        # The reader goes on as soon as the buffer is within its limit again. It has two pieces now.
        await full.receive_some(OVERHEAD)
        await trio.testing.wait_all_tasks_blocked()
        assert progress.is_stalled
        await full.receive_some(1)
        assert await other.receive_some() == b"three"
        assert len(await full.receive_some()) == 1000 - 2 * OVERHEAD
        assert not end.connection.closed


@pytest.mark.parametrize("role", ROLES)
async def test_full_streams_together_hold_the_transport(role: Role, autojump_clock: Clock) -> None:
    config = trioanytls.Config(connection_receive_buffer_size=2000, stall_timeout=math.inf)
    async with end_of(role, config, streams=3) as end:
        progress = end.connection._multiplexer.progress
        await end.peer.send(data(1, bytes(1000 - OVERHEAD)), data(2, bytes(1000 - OVERHEAD)))
        await trio.testing.wait_all_tasks_blocked()
        assert end.connection._multiplexer.budget.total == 2000
        assert not progress.is_stalled
        # One more than allowed.
        await end.peer.send(data(3, b"x"))
        await trio.testing.wait_all_tasks_blocked()
        assert progress.is_stalled
        await end.peer.send(data(3, b"y"))
        await trio.sleep(200)
        assert await end.streams[2].receive_some() == b"x"
        # Reading made room.
        assert await end.streams[2].receive_some() == b"y"
        await trio.testing.wait_all_tasks_blocked()
        assert not progress.is_stalled


@pytest.mark.parametrize("role", ROLES)
async def test_the_stream_that_holds_the_most_makes_room(role: Role, autojump_clock: Clock) -> None:
    config = trioanytls.Config(connection_receive_buffer_size=2000, stall_timeout=15)
    async with end_of(role, config, streams=3) as end:
        start = trio.current_time()
        await end.peer.send(data(1, bytes(800)), data(2, bytes(900)), data(3, bytes(700)))
        await trio.testing.wait_all_tasks_blocked()
        await end.peer.send(data(3, b"after"))
        await end.streams[0].wait_send_all_might_not_block()
        await end.streams[1].wait_closed()
        assert trio.current_time() - start == 15
        assert [frame for frame in await end.peer.pending() if frame[0] >= FrameType.STREAM] == [
            (FrameType.STREAM_RST, 2, None)
        ]
        # Its buffer is discarded at once, and reading it does not look like the end of the stream.
        with pytest.raises(trioanytls.StreamTimeout, match="stall_timeout"):
            await end.streams[1].receive_some()
        with pytest.raises(trioanytls.StreamTimeout, match="stall_timeout"):
            await end.streams[1].send_all(b"x")
        assert await end.streams[0].receive_some() == bytes(800)
        assert await end.streams[2].receive_some() == bytes(700) + b"after"
        assert not end.connection.closed


@pytest.mark.parametrize("role", ROLES)
async def test_a_stream_alone_holds_up_nobody_whatever_it_holds(role: Role, autojump_clock: Clock) -> None:
    config = trioanytls.Config(connection_receive_buffer_size=1000, stall_timeout=15, stream_idle_timeout=math.inf)
    async with end_of(role, config, streams=1) as end:
        await end.peer.send(data(1, bytes(2000)))
        await trio.testing.wait_all_tasks_blocked()
        await end.peer.send(data(1, b"end"), RST_1)
        await trio.sleep(1000)
        assert end.connection._multiplexer.progress.is_stalled
        assert b"".join([piece async for piece in end.streams[0]]) == bytes(2000) + b"end"


@pytest.mark.parametrize("role", ROLES)
async def test_one_that_has_ended_makes_room_for_one_alone(role: Role, autojump_clock: Clock) -> None:
    config = trioanytls.Config(connection_receive_buffer_size=1000, stall_timeout=15)
    async with end_of(role, config, streams=2) as end:
        ended, open_ = end.streams
        start = trio.current_time()
        await end.peer.send(data(1, bytes(1500)), RST_1, data(2, b"x"))
        await trio.testing.wait_all_tasks_blocked()
        await end.peer.send(data(2, b"y"))
        assert await open_.receive_some() == b"x"
        assert await open_.receive_some() == b"y"
        assert trio.current_time() - start == 15
        # All of the data had arrived, but end of file would be wrong after the buffer was discarded.
        with pytest.raises(trioanytls.StreamTimeout, match="stall_timeout"):
            await ended.receive_some()
        assert not end.connection.closed


@pytest.mark.parametrize("how", ["read", "partly read", "closed", "collected", "collected in a thread"])
async def test_streams_that_have_ended_count_until_they_are_read_or_gone(how: str, mock_clock: Clock) -> None:
    config = trioanytls.Config(connection_receive_buffer_size=2000)
    async with end_of("client", config, streams=2) as end:
        await end.peer.send(data(1, bytes(1500)), RST_1, data(2, bytes(1000)))
        await trio.testing.wait_all_tasks_blocked()
        await end.peer.send(data(2, b"more"))
        await trio.testing.wait_all_tasks_blocked()
        ended = end.streams.pop(0)
        assert end.connection._multiplexer.progress.is_stalled
        assert end.connection._multiplexer.budget.total == 2500 + 2 * OVERHEAD
        if how == "read":
            assert await ended.receive_some() == bytes(1500)
            assert await ended.receive_some() == b""
        elif how == "partly read":
            assert await ended.receive_some(1000) == bytes(1000)
            assert await ended.receive_some(500) == bytes(500)
        elif how == "closed":
            await ended.aclose()
        elif how == "collected":
            del ended
            gc.collect()
        else:
            # The last reference may be dropped anywhere, or by the garbage collector.
            held = [ended]
            del ended
            await trio.to_thread.run_sync(held.clear)
        await trio.testing.wait_all_tasks_blocked()
        assert not end.connection._multiplexer.progress.is_stalled
        assert await end.streams[0].receive_some() == bytes(1000) + b"more"
        assert end.connection._multiplexer.budget.total == 0


async def test_what_nobody_reads_does_not_keep_its_stream(mock_clock: Clock) -> None:
    config = trioanytls.Config(receive_buffer_size=500)
    async with end_of("client", config, streams=1) as end:
        await end.peer.send(data(1, bytes(1000)))
        await trio.testing.wait_all_tasks_blocked()
        assert end.connection._multiplexer.progress.is_stalled
        # It makes room in its own buffer, then ends with more data unread.
        assert await end.streams[0].receive_some(900) == bytes(900)
        await end.peer.send(data(1, bytes(2000)), RST_1)
        await trio.testing.wait_all_tasks_blocked()
        assert end.connection._multiplexer.budget.total == 2100 + 2 * OVERHEAD
        end.streams.clear()
        gc.collect()
        assert end.connection._multiplexer.budget.total == 0


def test_an_account_knows_what_its_buffers_hold() -> None:
    account = ReceiveBudget(10_000)
    buffers = [ReceiveBuffer(account) for _ in range(3)]
    for buffer in buffers:
        buffer.put(bytes(100))
        buffer.put(bytes(200))
    assert account.total == 3 * (300 + 2 * OVERHEAD)
    buffers[0].take(None)
    buffers[1].take(150)
    assert account.total == 150 + OVERHEAD + 300 + 2 * OVERHEAD
    buffers[2].clear()
    assert account.total == buffers[1].cost == 150 + OVERHEAD
    buffers.clear()
    gc.collect()
    assert account.total == 0


@pytest.mark.parametrize("ending", ["left", "was closed", "broke a rule"])
async def test_a_connection_that_ends_waits_for_nobody_who_does_not_read(ending: str, autojump_clock: Clock) -> None:
    config = trioanytls.Config(connection_receive_buffer_size=1000, stall_timeout=15, close_timeout=1000)
    async with end_of("server", config, streams=2) as end:
        start = trio.current_time()
        last = {"was closed": frames.encode_close(0), "broke a rule": b"\x11"}.get(ending, b"")
        await end.peer.send(data(1, bytes(800)), data(2, bytes(500)), last)
        await trio.testing.wait_all_tasks_blocked()
        assert end.connection._multiplexer.progress.is_stalled is (ending == "left")
        async with trio.open_nursery() as nursery:
            if ending == "left":
                nursery.start_soon(end.connection.aclose)
                await trio.testing.wait_all_tasks_blocked()
            await end.peer.transport.send_eof()
            await end.connection.wait_closed()
        assert trio.current_time() == start
        await trio.sleep(100)
        if ending != "left":
            # No other stream needs the room: all of the data can be read, and then the reason is raised.
            for stream, size in zip(end.streams, (800, 500), strict=True):
                assert await stream.receive_some() == bytes(size)
                with pytest.raises(trioanytls.ConnectionClosed):
                    await stream.receive_some()


# Data to send


@pytest.mark.parametrize("role", ROLES)
async def test_what_is_not_taken_is_bounded(role: Role, autojump_clock: Clock) -> None:
    config = trioanytls.Config(send_buffer_size=4096, write_timeout=math.inf, close_timeout=1)
    async with end_of(role, config, streams=2) as end:
        end.block()
        one, other = end.streams
        # The frame that the transport holds, since it is blocked.
        await one.send_all(b"x")
        await trio.testing.wait_all_tasks_blocked()
        assert end.charged == 0
        for _ in range(4):
            await one.send_all(bytes(1024 - OVERHEAD))
        assert end.charged == 4096
        # One more than allowed.
        assert not await is_accepted(other, b"x")
        if role == "client":
            with trio.move_on_after(1) as scope:
                await end.connection.open_stream()
            assert scope.cancelled_caught
        assert end.charged == 4096


@pytest.mark.parametrize("role", ROLES)
async def test_one_frame_may_come_on_top(role: Role, autojump_clock: Clock) -> None:
    config = trioanytls.Config(send_buffer_size=4096, write_timeout=math.inf, close_timeout=1)
    async with end_of(role, config, streams=2) as end:
        end.block()
        one, other = end.streams
        await one.send_all(b"x")
        await trio.testing.wait_all_tasks_blocked()
        await one.send_all(bytes(4095 - OVERHEAD))
        assert not await is_accepted(other, bytes(10 * MAX_DATA))
        assert not await is_accepted(one, b"x")
        assert end.charged == 4095 + MAX_DATA + OVERHEAD


async def is_accepted(stream: trioanytls.Stream, payload: bytes) -> bool:
    """Return whether the stream accepts all of the bytes, given unlimited time."""
    with trio.move_on_after(100) as scope:
        await stream.send_all(payload)
    return not scope.cancelled_caught


@pytest.mark.parametrize("role", ROLES)
async def test_answers_that_are_not_read_are_counted(role: Role, autojump_clock: Clock) -> None:
    # `max_streams` is a setting of the server alone.
    config = trioanytls.Config(max_pending_control=6, **dict[str, Any]({"max_streams": 2} if role == "server" else {}))
    async with end_of(role, config) as end:
        await end.peer.pending()
        unblocked = end.block()
        # One answer that the transport holds, and as many as may be queued.
        await end.peer.send(PINGPONG)
        await trio.testing.wait_all_tasks_blocked()
        await end.peer.send(PINGPONG * (6 + 2 * config.max_streams))
        await trio.testing.wait_all_tasks_blocked()
        await end.peer.send(frames.encode_padding(0))
        await trio.testing.wait_all_tasks_blocked()
        assert not end.connection.closed
        # One more than allowed, which is noticed when more data arrives.
        await end.peer.send(PINGPONG)
        await trio.testing.wait_all_tasks_blocked()
        assert not end.connection.closed
        await end.peer.send(frames.encode_padding(0))
        await trio.testing.wait_all_tasks_blocked()
        assert reason(end) is CloseCode.LIMIT_EXCEEDED
        assert end.connection._multiplexer.send_queue.pending_control == 0
        unblocked.set()
        # The answer that the transport held, and none of the others.
        assert await end.peer.receive_all() == [(FrameType.PINGPONG, 0, None), (FrameType.CLOSE, 0, 5)]


@pytest.mark.parametrize("role", ROLES)
async def test_any_number_of_answers_is_given_to_whoever_reads_them(role: Role) -> None:
    config = trioanytls.Config(max_pending_control=6, **dict[str, Any]({"max_streams": 2} if role == "server" else {}))
    async with end_of(role, config) as end:
        await end.peer.pending()
        for _ in range(50):
            await end.peer.send(PINGPONG * 10)
            assert await end.peer.pending() == [(FrameType.PINGPONG, 0, None)] * 10


def reason(end: End) -> CloseCode | None:
    """Return the error with which the connection has closed."""
    assert end.connection.close_reason is not None
    return end.connection.close_reason.code


# Frames that carry nothing

EMPTY = {
    "PADDING": (b"", frames.encode_padding(3)),
    "PADDING of nothing": (b"", frames.encode_padding(0)),
    "DATA without data": (b"", data(1, b"")),
    "STREAM without flags": (b"", b"\x08\x01"),
    "late RST": (RST_1, RST_1),
    "late STREAM": (RST_1, b"\x08\x01"),
    "late DATA without data": (RST_1, data(1, b"")),
    "STREAM_ACK again": (b"", ACK_1),
    "late STREAM_ACK": (RST_1, ACK_1),
    "PADDING_UPDATE_SCHEME": (b"", frames.encode_padding_update_scheme(b"stop=1")),
}
ONLY_SERVERS = ("STREAM_ACK again", "late STREAM_ACK", "PADDING_UPDATE_SCHEME")
CASES = [(role, name) for role in ROLES for name in EMPTY if role == "client" or name not in ONLY_SERVERS]


@pytest.mark.parametrize(("role", "name"), CASES)
async def test_frames_that_carry_nothing_are_counted(role: Role, name: str, autojump_clock: Clock) -> None:
    before, empty = EMPTY[name]
    async with end_of(role, trioanytls.Config(max_idle_frames=10), streams=1) as end:
        await end.peer.send(before, *[empty] * 5)
        # PINGPONG neither counts nor resets the counter.
        await end.peer.send(PINGPONG * 20)
        assert await end.peer.pending() == [(FrameType.PINGPONG, 0, None)] * 20
        await end.peer.send(*[empty + PINGPONG] * 5)
        assert await end.peer.pending() == [(FrameType.PINGPONG, 0, None)] * 5
        assert not end.connection.closed
        # One more than allowed.
        await end.peer.send(empty)
        await trio.testing.wait_all_tasks_blocked()
        assert reason(end) is CloseCode.LIMIT_EXCEEDED
        assert (await end.peer.receive_all())[-1] == (FrameType.CLOSE, 0, 5)


SOMETHING = {
    "DATA": (b"", HELLO_1),
    "late DATA": (RST_1, HELLO_1),
    "RST of another stream": (b"", b"\x09\x02"),
    "OPEN": (b"", b"\x0c\x03"),
}


@pytest.mark.parametrize("name", SOMETHING)
@pytest.mark.parametrize("role", ROLES)
async def test_a_frame_that_carries_something_ends_the_row(role: Role, name: str, autojump_clock: Clock) -> None:
    before, something = SOMETHING[name]
    if role == "client" and name == "OPEN":
        # The client opens streams itself, see below.
        return
    empty = frames.encode_padding(0)
    async with end_of(role, trioanytls.Config(max_idle_frames=10), streams=2) as end:
        await end.peer.send(before, *[empty] * 10, something, *[empty] * 10)
        await trio.testing.wait_all_tasks_blocked()
        assert not end.connection.closed
        await end.peer.send(empty)
        await trio.testing.wait_all_tasks_blocked()
        assert reason(end) is CloseCode.LIMIT_EXCEEDED


async def test_an_acknowledgement_ends_the_row() -> None:
    async with end_of("client", trioanytls.Config(max_idle_frames=10)) as end:
        await end.connection.open_stream()
        empty = frames.encode_padding(0)
        await end.peer.send(*[empty] * 10, ACK_1, *[empty] * 10)
        await trio.testing.wait_all_tasks_blocked()
        assert not end.connection.closed


async def test_what_comes_late_for_streams_of_ones_own_is_no_idling() -> None:
    """Protocol: 5. The two ends are not synchronized, and a client may open, send and close without waiting."""
    async with end_of("client", trioanytls.Config(max_idle_frames=5)) as end:
        for stream_id in range(1, 50):
            stream = await end.connection.open_stream()
            await stream.send_all(b"x")
            await stream.aclose()
            # The frames of a server that has not seen the end yet.
            await end.peer.send(frames.encode_ack(stream_id), frames.encode_rst(stream_id))
            await trio.testing.wait_all_tasks_blocked()
        assert not end.connection.closed
        # This end opens no stream in between.
        await end.peer.send(RST_1 * 4)
        await trio.testing.wait_all_tasks_blocked()
        assert reason(end) is CloseCode.LIMIT_EXCEEDED


async def test_what_crosses_the_end_of_a_stream_is_no_idling() -> None:
    async with end_of("server", trioanytls.Config(max_idle_frames=5), streams=50) as end:
        for stream in end.streams:
            await stream.aclose()
            await end.peer.send(frames.encode_rst(stream.stream_id))
            await trio.testing.wait_all_tasks_blocked()
        assert not end.connection.closed


def ends_that_take(limits: ProtocolLimits) -> list[BaseProtocol]:
    """Yield an established end of the given role, with stream 1 open."""
    near = ClientProtocol(PASSWORD_OF_ALICE, SCHEME, limits)
    near.handshake_done()
    take(near, SERVER_NEGO)
    near.open_stream()
    take(near, ACK_1)
    far = ServerProtocol(UserTable({"alice": PASSWORD_OF_ALICE}), SCHEME, limits)
    far.handshake_done()
    take(far, AUTH_OF_ALICE, CLIENT_NEGO, OPEN_1)
    return [near, far]


def in_pieces(sent: bytes) -> Iterator[Pieces]:
    yield [sent]
    yield byte_by_byte(sent)
    yield cut_at(sent, range(7, len(sent), 7))


@pytest.mark.parametrize(
    "padding",
    [
        [frame(0x05, 0, bytes(100))],
        [frame(0x05, 0, bytes(10))] * 10,
        [frame(0x05, 0, bytes(99)), frame(0x05, 0, b""), PINGPONG, frame(0x05, 0, b"x")],
        # Other frames without content neither reset the counter nor count.
        [frame(0x05, 0, bytes(50)), data(1, b""), b"\x08\x01", frame(0x05, 0, bytes(50))],
        [data(1, b""), frame(0x05, 0, bytes(100))],
    ],
    ids=["one", "many", "with PINGPONG", "with others", "after another"],
)
def test_padding_is_counted_however_it_comes(padding: list[bytes]) -> None:
    row = b"".join(padding)
    for sent in (row, HELLO_1 + row, row + HELLO_1 + row, HELLO_1 * 3 + row + data(1, b"x") + row):
        for pieces in in_pieces(sent):
            for end in ends_that_take(ProtocolLimits(max_idle_bytes=100)):
                take(end, *pieces, PINGPONG)
                # One more than allowed.
                with pytest.raises(LimitExceeded, match="PADDING on stream 0: more than 100 consecutive bytes"):
                    take(end, frame(0x05, 0, b"x"))
    for pieces in in_pieces(row[:-1]):
        for end in ends_that_take(ProtocolLimits(max_idle_bytes=99)):
            take(end, *pieces)
            with pytest.raises(LimitExceeded):
                take(end, row[-1:])


def test_a_padding_frame_that_never_ends_is_noticed_while_it_comes() -> None:
    for end in ends_that_take(ProtocolLimits(max_idle_bytes=1_000_000)):
        take(end, b"\x05\x00" + number(2**62 - 1))
        for _ in range(15):
            assert take(end, bytes(65536)) == []
        with pytest.raises(LimitExceeded):
            take(end, bytes(65536))


def test_padding_between_data_may_be_any() -> None:
    for end in ends_that_take(ProtocolLimits(max_idle_bytes=1000, max_idle_frames=1)):
        for _ in range(1000):
            take(end, frame(0x05, 0, bytes(1000)), HELLO_1)


# Sizes


@pytest.mark.parametrize("role", ROLES)
async def test_blocks_have_at_most_so_many_bytes(role: Role, autojump_clock: Clock) -> None:
    for size in (100, 101):
        async with end_of(role, trioanytls.Config(max_control_payload=100)) as end:
            # The length is a violation, before the payload has arrived.
            await end.peer.send(frames.encode_alert(b"x" * size)[: None if size == 100 else 4])
            await end.connection.wait_closed()
            assert reason(end) is CloseCode.PROTOCOL_ERROR
            assert ("the peer sent an ALERT" in str(end.connection.close_reason)) is (size == 100)
            # Except for DATA and PADDING.
        async with end_of(role, trioanytls.Config(max_control_payload=100), streams=1) as end:
            await end.peer.send(frames.encode_padding(1000), data(1, bytes(1000)))
            assert await end.streams[0].receive_some() == bytes(1000)


@pytest.mark.parametrize("padding", [100, 101])
async def test_auth_has_at_most_so_much_padding(padding: int, autojump_clock: Clock) -> None:
    sent = AUTH[:34] + number(padding)
    async with server_that_heard(sent, trioanytls.Config(max_auth_padding=100)) as end:
        if padding == 100:
            await end.peer.send(bytes(padding), HELLO[len(AUTH) :])
            assert await end.peer.receive() == (FrameType.SERVER_NEGO, 6, b"v=1\n")
            assert end.connection.user == USER
        else:
            # The rest is not awaited, and no frame is sent.
            assert await end.peer.receive() is None
            assert trio.current_time() == 0
            await end.connection.wait_closed()
            assert reason(end) is None
            assert isinstance(end.connection.close_reason.__cause__, trioanytls.AuthenticationFailed)
            assert end.connection.user is None


async def check_scheme(config: trioanytls.Config, scheme: bytes, *, is_taken: bool) -> None:
    async with client_that_heard(SERVER_NEGO, config) as end:
        await end.peer.send(frames.encode_padding_update_scheme(scheme))
        await trio.testing.wait_all_tasks_blocked()
        assert end.connection.closed is not is_taken
        if is_taken:
            assert end.connection.server_padding_scheme == PaddingScheme.parse(scheme)
        else:
            assert end.connection.server_padding_scheme is None
            assert reason(end) is CloseCode.LIMIT_EXCEEDED
            assert await end.peer.receive_all() == [(FrameType.CLOSE, 0, 5)]


async def test_a_scheme_has_at_most_so_many_bytes(autojump_clock: Clock) -> None:
    config = trioanytls.Config(max_scheme_size=14)
    for scheme, is_taken in (
        (b"stop=2\n1=1-10\n", True),
        (b"stop=2\n1=1-100\n", False),
        # The last LF does not count.
        (b"stop=2\n1=1-100", True),
        (b"stop=2\n1=1-1000", False),
        # A scheme that is too long is not parsed at all.
        (b"what is this?!", None),
        (b"what is this??!", False),
    ):
        if is_taken is not None:
            await check_scheme(config, scheme, is_taken=is_taken)


async def test_a_scheme_is_for_at_most_so_many_delivers(autojump_clock: Clock) -> None:
    for limit in (1, 1000):
        config = trioanytls.Config(max_scheme_stop=limit)
        await check_scheme(config, b"stop=%d\n" % limit, is_taken=True)
        await check_scheme(config, b"stop=%d\n" % (limit + 1), is_taken=False)


async def test_a_deliver_of_a_scheme_has_at_most_so_many_bytes(autojump_clock: Clock) -> None:
    config = trioanytls.Config(max_scheme_deliver=100)
    for scheme, is_taken in (
        (b"stop=3\n1=100-100\n2=50-50,c,50-50\n", True),
        (b"stop=3\n1=101-101\n", False),
        (b"stop=3\n2=50-50,c,51-51\n", False),
        # The largest size counts, which is one less than the end of its range.
        (b"stop=3\n1=1-101\n", True),
        (b"stop=3\n1=102-1\n", False),
        # The padding of AUTH is the first size of line 0.
        (b"stop=3\n0=100-100,1000-1000\n", True),
        (b"stop=0\n0=101-101\n", False),
        # No delivery reaches these lines.
        (b"stop=3\n3=1000-1000\n4=1000-1000\n", True),
    ):
        await check_scheme(config, scheme, is_taken=is_taken)


async def test_all_delivers_of_a_scheme_have_at_most_so_many_bytes(autojump_clock: Clock) -> None:
    config = trioanytls.Config(max_scheme_total=100)
    for scheme, is_taken in (
        (b"stop=3\n0=10-10\n1=20-20,c,20-20\n2=50-50\n", True),
        (b"stop=3\n0=10-10\n1=20-20,c,20-20\n2=1-52\n", False),
        (b"stop=3\n0=11-11\n1=20-20,c,20-20\n2=50-50\n", False),
        (b"stop=2\n0=10-10\n1=20-20,c,20-20\n2=1000-1000\n", True),
    ):
        await check_scheme(config, scheme, is_taken=is_taken)


async def test_a_scheme_that_asks_for_hundreds_of_megabytes_is_not_taken(autojump_clock: Clock) -> None:
    line = b",".join([b"65535-65535"] * 5458)
    await check_scheme(trioanytls.Config(), b"stop=2\n1=" + line + b"\n", is_taken=False)
    # Nor a scheme that asks for little, but many times.
    lines = b"".join(b"%d=9000-9000\n" % index for index in range(500))
    await check_scheme(trioanytls.Config(), b"stop=500\n" + lines, is_taken=False)
    await check_scheme(trioanytls.Config(), PaddingScheme.DEFAULT.to_bytes(), is_taken=True)


# Completeness of the tables


def whole_numbers() -> list[str]:
    """Return the settings that limit an amount, in their order."""
    return [field.name for field in attrs.fields(trioanytls.Config) if str(field.type) == "int"]


def test_each_limit_has_its_tests() -> None:
    assert {*whole_numbers(), "max_stream_rate"} == LIMITS.keys()
    modules = sys.modules[__name__], test_admission, test_rate_limit, test_windows
    for tests in LIMITS.values():
        assert tests
        for test in tests:
            assert any(callable(getattr(module, test, None)) for module in modules), test


def shown(name: str, value: float) -> str:
    """Format a default as in the page."""
    if name not in whole_numbers():
        return f"{value:,.0f}" if name == "max_stream_rate" else "never" if value == math.inf else f"{value:g} s"
    for unit, size in (("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value % size == 0 and value >= 4 * size:
            return f"{value // size} {unit}"
    return f"{value:,}"


@pytest.mark.parametrize("heading", ["Limits", "Times"])
def test_the_page_has_every_limit_with_its_default(heading: str) -> None:
    section = PAGE.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    fields = attrs.fields(trioanytls.Config)
    expected = [
        (f"`{field.name}`", shown(field.name, field.default))  # type: ignore[arg-type]  # a stand-in, or what is tested
        for field in fields
        if (field.name in LIMITS if heading == "Limits" else str(field.type) == "float" and field.name not in LIMITS)
    ]
    assert [(row[0], row[1]) for row in rows[2:]] == expected
    for row in rows[2:]:
        assert len(row) == 4
        # The description of the behaviour at the limit, and of its purpose.
        assert all(re.search(r"\w+ \w+", cell) for cell in row[2:])
