"""A server that drains tells its clients first: no stream that they have opened before is refused (extensions: 5)."""

from __future__ import annotations

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import CloseCode, Config, StreamCode
from trioanytls._protocol import data_blocks
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.frame_decoder import Frame
from trioanytls._protocol.anytls1.frames import FrameType
from trioanytls._protocol.extensions import EXTENSIONS, MAX_LAST_SERVED
from trioanytls.testing import StreamQueue

from ..helpers.raw_peer import AUTH, HELLO, PINGPONG, SCHEME, RawPeer, data
from ..helpers.server_harness import CLOSE_6, Running, Start, check_works, eventually, last_frames

Clock = trio.testing.MockClock

ALL = frozenset(EXTENSIONS)
EXTENDED = Config(extensions=ALL)
PING = (FrameType.PINGPONG, 0, None)
FIRST_GOAWAY = (FrameType.GOAWAY, 0, MAX_LAST_SERVED)


def goaway(last_served: int) -> Frame:
    return (FrameType.GOAWAY, 0, last_served)


HELLO_GOAWAY = AUTH + frames.encode_client_nego(
    data_blocks.format_key_values(
        {"v": ["1"], "client": ["raw/1"], "padding-md5": [SCHEME.digest], "ext": ["goaway", "reset"]}
    )
)


async def with_streams(server: Running, count: int) -> RawPeer:
    """Connect a client that has `goaway` and `reset`, and open streams from 1 on."""
    peer = await server.with_streams(count, hello=HELLO_GOAWAY)
    understand(peer)
    return peer


def understand(peer: RawPeer) -> None:
    peer._decoder.extension_frames = frozenset({FrameType.GOAWAY, FrameType.STREAM_RESET})


@pytest.mark.parametrize("count", [0, 3])
async def test_the_exchange(start: Start, mock_clock: Clock, count: int) -> None:
    queue = StreamQueue()
    async with start(queue, config=EXTENDED) as server, trio.open_nursery() as nursery:
        peer = await with_streams(server, count)
        done = await server.draining(nursery)
        assert await peer.pending() == [FIRST_GOAWAY, PING]
        # The client has opened another stream before it read that. The stream is served.
        await peer.send(frames.encode_open(count + 5))
        assert await peer.pending() == [(FrameType.STREAM_ACK, count + 5, None)]
        await peer.send(PINGPONG)
        assert await peer.pending() == [goaway(count + 5)]
        streams = [await queue.get() for _ in range(count + 1)]
        for stream in streams:
            assert not done.is_set()
            await stream.aclose()
        assert [frame and frame[0] for frame in await last_frames(peer)] == [
            *[FrameType.STREAM_RST] * (count + 1),
            FrameType.CLOSE,
        ]
        await done.wait()
        assert server.stats.connections_drained == {"answered": 1}
        assert server.stats.streams_refused == {}
        assert server.stats.connections_closed == {"SHUTTING_DOWN": 1}


async def test_a_ping_of_the_client_is_not_taken_for_its_answer(start: Start, mock_clock: Clock) -> None:
    async with start(StreamQueue(), config=EXTENDED) as server, trio.open_nursery() as nursery:
        peer = await with_streams(server, 1)
        await peer.send(PINGPONG)
        assert await peer.pending() == [PING]
        await server.draining(nursery, 10)
        # The pings cross: the client has not read GOAWAY when it sends this one, and opens another stream.
        await peer.send(PINGPONG)
        assert await peer.pending() == [FIRST_GOAWAY, PING, PING]
        await peer.send(frames.encode_open(2))
        assert await peer.pending() == [(FrameType.STREAM_ACK, 2, None)]
        await peer.send(PINGPONG)
        assert await peer.pending() == [goaway(2)]
        assert server.stats.streams_refused == {}
        mock_clock.jump(11)
        assert await last_frames(peer) == [CLOSE_6]


async def test_the_first_ping_of_a_client_that_crosses_is_taken_for_its_answer(start: Start, mock_clock: Clock) -> None:
    """PINGPONG has no number (docs/limits.md). A stream that comes after it is refused, and seen by no application."""
    queue = StreamQueue()
    async with start(queue, config=EXTENDED) as server, trio.open_nursery() as nursery:
        peer = await with_streams(server, 1)
        await server.draining(nursery, 10)
        await peer.send(PINGPONG)
        assert await peer.pending() == [FIRST_GOAWAY, PING, goaway(1)]
        await peer.send(frames.encode_open(2), data(2, b"question"))
        [refusal] = await peer.pending()
        assert refusal[:2] == (FrameType.STREAM_RESET, 2)
        assert (await queue.get()).stream_id == 1
        assert server.stats.streams_refused == {"drain": 1}
        mock_clock.jump(11)
        assert await last_frames(peer) == [CLOSE_6]


