"""Every wait on a peer has a timeout (spec: Connections / Timeout; Streams / Stream Timeout)."""

from __future__ import annotations

import ssl

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.frames import FrameType
from trioanytls.testing import StreamQueue, memory_connection_pair

from ..conftest import HOST
from ..helpers.connection_ends import end_of
from ..helpers.extensions import ALL, NO_EXTENSIONS, extending
from ..helpers.raw_peer import AUTH, NEGO, PINGPONG, data, raw_client, raw_server

Clock = trio.testing.MockClock


async def lives_until(connection: trioanytls.Connection) -> float:
    """Wait until the connection has closed. Return the seconds that took."""
    start = trio.current_time()
    while not connection.closed:  # noqa: ASYNC110 - `wait_closed` comes later, when the transport is closed
        await trio.sleep(0.25)
    return trio.current_time() - start


# Connections


async def test_a_silent_connection_is_closed_with_code_3(autojump_clock: Clock) -> None:
    async with raw_client(config=trioanytls.Config(idle_timeout=40)) as (peer, server):
        await peer.pending()
        assert await lives_until(server) == pytest.approx(40, abs=0.3)
        assert (await peer.pending())[-1] == (FrameType.CLOSE, 0, 3)
        assert server.close_reason.code is trioanytls.CloseCode.IDLE_TIMEOUT


@pytest.mark.parametrize("frame", [PINGPONG, frames.encode_padding(3), data(1, b"")])
async def test_any_frame_keeps_a_connection_alive(autojump_clock: Clock, frame: bytes) -> None:
    async with raw_client(config=trioanytls.Config(idle_timeout=40)) as (peer, server):
        await peer.send(frames.encode_open(1))
        for _ in range(10):
            await trio.sleep(30)
            await peer.send(frame)
            assert not server.closed
        assert await lives_until(server) == pytest.approx(40, abs=0.3)


async def test_what_is_sent_keeps_a_connection_alive_as_well(autojump_clock: Clock) -> None:
    queue = StreamQueue()
    async with raw_client(queue, trioanytls.Config(idle_timeout=40)) as (peer, server):
        await peer.send(frames.encode_open(1))
        stream = await queue.get()
        for _ in range(5):
            await trio.sleep(30)
            await stream.send_all(b"x")
        assert not server.closed


async def test_each_side_has_a_timer_of_its_own(autojump_clock: Clock) -> None:
    client_config = trioanytls.Config(idle_timeout=10)
    async with memory_connection_pair(client_config=client_config) as (client, server):
        await client.ping()
        assert await lives_until(client) == pytest.approx(10, abs=0.3)
        await trio.testing.wait_all_tasks_blocked()
        assert server.close_reason.code is trioanytls.CloseCode.IDLE_TIMEOUT


@pytest.mark.parametrize("hello", [b"", AUTH[:20], AUTH[:-1]])
async def test_an_incomplete_auth_is_a_failed_authentication(autojump_clock: Clock, hello: bytes) -> None:
    async with raw_client(config=trioanytls.Config(auth_timeout=3), hello=hello) as (peer, server):
        start = trio.current_time()
        assert await peer.receive() is None
        assert trio.current_time() - start == pytest.approx(3)
        assert isinstance(server.close_reason.__cause__, trioanytls.AuthenticationFailed)


async def test_a_missing_nego_is_a_violation_after_a_time_of_its_own(autojump_clock: Clock) -> None:
    async with raw_client(config=trioanytls.Config(auth_timeout=3), hello=AUTH[:-1]) as (peer, _):
        await trio.sleep(2)
        await peer.send(AUTH[-1:], NEGO[:-1])
        start = trio.current_time()
        [kind, _, text] = await peer.receive() or [None, 0, b""]
        assert trio.current_time() - start == pytest.approx(3)
        assert kind == FrameType.ALERT
        assert isinstance(text, bytes)
        assert b"NEGO" in text


async def test_the_tls_handshake_has_a_timeout(autojump_clock: Clock, client_context: ssl.SSLContext) -> None:
    listeners = await trio.open_tcp_listeners(0, host=HOST)
    port = listeners[0].socket.getsockname()[1]
    async with listeners[0]:
        with pytest.raises(trioanytls.TLSError, match="longer than 2"):
            async with trioanytls.open_connection(
                HOST,
                port,
                password="x",
                ssl_context=client_context,
                config=trioanytls.Config(handshake_timeout=2),
            ):
                pass


