"""A connection of the pool: its leases, its lifetime, and what becomes of streams when it breaks."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import PoolConfig

from ..helpers.pool_harness import (
    MANUAL,
    ONE,
    Clock,
    pooled,
    settle,
    use,
    work,
)

# Leases and lifetime


@pytest.mark.parametrize("closer", ["client", "server", "refusing server", "cancelled client"])
async def test_a_stream_gives_its_place_back_whoever_ends_it(autojump_clock: Clock, closer: str) -> None:
    async def handler(stream: trioanytls.Stream) -> None:
        if closer == "refusing server":
            await stream.refuse()
        elif closer == "server":
            await stream.send_all(b"x")
        else:
            await stream.wait_closed()

    async with pooled(handler=handler, pool=ONE) as (client, server):
        if closer == "refusing server":
            server.config = MANUAL
        for _ in range(3):
            stream = await client.open_stream()
            if closer == "client":
                await stream.aclose()
            elif closer == "cancelled client":
                await trio.aclose_forcefully(stream)
            elif closer == "server":
                assert [piece async for piece in stream] == [b"x"]
            else:
                with pytest.raises(trioanytls.StreamRefused):
                    await stream.receive_some()
            assert (client.stats.streams, client.stats.idle) == (0, 1)
        assert len(server.links) == 1


async def test_a_connection_has_a_lifetime(autojump_clock: Clock) -> None:
    async with pooled(pool=PoolConfig(max_lifetime=100, idle_timeout=math.inf)) as (client, _):
        old = await client.open_stream()
        await trio.sleep(99)
        assert await work(client) is old.connection
        await trio.sleep(1)
        new = await work(client)
        assert new is not old.connection
        # The old connection goes on while it has streams.
        await trio.sleep(50)
        await use(old)
        await old.aclose()
        await old.connection.wait_closed()
        await settle()
        assert client.stats.connections_closed == {"lifetime": 1}
        # A connection without streams is closed at the end of its lifetime.
        await trio.sleep(60)
        assert new.closed
        assert client.stats.connections_closed == {"lifetime": 2}


async def test_what_was_sent_before_an_idle_connection_is_closed_arrives(autojump_clock: Clock) -> None:
    received: list[bytes] = []

    async def handler(stream: trioanytls.Stream) -> None:
        received.append(b"".join([piece async for piece in stream]))

    async with pooled(handler=handler, pool=PoolConfig(min_idle=0)) as (client, server):
        async with await client.open_stream() as stream:
            await stream.send_all(bytes(200_000))
        await trio.sleep(100)
        assert received == [bytes(200_000)]
        assert server.open == []


# Broken connections


async def test_a_connection_that_broke_while_sending_is_not_chosen_again(autojump_clock: Clock) -> None:
    async with pooled() as (client, server):
        stream = await client.open_stream()
        await use(stream)
        server.links[0].far.receive_stream.close()
        await stream.send_all(b"into the void")
        await settle()
        # The connection is not closed, as data from the server may still arrive.
        assert not stream.connection.closed
        assert await work(client) is not stream.connection
        with pytest.raises(trioanytls.ConnectionClosed):
            await stream.receive_some()


async def test_a_stream_goes_to_another_connection_if_nothing_of_it_was_sent(autojump_clock: Clock) -> None:
    config = trioanytls.Config(send_buffer_size=1000)
    async with pooled(config=config) as (client, server):
        stream = await client.open_stream()
        await use(stream)
        link = server.links[0]
        link.held = trio.Event()
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                with trio.move_on_after(0.1):
                    await stream.send_all(bytes(5000))
            # This caller has a lease, and waits for room in the send queue.
            nursery.start_soon(work, client)
            await trio.sleep(0.5)
            assert client.stats.connections == 1
            link.held.set()
            link.lose()
        assert len(server.links) == 2
        assert client.stats.streams_opened == 2


async def test_a_stream_of_which_something_was_sent_fails(autojump_clock: Clock) -> None:
    async with pooled() as (client, server):
        stream = await client.open_stream()
        await settle()
        server.links[0].lose()
        with pytest.raises(trioanytls.ConnectionClosed):
            await stream.receive_some()
        assert len(server.links) == 1


async def test_a_timer_that_ends_a_stream_in_the_middle_of_a_cancellation_hands_its_place_on(
    autojump_clock: Clock,
) -> None:
    config = trioanytls.Config(stream_idle_timeout=10)
    async with pooled(pool=ONE, config=config) as (client, _):
        idle = await client.open_stream()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(work, client)
            # The application's deadline expires at the same moment, and its cancellation finds the idle timer expired.
            # No task is running at that moment.
            with trio.move_on_after(10), pytest.raises(trioanytls.StreamTimeout):
                await idle.receive_some()


async def test_a_connection_that_ends_wakes_all_who_wait_for_it(autojump_clock: Clock) -> None:
    async with pooled(pool=ONE) as (client, server):
        await client.open_stream()
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(work, client)
            await settle()
            server.links[0].lose()
        assert len(server.links) == 2
