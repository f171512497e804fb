"""The end of one direction of a stream, and of both (extensions: 3)."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls._connection.connection import multiplexer_of
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.frames import FrameType
from trioanytls.testing import StreamQueue, memory_connection_pair, memory_stream_pair

from ..conftest import Connecting, Serving
from ..helpers.connection_ends import ROLES, Role, extended_end
from ..helpers.extensions import ALL, extending
from ..helpers.raw_peer import SERVER_NEGO, RawPeer, data, raw_server
from .test_stream import Connect, maker

Clock = trio.testing.MockClock

NEGO_WITH_FIN = frames.encode_server_nego(b"v=1\next=fin\n")
FIN = (FrameType.STREAM_FIN, 1, None)
RST = (FrameType.STREAM_RST, 1, None)
#: Small, so that a clogged pair is clogged soon.
SMALL = extending(ALL, send_buffer_size=4096, receive_buffer_size=4096)

in_both_roles = pytest.mark.parametrize("role", ROLES)


def negotiated(connect: Connect) -> Connect:
    """Return a function that connects, and waits for the negotiation: Trio's checks send no data before `send_eof`."""

    async def connect_and_ping(queue: StreamQueue, clogged: bool) -> trioanytls.Connection:
        client = await connect(queue, clogged)
        await client.ping()
        return client

    return connect_and_ping


async def test_streams_pass_trios_check_in_memory(autojump_clock: Clock) -> None:
    async with contextlib.AsyncExitStack() as stack:

        async def connect(queue: StreamQueue, clogged: bool) -> trioanytls.Connection:
            transports = trio.testing.lockstep_stream_pair() if clogged else None
            pair = memory_connection_pair(queue, client_config=SMALL, server_config=SMALL, transports=transports)
            client, _server = await stack.enter_async_context(pair)
            return client

        make, make_clogged = (maker(negotiated(connect), clogged=clogged) for clogged in (False, True))
        await trio.testing.check_half_closeable_stream(make, make_clogged)


async def test_streams_pass_trios_check_over_tls(serving: Serving, connecting: Connecting) -> None:
    async with contextlib.AsyncExitStack() as stack:

        async def connect(queue: StreamQueue, clogged: bool) -> trioanytls.Connection:
            port = await stack.enter_async_context(serving(queue, config=SMALL))
            return await stack.enter_async_context(connecting(port, config=SMALL))

        make, make_clogged = (maker(negotiated(connect), clogged=clogged) for clogged in (False, True))
        await trio.testing.check_half_closeable_stream(make, make_clogged)


# Before the negotiation


async def test_the_end_waits_for_the_negotiation(autojump_clock: Clock) -> None:
    async with raw_server(extending(ALL)) as (client, peer), trio.open_nursery() as nursery:
        stream = await client.open_stream()
        await stream.send_all(b"all")
        assert stream.can_half_close is None
        nursery.start_soon(stream.send_eof)
        await trio.sleep(1)
        await peer.receive_auth()
        peer.know(FrameType.STREAM_FIN)
        assert FIN not in await peer.pending()
        with pytest.raises(trio.BusyResourceError):
            await stream.send_all(b"more")
        await peer.send(NEGO_WITH_FIN)
        assert (await peer.pending())[-1] == FIN
        assert stream.can_half_close
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"more")


async def test_the_wait_for_the_negotiation_can_be_cancelled(autojump_clock: Clock) -> None:
    async with raw_server(extending(ALL)) as (client, peer):
        stream = await client.open_stream()
        with trio.move_on_after(1) as scope:
            await stream.send_eof()
        assert scope.cancelled_caught
        await stream.send_all(b"on")
        await peer.receive_auth()
        peer.know(FrameType.STREAM_FIN)
        await peer.send(NEGO_WITH_FIN)
        assert (await peer.pending())[-1] == (FrameType.STREAM_DATA, 1, b"on")


