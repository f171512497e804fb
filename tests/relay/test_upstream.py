"""Upstream: connections that applications may have closed make room for others."""

from __future__ import annotations

import contextlib

import attrs
import pytest
import trio
import trio.testing

import trioanytls
from trioanytls.destination import Destination, encode
from trioanytls.relay.upstream import HALF_CLOSED_TIMEOUT, LEAST_SILENCE, Unreachable, Upstream

from ..helpers.pool_harness import Clock, client_of, memory_server

THERE = Destination("there.example", 443)
# Only the silence of applications ends connections in these tests.
PATIENT = trioanytls.Config(idle_timeout=1e6, stream_idle_timeout=1e6)
MANUAL = trioanytls.Config(idle_timeout=1e6, stream_idle_timeout=1e6, acknowledge="manual")
# The same without half-close.
WITHOUT_FIN = attrs.evolve(MANUAL, extensions={"goaway", "reset", "window"})


async def keep(stream: trioanytls.Stream) -> None:
    """Echo, and do not close before the client."""
    await stream.acknowledge()
    async for data in stream:
        await stream.send_all(data)


class Applications:
    """Local applications of a client with three streams."""

    def __init__(self, upstream: Upstream, nursery: trio.Nursery) -> None:
        self._upstream = upstream
        self._nursery = nursery

    async def open(self) -> trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]:
        """Open a connection that the relay has accepted.

        Raises:
          Unreachable: no stream is available.
        """
        application, near = trio.testing.memory_stream_pair()
        far = await self._upstream.open_stream(THERE)
        self._nursery.start_soon(self._upstream.relay, near, far)
        return application


async def works(
    application: trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream],
) -> bool:
    await application.send_all(b"hello")
    received = bytearray()
    while not received.endswith(b"hello"):
        data = await application.receive_some()
        if not data:
            return False
        received += data
    return True


async def is_reset(
    application: trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream],
) -> bool:
    # In memory, a reset looks like an end. There was none before.
    with contextlib.suppress(trio.BrokenResourceError), trio.fail_after(1):
        async for _ in application:
            pass
    return True


async def test_connections_closed_by_applications_make_room_for_others(autojump_clock: Clock) -> None:
    # An application that closes 1.7 connections a second would fill all 1,024 streams of a client in ten minutes.
    pool = trioanytls.PoolConfig(max_connections=1, max_streams_per_connection=3, open_timeout=1)
    async with (
        memory_server(keep, config=WITHOUT_FIN) as server,
        client_of(server, pool=pool, config=PATIENT) as client,
        trio.open_nursery() as nursery,
    ):
        applications = Applications(Upstream(client, capacity=3), nursery)
        open_ = await applications.open()
        first, second = await applications.open(), await applications.open()
        await first.send_eof()
        await trio.sleep(LEAST_SILENCE / 2)
        await second.send_eof()
        # Both may still wait for an answer.
        with pytest.raises(Unreachable):
            await applications.open()
        await trio.sleep(LEAST_SILENCE / 2)
        # Only the connection that has been silent for longest makes room.
        third = await applications.open()
        assert await is_reset(first)
        with pytest.raises(Unreachable):
            await applications.open()
        await trio.sleep(LEAST_SILENCE)
        fourth = await applications.open()
        assert await is_reset(second)
        # Open connections do not make room, even if silent.
        await trio.sleep(HALF_CLOSED_TIMEOUT * 2)
        with pytest.raises(Unreachable):
            await applications.open()
        assert [await works(one) for one in (open_, third, fourth)] == [True] * 3
        nursery.cancel_scope.cancel()


async def test_an_answer_in_progress_keeps_its_stream(autojump_clock: Clock) -> None:
    async def answer(stream: trioanytls.Stream) -> None:
        await stream.acknowledge()
        while True:
            await stream.send_all(b"more")
            await trio.sleep(LEAST_SILENCE - 1)

    pool = trioanytls.PoolConfig(max_connections=1, max_streams_per_connection=1, open_timeout=1)
    async with (
        memory_server(answer, config=MANUAL) as server,
        client_of(server, pool=pool, config=PATIENT) as client,
        trio.open_nursery() as nursery,
    ):
        applications = Applications(Upstream(client, capacity=1), nursery)
        application = await applications.open()
        await application.send_eof()
        for _ in range(20):
            assert await application.receive_some() == b"more"
            with pytest.raises(Unreachable):
                await applications.open()
        nursery.cancel_scope.cancel()


async def test_without_need_they_stay(autojump_clock: Clock) -> None:
    async with (
        memory_server(keep, config=WITHOUT_FIN) as server,
        client_of(server, config=PATIENT) as client,
        trio.open_nursery() as nursery,
    ):
        upstream = Upstream(client, capacity=2)
        applications = Applications(upstream, nursery)
        application = await applications.open()
        await application.send_eof()
        await trio.sleep(HALF_CLOSED_TIMEOUT - 1)
        await applications.open()
        assert client.stats.streams == 2
        await trio.sleep(2)
        assert client.stats.streams == 1
        assert len(upstream._half_closed) == 0
        nursery.cancel_scope.cancel()


async def test_with_half_close_the_destination_learns_of_the_end(autojump_clock: Clock) -> None:
    pool = trioanytls.PoolConfig(max_connections=1, max_streams_per_connection=1, open_timeout=1)
    async with (
        memory_server(keep, config=MANUAL) as server,
        client_of(server, pool=pool, config=PATIENT) as client,
        trio.open_nursery() as nursery,
    ):
        upstream = Upstream(client, capacity=1)
        applications = Applications(upstream, nursery)
        start = trio.current_time()
        for _ in range(3):
            application = await applications.open()
            await application.send_all(b"the last words")
            await application.send_eof()
            assert b"".join([bytes(piece) async for piece in application]) == encode(THERE) + b"the last words"
            # The stream ends with both its directions, and makes room.
            assert len(upstream._half_closed) == 0
        assert trio.current_time() - start < 1
        nursery.cancel_scope.cancel()


async def test_with_half_close_a_destination_that_ends_first_receives_the_rest(autojump_clock: Clock) -> None:
    received: list[bytes] = []

    async def greet(stream: trioanytls.Stream) -> None:
        await stream.acknowledge()
        await stream.send_all(b"go ahead")
        await stream.send_eof()
        received.extend([piece async for piece in stream])

    async with (
        memory_server(greet, config=MANUAL) as server,
        client_of(server, config=PATIENT) as client,
        trio.open_nursery() as nursery,
    ):
        application = await Applications(Upstream(client), nursery).open()
        assert await application.receive_some() == b"go ahead"
        assert await application.receive_some() == b""
        await trio.sleep(HALF_CLOSED_TIMEOUT - 1)
        await application.send_all(b"the request")
        await trio.sleep(HALF_CLOSED_TIMEOUT - 1)
        await application.send_all(b", and more")
        await application.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        assert b"".join(received) == encode(THERE) + b"the request, and more"
        assert client.stats.streams == 0
