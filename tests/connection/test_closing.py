"""The end of streams and connections (protocol: 4 and 5)."""

from __future__ import annotations

import contextlib
import math
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Any
from unittest import mock

import pytest
import trio
import trio.testing
from attrs import evolve

import trioanytls
from trioanytls._connection import close_reason
from trioanytls._connection.connection import multiplexer_of
from trioanytls._connection.multiplexer import Multiplexer
from trioanytls._connection.stream import core_of
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.frame_decoder import Frame, FrameDecoder
from trioanytls._protocol.anytls1.frames import FrameType
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._transport.handshake import handshake
from trioanytls._transport.tls_stream import TLSStream
from trioanytls.testing import RecordedTransport, StreamQueue, echo, memory_connection_pair

from ..conftest import HOST, Connecting, Serving
from ..helpers.connection_ends import ROLES, Role, end_of
from ..helpers.extensions import ALL, NO_EXTENSIONS, extending
from ..helpers.raw_peer import AUTH, HELLO, NEGO_BLOCK, PINGPONG, SERVER_NEGO, RawPeer, data, raw_client, raw_server
from ..helpers.server_harness import CLOSE_6, eventually, running

Clock = trio.testing.MockClock


# Streams


async def test_the_frame_that_closes_a_stream_goes_behind_its_data() -> None:
    async with raw_server(extending(NO_EXTENSIONS)) as (client, peer):
        stream = await client.open_stream()
        for _ in range(5):
            await stream.send_all(b"x")
        await stream.aclose()
        await peer.receive_auth()
        kinds = [frame[0] for frame in await peer.pending() if frame[1] == 1]
        assert kinds == [FrameType.STREAM_OPEN] + [FrameType.STREAM_DATA] * 5 + [FrameType.STREAM_RST]


@pytest.mark.parametrize("early", [False, True], ids=["negotiated", "not negotiated"])
async def test_the_frames_that_close_a_stream_go_behind_its_data(early: bool) -> None:
    nego = frames.encode_server_nego(b"v=1\next=fin\n")
    async with raw_server(extending(ALL)) as (client, peer):
        if not early:
            await peer.send(nego)
            await trio.testing.wait_all_tasks_blocked()
        stream = await client.open_stream()
        for _ in range(5):
            await stream.send_all(b"x")
        await stream.aclose()
        if early:
            await peer.send(nego)
        await peer.receive_auth()
        peer.know(FrameType.STREAM_FIN)
        kinds = [frame[0] for frame in await peer.pending() if frame[1] == 1]
        assert kinds == [
            FrameType.STREAM_OPEN,
            *[FrameType.STREAM_DATA] * 5,
            FrameType.STREAM_FIN,
            FrameType.STREAM_RST,
        ]


async def test_a_cancelled_close_drops_what_is_queued_and_closes_at_once(autojump_clock: Clock) -> None:
    near, far = trio.testing.lockstep_stream_pair()
    async with trioanytls.wrap_client(near, password="password") as client, trio.open_nursery() as nursery:
        first = await client.open_stream()
        await first.send_all(b"a")
        # The writer waits for the peer to read: the rest is queued.
        await trio.testing.wait_all_tasks_blocked()
        await first.send_all(bytes(50_000))
        second = await client.open_stream()
        await trio.aclose_forcefully(first)
        await trio.aclose_forcefully(second)
        kept = await client.open_stream()
        await kept.send_all(b"b")

        peer = RawPeer(far)
        await peer.receive_auth()
        received = [frame for frame in await peer.pending() if frame[0] >= FrameType.STREAM]
        # The queued data of the first is discarded. The second was never sent.
        assert (
            sum(
                len(frame[2]) for frame in received if frame[0] == FrameType.STREAM_DATA and isinstance(frame[2], bytes)
            )
            <= 1
        )
        assert (FrameType.STREAM_RST, 1, None) in received
        assert 2 not in [frame[1] for frame in received]
        assert received[-2:] == [(FrameType.STREAM_OPEN, 3, None), (FrameType.STREAM_DATA, 3, b"b")]
        nursery.start_soon(peer.receive_all)
        await client.aclose()
        nursery.cancel_scope.cancel()