async def test_a_peer_that_takes_nothing_is_given_up(autojump_clock: Clock) -> None:
    near, far = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(far.receive_some, 1000)
        async with trioanytls.wrap_client(
            near, password="x", config=trioanytls.Config(write_timeout=6, close_timeout=1)
        ) as client:
            stream = await client.open_stream()
            with pytest.raises(trioanytls.ConnectionClosed, match="write_timeout"):
                while True:
                    await stream.send_all(bytes(100_000))
            assert trio.current_time() == pytest.approx(6, abs=0.3)


async def test_leaving_is_bounded_when_the_peer_does_not_answer(autojump_clock: Clock) -> None:
    near, _far = trio.testing.memory_stream_pair()
    async with trioanytls.wrap_client(near, password="x", config=trioanytls.Config(close_timeout=4)) as client:
        await client.open_stream()
        start = trio.current_time()
    assert trio.current_time() - start == pytest.approx(4)


async def test_leaving_is_bounded_when_the_peer_does_not_read(autojump_clock: Clock) -> None:
    near, _far = trio.testing.lockstep_stream_pair()
    async with trioanytls.wrap_client(near, password="x", config=trioanytls.Config(close_timeout=4)) as client:
        stream = await client.open_stream()
        await stream.send_all(bytes(100_000))
        start = trio.current_time()
    assert trio.current_time() - start == pytest.approx(4)


# Streams


async def test_an_idle_stream_is_closed_and_its_waiters_are_told(autojump_clock: Clock) -> None:
    config = trioanytls.Config(stream_idle_timeout=20)
    async with raw_server(config) as (client, peer):
        stream = await client.open_stream()
        for operation in (stream.receive_some, stream.wait_acknowledged, stream.receive_some):
            with pytest.raises(trioanytls.StreamTimeout, match="stream_idle_timeout"):
                await operation()
            assert trio.current_time() == pytest.approx(20)
        with pytest.raises(trioanytls.StreamTimeout):
            await stream.send_all(b"x")
        await peer.receive_auth()
        received = await peer.pending()
        assert received[-1] == (FrameType.STREAM_RST, 1, None)
        assert not client.closed


@pytest.mark.parametrize("role", ["the application", "its timer"])
async def test_a_stream_that_ends_before_its_peer_knows_of_it_is_never_mentioned(
    autojump_clock: Clock, role: str
) -> None:
    """An RST for a stream that was not opened is a violation (protocol: 5)."""
    config = trioanytls.Config(stream_idle_timeout=20, write_timeout=1000)
    async with end_of("client", config, streams=1) as end:
        unblocked = end.block()
        await end.streams[0].send_all(b"with the writer")
        await trio.testing.wait_all_tasks_blocked()
        stream = await end.connection.open_stream()
        await stream.send_all(b"x")
        if role == "the application":
            with trio.CancelScope() as scope:
                scope.cancel()
                await stream.aclose()
        else:
            with pytest.raises(trioanytls.StreamTimeout):
                await stream.receive_some()
        unblocked.set()
        received = await end.peer.pending()
        assert {stream_id for _, stream_id, _ in received} == {1}
        # The next stream is open.
        await end.connection.open_stream()
        assert await end.peer.pending() == [(FrameType.STREAM_OPEN, 3, None)]


async def test_a_blocked_sender_is_told_as_well(autojump_clock: Clock) -> None:
    near, far = trio.testing.lockstep_stream_pair()
    config = trioanytls.Config(stream_idle_timeout=20, send_buffer_size=1000, close_timeout=1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(far.receive_some, 10)
        async with trioanytls.wrap_client(near, password="x", config=config) as client:
            stream = await client.open_stream()
            with pytest.raises(trioanytls.StreamTimeout):
                while True:
                    await stream.send_all(bytes(1000))


@pytest.mark.parametrize("frame", [b"\x08\x01", data(1, b"x"), data(1, b"")])
async def test_a_frame_of_the_stream_restarts_its_timer(autojump_clock: Clock, frame: bytes) -> None:
    async with raw_server(trioanytls.Config(stream_idle_timeout=20)) as (client, peer):
        stream = await client.open_stream()
        quiet = await client.open_stream()
        last = 0.0
        for pause in (1, 12, 15, 19, 3, 7, 19.5):
            await trio.sleep(pause)
            await peer.send(frame)
            last = trio.current_time()
            await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trioanytls.StreamTimeout):
            while True:
                await stream.receive_some()
        assert trio.current_time() == pytest.approx(last + 20)
        with pytest.raises(trioanytls.StreamTimeout):
            await quiet.receive_some()


async def test_what_the_stream_sends_restarts_its_timer(autojump_clock: Clock) -> None:
    async with raw_server(trioanytls.Config(stream_idle_timeout=20)) as (client, _):
        stream = await client.open_stream()
        for _ in range(5):
            await trio.sleep(17)
            await stream.send_all(b"x")
        start = trio.current_time()
        with pytest.raises(trioanytls.StreamTimeout):
            await stream.receive_some()
        assert trio.current_time() - start == pytest.approx(20)


