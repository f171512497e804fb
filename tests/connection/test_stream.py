"""Streams as `trio.abc.Stream`, over memory and over TLS on loopback."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Awaitable, Callable
from typing import assert_type

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import WireFormat
from trioanytls._protocol.formats import WIRE_FORMATS
from trioanytls.testing import StreamQueue, memory_connection_pair, memory_stream_pair

from ..conftest import Connecting, Serving
from ..helpers.extensions import ALL, NO_EXTENSIONS, extending

# Small, so that a clogged pair is clogged soon.
SMALL = trioanytls.Config(send_buffer_size=4096, receive_buffer_size=4096)

both_formats = pytest.mark.parametrize("protocol", WIRE_FORMATS)

Pairs = Callable[[], Awaitable[tuple[trioanytls.Stream, trioanytls.Stream]]]


async def clog(near: trioanytls.Stream) -> None:
    """Send until nothing more is accepted: the peer does not read, so its reader stops, so the writer here waits."""
    while True:
        await trio.testing.wait_all_tasks_blocked()
        with trio.move_on_after(0.01) as scope:
            await near.send_all(bytes(16384))
        if scope.cancelled_caught:
            return


Connect = Callable[[StreamQueue, bool], Awaitable[trioanytls.Connection]]


def maker(connect: Connect, *, clogged: bool) -> Pairs:
    """Return a maker of stream pairs for Trio's checks, each pair on a connection of its own."""

    async def make() -> tuple[trioanytls.Stream, trioanytls.Stream]:
        queue = StreamQueue()
        client = await connect(queue, clogged)
        near = await client.open_stream()
        far = await queue.get()
        if clogged:
            await clog(near)
            await clog(far)
        return near, far

    return make


@both_formats
async def test_streams_pass_trios_own_checks_in_memory(
    protocol: WireFormat, autojump_clock: trio.testing.MockClock
) -> None:
    async with contextlib.AsyncExitStack() as stack:

        async def connect(queue: StreamQueue, clogged: bool) -> trioanytls.Connection:
            transports = trio.testing.lockstep_stream_pair() if clogged else None
            client, _server = await stack.enter_async_context(
                memory_connection_pair(
                    queue, client_config=SMALL, server_config=SMALL, transports=transports, protocol=protocol
                )
            )
            return client

        await trio.testing.check_two_way_stream(maker(connect, clogged=False), maker(connect, clogged=True))


@both_formats
async def test_streams_pass_trios_own_checks_over_tls(
    protocol: WireFormat, serving: Serving, connecting: Connecting
) -> None:
    async with contextlib.AsyncExitStack() as stack:

        async def connect(queue: StreamQueue, clogged: bool) -> trioanytls.Connection:
            port = await stack.enter_async_context(serving(queue, config=SMALL, protocols=["anytls1", "legacy"]))
            return await stack.enter_async_context(connecting(port, config=SMALL, protocol=protocol))

        await trio.testing.check_two_way_stream(maker(connect, clogged=False), maker(connect, clogged=True))


async def test_what_is_sent_is_received_in_both_directions() -> None:
    async with memory_stream_pair() as (near, far):
        await near.send_all(b"ping")
        assert await far.receive_some() == b"ping"
        await far.send_all(b"pong")
        assert await near.receive_some() == b"pong"
        assert near.stream_id == far.stream_id == 1


async def test_a_sent_buffer_can_be_changed_at_once() -> None:
    async with memory_stream_pair() as (near, far):
        data = bytearray(b"before")
        await near.send_all(data)
        data[:] = b"after!"
        assert await far.receive_some() == b"before"


async def test_memoryviews_of_other_items_are_sent_as_their_bytes() -> None:
    async with memory_stream_pair() as (near, far):
        numbers = memoryview(bytes(range(16))).cast("I")
        await near.send_all(numbers)
        assert await far.receive_some() == bytes(range(16))


async def test_max_bytes_is_respected_and_nothing_is_lost() -> None:
    async with memory_stream_pair() as (near, far):
        data = os.urandom(1000)
        for start in range(0, 1000, 100):
            await near.send_all(data[start : start + 100])
        await trio.testing.wait_all_tasks_blocked()
        got = b""
        for size in (1, 99, 150, 3, 1000):
            piece = await far.receive_some(size)
            assert 1 <= len(piece) <= size
            got += piece
        while len(got) < 1000:
            got += await far.receive_some()
        assert got == data


async def test_small_messages_are_received_together() -> None:
    async with memory_stream_pair() as (near, far):
        for _ in range(10):
            await near.send_all(b"x")
        await trio.testing.wait_all_tasks_blocked()
        assert await far.receive_some() == b"x" * 10


async def test_iteration_ends_where_the_peer_closes() -> None:
    async with memory_stream_pair() as (near, far):
        await near.send_all(b"all of it")
        await near.aclose()
        pieces = assert_type([piece async for piece in far], list[bytes])
        assert b"".join(pieces) == b"all of it"
        assert {type(piece) for piece in pieces} == {bytes}


async def test_the_receiver_of_a_close_cannot_send() -> None:
    async with memory_stream_pair() as (near, far):
        await near.aclose()
        assert await far.receive_some() == b""
        # With `fin`, the end of the other direction follows, in a delivery of its own while writes are shaped.
        await far.wait_closed()
        with pytest.raises(trio.BrokenResourceError, match="peer has closed"):
            await far.send_all(b"too late")
        assert await far.receive_some() == b""