async def test_closing_does_not_wait_for_room(autojump_clock: Clock) -> None:
    near, far = trio.testing.lockstep_stream_pair()
    config = trioanytls.Config(send_buffer_size=1000)
    async with trioanytls.wrap_client(near, password="password", config=config) as client:
        stream = await client.open_stream()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def fill() -> None:
                    while True:
                        await stream.send_all(bytes(1000))

                nursery.start_soon(fill)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        await stream.aclose()
        assert stream.closed
        async with trio.open_nursery() as nursery:
            peer = RawPeer(far)
            nursery.start_soon(_read_everything, peer)
            await client.aclose()
            nursery.cancel_scope.cancel()


async def _read_everything(peer: RawPeer) -> None:
    while await peer.transport.receive_some():
        pass
    await peer.transport.aclose()


async def test_a_close_by_the_peer_is_not_answered() -> None:
    queue = StreamQueue()
    async with raw_client(queue) as (peer, _):
        await peer.send(frames.encode_open(1), data(1, b"x"), frames.encode_rst(1))
        stream = await queue.get()
        assert await stream.receive_some() == b"x"
        assert await stream.receive_some() == b""
        await stream.aclose()
        assert FrameType.STREAM_RST not in [frame[0] for frame in await peer.pending()]


async def test_frames_for_a_closed_stream_are_dropped() -> None:
    async with raw_server() as (client, peer):
        stream = await client.open_stream()
        await stream.aclose()
        await peer.receive_auth()
        await peer.send(frames.encode_ack(1), data(1, b"late"), frames.encode_rst(1))
        await trio.testing.wait_all_tasks_blocked()
        assert not client.closed


async def test_a_stream_that_both_ends_close_at_once_is_closed() -> None:
    queue = StreamQueue()
    async with memory_connection_pair(queue) as (client, server):
        near = await client.open_stream()
        far = await queue.get()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.aclose)
            nursery.start_soon(far.aclose)
        await client.ping()
        assert client.stats.open_streams == server.stats.open_streams == 0


# Connections


async def test_what_was_accepted_goes_out_before_close_0() -> None:
    received = bytearray()
    ended = trio.Event()

    async def handler(stream: trioanytls.Stream) -> None:
        with pytest.raises(trioanytls.ConnectionClosed) as caught:
            async for piece in stream:
                received.extend(piece)
        assert caught.value.code is trioanytls.CloseCode.NO_ERROR
        ended.set()

    async with memory_connection_pair(handler) as (client, _):
        stream = await client.open_stream()
        await stream.send_all(bytes(200_000))
        await client.aclose()
        await ended.wait()
    assert len(received) == 200_000


async def test_over_tls_nothing_is_lost_when_the_client_leaves_at_once(
    serving: Serving, connecting: Connecting
) -> None:
    sizes: list[int] = []
    done = trio.Event()

    async def handler(stream: trioanytls.Stream) -> None:
        sizes.append(sum([len(piece) async for piece in stream]))
        if len(sizes) == 20:
            done.set()

    # STREAM_ACK frames cross the end of the connection. Closing a socket with them unread would discard data in flight.
    async with serving(handler) as port:
        for _ in range(20):
            async with connecting(port) as connection, await connection.open_stream() as stream:
                await stream.send_all(bytes(150_000))
        await done.wait()
    assert sizes == [150_000] * 20


async def test_a_peer_that_sends_and_goes_away_is_read_to_the_end() -> None:
    queue = StreamQueue()
    async with raw_client(queue) as (peer, server):
        await peer.send(frames.encode_open(1), data(1, bytes(200_000)), frames.encode_rst(1), frames.encode_close(0))
        await peer.transport.aclose()
        await server.wait_closed()
        stream = await queue.get()
        received = b""
        while piece := await stream.receive_some():
            received += piece
        assert received == bytes(200_000)
        await stream.aclose()


async def test_a_peer_that_goes_away_with_more_than_the_buffer_holds_is_read_to_the_end(autojump_clock: Clock) -> None:
    queue = StreamQueue()
    config = trioanytls.Config(receive_buffer_size=1000, close_timeout=1)
    async with raw_client(queue, config) as (peer, server):
        await peer.send(frames.encode_open(1), data(1, bytes(200_000)), frames.encode_rst(1), frames.encode_close(0))
        await peer.transport.aclose()
        stream = await queue.get()
        await trio.sleep(100)
        assert not server.closed
        assert len(b"".join([piece async for piece in stream])) == 200_000
        await stream.aclose()
        await server.wait_closed()
        assert server.close_reason.code is trioanytls.CloseCode.NO_ERROR