async def test_after_the_negotiation_the_end_may_be_impossible(autojump_clock: Clock) -> None:
    async with raw_server(extending(ALL)) as (client, peer), trio.open_nursery() as nursery:
        stream = await client.open_stream()

        async def end() -> None:
            with pytest.raises(trioanytls.NotSupported):
                await stream.send_eof()
            # The stream is as before.
            await stream.send_all(b"on")

        nursery.start_soon(end)
        await peer.receive_auth()
        await trio.sleep(1)
        await peer.send(SERVER_NEGO)
        assert (await peer.pending())[-1] == (FrameType.STREAM_DATA, 1, b"on")
        assert stream.can_half_close is False


@contextlib.asynccontextmanager
async def ending_early(error: type[Exception]) -> AsyncIterator[tuple[trioanytls.Stream, RawPeer]]:
    """Yield a stream whose end waits for the negotiation, and its peer. The block must end the wait by this error."""
    async with raw_server(extending(ALL)) as (client, peer), trio.open_nursery() as nursery:
        stream = await client.open_stream()

        async def end() -> None:
            with pytest.raises(error):
                await stream.send_eof()

        nursery.start_soon(end)
        await trio.sleep(1)
        yield stream, peer


async def _close_stream(stream: trioanytls.Stream) -> None:
    await stream.aclose()


async def _close_connection(stream: trioanytls.Stream) -> None:
    await trio.aclose_forcefully(stream.connection)  # type: ignore[arg-type]  # a stand-in


@pytest.mark.parametrize("close", [_close_stream, _close_connection])
async def test_a_close_ends_the_wait_for_the_negotiation(
    autojump_clock: Clock, close: Callable[[trioanytls.Stream], Awaitable[None]]
) -> None:
    async with ending_early(trio.ClosedResourceError) as (stream, _):
        with trio.move_on_after(1):
            await close(stream)


async def test_the_loss_of_the_connection_ends_the_wait_for_the_negotiation(autojump_clock: Clock) -> None:
    async with ending_early(trioanytls.ConnectionClosed) as (_, peer):
        await peer.transport.aclose()


# Ends


@in_both_roles
async def test_an_end_is_sent_once_after_the_data_and_the_other_direction_goes_on(role: Role) -> None:
    async with extended_end(role, streams=1) as end:
        (stream,) = end.streams
        await stream.send_all(b"all")
        for _ in range(3):
            await stream.send_eof()
        assert [frame for frame in await end.peer.pending() if frame[1] == 1][-2:] == [
            (FrameType.STREAM_DATA, 1, b"all"),
            FIN,
        ]
        for _ in range(3):
            await end.peer.send(data(1, b"answer"))
            assert await stream.receive_some() == b"answer"
        assert not stream.closed


@in_both_roles
@pytest.mark.parametrize("first", ["here", "peer"])
async def test_after_both_ends_the_stream_is_gone_without_rst(role: Role, first: str) -> None:
    async with extended_end(role, streams=1) as end:
        (stream,) = end.streams
        if first == "here":
            await stream.send_eof()
        await end.peer.send(data(1, b"last"), frames.encode_fin(1))
        await trio.testing.wait_all_tasks_blocked()
        if first == "peer":
            assert not stream.closed
            await stream.send_all(b"answer")
            await stream.send_eof()
        assert stream.closed
        assert end.connection.stats.open_streams == 0
        windows = multiplexer_of(end.connection).flow_control.windows
        assert windows is not None
        assert windows.total == 0
        assert await stream.receive_some() == b"last"
        assert await stream.receive_some() == b""
        await stream.send_eof()
        with pytest.raises(trio.ClosedResourceError):
            await stream.send_all(b"x")
        await stream.aclose()
        await stream.reset()
        received = [frame for frame in await end.peer.pending() if frame[1] == 1]
        assert received[-1] == FIN
        assert RST not in received