async def test_a_connection_without_streams_is_closed_when_it_has_answered(start: Start, mock_clock: Clock) -> None:
    async with start(config=EXTENDED) as server, trio.open_nursery() as nursery:
        peers = [await with_streams(server, 0) for _ in range(20)]
        done = await server.draining(nursery)
        for peer in peers:
            assert await peer.pending() == [FIRST_GOAWAY, PING]
            await peer.send(PINGPONG)
            # 0: no stream was or will be served.
            assert await last_frames(peer) == [goaway(0), CLOSE_6]
        await done.wait()
        assert server.stats.connections_drained == {"answered": 20}


async def test_a_stream_above_the_second_id_is_refused(start: Start, mock_clock: Clock) -> None:
    async with start(StreamQueue(), config=EXTENDED) as server, trio.open_nursery() as nursery:
        peer = await with_streams(server, 1)
        await server.draining(nursery, 10)
        await peer.pending()
        await peer.send(PINGPONG, frames.encode_open(2))
        refusal = (StreamCode.SHUTTING_DOWN, b"the server is shutting down")
        # A stream that arrives in the same read as the answer is served.
        received = await peer.pending()
        assert goaway(2) in received
        assert (FrameType.STREAM_ACK, 2, None) in received
        assert len(received) == 2
        await peer.send(frames.encode_open(3))
        assert await peer.pending() == [(FrameType.STREAM_RESET, 3, refusal)]
        assert server.stats.streams_refused == {"drain": 1}
        mock_clock.jump(11)
        assert await last_frames(peer) == [CLOSE_6]


async def test_without_reset_it_is_refused_by_rst(start: Start, mock_clock: Clock) -> None:
    config = Config(extensions=frozenset({"goaway"}))
    async with start(StreamQueue(), config=config) as server, trio.open_nursery() as nursery:
        peer = await with_streams(server, 1)
        await server.draining(nursery, 10)
        await peer.send(PINGPONG)
        assert await peer.pending() == [FIRST_GOAWAY, PING, goaway(1)]
        await peer.send(frames.encode_open(2))
        assert await peer.pending() == [(FrameType.STREAM_RST, 2, None)]
        mock_clock.jump(11)
        assert await last_frames(peer) == [CLOSE_6]


@pytest.mark.parametrize(("keepalive_timeout", "seconds"), [(10, 2), (1, 1)])
async def test_a_client_that_does_not_answer_is_told_all_the_same(
    start: Start, mock_clock: Clock, keepalive_timeout: float, seconds: float
) -> None:
    config = Config(extensions=ALL, keepalive_timeout=keepalive_timeout)
    async with start(StreamQueue(), config=config) as server, trio.open_nursery() as nursery:
        peer = await with_streams(server, 1)
        await server.draining(nursery, 100)
        assert await peer.pending() == [FIRST_GOAWAY, PING]
        mock_clock.jump(seconds - 0.01)
        assert await peer.pending() == []
        mock_clock.jump(0.02)
        assert (await peer.pending())[0] == goaway(1)
        assert server.stats.connections_drained == {"unanswered": 1}
        nursery.cancel_scope.cancel()


async def test_a_ping_that_is_outstanding_is_answered_first(start: Start, mock_clock: Clock) -> None:
    queue = StreamQueue()
    async with start(queue, config=EXTENDED) as server, trio.open_nursery() as nursery:
        peer = await with_streams(server, 1)
        nursery.start_soon((await queue.get()).connection.ping)
        assert await peer.pending() == [PING]
        await server.draining(nursery, 100)
        assert await peer.pending() == [FIRST_GOAWAY]
        await peer.send(PINGPONG)
        assert await peer.pending() == [PING]
        await peer.send(frames.encode_open(2), PINGPONG)
        assert goaway(2) in await peer.pending()
        nursery.cancel_scope.cancel()