async def test_over_tls_a_peer_that_sends_and_goes_away_is_read_to_the_end(
    serving: Serving, client_context: ssl.SSLContext
) -> None:
    queue = StreamQueue()
    async with serving(queue) as port:
        transport = trio.SSLStream(await trio.open_tcp_stream(HOST, port), client_context, server_hostname=HOST)
        await transport.send_all(HELLO + frames.encode_open(1) + data(1, bytes(200_000)) + frames.encode_rst(1))
        await transport.send_all(frames.encode_close(0))
        await transport.transport_stream.send_eof()
        stream = await queue.get()
        await stream.connection.wait_closed()
        assert len(b"".join([piece async for piece in stream])) == 200_000
        await stream.aclose()
        await trio.aclose_forcefully(transport)


async def test_a_close_of_the_connection_ends_its_streams_behind_what_they_have(autojump_clock: Clock) -> None:
    async with raw_server() as (client, peer):
        stream = await client.open_stream()
        await peer.send(frames.encode_ack(1), data(1, b"before the end"), frames.encode_close(6))
        await client.wait_closed()
        assert await stream.receive_some() == b"before the end"
        for _ in range(2):
            with pytest.raises(trioanytls.ConnectionClosed) as caught:
                await stream.receive_some()
            assert caught.value.code is trioanytls.CloseCode.SHUTTING_DOWN


async def test_an_unknown_close_code_counts_as_a_protocol_error(autojump_clock: Clock) -> None:
    async with raw_server() as (client, peer):
        await peer.send(frames.encode_close(77))
        await client.wait_closed()
        assert client.close_reason.code is trioanytls.CloseCode.PROTOCOL_ERROR


async def test_two_ends_that_leave_at_once_do_not_wait_for_each_other(autojump_clock: Clock) -> None:
    async with memory_connection_pair() as (client, server):
        await client.ping()
        start = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.aclose)
            nursery.start_soon(server.aclose)
        assert trio.current_time() == start


async def test_a_cancelled_aclose_closes_the_transport_at_once(autojump_clock: Clock) -> None:
    near, _far = trio.testing.lockstep_stream_pair()
    async with trioanytls.wrap_client(near, password="password") as client:
        stream = await client.open_stream()
        await stream.send_all(b"never read")
        await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(client)  # type: ignore[arg-type]  # a stand-in, or what is tested
        await client.wait_closed()
        assert trio.current_time() == 0
        with pytest.raises(trio.ClosedResourceError):
            await near.send_all(b"x")


async def test_a_connection_can_be_closed_from_its_handler() -> None:
    async def handler(stream: trioanytls.Stream) -> None:
        await stream.connection.aclose()

    async with memory_connection_pair(handler) as (client, _):
        stream = await client.open_stream()
        with pytest.raises(trioanytls.ConnectionClosed) as caught:
            await stream.receive_some()
        assert caught.value.code is trioanytls.CloseCode.NO_ERROR


async def test_a_cancelled_server_says_so_to_every_peer(serving: Serving, connecting: Connecting) -> None:
    clients: list[trioanytls.Connection] = []
    ready = trio.Event()
    done = trio.Event()

    async def client(port: int) -> None:
        async with connecting(port) as connection:
            await (await connection.open_stream()).wait_acknowledged()
            clients.append(connection)
            if len(clients) == 5:
                ready.set()
            await connection.wait_closed()
        if all(connection.closed for connection in clients):
            done.set()

    async with trio.open_nursery() as nursery:
        async with serving(StreamQueue()) as port:
            for _ in range(5):
                nursery.start_soon(client, port)
            await ready.wait()
        await done.wait()
    assert [connection.close_reason.code for connection in clients] == [trioanytls.CloseCode.SHUTTING_DOWN] * 5


