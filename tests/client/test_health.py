"""The health of connections: idle ones are closed, and silent ones are verified before they are used."""

from __future__ import annotations

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import PoolConfig
from trioanytls._protocol.extensions import EXTENSIONS

from ..helpers.pool_harness import (
    Clock,
    Link,
    client_of,
    memory_server,
    pooled,
    use,
    work,
)
from ..helpers.raw_peer import SERVER_NEGO, RawPeer, data

# Idle connections


@pytest.mark.parametrize("min_idle", [0, 1, 3])
async def test_twenty_at_once_use_twenty_connections_whose_number_falls_to_what_is_kept(
    autojump_clock: Clock, min_idle: int
) -> None:
    pool = PoolConfig(max_streams_per_connection=1, min_idle=min_idle)
    async with pooled(pool=pool) as (client, server):
        async with trio.open_nursery() as nursery:

            async def hold() -> None:
                async with await client.open_stream() as stream:
                    await trio.sleep(1)
                    await use(stream)

            for _ in range(20):
                nursery.start_soon(hold)
        assert len(server.open) == client.stats.idle == 20
        newest = client._leases.connections[20 - min_idle :]
        await trio.sleep(client._limits.idle_timeout + client._limits.check_interval + 1)
        # The oldest were closed.
        assert client._leases.connections == newest
        assert client.stats.connections_closed == {"idle": 20 - min_idle}
        # The others are kept.
        await trio.sleep(1000)
        assert client._leases.connections == newest
        assert len(server.open) == min_idle


async def test_an_idle_connection_is_kept_for_as_long_as_it_says(autojump_clock: Clock) -> None:
    pool = PoolConfig(min_idle=0, idle_timeout=100, check_interval=1)
    async with pooled(pool=pool) as (client, server):
        await work(client)
        # Between two checks, so that it does not matter which of two tasks runs first.
        await trio.sleep(50.5)
        await work(client)
        await trio.sleep(99)
        assert len(server.open) == 1
        await trio.sleep(2)
        assert len(server.open) == 0
        # A connection with an open stream is not idle, even if it is silent.
        held = await client.open_stream()
        await trio.sleep(150)
        assert held.connection in [pooled.connection for pooled in client._leases.connections]


# Verification


async def test_a_connection_that_has_been_silent_is_asked_first(autojump_clock: Clock) -> None:
    async with pooled(pool=PoolConfig(verify_after=1)) as (client, _):
        connection = await work(client)
        await trio.sleep(0.9)
        assert await work(client) is connection
        assert client.stats.verified == 0
        await trio.sleep(1.1)
        assert await work(client) is connection
        assert client.stats.verified == 1
        assert connection.stats.frames_sent["PINGPONG"] == 1


async def test_one_that_does_not_answer_is_replaced(autojump_clock: Clock) -> None:
    async with pooled(pool=PoolConfig(verify_timeout=2)) as (client, server):
        held = await client.open_stream()
        await use(held)
        await trio.sleep(10)
        server.links[0].swallows = True
        connection = await work(client)
        assert trio.current_time() == pytest.approx(12)
        assert connection is not held.connection
        assert client.stats.connections_closed == {"silent": 1}
        with pytest.raises(trioanytls.ConnectionClosed, match="the server is silent: it did not answer a PINGPONG"):
            await held.receive_some()


async def test_many_callers_ask_once(autojump_clock: Clock) -> None:
    async with pooled() as (client, server):
        await work(client)
        await trio.sleep(10)
        server.links[0].swallows = True
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(work, client)
        assert trio.current_time() == pytest.approx(13)
        assert client.stats.verified == 1
        assert len(server.links) == 2


async def test_the_question_is_within_the_time_to_open(autojump_clock: Clock) -> None:
    async with pooled(pool=PoolConfig(open_timeout=2, verify_timeout=3)) as (client, server):
        connection = await work(client)
        await trio.sleep(10)
        server.links[0].swallows = True
        with pytest.raises(trioanytls.ConnectFailed):
            await client.open_stream()
        assert trio.current_time() == pytest.approx(12)
        # The connection was not abandoned, as there was too little time to verify it.
        assert not connection.closed
        assert client.stats.idle == 1


async def test_one_whose_answer_is_behind_much_else_is_alive(autojump_clock: Clock) -> None:
    async with memory_server() as server:
        link = Link(*trio.testing.memory_stream_pair())
        server.links.append(link)
        peer = RawPeer(link.far)

        async def dial(_timeout: float) -> Link:
            return link

        async with client_of(server, dial=dial) as client:
            stream = await client.open_stream()
            await peer.send(SERVER_NEGO)
            await trio.sleep(10)
            async with trio.open_nursery() as nursery:

                async def chatter() -> None:
                    await trio.sleep(1)
                    await peer.send(data(1, b"much else"))

                nursery.start_soon(chatter)
                other = await client.open_stream()
            assert other.connection is stream.connection
            assert trio.current_time() == pytest.approx(13)
            link.lose()


async def test_one_that_we_do_not_read_is_not_asked(autojump_clock: Clock) -> None:
    config = trioanytls.Config(
        receive_buffer_size=1000, stall_timeout=1000, stream_idle_timeout=10_000, extensions=frozenset()
    )
    async with pooled(config=config, pool=PoolConfig(acknowledge_timeout=500)) as (client, _):
        flood = await client.open_stream()
        await flood.send_all(bytes(10_000))
        await trio.sleep(100)
        start = trio.current_time()
        other = await client.open_stream()
        assert trio.current_time() == start
        assert other.connection is flood.connection
        received = 0
        while received < 10_000:
            received += len(await flood.receive_some())
        await use(other)
        assert client.stats.verified == 0


async def test_with_flow_control_it_is_asked_and_answers_beside_a_stream_that_is_not_read(
    autojump_clock: Clock,
) -> None:
    config = trioanytls.Config(
        receive_buffer_size=1000, stall_timeout=1000, stream_idle_timeout=10_000, extensions=EXTENSIONS
    )
    async with pooled(config=config, pool=PoolConfig(acknowledge_timeout=500)) as (client, server):
        server.config = trioanytls.Config(extensions=EXTENSIONS)
        flood = await client.open_stream()
        await flood.send_all(bytes(100_000))
        await trio.sleep(100)
        start = trio.current_time()
        other = await client.open_stream()
        assert other.connection is flood.connection
        assert client.stats.verified == 1
        # The data that was not read holds nothing up.
        await use(other)
        assert trio.current_time() == start
        received = 0
        while received < 100_000:
            received += len(await flood.receive_some())


async def test_those_that_are_kept_are_asked_now_and_then(autojump_clock: Clock) -> None:
    pool = PoolConfig(min_idle=2, idle_timeout=20, check_interval=5, max_streams_per_connection=1)
    async with pooled(pool=pool) as (client, server):
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(work, client)
        await trio.sleep(1000)
        assert len(server.open) == 2
        assert client.stats.verified > 60
        server.links[0].swallows = True
        await trio.sleep(20 + 5 + 3 + 1)
        assert server.open == server.links[1:]
        assert client.stats.connections_closed == {"silent": 1}
