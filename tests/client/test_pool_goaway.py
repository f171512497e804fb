"""A pool whose server shuts down moves on to other connections, and its callers notice nothing (extensions: 5)."""

from __future__ import annotations

import logging
import random

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import CloseCode, Config, PoolConfig, StreamCode
from trioanytls._client.pool import Client
from trioanytls._connection.connection import Connection, multiplexer_of
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.extensions import EXTENSIONS, MAX_LAST_SERVED
from trioanytls._server.connection import ServerConnection
from trioanytls.testing import echo

from ..helpers.pool_harness import ONE, SINGLE, Clock, Link, client_of, memory_server, settle, use, work
from ..helpers.raw_peer import RawPeer, data

ALL = frozenset(EXTENSIONS)
EXTENDED = Config(extensions=ALL)
NEGO = frames.encode_server_nego(b"v=1\next=goaway,reset\n")


class Draining:
    """A handler that keeps the server's connections, so that they can be drained."""

    def __init__(self) -> None:
        self.connections: dict[Connection, None] = {}

    async def __call__(self, stream: trioanytls.Stream) -> None:
        self.connections[stream.connection] = None
        await echo(stream)

    def drain(self) -> None:
        """Drain all connections that have carried a stream."""
        for connection in self.connections:
            assert isinstance(connection, ServerConnection)
            connection.drain()


async def test_streams_go_on_and_new_ones_go_to_another_connection(autojump_clock: Clock) -> None:
    handler = Draining()
    async with memory_server(handler, config=EXTENDED) as server, client_of(server, config=EXTENDED) as client:
        held = await client.open_stream()
        await use(held)
        handler.drain()
        await settle()
        # The next connection was made before anyone has asked for it.
        assert len(server.links) == 2
        assert client.newest_connection is not held.connection
        assert (client.stats.connections, client.stats.idle) == (2, 1)
        assert await work(client) is client.newest_connection
        assert len(server.links) == 2
        await trio.sleep(10)
        await use(held)
        await held.aclose()
        await settle()
        assert client.stats.connections_closed == {"goaway": 1}
        assert client.stats.streams_failed == 0


async def test_a_connection_without_streams_is_replaced_too(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trioanytls.client")
    handler = Draining()
    async with memory_server(handler, config=EXTENDED) as server, client_of(server, config=EXTENDED) as client:
        connection = await work(client)
        handler.drain()
        await settle()
        assert connection.closed
        assert client.stats.connections_closed == {"goaway": 1}
        assert client.newest_connection is not None
        assert (client.stats.connections, client.stats.idle) == (1, 1)
        number = connection.connection_id
        assert [record.getMessage() for record in caplog.records if str(number) in record.getMessage()] == [
            f"memory:1: connection {number} gets no more streams: the server is shutting down",
            f"memory:1: connection {number} closed: the server is shutting down",
        ]


async def test_it_is_replaced_once_if_the_server_cannot_be_reached(autojump_clock: Clock) -> None:
    handler = Draining()
    async with memory_server(handler, config=EXTENDED) as server, client_of(server, config=EXTENDED) as client:
        await work(client)
        server.error = ConnectionRefusedError("connection refused")
        handler.drain()
        await trio.sleep(100)
        # One attempt, although nobody waits for it, and no others.
        assert len(server.dials) == 2
        server.error = None
        await work(client)


async def test_a_connection_that_was_of_no_use_is_not_replaced(autojump_clock: Clock) -> None:
    # A server that says on each new connection that it is shutting down.
    async with memory_server() as server:
        peers: list[RawPeer] = []

        async def dial(_timeout: float) -> Link:
            link = Link(*trio.testing.memory_stream_pair())
            server.links.append(link)
            peers.append(RawPeer(link.far))
            await peers[-1].send(NEGO, frames.encode_goaway(0))
            return link

        async with client_of(server, dial=dial, config=EXTENDED) as client:
            stream = await client.open_stream()
            with pytest.raises(trioanytls.StreamRefused) as caught:
                await stream.receive_some()
            assert caught.value.retryable
            await trio.sleep(100)
            # The stream's, and one to replace it.
            assert len(server.links) == 2
            for peer in peers:
                await peer.transport.aclose()


async def test_another_connection_is_used_if_there_is_one(autojump_clock: Clock) -> None:
    handler = Draining()
    async with (
        memory_server(handler, config=EXTENDED) as server,
        client_of(server, config=EXTENDED, pool=SINGLE) as client,
    ):
        first, second = await client.open_stream(), await client.open_stream()
        await use(first)
        await use(second)
        connection = next(iter(handler.connections))
        assert isinstance(connection, ServerConnection)
        connection.drain()
        await settle()
        assert len(server.links) == 2
        await first.aclose()
        await second.aclose()
        await work(client)
        assert len(server.links) == 2


async def test_without_reuse_no_connection_is_made_in_advance(autojump_clock: Clock) -> None:
    handler = Draining()
    async with (
        memory_server(handler, config=EXTENDED) as server,
        client_of(server, config=EXTENDED, pool=PoolConfig(reuse=False)) as client,
    ):
        held = await client.open_stream()
        await use(held)
        handler.drain()
        await settle()
        assert len(server.links) == 1
        await work(client)
        await use(held)
        await held.aclose()


async def test_a_pool_that_is_full_goes_on(autojump_clock: Clock) -> None:
    handler = Draining()
    async with (
        memory_server(handler, config=EXTENDED) as server,
        client_of(server, config=EXTENDED, pool=ONE) as client,
    ):
        held = await client.open_stream()
        await use(held)
        order: list[str] = []

        async def caller() -> None:
            await work(client)
            order.append("caller")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller)
            await settle()
            assert client.stats.waiting == 1
            handler.drain()
            await settle()
            assert order == ["caller"]
        # A connection whose server leaves does not count, but there are never more than twice as many.
        await use(held)
        other = await client.open_stream()
        await use(other)
        handler.drain()
        await settle()
        assert len(server.links) == 2
        with pytest.raises(trioanytls.ConnectFailed, match="no connection had room"):
            await client.open_stream()
        await held.aclose()
        await work(client)
        await other.aclose()
        # `client_of` expects one.
        assert server.peak == 2
        server.peak = 1