async def test_an_application_may_ping_meanwhile(start: Start, mock_clock: Clock) -> None:
    queue = StreamQueue()
    async with start(queue, config=EXTENDED) as server, trio.open_nursery() as nursery:
        peer = await with_streams(server, 1)
        connection = (await queue.get()).connection
        # The server asks twice, since this client pings, too.
        await peer.send(PINGPONG)
        assert await peer.pending() == [PING]
        round_trips = 0

        async def keep_pinging() -> None:
            nonlocal round_trips
            while True:
                await connection.ping()
                round_trips += 1

        nursery.start_soon(keep_pinging)
        await server.draining(nursery, 100)
        received = await peer.pending()
        while goaway(1) not in received:
            assert received.count(PING) == 1
            await peer.send(PINGPONG)
            received = await peer.pending()
        before = round_trips
        for _ in range(3):
            await peer.send(PINGPONG)
            assert await peer.pending() == [PING]
        assert round_trips == before + 3
        nursery.cancel_scope.cancel()


async def test_a_client_that_leaves_meanwhile_ends_it(start: Start, mock_clock: Clock) -> None:
    queue = StreamQueue()
    # Also while a ping of before is outstanding.
    async with start(queue, config=EXTENDED) as server, trio.open_nursery() as nursery:
        peers = [await with_streams(server, 1) for _ in range(2)]
        streams = [await queue.get() for _ in peers]

        async def ping() -> None:
            with pytest.raises(trioanytls.ConnectionClosed):
                await streams[1].connection.ping()

        nursery.start_soon(ping)
        await trio.testing.wait_all_tasks_blocked()
        done = await server.draining(nursery)
        for peer in peers:
            await peer.send(frames.encode_close(CloseCode.NO_ERROR))
            await peer.transport.aclose()
        for stream in streams:
            await stream.aclose()
        await done.wait()
        assert server.stats.connections_closed == {"NO_ERROR": 2}


async def test_the_drain_timeout_may_be_shorter(start: Start, mock_clock: Clock) -> None:
    async with start(StreamQueue(), config=EXTENDED) as server, trio.open_nursery() as nursery:
        peer = await with_streams(server, 1)
        done = await server.draining(nursery, 1)
        assert await peer.pending() == [FIRST_GOAWAY, PING]
        mock_clock.jump(1.01)
        assert await last_frames(peer) == [CLOSE_6]
        await done.wait()


@pytest.mark.parametrize(("first", "second"), [(100, 5), (5, 100)])
async def test_of_two_drains_the_earlier_end_counts(start: Start, mock_clock: Clock, first: int, second: int) -> None:
    async with start(StreamQueue(), config=EXTENDED) as server, trio.open_nursery() as nursery:
        peer = await with_streams(server, 1)
        await server.draining(nursery, first)
        await server.draining(nursery, second)
        # It is told once.
        await peer.send(PINGPONG)
        assert await peer.pending() == [FIRST_GOAWAY, PING, goaway(1)]
        mock_clock.jump(4.99)
        assert await peer.pending() == []
        mock_clock.jump(0.02)
        assert await last_frames(peer) == [CLOSE_6]


# Our own client


async def test_our_client_opens_no_more_streams_and_finishes_those_that_it_has(start: Start) -> None:
    async with (
        start(config=EXTENDED) as server,
        server.connect(config=EXTENDED) as connection,
        trio.open_nursery() as nursery,
    ):
        stream = await connection.open_stream()
        await check_works(stream)
        done = await server.draining(nursery)
        await eventually(lambda: server.stats.connections_drained == {"answered": 1})
        with pytest.raises(trioanytls.ConnectionClosed) as caught:
            await connection.open_stream()
        assert caught.value.code is CloseCode.SHUTTING_DOWN
        assert not connection.closed
        await check_works(stream)
        assert await connection.ping() >= 0
        await stream.aclose()
        await connection.wait_closed()
        assert connection.close_reason is not None
        assert connection.close_reason.code is CloseCode.SHUTTING_DOWN
        await done.wait()
        assert server.stats.streams_refused == {}


async def test_many_clients_that_open_streams_meanwhile_are_not_refused(start: Start) -> None:
    refused: list[BaseException] = []
    codes: set[CloseCode | None] = set()
    answered = 0

    async with start(config=EXTENDED) as server:

        async def use() -> None:
            nonlocal answered
            async with server.connect(config=EXTENDED) as connection:
                while True:
                    try:
                        stream = await connection.open_stream()
                    except trioanytls.ConnectionClosed as error:
                        codes.add(error.code)
                        return
                    try:
                        async with stream:
                            await stream.send_all(b"x")
                            assert await stream.receive_some() == b"x"
                            answered += 1
                    except trio.BrokenResourceError as error:
                        refused.append(error)
                        return

        async with trio.open_nursery() as nursery:
            for _ in range(30):
                nursery.start_soon(use)
            await eventually(lambda: answered > 200)
            await server.control.drain()
        assert refused == []
        assert codes == {CloseCode.SHUTTING_DOWN}
        assert server.stats.streams_refused == {}
        assert server.stats.connections_drained == {"answered": 30}