async def test_a_repr_tells_id_and_state() -> None:
    async with memory_stream_pair() as (near, far):
        assert repr(near) == "<trioanytls.Stream 1 open>"
        await near.aclose()
        assert "closed" in repr(near)
        assert await far.receive_some() == b""
        await far.wait_closed()
        assert "peer" in repr(far)


async def test_a_repr_tells_which_direction_has_ended() -> None:
    async with memory_stream_pair(client_config=extending(ALL), server_config=extending(ALL)) as (near, far):
        await near.send_eof()
        assert repr(near) == "<trioanytls.Stream 1 open, sending ended>"
        assert await far.receive_some() == b""
        assert repr(far) == "<trioanytls.Stream 1 open, receiving ended>"
        await far.send_eof()
        assert repr(far) == "<trioanytls.Stream 1 ended: both sides have ended the stream>"


async def test_wait_closed_returns_when_either_side_closes() -> None:
    async with memory_stream_pair() as (near, far):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.wait_closed)
            nursery.start_soon(far.wait_closed)
            await trio.testing.wait_all_tasks_blocked()
            await near.aclose()
        await near.wait_closed()


async def test_streams_are_half_closeable_streams_but_not_all_of_them_can() -> None:
    # The type says nothing about the peer. Without `fin`, a stream is as before.
    config = extending(NO_EXTENSIONS)
    async with memory_stream_pair(client_config=config) as (near, far):
        assert isinstance(near, trio.abc.HalfCloseableStream)
        await near.wait_acknowledged()
        assert near.can_half_close is far.can_half_close is False
        for end, other in ((near, far), (far, near)):
            with pytest.raises(trioanytls.NotSupported):
                await end.send_eof()
            await end.send_all(b"on")
            assert await other.receive_some() == b"on"


# Acceptance


async def test_the_client_sees_the_acknowledgement() -> None:
    async with memory_stream_pair() as (near, far):
        await near.wait_acknowledged()
        assert near.is_acknowledged
        await far.wait_acknowledged()


async def test_a_manual_server_acknowledges_when_its_handler_says_so() -> None:
    accept = trio.Event()

    async def handler(stream: trioanytls.Stream) -> None:
        await accept.wait()
        await stream.acknowledge()
        await stream.acknowledge()
        await stream.wait_closed()

    config = trioanytls.Config(acknowledge="manual")
    async with memory_connection_pair(handler, server_config=config) as (client, _):
        async with await client.open_stream() as stream, trio.open_nursery() as nursery:
            nursery.start_soon(stream.wait_acknowledged)
            await trio.testing.wait_all_tasks_blocked()
            assert not stream.is_acknowledged
            accept.set()
        assert client.stats.frames_received["STREAM_ACK"] == 1


async def test_a_refused_stream_is_told_from_an_ended_one() -> None:
    async def handler(stream: trioanytls.Stream) -> None:
        await stream.refuse()

    config = trioanytls.Config(acknowledge="manual")
    async with memory_connection_pair(handler, server_config=config) as (client, _):
        stream = await client.open_stream()
        for operation in (stream.wait_acknowledged, stream.receive_some):
            with pytest.raises(trioanytls.StreamRefused):
                await operation()
        with pytest.raises(trioanytls.StreamRefused):
            await stream.send_all(b"x")
        assert client.stats.frames_received.get("STREAM_ACK") is None


async def test_acceptance_is_the_servers_and_comes_before_refusal() -> None:
    async with memory_stream_pair() as (near, far):
        with pytest.raises(RuntimeError, match="only a server"):
            await near.acknowledge()
        with pytest.raises(RuntimeError, match="only a server"):
            await near.refuse()
        with pytest.raises(RuntimeError, match="accepted before"):
            await far.refuse()


async def test_waiting_for_the_acknowledgement_of_a_closed_stream_fails() -> None:
    config = trioanytls.Config(acknowledge="manual")
    async with memory_connection_pair(StreamQueue(), server_config=config) as (client, _):
        stream = await client.open_stream()
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await stream.wait_acknowledged()

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await stream.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await stream.wait_acknowledged()


# Invalid calls


async def test_a_second_task_and_a_closed_end_are_told_what_is_wrong(autojump_clock: trio.testing.MockClock) -> None:
    transports = trio.testing.lockstep_stream_pair()
    async with memory_connection_pair(
        StreamQueue(), client_config=SMALL, server_config=SMALL, transports=transports
    ) as (client, _):
        other, stream = await client.open_stream(), await client.open_stream()
        await clog(stream)
        with pytest.raises(ValueError, match=r"^max_bytes must be at least 1$"):
            await stream.receive_some(0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.receive_some)
            nursery.start_soon(stream.send_all, b"x")
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BusyResourceError, match=r"^another task is receiving from this stream$"):
                await stream.receive_some()
            for send in (lambda: stream.send_all(b"y"), stream.wait_send_all_might_not_block):
                with pytest.raises(trio.BusyResourceError, match=r"^another task is sending on this stream$"):
                    await send()  # type: ignore[no-untyped-call]  # of a table
            nursery.cancel_scope.cancel()
        await stream.aclose()
        await client.aclose()
        for one, text in ((stream, "this stream is closed"), (other, "the connection of this stream is closed")):
            for call in (one.receive_some, lambda one=one: one.send_all(b"x")):
                with pytest.raises(trio.ClosedResourceError, match=f"^{text}$"):
                    await call()