async def test_it_is_no_reserve_and_is_not_closed_for_others(autojump_clock: Clock) -> None:
    # A connection that is past its lifetime is used while no other can be made, but not if its server leaves.
    handler = Draining()
    pool = PoolConfig(max_connections=1, max_lifetime=10, open_timeout=20)
    async with (
        memory_server(handler, config=EXTENDED) as server,
        client_of(server, config=EXTENDED, pool=pool) as client,
    ):
        held = await client.open_stream()
        await use(held)
        await trio.sleep(11)
        server.error = ConnectionRefusedError("connection refused")
        assert await work(client) is held.connection
        handler.drain()
        await settle()
        assert client.newest_connection is None
        # For longer than the interval between two checks.
        with pytest.raises(trioanytls.ConnectFailed):
            await client.open_stream()
        await use(held)
        server.error = None
        assert await work(client) is not held.connection
        await use(held)
        await held.aclose()
        assert server.peak == 2
        server.peak = 1


async def test_a_caller_that_has_a_place_goes_to_another_connection(autojump_clock: Clock) -> None:
    config = Config(send_buffer_size=1000, extensions=ALL)
    handler = Draining()
    async with memory_server(handler, config=EXTENDED) as server, client_of(server, config=config) as client:
        held = await client.open_stream()
        await use(held)
        link = server.links[0]
        link.held = trio.Event()
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                with trio.move_on_after(0.1):
                    await held.send_all(bytes(5000))
            # This caller has a lease, and waits for room in the send queue.
            nursery.start_soon(work, client)
            await trio.sleep(0.5)
            handler.drain()
            await settle()
            assert len(server.links) == 2
            link.held.set()
        assert client.stats.streams_opened == 2
        assert client.stats.streams_failed == 0
        await held.aclose()


async def test_a_stream_that_was_not_seen_is_retryable_and_returns_its_place(autojump_clock: Clock) -> None:
    async with memory_server() as server:
        link = Link(*trio.testing.memory_stream_pair())
        peer = RawPeer(link.far)
        links = [link]

        async def dial(timeout: float) -> Link:  # noqa: ASYNC109 - the signature of `Dial`
            if not links:
                return await server.dial(timeout)
            server.links.append(links[0])
            return links.pop()

        async with client_of(server, dial=dial, config=EXTENDED) as client:
            streams = [await client.open_stream() for _ in range(4)]
            await peer.send(NEGO, frames.encode_ack(1), frames.encode_goaway(MAX_LAST_SERVED), frames.encode_pingpong())
            await settle()
            assert client.stats.streams == 4
            await peer.send(frames.encode_goaway(2))
            for stream in streams[2:]:
                with pytest.raises(trioanytls.StreamRefused, match="has not seen the stream") as caught:
                    await stream.receive_some()
                assert caught.value.retryable
                assert caught.value.code is StreamCode.SHUTTING_DOWN
            # The other two go on.
            assert client.stats.streams == 2
            await peer.send(data(1, b"one"), frames.encode_ack(2), data(2, b"two"))
            assert [await stream.receive_some() for stream in streams[:2]] == [b"one", b"two"]
            assert (await client.open_stream()).connection is not streams[0].connection
            for stream in streams[:2]:
                await stream.aclose()
            # The server does not answer CLOSE.
            await trio.sleep(client.config.close_timeout + 1)
            assert client.stats.connections_closed == {"goaway": 1}
            await peer.transport.aclose()