# Connections that have not been negotiated


async def test_a_handshake_that_completes_while_draining_is_served(start: Start, mock_clock: Clock) -> None:
    queue = StreamQueue()
    async with start(queue, config=EXTENDED) as server, trio.open_nursery() as nursery:
        transport = await server.tcp()
        await eventually(lambda: server.stats.connections == 1)
        done = await server.draining(nursery)
        peer = await server.raw(HELLO_GOAWAY + frames.encode_open(1), transport=transport)
        understand(peer)
        stream = await queue.get()
        received = await peer.pending()
        assert received[0][0] == FrameType.SERVER_NEGO
        assert [frame for frame in received[1:] if frame[0] != FrameType.STREAM_ACK] == [FIRST_GOAWAY, PING]
        await peer.send(PINGPONG)
        assert await peer.pending() == [goaway(1)]
        await stream.aclose()
        assert await last_frames(peer) == [(FrameType.STREAM_RST, 1, None), CLOSE_6]
        await done.wait()
        assert server.stats.connections_drained == {"answered": 1}


async def test_an_older_client_whose_handshake_completes_while_draining_is_served(
    start: Start, mock_clock: Clock
) -> None:
    queue = StreamQueue()
    async with start(queue, config=EXTENDED) as server, trio.open_nursery() as nursery:
        transport = await server.tcp()
        await eventually(lambda: server.stats.connections == 1)
        done = await server.draining(nursery)
        peer = await server.raw(HELLO + frames.encode_open(1), transport=transport)
        stream = await queue.get()
        assert [frame[0] for frame in await peer.pending()] == [FrameType.SERVER_NEGO, FrameType.STREAM_ACK]
        await stream.aclose()
        assert await last_frames(peer) == [(FrameType.STREAM_RST, 1, None), CLOSE_6]
        await done.wait()
        assert server.stats.connections_drained == {"untold": 1}


@pytest.mark.parametrize("sent", [b"", HELLO[:20]])
async def test_an_unauthenticated_client_is_sent_nothing(start: Start, mock_clock: Clock, sent: bytes) -> None:
    async def fallback(stream: trioanytls.FallbackStream) -> None:
        raise AssertionError

    async with start(fallback=fallback, config=EXTENDED) as server, trio.open_nursery() as nursery:
        peer = await server.raw(sent)
        await eventually(lambda: server.stats.bytes_received == len(sent))
        done = await server.draining(nursery)
        mock_clock.jump(1.99)
        await trio.testing.wait_all_tasks_blocked()
        assert server.stats.connections == 1
        mock_clock.jump(0.02)
        assert await peer.receive() is None
        await done.wait()
        assert server.stats.connections_closed == {"SHUTTING_DOWN": 1}
        assert server.stats.connections_drained == {}


async def test_an_unauthenticated_client_may_still_go_to_the_fallback(start: Start, mock_clock: Clock) -> None:
    async def fallback(stream: trioanytls.FallbackStream) -> None:
        await stream.send_all(await stream.receive_some())

    async with start(fallback=fallback, config=EXTENDED) as server, trio.open_nursery() as nursery:
        peer = await server.raw(b"")
        await eventually(lambda: server.stats.connections == 1)
        done = await server.draining(nursery)
        await peer.transport.send_all(b"GET / HTTP/1.1\r\n\r\n")
        assert await peer.transport.receive_some() == b"GET / HTTP/1.1\r\n\r\n"
        await trio.aclose_forcefully(peer.transport)
        await done.wait()
        assert server.stats.connections_closed == {"FALLBACK": 1}


async def test_a_connection_that_is_with_the_fallback_is_not_told(start: Start, mock_clock: Clock) -> None:
    async def fallback(stream: trioanytls.FallbackStream) -> None:
        async for piece in stream:
            await stream.send_all(piece)

    config = Config(extensions=ALL, on_violation="fallback")
    async with start(fallback=fallback, config=config) as server, trio.open_nursery() as nursery:
        # Handed over from the offending frame on, after the negotiation.
        peer = await with_streams(server, 0)
        await peer.send(frames.encode_ack(1))
        await eventually(lambda: server.stats.fallback_connections == 1)
        done = await server.draining(nursery, 20)
        # Only what the fallback has sent back.
        assert await peer.pending() == [(FrameType.STREAM_ACK, 1, None)]
        mock_clock.jump(21)
        assert await peer.receive() is None
        await done.wait()