async def test_other_streams_frames_do_not_restart_it(autojump_clock: Clock) -> None:
    async with memory_connection_pair(client_config=trioanytls.Config(stream_idle_timeout=20)) as (client, _):
        idle, busy = await client.open_stream(), await client.open_stream()
        await idle.wait_acknowledged()
        start = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def chatter() -> None:
                while True:
                    await busy.send_all(b"x")
                    await busy.receive_some()
                    await trio.sleep(1)

            nursery.start_soon(chatter)
            with pytest.raises(trioanytls.StreamTimeout):
                await idle.receive_some()
            assert trio.current_time() - start == pytest.approx(20)
            nursery.cancel_scope.cancel()


async def test_a_handler_that_waits_on_its_idle_stream_meets_the_error(autojump_clock: Clock) -> None:
    met: list[tuple[float, BaseException]] = []

    async def handler(stream: trioanytls.Stream) -> None:
        try:
            await stream.receive_some()
        except trioanytls.StreamTimeout as error:
            met.append((trio.current_time(), error))
            raise

    async with raw_client(handler, trioanytls.Config(stream_idle_timeout=20)) as (peer, server):
        await peer.send(frames.encode_open(1))
        await peer.pending()
        await trio.sleep(30)
        assert [(at, type(error)) for at, error in met] == [(20, trioanytls.StreamTimeout)]
        assert (await peer.pending()) == [(FrameType.STREAM_RST, 1, None)]
        assert not server.closed


async def test_a_handler_that_waits_for_something_else_is_cancelled(autojump_clock: Clock) -> None:
    ended: list[float] = []

    async def handler(stream: trioanytls.Stream) -> None:
        try:
            await trio.sleep_forever()
        finally:
            ended.append(trio.current_time())

    async with raw_client(handler, trioanytls.Config(stream_idle_timeout=20)) as (peer, server):
        await peer.send(frames.encode_open(1))
        await peer.pending()
        await trio.sleep(5)
        await peer.send(b"\x08\x01")
        await trio.sleep(30)
        assert ended == [25]
        assert (await peer.pending()) == [(FrameType.STREAM_RST, 1, None)]
        assert not server.closed


# With `window`, it holds up none: see test_unread_stream.py.
@pytest.mark.parametrize("extensions", [NO_EXTENSIONS, ALL - {"window"}], ids=["version 1", "no window"])
async def test_a_stream_nobody_reads_holds_the_others_for_a_bounded_time(
    autojump_clock: Clock, extensions: frozenset[str]
) -> None:
    config = extending(extensions, receive_buffer_size=1000, stall_timeout=15)
    queue = StreamQueue()
    # A scheme that cuts nothing: with the built-in one, the cost of the pieces, and so the room, is random.
    scheme = trioanytls.PaddingScheme.parse(b"stop=1\n0=30-30")
    async with memory_connection_pair(
        queue, client_config=extending(extensions), server_config=config, padding_scheme=scheme
    ) as (client, _):
        stalled, other = await client.open_stream(), await client.open_stream()
        far_stalled, far_other = await queue.get(), await queue.get()
        await stalled.send_all(bytes(5000))
        await trio.testing.wait_all_tasks_blocked()
        await other.send_all(b"behind it")
        start = trio.current_time()
        assert await far_other.receive_some() == b"behind it"
        assert trio.current_time() - start == pytest.approx(15)
        with pytest.raises(trioanytls.StreamTimeout, match="stall_timeout"):
            await far_stalled.send_all(b"x")
        assert await far_stalled.receive_some() == bytes(5000)
        if extensions:
            with pytest.raises(trioanytls.StreamReset) as caught:
                await stalled.receive_some()
            assert caught.value.code is trioanytls.StreamCode.STALLED
        else:
            assert await stalled.receive_some() == b""


async def test_a_stream_alone_pushes_back_as_long_as_it_likes(autojump_clock: Clock) -> None:
    config = trioanytls.Config(receive_buffer_size=1000, stall_timeout=15, idle_timeout=30, keepalive_interval=10)
    queue = StreamQueue()
    async with memory_connection_pair(queue, server_config=config) as (client, server):
        near = await client.open_stream()
        far = await queue.get()
        await near.send_all(bytes(5000) + b"end")
        await near.aclose()
        await trio.sleep(200)
        assert not server.closed
        assert b"".join([piece async for piece in far]) == bytes(5000) + b"end"
