"""A running server: draining, and its listeners."""

from __future__ import annotations

import contextlib
import functools
import random
import ssl

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import CloseCode, Config, StreamCode
from trioanytls._protocol.anytls1.frames import FrameType
from trioanytls.testing import StreamQueue, echo

from ..conftest import HOST, USERS
from ..helpers.raw_peer import HELLO, PINGPONG
from ..helpers.server_harness import CLOSE_6, Start, answers, check_works, eventually, last_frames

Clock = trio.testing.MockClock


async def test_a_draining_server_takes_no_connections(start: Start) -> None:
    async with start() as server, trio.open_nursery() as nursery:
        peer = await server.with_streams()
        assert not server.stats.draining
        done = await server.draining(nursery)
        with pytest.raises(OSError, match=r"refused|connect"):
            await server.tcp()
        assert not server.returned.is_set()
        await trio.aclose_forcefully(peer.transport)
        await server.returned.wait()
        await done.wait()


async def test_streams_go_on_and_new_ones_are_refused(start: Start) -> None:
    # Without the extension `goaway`.
    config = Config(extensions=frozenset({"fin", "reset", "window"}))
    async with (
        start(config=config) as server,
        server.connect(config=config) as connection,
        trio.open_nursery() as nursery,
    ):
        stream = await connection.open_stream()
        await check_works(stream)
        done = await server.draining(nursery)
        refused = await connection.open_stream()
        with pytest.raises(trioanytls.StreamRefused) as caught:
            await refused.receive_some()
        assert caught.value.code is StreamCode.SHUTTING_DOWN
        assert not caught.value.retryable
        assert server.stats.streams_refused == {"drain": 1}
        # The open stream continues, until drain_timeout.
        await check_works(stream)
        assert await connection.ping() >= 0
        await stream.aclose()
        await connection.wait_closed()
        assert connection.close_reason is not None
        assert connection.close_reason.code is CloseCode.SHUTTING_DOWN
        await done.wait()
        assert server.returned.is_set()


async def test_connections_without_streams_are_closed_at_once(start: Start, mock_clock: Clock) -> None:
    # The clock does not advance.
    async with start() as server, trio.open_nursery() as nursery:
        idle = [await server.with_streams(0) for _ in range(3)]
        busy = await server.with_streams()
        done = await server.draining(nursery)
        for peer in idle:
            assert await last_frames(peer) == [CLOSE_6]
        await eventually(lambda: server.stats.connections == 1)
        assert not done.is_set()
        await busy.send(PINGPONG)
        assert await busy.receive() == (FrameType.PINGPONG, 0, None)
        await trio.aclose_forcefully(busy.transport)
        await done.wait()


async def test_a_connection_closes_when_its_last_handler_returns(start: Start, mock_clock: Clock) -> None:
    queue = StreamQueue()
    async with start(queue) as server, trio.open_nursery() as nursery:
        peer = await server.with_streams(2)
        streams = sorted([await queue.get(), await queue.get()], key=lambda stream: stream.stream_id)
        done = await server.draining(nursery)
        await streams[1].aclose()
        assert await peer.receive() == (FrameType.STREAM_RST, 2, None)
        # CLOSE does not follow yet.
        assert await peer.pending() == []
        await streams[0].aclose()
        assert await peer.receive() == (FrameType.STREAM_RST, 1, None)
        assert await peer.receive() == CLOSE_6
        # The server waits for the peer to close its side.
        assert not done.is_set()
        await peer.transport.aclose()
        await done.wait()


async def test_a_handler_that_outlives_its_stream_is_waited_for(start: Start, mock_clock: Clock) -> None:
    queue = StreamQueue()
    done_with_work = trio.Event()

    async def handler(stream: trioanytls.Stream) -> None:
        await queue(stream)
        await done_with_work.wait()

    async with start(handler) as server, trio.open_nursery() as nursery:
        peer = await server.with_streams()
        stream = await queue.get()
        done = await server.draining(nursery)
        await stream.aclose()
        assert await peer.pending() == [(FrameType.STREAM_RST, 1, None)]
        done_with_work.set()
        assert await last_frames(peer) == [CLOSE_6]
        await done.wait()


