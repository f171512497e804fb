"""Streams that a client closes before the server's NEGO has arrived: complete data must not look cut off."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import StreamCode
from trioanytls._connection.connection import multiplexer_of
from trioanytls._connection.stream import core_of
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.frame_decoder import Frame
from trioanytls._protocol.anytls1.frames import FrameType
from trioanytls.testing import StreamQueue, memory_connection_pair

from ..helpers.connection_ends import client_that_heard
from ..helpers.extensions import ALL, extending
from ..helpers.raw_peer import SERVER_NEGO, RawPeer, raw_server


def nego_with(names: str) -> bytes:
    """Return the NEGO of a server that has these extensions."""
    window = b"window=65536\n" if "window" in names else b""
    return frames.encode_server_nego(b"v=1\n" + (b"ext=%s\n" % names.encode() if names else b"") + window)


NEGO_WITH_FIN = nego_with("fin,reset")
OPEN = (FrameType.STREAM_OPEN, 1, None)
FIN = (FrameType.STREAM_FIN, 1, None)
RST = (FrameType.STREAM_RST, 1, None)
CLOSE = (FrameType.CLOSE, 0, 0)


async def without_greeting(peer: RawPeer) -> list[Frame]:
    """Return the frames after AUTH and NEGO that have arrived."""
    await peer.receive_auth()
    nego, *rest = await peer.pending()
    assert nego[0] == FrameType.CLIENT_NEGO
    peer.know(FrameType.STREAM_FIN, FrameType.STREAM_RESET)
    return rest


@pytest.mark.parametrize(
    ("nego", "end"), [(NEGO_WITH_FIN, [FIN, RST]), (SERVER_NEGO, [RST])], ids=["with fin", "without"]
)
async def test_the_frames_that_close_it_wait_for_the_answer(
    autojump_clock: trio.testing.MockClock, nego: bytes, end: list[Frame]
) -> None:
    async with raw_server(extending(ALL)) as (connection, peer):
        stream = await connection.open_stream()
        await stream.send_all(b"all")
        with trio.fail_after(0.001):
            await stream.aclose()
        await trio.sleep(1)
        # The data does not wait.
        assert await without_greeting(peer) == [OPEN, (FrameType.STREAM_DATA, 1, b"all")]
        assert connection.stats.open_streams == 0
        await peer.send(nego)
        assert await peer.pending() == end


async def test_without_the_extension_nothing_waits(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_server(extending({"window", "reset"})) as (connection, peer):
        async with await connection.open_stream() as stream:
            await stream.send_all(b"all")
        await trio.sleep(1)
        assert (await without_greeting(peer))[2:] == [RST]


async def test_an_abort_does_not_wait(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_server(extending(ALL)) as (connection, peer):
        first, second, third = [await connection.open_stream() for _ in range(3)]
        for stream in (first, second, third):
            await stream.send_all(b"x")
        await trio.sleep(1)
        assert len(await without_greeting(peer)) == 6
        await first.reset()
        # One that was closed in order can still be aborted.
        await second.aclose()
        await second.reset()
        assert await peer.pending() == [RST, (FrameType.STREAM_RST, 2, None)]
        await third.aclose()
        await peer.send(NEGO_WITH_FIN)
        assert await peer.pending() == [(FrameType.STREAM_FIN, 3, None), (FrameType.STREAM_RST, 3, None)]


@pytest.mark.parametrize("names", ["reset", ""], ids=["with reset", "without"])
async def test_an_abort_waits_if_rst_would_be_an_end(autojump_clock: trio.testing.MockClock, names: str) -> None:
    async with raw_server(extending({"reset", "window"})) as (connection, peer):
        first, second, third = [await connection.open_stream() for _ in range(3)]
        for stream in (first, second, third):
            await stream.send_all(b"x")
        await trio.sleep(1)
        assert len(await without_greeting(peer)) == 6
        await first.reset(StreamCode.LIMIT)
        await trio.aclose_forcefully(second)
        # In order.
        await third.aclose()
        assert await peer.pending() == [(FrameType.STREAM_RST, 3, None)]
        await peer.send(nego_with(names))
        received = await peer.pending()
        if names:
            assert received == [
                (FrameType.STREAM_RESET, 1, (StreamCode.LIMIT, b"")),
                (FrameType.STREAM_RESET, 2, (StreamCode.GENERAL_FAILURE, b"")),
            ]
        else:
            assert received == [RST, (FrameType.STREAM_RST, 2, None)]


async def _abort_by_function(stream: trioanytls.Stream) -> None:
    await trioanytls.reset_stream(stream)


async def _abort_by_error(stream: trioanytls.Stream) -> None:
    with pytest.raises(OSError, match="the disk is full"):
        async with stream:
            raise OSError("the disk is full")


async def _abort_by_cancellation(stream: trioanytls.Stream) -> None:
    with trio.CancelScope() as scope:
        async with stream:
            scope.cancel()
            await trio.sleep_forever()


#: The ways of aborting a stream that close it in order if the peer could not tell.
aborting = pytest.mark.parametrize(
    "abort", [_abort_by_function, _abort_by_error, _abort_by_cancellation], ids=["function", "error", "cancellation"]
)
Abort = Callable[[trioanytls.Stream], Awaitable[None]]
GENERAL_FAILURE = (FrameType.STREAM_RESET, 1, (StreamCode.GENERAL_FAILURE, b""))


@aborting
@pytest.mark.parametrize(
    ("names", "end"),
    [("fin,reset", GENERAL_FAILURE), ("reset", GENERAL_FAILURE), ("fin", RST), ("window", RST), ("", RST)],
)
async def test_an_abort_for_which_the_peer_must_be_known_waits(
    autojump_clock: trio.testing.MockClock, abort: Abort, names: str, end: Frame
) -> None:
    async with raw_server(extending(ALL)) as (connection, peer):
        stream = await connection.open_stream()
        await stream.send_all(b"cut")
        await trio.sleep(1)
        assert await without_greeting(peer) == [OPEN, (FrameType.STREAM_DATA, 1, b"cut")]
        with trio.fail_after(0.001):
            await abort(stream)
        with pytest.raises(trio.ClosedResourceError):
            await stream.receive_some()
        assert connection.stats.open_streams == 0
        await trio.sleep(1)
        assert await peer.pending() == []
        await peer.send(nego_with(names))
        # Not STREAM_FIN, after which the data would be complete.
        assert await peer.pending() == [end]


@aborting
async def test_data_that_is_queued_is_sent_to_a_server_that_cannot_tell_an_abort(
    autojump_clock: trio.testing.MockClock, abort: Abort
) -> None:
    for names, received in (("window", [b"some", b"more"]), ("fin,window", [b"some"])):
        async with client_that_heard(b"", extending(ALL), streams=1) as end:
            go_on = end.block()
            (stream,) = end.streams
            await stream.send_all(b"some")
            await trio.testing.wait_all_tasks_blocked()
            await stream.send_all(b"more")
            # It was closed in order before.
            await trioanytls.Stream.aclose(stream)
            await trioanytls.reset_stream(stream)
            await abort(stream)
            await end.peer.send(nego_with(names))
            await trio.testing.wait_all_tasks_blocked()
            go_on.set()
            frames_received = await end.peer.pending()
            assert [frame[2] for frame in frames_received if frame[0] == FrameType.STREAM_DATA] == received
            assert frames_received[-1] == RST


@aborting
async def test_without_an_extension_that_tells_it_an_abort_does_not_wait(
    autojump_clock: trio.testing.MockClock, abort: Abort
) -> None:
    async with raw_server(extending({"window", "goaway"})) as (connection, peer):
        stream = await connection.open_stream()
        await stream.send_all(b"cut")
        await trio.sleep(1)
        assert len(await without_greeting(peer)) == 2
        await abort(stream)
        assert await peer.pending() == [RST]


@aborting
async def test_the_connection_does_not_wait_for_an_abort_and_its_end_is_no_end_of_the_stream(
    autojump_clock: trio.testing.MockClock, abort: Abort
) -> None:
    async with raw_server(extending(ALL)) as (connection, peer), trio.open_nursery() as nursery:
        stream = await connection.open_stream()
        await stream.send_all(b"cut")
        await abort(stream)
        nursery.start_soon(connection.aclose)
        await trio.testing.wait_all_tasks_blocked()
        assert (await without_greeting(peer))[2:] == [CLOSE]
        await peer.transport.aclose()


@aborting
async def test_our_own_server_meets_a_reset(autojump_clock: trio.testing.MockClock, abort: Abort) -> None:
    queue = StreamQueue()
    async with memory_connection_pair(queue, client_config=extending(ALL), server_config=extending(ALL)) as (client, _):
        stream = await client.open_stream()
        await stream.send_all(b"cut")
        assert client.extensions is None
        await abort(stream)
        far = await queue.get()
        assert await far.receive_some() == b"cut"
        with pytest.raises(trioanytls.StreamReset) as raised:
            await far.receive_some()
        assert raised.value.code is StreamCode.GENERAL_FAILURE


async def test_frames_of_the_server_for_it_are_dropped(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_server(extending(ALL)) as (connection, peer):
        async with await connection.open_stream() as stream:
            await stream.send_all(b"all")
        await trio.sleep(1)
        await without_greeting(peer)
        await peer.send(NEGO_WITH_FIN, frames.encode_ack(1), frames.encode_fin(1), frames.encode_rst(1))
        assert await peer.pending() == [FIN, RST]
        assert not connection.closed


async def test_a_stream_that_was_not_announced_needs_no_frames(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_server(extending(ALL, initial_flush_delay=0.01)) as (connection, peer):
        stream = await connection.open_stream()
        # Closed, and then aborted before OPEN was sent: OPEN is dropped.
        multiplexer, core = multiplexer_of(connection), core_of(stream)
        multiplexer.close_stream(core)
        multiplexer.reset_stream(core)
        await trio.sleep(1)
        assert await without_greeting(peer) == []
        await peer.send(NEGO_WITH_FIN)
        assert await peer.pending() == []


@pytest.mark.parametrize(
    ("nego", "end"),
    [(NEGO_WITH_FIN, [FIN, RST, CLOSE]), (SERVER_NEGO, [RST, CLOSE])],
    ids=["with fin", "without"],
)
async def test_the_connection_waits_with_its_end(
    autojump_clock: trio.testing.MockClock, nego: bytes, end: list[Frame]
) -> None:
    async with raw_server(extending(ALL)) as (connection, peer), trio.open_nursery() as nursery:
        async with await connection.open_stream() as stream:
            await stream.send_all(b"all")
        nursery.start_soon(connection.aclose)
        await trio.sleep(1)
        assert len(await without_greeting(peer)) == 2
        await peer.send(nego)
        assert await peer.pending() == end
        await peer.transport.aclose()


async def test_the_connection_does_not_wait_without_such_a_stream(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_server(extending(ALL)) as (connection, peer), trio.open_nursery() as nursery:
        stream = await connection.open_stream()
        await stream.send_all(b"all")
        nursery.start_soon(connection.aclose)
        await trio.testing.wait_all_tasks_blocked()
        assert connection.closed
        assert (await without_greeting(peer))[2:] == [CLOSE]
        await peer.transport.aclose()


async def test_if_the_negotiation_never_comes_the_end_is_that_of_version_1(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with (
        raw_server(extending(ALL, close_timeout=8)) as (connection, peer),
        trio.open_nursery() as nursery,
    ):
        async with await connection.open_stream() as stream:
            await stream.send_all(b"all")
        start = trio.current_time()
        nursery.start_soon(connection.aclose)
        await trio.sleep(5)
        assert (await without_greeting(peer))[2:] == [RST, CLOSE]
        # The peer does not close, either.
        await connection.wait_closed()
        assert trio.current_time() - start == pytest.approx(8)


async def test_a_cancelled_close_of_the_connection_does_not_wait(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_server(extending(ALL)) as (connection, _):
        async with await connection.open_stream() as stream:
            await stream.send_all(b"all")
        await trio.sleep(1)
        with trio.move_on_after(1):
            await connection.aclose()
        await connection.wait_closed()
        assert trio.current_time() == pytest.approx(2)


async def test_a_connection_that_breaks_meanwhile_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_server(extending(ALL)) as (connection, peer), trio.open_nursery() as nursery:
        async with await connection.open_stream() as stream:
            await stream.send_all(b"all")
        await trio.sleep(1)
        nursery.start_soon(connection.aclose)
        await trio.sleep(1)
        await peer.transport.aclose()
        await connection.wait_closed()
        assert trio.current_time() == pytest.approx(2)