async def test_no_stream_looks_finished_to_the_peer_of_a_cancelled_server(
    serving: Serving, client_context: ssl.SSLContext
) -> None:
    async def handler(stream: trioanytls.Stream) -> None:
        await stream.receive_some()

    # Over TLS, since only TLS allows inline writes. Many times, since the order of cancellation is random.
    for _ in range(30):
        received: list[Frame] = []
        ready = trio.Event()

        async def collect(peer: RawPeer, received: list[Frame] = received, ready: trio.Event = ready) -> None:
            # The server waits for the client to close.
            while not received or received[-1][0] != FrameType.CLOSE:
                frame = await peer.receive()
                assert frame is not None
                received.append(frame)
                if frame == (FrameType.STREAM_ACK, 3, None):
                    ready.set()
            await peer.transport.aclose()

        async with trio.open_nursery() as nursery, serving(handler) as port:
            transport = await trio.open_tcp_stream(HOST, port)
            peer = RawPeer(await handshake(transport, client_context, timeout=10, server_hostname=HOST))
            nursery.start_soon(collect, peer)
            await peer.send(HELLO + b"".join(frames.encode_open(number) for number in range(1, 4)))
            await ready.wait()
        assert [frame for frame in received if frame[0] == FrameType.STREAM_RST] == []
        assert received[-1] == (FrameType.CLOSE, 0, 6)


async def test_a_cancelled_server_is_bounded_by_close_timeout(autojump_clock: Clock) -> None:
    near, far = trio.testing.memory_stream_pair()
    await near.send_all(HELLO)
    with trio.move_on_after(10):
        await trioanytls.serve_connection(
            far, StreamQueue(), users={"alice": "password"}, config=trioanytls.Config(close_timeout=3)
        )
    assert trio.current_time() == pytest.approx(13)
    received = [frame[0] for frame in FrameDecoder().decode(bytes(await near.receive_some()))]
    assert received == [FrameType.SERVER_NEGO, FrameType.CLOSE]