async def test_everything_that_was_sent_is_received_before_the_end(start: Start) -> None:
    content = random.Random(1).randbytes(1_000_000)
    go = trio.Event()

    async def handler(stream: trioanytls.Stream) -> None:
        await go.wait()
        await stream.send_all(content)

    config = Config(receive_buffer_size=10_000)
    async with start(handler) as server, server.connect(config=config) as connection, trio.open_nursery() as nursery:
        streams = [await connection.open_stream() for _ in range(3)]
        for stream in streams:
            await stream.wait_acknowledged()
        received = [bytearray() for _ in streams]

        async def collect(number: int) -> None:
            async for piece in streams[number]:
                received[number] += piece

        done = await server.draining(nursery)
        for number in range(len(streams)):
            nursery.start_soon(collect, number)
        go.set()
        await done.wait()
    # The data is followed by the end of file, not by an error, which the nursery would have raised.
    assert received == [content] * len(streams)
    assert connection.close_reason is not None
    assert connection.close_reason.code is CloseCode.SHUTTING_DOWN


async def test_the_drain_timeout_cancels_what_is_left_and_not_before(start: Start, mock_clock: Clock) -> None:
    cancelled = trio.Event()

    async def handler(stream: trioanytls.Stream) -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async with start(handler, config=Config(drain_timeout=20)) as server, trio.open_nursery() as nursery:
        # A connection that has closed before.
        async with server.connect() as gone:
            assert await gone.ping() >= 0
        await eventually(lambda: server.stats.connections == 0)
        peer = await server.with_streams()
        done = await server.draining(nursery)
        mock_clock.jump(19.99)
        assert await peer.pending() == []
        await peer.send(PINGPONG)
        assert await peer.receive() == (FrameType.PINGPONG, 0, None)
        assert not cancelled.is_set()
        mock_clock.jump(0.02)
        assert await last_frames(peer) == [CLOSE_6]
        assert cancelled.is_set()
        await done.wait()
        assert server.returned.is_set()


async def test_a_stream_that_is_cut_off_does_not_look_finished(start: Start) -> None:
    async def handler(stream: trioanytls.Stream) -> None:
        await stream.send_all(b"the first half")
        await trio.sleep_forever()

    async with start(handler) as server, contextlib.AsyncExitStack() as stack:
        streams = []
        for count in range(1, 6):
            connection = await stack.enter_async_context(server.connect())
            streams += [await connection.open_stream() for _ in range(count)]
        for stream in streams:
            assert await stream.receive_some() == b"the first half"
        await server.control.drain(0.001)
        # An error, not the end of file, in whichever order handlers and connections are cancelled.
        for stream in streams:
            with pytest.raises(trioanytls.ConnectionClosed) as caught:
                await stream.receive_some()
            assert caught.value.code is CloseCode.SHUTTING_DOWN


async def test_accepted_data_is_sent_when_draining_is_cut_off(start: Start, mock_clock: Clock) -> None:
    async def handler(stream: trioanytls.Stream) -> None:
        await stream.send_all(b"x" * 100_000)
        await trio.sleep_forever()

    async with start(handler) as server, trio.open_nursery() as nursery:
        peer = await server.with_streams()
        done = await server.draining(nursery, 5)
        mock_clock.jump(6)
        received = await last_frames(peer)
        assert (
            sum(
                len(payload)
                for kind, _, payload in received
                if kind == FrameType.STREAM_DATA and isinstance(payload, bytes)
            )
            == 100_000
        )
        assert received[-1] == CLOSE_6
        await done.wait()


