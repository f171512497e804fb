"""`Client.ping`: a PINGPONG over a connection that streams use as well."""

from __future__ import annotations

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import PoolConfig

from ..helpers.pool_harness import Clock, client_of, memory_server, work


async def test_the_connection_is_made_once_and_used_afterwards(autojump_clock: Clock) -> None:
    async with memory_server(latency=2.0) as server, client_of(server) as client:
        assert await client.ping() >= 0
        await work(client)
        assert await client.ping() >= 0
        assert len(server.dials) == 1
        assert client.stats.streams_opened == 1


async def test_it_takes_the_place_of_a_stream_and_gives_it_back(autojump_clock: Clock) -> None:
    one = PoolConfig(max_streams_per_connection=1, max_connections=1)
    async with memory_server() as server, client_of(server, pool=one) as client:
        stream = await client.open_stream()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.ping)
            await trio.testing.wait_all_tasks_blocked()
            assert client.stats.waiting == 1
            await stream.aclose()
        with trio.CancelScope() as scope:
            scope.cancel()
            await client.ping()
        assert scope.cancelled_caught
        await work(client)


async def test_a_server_that_does_not_know_the_password_closes_the_connection(autojump_clock: Clock) -> None:
    async with memory_server() as server, client_of(server, password="another") as client:
        with pytest.raises(trioanytls.ConnectionClosed):
            await client.ping()
        assert len(server.dials) == 1


async def test_without_a_server_it_fails_as_a_stream_does(autojump_clock: Clock) -> None:
    async with memory_server() as server, client_of(server) as client:
        server.kill()
        with pytest.raises(trioanytls.ConnectFailed, match="connection refused"):
            await client.ping()
        server.start()
        await client.ping()
        await client.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await client.ping()


async def test_a_silent_server_ends_it_with_the_connection(autojump_clock: Clock) -> None:
    async with memory_server() as server, client_of(server) as client:
        await client.ping()
        server.links[0].swallows = True
        with pytest.raises(trioanytls.ConnectionClosed, match="keepalive_timeout"):
            await client.ping()