async def test_with_a_handler_nursery_connections_outlive_the_listening(
    server_context: ssl.SSLContext, connecting: Connecting
) -> None:
    async with trio.open_nursery() as handlers:
        listening = trio.CancelScope()

        async def serve(*, task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
            with listening:
                await trioanytls.serve(
                    echo,
                    0,
                    host=HOST,
                    ssl_context=server_context,
                    users={"alice": "password"},
                    handler_nursery=handlers,
                    task_status=task_status,
                )

        listeners = await handlers.start(serve)
        port = listeners[0].socket.getsockname()[1]
        async with connecting(port) as connection:
            await connection.ping()
            listening.cancel()
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(OSError, match="connect"):
                await trio.open_tcp_stream(HOST, port)
            async with await connection.open_stream() as stream:
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"
        handlers.cancel_scope.cancel()


# The end is immediate (protocol: 4): close_notify and TCP's FIN directly after the last frame

BAD_FRAME = b"\x11\x00"
# Only the peer's own close may end the wait for it. A test that fails must not hang, though.
NEVER = trioanytls.Config(close_timeout=math.inf)
HANG = 30
# The same with Trio's mock clock: the end of a test need not be forced.
LONG = trioanytls.Config(close_timeout=1e9)


async def ends_at_once(peer: RawPeer) -> list[Frame]:
    """Return the frames up to the end of TLS. TCP must end then as well, while this side has closed nothing."""
    assert isinstance(peer.transport, TLSStream)
    with trio.fail_after(HANG):
        received = await peer.receive_all()
        # Below TLS only FIN follows close_notify: no byte, and no reset.
        assert await peer.transport.transport.receive_some() == b""
    return received


@contextlib.asynccontextmanager
async def tls_server(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, config: trioanytls.Config = NEVER
) -> AsyncIterator[tuple[trioanytls.Connection, RawPeer]]:
    """Yield a client's connection over TLS and TCP, and a raw server that has read AUTH."""
    (listener,) = await trio.open_tcp_listeners(0, host=HOST)
    peers: list[RawPeer] = []
    async with trio.open_nursery() as nursery, listener:

        async def accept() -> None:
            transport = await listener.accept()
            peers.append(RawPeer(await handshake(transport, server_context, timeout=HANG, server_side=True)))

        nursery.start_soon(accept)
        async with trioanytls.open_connection(
            HOST, listener.socket.getsockname()[1], password="x", ssl_context=client_context, config=config
        ) as client:
            await eventually(lambda: bool(peers))
            try:
                await peers[0].receive_auth()
                yield client, peers[0]
            finally:
                await trio.aclose_forcefully(peers[0].transport)


async def close_connection(stream: trioanytls.Stream) -> None:
    """Start the close as `Connection.aclose` does, without waiting for the end. For use as a handler."""
    stream.connection._multiplexer.close(close_reason.closed_locally())


SERVER_ENDS: dict[str, tuple[bytes, Frame | None]] = {
    "violation": (HELLO + BAD_FRAME, (FrameType.ALERT, 0, b"unknown frame type 0x11")),
    "version": (
        AUTH + frames.encode_client_nego(NEGO_BLOCK.replace(b"v=1", b"v=9")),
        (FrameType.CLOSE, 0, CloseCode.VERSION_NOT_SUPPORTED),
    ),
    "limit": (HELLO + PINGPONG * 3 + frames.encode_padding(0) * 3, (FrameType.CLOSE, 0, CloseCode.LIMIT_EXCEEDED)),
    "graceful": (HELLO + frames.encode_open(1), (FrameType.CLOSE, 0, CloseCode.NO_ERROR)),
    "peer closed": (HELLO + frames.encode_close(0), None),
    "peer alerted": (HELLO + frames.encode_alert(b"bad"), None),
    "no authentication": (b"GET / HTTP/1.1\r\n", None),
    "wrong password": (frames.encode_auth(bytes(32), 0), None),
    "auth_timeout": (b"", None),
    "idle_timeout": (HELLO, (FrameType.CLOSE, 0, CloseCode.IDLE_TIMEOUT)),
    "internal error": (HELLO + PINGPONG, (FrameType.CLOSE, 0, CloseCode.INTERNAL_ERROR)),
}


@pytest.mark.parametrize("name", SERVER_ENDS)
async def test_a_server_ends_tls_and_tcp_directly_after_its_last_frame(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent, last = SERVER_ENDS[name]
    options: dict[str, Any] = {"close_timeout": math.inf}
    if name == "limit":
        options["max_idle_frames"] = 2
    if name in ("auth_timeout", "idle_timeout"):
        options[name] = 0.05
    if name == "internal error":
        monkeypatch.setattr(Multiplexer, "send_replies", _mistake)
    config = trioanytls.Config(**options)
    async with running(server_context, client_context, close_connection, config=config) as server:
        peer = await server.raw(sent)
        received = await ends_at_once(peer)
        assert [frame for frame in received if frame[0] in (FrameType.ALERT, FrameType.CLOSE)] == [last] * bool(last)
        if last is not None:
            assert received[-1] == last
        # No timer has expired. The server still reads, unless neither side has sent a last frame.
        if last is not None or name.startswith("peer"):
            assert server.stats.connections == 1
            await peer.transport.aclose()
        await eventually(lambda: not server.stats.connections)


def _mistake(_multiplexer: Multiplexer) -> None:
    raise ZeroDivisionError


async def test_a_server_that_stops_ends_tls_and_tcp_directly_after_its_last_frame(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How long the server waits for the rest of AUTH and NEGO.
    monkeypatch.setattr("trioanytls._server.connection._MAX_ANNOUNCEMENT", 0.1)
    async with trio.open_nursery() as nursery, running(server_context, client_context, config=NEVER) as server:
        authenticated = await server.with_streams(0)
        unauthenticated = await server.raw(b"")
        done = await server.draining(nursery)
        assert await ends_at_once(authenticated) == [CLOSE_6]
        assert await ends_at_once(unauthenticated) == []
        assert not done.is_set()
        await authenticated.transport.aclose()
        await unauthenticated.transport.aclose()
        with trio.fail_after(HANG):
            await server.returned.wait()


async def test_a_cancelled_server_ends_tls_and_tcp_directly_after_its_last_frame(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with running(server_context, client_context, StreamQueue(), config=NEVER) as server:
        peer = await server.with_streams(2)
        server.scope.cancel()
        assert await ends_at_once(peer) == [CLOSE_6]
        assert not server.returned.is_set()
        await peer.transport.aclose()
        with trio.fail_after(HANG):
            await server.returned.wait()


@pytest.mark.parametrize("name", ["graceful", "violation", "peer closed", "idle_timeout"])
async def test_a_client_ends_tls_and_tcp_directly_after_its_last_frame(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, name: str
) -> None:
    config = evolve(NEVER, idle_timeout=0.05) if name == "idle_timeout" else NEVER
    async with tls_server(server_context, client_context, config) as (client, peer), trio.open_nursery() as nursery:
        if name == "graceful":
            nursery.start_soon(client.aclose)
        elif name == "violation":
            await peer.send(SERVER_NEGO, BAD_FRAME)
        elif name == "peer closed":
            await peer.send(frames.encode_close(0))
        received = await ends_at_once(peer)
        assert [frame[0] for frame in received if frame[0] != FrameType.CLIENT_NEGO] == {
            "graceful": [FrameType.CLOSE],
            "violation": [FrameType.ALERT],
            "peer closed": [],
            "idle_timeout": [FrameType.CLOSE],
        }[name]
        assert client.closed
        assert not client._closed.is_set()
        await peer.transport.aclose()
        with trio.fail_after(HANG):
            await client.wait_closed()


async def test_a_client_leaves_a_server_that_waits_for_it_to_end_first(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with tls_server(server_context, client_context) as (client, peer), trio.open_nursery() as nursery:

        async def wait_and_end() -> None:
            while await peer.transport.receive_some():
                pass
            await peer.transport.aclose()

        nursery.start_soon(wait_and_end)
        with trio.fail_after(HANG):
            await client.aclose()


async def test_over_tls_two_ends_that_leave_at_once_do_not_wait_for_each_other(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    queue = StreamQueue()
    async with running(server_context, client_context, queue, config=NEVER) as server:
        for _ in range(20):
            async with server.connect(config=NEVER) as client:
                await client.open_stream()
                far = (await queue.get()).connection
                with trio.fail_after(HANG):
                    async with trio.open_nursery() as nursery:
                        nursery.start_soon(client.aclose)
                        nursery.start_soon(far.aclose)


@pytest.mark.parametrize("before", [0, 700])
@pytest.mark.parametrize("size", [3 * 1024 * 1024, 100_000])
async def test_what_comes_behind_the_end_does_not_destroy_the_last_frame(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, before: int, size: int
) -> None:
    async with running(server_context, client_context, config=NEVER) as server:
        tcp = await server.tcp()
        peer = await server.raw(HELLO, tcp)
        assert await peer.receive() == (FrameType.SERVER_NEGO, 6, b"v=1\n")
        secured = peer.transport
        assert isinstance(secured, TLSStream)
        # A record that is incomplete when the server closes, and complete later.
        secured._ssl.write(BAD_FRAME)
        bad = secured._outgoing.read()
        secured._ssl.write(bytes(16_000))
        split = secured._outgoing.read()
        await tcp.send_all(bad + split[:before])
        with contextlib.suppress(trio.BrokenResourceError):
            # The server stops reading in between, and resets the connection. TCP keeps data that arrived before.
            await tcp.send_all(split[before:])
            await peer.send(bytes(size))
        with trio.fail_after(HANG):
            assert await peer.receive() == (FrameType.ALERT, 0, b"unknown frame type 0x11")
            await secured.aclose()
            await eventually(lambda: not server.stats.connections)


async def test_a_server_reads_1_mib_behind_its_end_and_no_more(autojump_clock: Clock) -> None:
    async with raw_client(config=LONG) as (peer, server):
        await peer.send(BAD_FRAME)
        assert [frame[0] for frame in await peer.receive_all()] == [FrameType.SERVER_NEGO, FrameType.ALERT]
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(16):
            await peer.send(bytes(64 * 1024))
            await trio.testing.wait_all_tasks_blocked()
        await trio.sleep(100)
        assert not server._closed.is_set()
        await peer.send(b"x")
        await server.wait_closed()
        with pytest.raises(trio.BrokenResourceError):
            await peer.send(b"x")


async def test_what_comes_before_the_end_does_not_count_for_what_is_read_behind_it(autojump_clock: Clock) -> None:
    async with raw_client(config=LONG) as (peer, server):
        await peer.send(frames.encode_open(1), frames.encode_rst(1))
        for _ in range(32):
            await peer.send(data(1, bytes(64 * 1024)))
        await peer.send(BAD_FRAME)
        await peer.receive_all()
        await trio.sleep(100)
        assert not server._closed.is_set()
        await peer.transport.aclose()
        await server.wait_closed()


@pytest.mark.parametrize("close_timeout", [5, 20])
async def test_single_bytes_behind_the_end_do_not_prolong_it(autojump_clock: Clock, close_timeout: float) -> None:
    async with raw_client(config=trioanytls.Config(close_timeout=close_timeout)) as (peer, server):
        await peer.send(BAD_FRAME)
        await peer.receive_all()
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await peer.send(b"x")
                await trio.sleep(0.5)
        await server.wait_closed()
        assert trio.current_time() == pytest.approx(close_timeout, abs=0.5)


async def test_an_end_that_reads_on_does_not_act_on_what_comes(autojump_clock: Clock) -> None:
    queue = StreamQueue()
    async with raw_client(queue, LONG) as (peer, server):
        await peer.send(frames.encode_open(1))
        stream = await queue.get()
        server._multiplexer.close(close_reason.close_with(CloseCode.INTERNAL_ERROR, "a reason"))
        await peer.receive_all()
        await peer.send(frames.encode_open(2), data(1, b"x"), PINGPONG, frames.encode_close(0), frames.encode_open(3))
        await trio.sleep(100)
        with pytest.raises(trioanytls.ConnectionClosed, match="a reason"):
            await stream.receive_some()
        assert server.stats.streams_opened == 1
        assert server.close_reason.code is CloseCode.INTERNAL_ERROR
        # Even its CLOSE does not end the wait for the end of the transport.
        assert not server._closed.is_set()
        await peer.transport.aclose()
        await server.wait_closed()


async def test_a_transport_without_half_close_is_closed_when_the_peer_has_left(autojump_clock: Clock) -> None:
    near, far = trio.testing.memory_stream_pair()
    async with trioanytls.wrap_client(RecordedTransport(near), password="x", config=LONG) as client:
        peer = RawPeer(far)
        await peer.receive_auth()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.aclose)
            assert [await peer.receive(), await peer.receive()][1] == (FrameType.CLOSE, 0, 0)
            await trio.sleep(100)
            assert not client._closed.is_set()
            await peer.send(frames.encode_close(0))


@pytest.mark.parametrize("role", ROLES)
async def test_a_connection_that_cannot_be_written_to_closes_at_once(role: Role, autojump_clock: Clock) -> None:
    async def fail() -> None:
        await trio.lowlevel.checkpoint()
        raise trio.BrokenResourceError("not connected")

    async with end_of(role, streams=1) as end:
        assert isinstance(end.transport, trio.StapledStream)
        assert isinstance(end.transport.send_stream, trio.testing.MemorySendStream)
        end.transport.send_stream.send_all_hook = fail
        await end.streams[0].send_all(b"lost")
        await trio.testing.wait_all_tasks_blocked()
        # The reader may still receive data.
        assert not end.connection.closed
        start = trio.current_time()
        await end.connection.aclose()
        assert trio.current_time() == start


class ShieldingStream(RecordedTransport):
    """A transport whose writes cannot be cancelled, so that none is cut."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with trio.CancelScope(shield=True):
            await super().send_all(data)


@pytest.mark.parametrize(("end", "when"), [("write_timeout", 6), ("aclose", 6), ("cancelled", 2), ("peer", 1)])
async def test_a_write_that_cannot_be_cancelled_does_not_hold_the_end_up(
    end: str, when: float, autojump_clock: Clock
) -> None:
    near, far = trio.testing.lockstep_stream_pair()
    config = trioanytls.Config(write_timeout=6, close_timeout=5)

    async def release() -> None:
        # If the test fails, it must end.
        await trio.sleep(1000)
        await far.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(release)
        async with trioanytls.wrap_client(ShieldingStream(near), password="x", config=config) as client:
            await client.open_stream()
            await trio.sleep(1)
            if end == "peer":
                await far.send_stream.aclose()
            if end in ("aclose", "cancelled"):
                with trio.move_on_after(1 if end == "cancelled" else math.inf):
                    await client.aclose()
            await client.wait_closed()
            assert trio.current_time() == pytest.approx(when, abs=0.1)
        nursery.cancel_scope.cancel()


async def test_a_lost_connection_is_not_waited_for(autojump_clock: Clock) -> None:
    near, far = trio.testing.lockstep_stream_pair()
    async with trioanytls.wrap_client(near, password="x", config=evolve(LONG, write_timeout=6)) as client:
        await client.open_stream()
        await client.wait_closed()
        assert trio.current_time() == pytest.approx(6, abs=0.1)
        del far


@pytest.mark.parametrize("last", [frames.encode_close(CloseCode.NO_ERROR), frames.encode_alert(b"enough\n")])
@pytest.mark.parametrize("side", ["client", "server"])
async def test_an_end_whose_peer_has_left_ends_its_own_half_and_reads_on(
    autojump_clock: Clock, side: str, last: bytes
) -> None:
    """Closing the transport at once would reset it because of data that the peer still sends, or of unread data."""
    made: AbstractAsyncContextManager[Any] = raw_client() if side == "server" else raw_server()
    async with made as pair:
        end, peer = pair if side == "client" else reversed(pair)
        if side == "client":
            await peer.receive_auth()
            await peer.send(SERVER_NEGO)
        await peer.pending()
        start = trio.current_time()
        await peer.send(last)
        assert await peer.receive_all() == []
        for _ in range(3):
            await trio.testing.wait_all_tasks_blocked()
            await peer.send(b"late")
        await peer.transport.aclose()
        await end.wait_closed()
        assert trio.current_time() == start


class SpoiltTransport(RecordedTransport):
    """A transport with a bug."""

    async def aclose(self) -> None:
        await self.transport.aclose()
        raise RuntimeError("a mistake")


@pytest.mark.parametrize("end", ["client", "server"])
async def test_a_mistake_in_closing_the_transport_ends_the_connection(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture, end: str
) -> None:
    near, far = trio.testing.memory_stream_pair()
    transports = (SpoiltTransport(near), far) if end == "client" else (near, SpoiltTransport(far))
    async with memory_connection_pair(echo, transports=transports) as (client, server):
        async with await client.open_stream() as stream:
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"
        await client.aclose()
        await server.wait_closed()
    logged = [record for record in caplog.records if record.message.endswith(": internal error")]
    assert {type(record.exc_info[1]) for record in logged if record.exc_info} == {RuntimeError}


async def _break() -> None:
    raise trio.BrokenResourceError("gone")


@pytest.mark.parametrize("way", ["reading", "writing"])
@pytest.mark.parametrize("end", ["client", "server"])
async def test_a_mistake_in_handling_a_broken_transport_ends_one_connection(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture, end: str, way: str
) -> None:
    near, far = trio.testing.memory_stream_pair()
    async with memory_connection_pair(echo, transports=(near, far)) as (client, server):
        await client.ping()
        connection, transport = (client, near) if end == "client" else (server, far)
        multiplexer = multiplexer_of(connection)
        spoilt: Any = multiplexer
        mistake = mock.Mock(side_effect=ZeroDivisionError)
        if way == "reading":
            spoilt.hooks = evolve(multiplexer.hooks, transport_lost=mistake)
            transport.receive_stream.receive_some_hook = _break
        else:
            spoilt.close_after_write_error = mistake
            transport.send_stream.send_all_hook = _break
        with contextlib.suppress(trioanytls.ConnectionClosed):
            await connection.ping()
        await connection.wait_closed()
        with pytest.raises(trioanytls.ConnectionClosed, match="internal error"):
            await connection.ping()
    assert len([record for record in caplog.records if record.message.endswith(": internal error")]) == 1


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_sender_in_line_leaves_it_before_the_last_frame_of_its_stream(how: str) -> None:
    async with end_of("server", extending(NO_EXTENSIONS, send_buffer_size=1), streams=2) as end:
        first, second = map(core_of, end.streams)
        multiplexer = multiplexer_of(end.connection)
        decoder, sent = FrameDecoder(), list[tuple[int, int]]()

        def send_nowait(written: bytes) -> bool:
            sent.extend(frame[:2] for frame in decoder.decode(written))
            return True

        async def send() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await end.streams[1].send_all(bytes(200_000))

        async with trio.open_nursery() as nursery:
            # The writer's task has not run since this was queued.
            multiplexer.send_queue.queue(first, b"\x0a\x01\x01", b"x")
            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            writer: Any = multiplexer.writer
            writer._send_nowait, writer.inline_writes_left = send_nowait, 2
            if how == "close":
                multiplexer.close_stream(second)
            else:
                multiplexer.reset_stream(second)
            writer._send_nowait = None
        assert sent == [(FrameType.STREAM_RST, 2), (FrameType.STREAM_DATA, 1)]
        assert multiplexer.send_queue.is_empty