async def test_the_default_is_the_configured_time(start: Start, mock_clock: Clock) -> None:
    async with start(StreamQueue()) as server, trio.open_nursery() as nursery:
        peer = await server.with_streams()
        done = await server.draining(nursery)
        mock_clock.jump(29.99)
        assert await peer.pending() == []
        mock_clock.jump(0.02)
        assert await last_frames(peer) == [CLOSE_6]
        await done.wait()


@pytest.mark.parametrize(("first", "second"), [(100, 5), (5, 100)])
async def test_of_two_drains_the_earlier_end_counts(start: Start, mock_clock: Clock, first: int, second: int) -> None:
    async with start(StreamQueue()) as server, trio.open_nursery() as nursery:
        peer = await server.with_streams()
        done = [await server.draining(nursery, first), await server.draining(nursery, second)]
        mock_clock.jump(4.99)
        assert await peer.pending() == []
        mock_clock.jump(0.02)
        assert await last_frames(peer) == [CLOSE_6]
        for event in done:
            await event.wait()


async def test_a_second_drain_counts_from_its_own_beginning(start: Start, mock_clock: Clock) -> None:
    async with start(StreamQueue()) as server, trio.open_nursery() as nursery:
        peer = await server.with_streams()
        await server.draining(nursery, 100)
        mock_clock.jump(50)
        await server.draining(nursery, 10)
        mock_clock.jump(9.99)
        assert await peer.pending() == []
        mock_clock.jump(0.02)
        assert await last_frames(peer) == [CLOSE_6]


async def test_draining_continues_when_the_call_is_cancelled(start: Start, mock_clock: Clock) -> None:
    async with start(StreamQueue()) as server:
        peer = await server.with_streams()
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.control.drain(10)
        assert scope.cancelled_caught
        assert server.stats.draining
        assert await peer.pending() == []
        mock_clock.jump(11)
        assert await last_frames(peer) == [CLOSE_6]
        await server.returned.wait()


async def test_drain_returns_when_all_has_ended(start: Start) -> None:
    order = []

    async def handler(stream: trioanytls.Stream) -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                # The server waits for a cancelled handler that does not return at once.
                for _ in range(100):
                    await trio.lowlevel.checkpoint()
            order.append("handler")

    async with start(handler) as server, server.connect() as connection:
        await (await connection.open_stream()).wait_acknowledged()
        await server.control.drain(0.01)
        order.append("drain")
        assert server.stats.connections == server.stats.streams == 0
        assert not server.control.running
        await server.returned.wait()
    assert order == ["handler", "drain"]


async def test_a_server_without_connections_stops_at_once(start: Start, mock_clock: Clock) -> None:
    async with start() as server:
        await server.control.drain()
        assert server.stats.draining
        await server.returned.wait()
        # A second call returns at once.
        await server.control.drain()


async def test_a_client_in_its_tls_handshake_has_until_the_deadline(start: Start, mock_clock: Clock) -> None:
    async with start() as server, trio.open_nursery() as nursery:
        transport = await server.tcp()
        await eventually(lambda: server.stats.connections == 1)
        done = await server.draining(nursery, 20)
        mock_clock.jump(19.99)
        await trio.testing.wait_all_tasks_blocked()
        assert server.stats.connections == 1
        mock_clock.jump(0.02)
        await done.wait()
        assert await transport.receive_some() == b""


async def test_a_handshake_that_completes_while_draining_is_disconnected(start: Start, mock_clock: Clock) -> None:
    # Without the extension `goaway`; see test_goaway for the rest.
    async with start(config=Config(extensions=frozenset())) as server, trio.open_nursery() as nursery:
        transport = await server.tcp()
        await eventually(lambda: server.stats.connections == 1)
        done = await server.draining(nursery)
        peer = await server.raw(transport=transport)
        assert await peer.receive() is None
        await done.wait()
        assert server.stats.authentications == 0
        assert server.stats.connections_closed == {"SHUTTING_DOWN": 1}