async def test_callers_notice_nothing_while_servers_are_replaced_in_turn(autojump_clock: Clock) -> None:
    handlers = [Draining() for _ in range(3)]
    rounds = 0

    async with memory_server(handlers[0], config=EXTENDED) as server:

        async def caller(client: Client) -> None:
            while rounds < 9:
                async with await client.open_stream() as stream:
                    await use(stream)
                    await trio.sleep(0.01)
                    await use(stream)

        async with client_of(server, config=EXTENDED, pool=PoolConfig(max_streams_per_connection=7)) as client:
            async with trio.open_nursery() as nursery:
                for _ in range(100):
                    nursery.start_soon(caller, client)
                while rounds < 9:
                    await trio.sleep(0.1)
                    leaving = handlers[rounds % 3]
                    server.handler = handlers[(rounds + 1) % 3]
                    leaving.drain()
                    leaving.connections.clear()
                    rounds += 1
            assert client.stats.streams_failed == 0
            assert client.stats.connections_failed == 0
            assert set(client.stats.connections_closed) == {"goaway"}


@pytest.mark.parametrize("seed", range(3))
async def test_an_hour_of_random_drains(autojump_clock: Clock, seed: int) -> None:
    draw = random.Random(seed)
    handler = Draining()
    pool = PoolConfig(max_streams_per_connection=3, max_connections=5, max_lifetime=600)
    done = 0

    async with (
        memory_server(handler, config=EXTENDED) as server,
        client_of(server, config=EXTENDED, pool=pool) as client,
    ):

        async def caller() -> None:
            nonlocal done
            with trio.move_on_after(draw.choice([1, 1000])):
                async with await client.open_stream() as stream:
                    await use(stream)
                    await trio.sleep(draw.choice([0, 0.1, 2, 25]))
                    await use(stream)
            done += 1

        async with trio.open_nursery() as nursery:
            for _ in range(600):
                server.latency = draw.choice([0, 0.2, 2])
                for _ in range(draw.choice([0, 1, 1, 4])):
                    nursery.start_soon(caller)
                await trio.sleep(draw.uniform(0, 12))
                if draw.random() < 0.2:
                    handler.drain()
                    handler.connections.clear()
        assert done > 500
        assert client.stats.streams_failed == 0
        assert client.stats.connections_failed == 0
        assert client.stats.connections_closed["goaway"] > 50
        assert set(client.stats.connections_closed) <= {"goaway", "idle", "lifetime"}
        # `client_of` expects no more than five.
        assert server.peak <= 10
        server.peak = 5


async def test_without_the_extension_a_stream_is_refused(autojump_clock: Clock) -> None:
    handler = Draining()
    config = Config(extensions=ALL - {"goaway"})
    async with memory_server(handler, config=EXTENDED) as server, client_of(server, config=config) as client:
        held = await client.open_stream()
        await use(held)
        handler.drain()
        await settle()
        stream = await client.open_stream()
        assert stream.connection is held.connection
        with pytest.raises(trioanytls.StreamRefused) as caught:
            await stream.receive_some()
        assert caught.value.code is StreamCode.SHUTTING_DOWN
        assert not caught.value.retryable
        await held.aclose()
        await settle()
        assert client.stats.connections_closed == {"lost": 1}


async def test_the_connection_says_why_no_stream_can_be_opened(autojump_clock: Clock) -> None:
    handler = Draining()
    async with memory_server(handler, config=EXTENDED) as server, client_of(server, config=EXTENDED) as client:
        held = await client.open_stream()
        await use(held)
        handler.drain()
        await settle()
        with pytest.raises(trioanytls.ConnectionClosed, match="accepts no more streams") as caught:
            await held.connection.open_stream()
        assert caught.value.code is CloseCode.SHUTTING_DOWN
        assert multiplexer_of(held.connection).last_served == held.stream_id
        await held.aclose()
