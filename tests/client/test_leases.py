"""Leases: which connection carries a stream, the limits, and the order of callers that wait."""

from __future__ import annotations

import contextlib
import random

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import PoolConfig
from trioanytls._connection.connection import multiplexer_of
from trioanytls._connection.stream import core_of

from ..helpers.pool_harness import (
    ONE,
    SINGLE,
    Clock,
    pooled,
    settle,
    use,
    work,
)

# The choice of a connection


async def test_nothing_is_connected_before_the_first_stream(autojump_clock: Clock) -> None:
    async with pooled() as (client, server):
        await trio.sleep(1000)
        assert server.dials == []
        await work(client)
        assert len(server.dials) == 1


async def test_streams_share_a_connection_up_to_the_limit(autojump_clock: Clock) -> None:
    async with pooled(pool=PoolConfig(max_streams_per_connection=3)) as (client, _):
        streams = [await client.open_stream() for _ in range(7)]
        assert [len(set(map(id, (s.connection for s in streams[at : at + 3])))) for at in (0, 3, 6)] == [1, 1, 1]
        assert len({stream.connection for stream in streams}) == client.stats.connections == 3
        assert client.stats.streams == 7
        for stream in streams:
            await use(stream)


async def test_as_many_connections_are_made_as_those_who_wait_need(autojump_clock: Clock) -> None:
    async with pooled(pool=PoolConfig(max_streams_per_connection=10), latency=1) as (client, server):
        async with trio.open_nursery() as nursery:
            for _ in range(35):
                nursery.start_soon(client.open_stream)
            await settle()
            assert (client.stats.waiting, client.stats.connecting) == (35, 4)
        assert server.dials == [0.0] * 4


async def test_the_newest_connection_with_room_is_the_one(autojump_clock: Clock) -> None:
    async with pooled(pool=PoolConfig(max_streams_per_connection=2)) as (client, _):
        streams = [await client.open_stream() for _ in range(6)]
        connections = [stream.connection for stream in streams[::2]]
        for stream in (streams[2], streams[0], streams[4]):
            await stream.aclose()
        assert [(await client.open_stream()).connection for _ in range(3)] == connections[::-1]


async def test_a_thousand_streams_in_a_row_use_one_connection_where_it_carries_one_at_a_time(
    autojump_clock: Clock,
) -> None:
    async with pooled(pool=SINGLE) as (client, server):
        for _ in range(1000):
            await work(client)
        assert len(server.links) == 1
        assert client.stats.streams_opened == 1000


# Limits and the queue


async def test_there_are_never_more_connections_than_the_limit(autojump_clock: Clock) -> None:
    pool = PoolConfig(max_streams_per_connection=2, max_connections=3, open_timeout=1000)
    draw = random.Random(5)
    async with pooled(pool=pool, latency=0.5) as (client, server):

        async def caller() -> None:
            for _ in range(5):
                async with await client.open_stream() as stream:
                    await use(stream)
                    await trio.sleep(draw.uniform(0, 3))
                    if draw.random() < 0.1:
                        server.links[-1].lose()

        async def failing_caller() -> None:
            with contextlib.suppress(trioanytls.ConnectionClosed):
                await caller()

        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(failing_caller)
        assert server.peak == 3
        assert len(server.links) > 3


async def test_callers_beyond_the_limit_wait_in_order(autojump_clock: Clock) -> None:
    order: list[int] = []
    scopes = [trio.CancelScope() for _ in range(8)]

    async with pooled(pool=ONE) as (client, _):

        async def caller(number: int) -> None:
            with scopes[number]:
                async with await client.open_stream() as stream:
                    order.append(number)
                    await use(stream)

        async with trio.open_nursery() as nursery, await client.open_stream():
            for number in range(8):
                nursery.start_soon(caller, number)
                await settle()
            assert client.stats.waiting == 8
            for gone in (0, 3, 7):
                scopes[gone].cancel()
            await settle()
            assert client.stats.waiting == 5
        assert order == [1, 2, 4, 5, 6]


async def test_a_newcomer_does_not_overtake_those_who_wait(autojump_clock: Clock) -> None:
    order: list[str] = []
    async with pooled(pool=ONE) as (client, _):

        async def caller(name: str) -> None:
            async with await client.open_stream():
                order.append(name)

        async with trio.open_nursery() as nursery:
            held = await client.open_stream()
            nursery.start_soon(caller, "first")
            await settle()
            # There is room now, and it belongs to the first caller. A new caller comes after it.
            multiplexer_of(held.connection).close_stream(core_of(held))
            await caller("second")
        assert order == ["first", "second"]


async def test_who_finds_no_room_in_time_is_told(autojump_clock: Clock) -> None:
    async with pooled(pool=PoolConfig(max_streams_per_connection=1, max_connections=1, open_timeout=7)) as (client, _):
        await client.open_stream()
        start = trio.current_time()
        with pytest.raises(trioanytls.ConnectFailed, match=r"^no connection had room \(within 7 s\)$") as caught:
            await client.open_stream()
        assert trio.current_time() - start == pytest.approx(7)
        assert caught.value.__cause__ is None
        assert isinstance(caught.value, OSError)
        assert (client.stats.waiting, client.stats.streams_failed) == (0, 1)


async def test_the_time_to_open_includes_the_wait_for_room_on_the_connection(autojump_clock: Clock) -> None:
    config = trioanytls.Config(send_buffer_size=1000)
    async with pooled(pool=PoolConfig(open_timeout=7), config=config) as (client, server):
        stream = await client.open_stream()
        await use(stream)
        server.links[0].held = trio.Event()
        # The send queue accepts one frame beyond its size.
        for _ in range(2):
            with trio.move_on_after(1):
                await stream.send_all(bytes(5000))
        with pytest.raises(trioanytls.ConnectFailed, match="no connection had room"):
            await client.open_stream()
        server.links[0].held.set()
        await work(client)