@pytest.mark.parametrize("sent", [b"", HELLO[:20]])
async def test_an_unauthenticated_client_is_sent_nothing(start: Start, mock_clock: Clock, sent: bytes) -> None:
    # The shutdown must not show an unauthenticated client that this is an ANYTLS server.
    async def fallback(stream: trioanytls.FallbackStream) -> None:
        raise AssertionError

    async with start(fallback=fallback, config=Config(extensions=frozenset())) as server:
        peer = await server.raw(sent)
        await eventually(lambda: server.stats.bytes_received == len(sent))
        await trio.testing.wait_all_tasks_blocked()
        await server.control.drain()
        assert await peer.receive() is None
        assert server.stats.connections_closed == {"SHUTTING_DOWN": 1}


async def test_fallback_connections_continue_until_the_deadline(start: Start, mock_clock: Clock) -> None:
    async def fallback(stream: trioanytls.FallbackStream) -> None:
        async for piece in stream:
            await stream.send_all(piece)

    async with start(fallback=fallback) as server, trio.open_nursery() as nursery:
        web = await server.raw(b"GET /")
        assert await web.transport.receive_some() == b"GET /"
        done = await server.draining(nursery, 20)
        mock_clock.jump(19.99)
        await web.transport.send_all(b"more")
        assert await web.transport.receive_some() == b"more"
        mock_clock.jump(0.02)
        # Without an ANYTLS frame.
        assert await web.transport.receive_some() == b""
        await done.wait()
        assert server.stats.connections_closed == {"FALLBACK": 1}


async def test_a_fallback_relay_whose_client_leaves_ends(start: Start, mock_clock: Clock) -> None:
    async with start() as upstream:
        relay = trioanytls.relay_to(HOST, upstream.port)
        async with start(fallback=relay) as server, trio.open_nursery() as nursery:
            web = await server.raw(b"GET / HTTP/1.1\r\n\r\n")
            await eventually(lambda: server.stats.fallback_connections == 1)
            done = await server.draining(nursery)
            await trio.aclose_forcefully(web.transport)
            await done.wait()


async def test_connections_in_a_custom_nursery_are_drained_too(start: Start, mock_clock: Clock) -> None:
    async with trio.open_nursery() as nursery:
        others = trio.CancelScope()

        async def other() -> None:
            with others:
                await trio.sleep_forever()

        nursery.start_soon(other)
        async with start(StreamQueue(), handler_nursery=nursery) as server:
            peer = await server.with_streams()
            done = await server.draining(nursery, 20)
            mock_clock.jump(19.99)
            assert await peer.pending() == []
            assert not server.returned.is_set()
            mock_clock.jump(0.02)
            assert await last_frames(peer) == [CLOSE_6]
            await done.wait()
            await server.returned.wait()
            assert server.stats.connections == 0
            # Other tasks in the nursery have not been cancelled.
            assert not others.cancelled_caught
            others.cancel()


async def test_cancelling_serve_leaves_the_connections_in_a_custom_nursery(start: Start) -> None:
    async with trio.open_nursery() as nursery:
        async with start(handler_nursery=nursery) as server, server.connect() as connection:
            assert await answers(connection)
            server.scope.cancel()
            await server.returned.wait()
            with pytest.raises(OSError, match=r"refused|connect"):
                await server.tcp()
            assert await answers(connection)
        nursery.cancel_scope.cancel()


async def test_serve_passes_its_listeners_to_the_caller(server_context: ssl.SSLContext) -> None:
    async with trio.open_nursery() as nursery:
        serve = functools.partial(trioanytls.serve, echo, 0, host=HOST, ssl_context=server_context, users=USERS)
        listeners = await nursery.start(serve)
        assert isinstance(listeners, list)
        assert [type(listener) for listener in listeners] == [trio.SocketListener]
        assert listeners[0].socket.getsockname()[0] == HOST
        nursery.cancel_scope.cancel()