@in_both_roles
async def test_data_that_is_queued_is_not_lost_if_the_end_of_the_peer_closes_the_stream(
    role: Role, autojump_clock: Clock
) -> None:
    async with extended_end(role, streams=1) as end:
        (stream,) = end.streams
        go_on = end.block()
        for _ in range(10):
            await stream.send_all(bytes(1000))
        await stream.send_eof()
        await end.peer.send(frames.encode_fin(1))
        await trio.testing.wait_all_tasks_blocked()
        assert stream.closed
        await stream.aclose()
        go_on.set()
        received = [frame for frame in await end.peer.pending() if frame[1] == 1]
        assert sum(len(frame[2]) for frame in received if isinstance(frame[2], bytes)) == 10_000
        assert received[-1] == FIN


@in_both_roles
async def test_a_cancelled_close_drops_what_is_queued_after_both_ends(role: Role, autojump_clock: Clock) -> None:
    async with extended_end(role, streams=1) as end:
        (stream,) = end.streams
        go_on = end.block()
        for _ in range(10):
            await stream.send_all(bytes(1000))
        await stream.send_eof()
        await end.peer.send(frames.encode_fin(1))
        await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(stream)
        go_on.set()
        received = [frame for frame in await end.peer.pending() if frame[1] == 1]
        # Not the end: it would make the data look complete.
        assert received[-1] == RST
        assert FIN not in received


@in_both_roles
async def test_an_orderly_close_is_both_frames_in_one_write(role: Role) -> None:
    async with extended_end(role, streams=1) as end:
        (stream,) = end.streams
        # Until nothing is shaped any more.
        for _ in range(20):
            await stream.send_all(b"x")
            await end.peer.pending()
        writes = end.connection.stats.writes
        await stream.aclose()
        assert await end.peer.pending() == [FIN, RST]
        assert end.connection.stats.writes == writes + 1


@in_both_roles
async def test_a_close_after_an_end_sends_what_is_missing(role: Role) -> None:
    async with extended_end(role, streams=3) as end:
        # The first one has ended here, the second one at the peer.
        await end.streams[0].send_eof()
        await end.peer.send(frames.encode_fin(2))
        await end.peer.pending()
        await end.streams[0].aclose()
        assert await end.peer.pending() == [RST]
        await end.streams[1].aclose()
        assert await end.peer.pending() == [(FrameType.STREAM_FIN, 2, None)]


@in_both_roles
@pytest.mark.parametrize("lost", ["RST", "STREAM_RESET", "transport", "CLOSE"])
async def test_data_that_was_ended_is_complete_whatever_comes_later(
    role: Role, lost: str, autojump_clock: Clock
) -> None:
    async with extended_end(role, extending(ALL, close_timeout=1), streams=1) as end:
        (stream,) = end.streams
        await end.peer.send(data(1, b"all"), frames.encode_fin(1))
        if lost == "transport":
            await end.peer.transport.aclose()
        else:
            later = {"RST": frames.encode_rst(1), "CLOSE": frames.encode_close(0)}
            await end.peer.send(later.get(lost, frames.encode_reset(1, 1, b"")))
        await trio.testing.wait_all_tasks_blocked()
        assert stream.closed
        assert await stream.receive_some() == b"all"
        for _ in range(2):
            assert await stream.receive_some() == b""
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")


@in_both_roles
@pytest.mark.parametrize("second", [data(1, b"x"), data(1, b""), frames.encode_fin(1)], ids=["DATA", "empty", "FIN"])
async def test_nothing_may_follow_the_end(role: Role, second: bytes, autojump_clock: Clock) -> None:
    async with extended_end(role, extending(ALL, close_timeout=1), streams=1) as end:
        await end.peer.send(data(1, b"all"), frames.encode_fin(1), second)
        assert (await end.peer.pending())[-1][0] == FrameType.ALERT
        assert await end.streams[0].receive_some() == b"all"
        assert await end.streams[0].receive_some() == b""


async def test_the_end_wakes_a_task_that_receives() -> None:
    async with memory_stream_pair(client_config=extending(ALL), server_config=extending(ALL)) as (near, far):
        for one, other in ((near, far), (far, near)):
            async with trio.open_nursery() as nursery:

                async def receive(stream: trioanytls.Stream = other) -> None:
                    assert await stream.receive_some() == b""

                nursery.start_soon(receive)
                await trio.testing.wait_all_tasks_blocked()
                await one.send_eof()
