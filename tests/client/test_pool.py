"""The pool as a whole: cancellation at each await, and closing."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import PoolConfig
from trioanytls._client.pool import Client

from ..connection.test_cancellation import cancelled_at
from ..helpers.pool_harness import (
    ONE,
    SINGLE,
    Clock,
    MemoryServer,
    client_of,
    memory_server,
    pooled,
    settle,
    use,
    work,
)

# Cancellation


@contextlib.asynccontextmanager
async def nothing_there(client: Client, server: MemoryServer) -> AsyncIterator[None]:
    server.latency = 1
    yield


@contextlib.asynccontextmanager
async def failing_for_a_while(client: Client, server: MemoryServer) -> AsyncIterator[None]:
    server.kill()
    async with trio.open_nursery() as nursery:

        async def come_back() -> None:
            await trio.sleep(1)
            server.start()

        nursery.start_soon(come_back)
        yield


@contextlib.asynccontextmanager
async def an_idle_one(client: Client, server: MemoryServer) -> AsyncIterator[None]:
    await work(client)
    yield


@contextlib.asynccontextmanager
async def a_silent_one(client: Client, server: MemoryServer) -> AsyncIterator[None]:
    await work(client)
    await trio.sleep(10)
    yield


@contextlib.asynccontextmanager
async def a_dead_one(client: Client, server: MemoryServer) -> AsyncIterator[None]:
    await work(client)
    await trio.sleep(10)
    server.links[-1].swallows = True
    yield


@contextlib.asynccontextmanager
async def a_broken_one(client: Client, server: MemoryServer) -> AsyncIterator[None]:
    async with await client.open_stream() as stream:
        await use(stream)
        server.links[-1].far.receive_stream.close()
        await stream.send_all(b"into the void")
        await settle()
        yield


@contextlib.asynccontextmanager
async def a_full_one(client: Client, server: MemoryServer) -> AsyncIterator[None]:
    async with await client.open_stream() as stream:
        await use(stream)
        server.links[-1].held = trio.Event()
        for _ in range(2):
            with trio.move_on_after(0.1):
                await stream.send_all(bytes(5000))
        async with trio.open_nursery() as nursery:

            async def release() -> None:
                await trio.sleep(0.5)
                held = server.links[-1].held
                assert held is not None
                held.set()

            nursery.start_soon(release)
            yield


@contextlib.asynccontextmanager
async def others_before(client: Client, server: MemoryServer) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:

        async def hold() -> None:
            async with await client.open_stream() as stream:
                await use(stream)
                await trio.sleep(1)

        for _ in range(7):
            nursery.start_soon(hold)
        await settle()
        yield


SCENES = [
    nothing_there,
    failing_for_a_while,
    an_idle_one,
    a_silent_one,
    a_dead_one,
    a_broken_one,
    a_full_one,
    others_before,
]
Scene = Callable[[Client, MemoryServer], contextlib.AbstractAsyncContextManager[None]]


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
async def test_cancelled_at_each_await_it_loses_no_place(autojump_clock: Clock, scene: Scene) -> None:
    pool = PoolConfig(max_streams_per_connection=2, max_connections=2)
    config = trioanytls.Config(send_buffer_size=1000, initial_flush_delay=0)
    steps = 1
    while True:
        async with pooled(pool=pool, config=config) as (client, server):
            async with scene(client, server):
                reached = await cancelled_at(steps, functools.partial(work, client))
            # No lease was lost: all connections are full of streams again.
            async with trio.open_nursery() as nursery:
                streams = [await client.open_stream() for _ in range(4)]
                for stream in streams:
                    nursery.start_soon(use, stream)
            assert [pooled.leases for pooled in client._leases.connections if not pooled.retired] == [2, 2]
            for stream in streams:
                await stream.aclose()
            await settle()
            assert client.stats.idle == client.stats.connections
            assert (client.stats.waiting, client.stats.connecting) == (0, 0)
        if not reached:
            break
        steps += 1
    assert steps > 3


# Closing


async def test_closing_tells_everybody(autojump_clock: Clock) -> None:
    async with pooled(pool=ONE) as (client, server):
        stream = await client.open_stream()
        async with trio.open_nursery() as nursery:

            async def meet(operation: Callable[[], Awaitable[object]]) -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await operation()

            await use(stream)
            nursery.start_soon(meet, stream.receive_some)
            for _ in range(3):
                nursery.start_soon(meet, client.open_stream)
            await settle()
            assert client.stats.waiting == 3
            assert not client.closed
            await client.aclose()
        assert client.closed
        assert client.stats.connections_closed == {"closed": 1}
        with pytest.raises(trio.ClosedResourceError, match="this client is closed"):
            await client.open_stream()
        assert client.stats.streams_failed == 4
        await client.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await client.open_stream()
    assert server.open == []


async def test_closing_ends_a_call_that_waits_for_room_in_the_send_queue(autojump_clock: Clock) -> None:
    async with pooled(config=trioanytls.Config(send_buffer_size=1000)) as (client, server):
        stream = await client.open_stream()
        await use(stream)
        server.links[0].held = trio.Event()
        # The send queue accepts one frame beyond its size.
        for _ in range(2):
            with trio.move_on_after(1):
                await stream.send_all(bytes(5000))
        async with trio.open_nursery() as nursery:

            async def fail() -> None:
                with pytest.raises(trio.ClosedResourceError, match=r"^this client is closed$"):
                    await client.open_stream()

            nursery.start_soon(fail)
            await settle()
            assert client.stats.waiting == 0
            await client.aclose()
        assert client.stats.streams_failed == 1


async def test_a_connection_that_is_made_while_the_client_closes_is_closed(autojump_clock: Clock) -> None:
    async with memory_server() as server:

        async def dial(timeout: float) -> trio.abc.Stream:  # noqa: ASYNC109 - the signature of `Dial`
            link = await server.dial(timeout)
            # This cancels the attempt, which has its transport already.
            client._close()
            return link

        async with client_of(server, dial=dial) as client:
            with pytest.raises(trio.ClosedResourceError):
                await client.open_stream()
        assert client.stats.connections_closed == {"closed": 1}
        assert server.open == []


async def test_closing_sends_what_was_accepted(autojump_clock: Clock) -> None:
    received = bytearray()

    async def handler(stream: trioanytls.Stream) -> None:
        async for piece in stream:
            received.extend(piece)

    async with pooled(handler=handler) as (client, _):
        stream = await client.open_stream()
        await stream.send_all(bytes(100_000))
    await settle()
    assert len(received) == 100_000


async def test_two_may_close_at_once(autojump_clock: Clock) -> None:
    async with pooled(pool=SINGLE) as (client, _):
        for _ in range(3):
            await client.open_stream()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                for _ in range(3):
                    nursery.start_soon(client.aclose)
        assert client.stats.connections == 0


async def test_a_close_that_is_cancelled_goes_on_in_the_background(autojump_clock: Clock) -> None:
    async with pooled() as (client, server):
        await work(client)
        server.links[0].swallows = True
        with trio.move_on_after(1) as scope:
            await client.aclose()
        assert scope.cancelled_caught
        assert client.stats.connections == 1
        await trio.sleep(trioanytls.Config().close_timeout)
        assert client.stats.connections == 0


async def test_closing_ends_attempts_to_connect(autojump_clock: Clock) -> None:
    for options in ({"latency": 1000.0}, {"error": OSError("no")}):
        pool = PoolConfig(max_streams_per_connection=1, connect_timeout=2000, retry_delay=900, max_retry_delay=900)
        start = trio.current_time()
        async with trio.open_nursery() as nursery, pooled(pool=pool, **options) as (client, _):

            async def meet(client: Client = client) -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await client.open_stream()

            for _ in range(3):
                nursery.start_soon(meet)
            await trio.sleep(5)
            assert client.stats.connecting
        assert trio.current_time() - start == pytest.approx(5)


async def test_a_cancellation_from_outside_leaves_the_block_its_streams(autojump_clock: Clock) -> None:
    async with memory_server() as server, trio.open_nursery() as nursery:
        with trio.move_on_after(10) as scope:
            pool = PoolConfig(max_streams_per_connection=1, max_connections=1, min_idle=0)
            async with client_of(server, pool=pool) as client:
                stream = await client.open_stream()
                # A task outside of the cancelled scope gets its stream while the block ends.
                nursery.start_soon(work, client)
                try:
                    await trio.sleep_forever()
                finally:
                    with trio.CancelScope(shield=True):
                        await use(stream)
                        await stream.aclose()
                        await trio.sleep(20)
                        connection = await work(client)
                        await trio.sleep(30)
                        # The idle check runs until the end.
                        idle_was_closed = connection.closed
                        await work(client)
        assert scope.cancelled_caught
        assert idle_was_closed
        assert trio.current_time() < 10 + 50 + trioanytls.Config().close_timeout
        assert client.closed


async def test_what_the_block_raises_comes_out_as_it_is(autojump_clock: Clock) -> None:
    async with memory_server() as server:
        with pytest.raises(ZeroDivisionError):
            async with client_of(server):
                raise ZeroDivisionError


async def test_it_says_what_it_is(autojump_clock: Clock) -> None:
    async with pooled() as (client, _):
        assert repr(client) == "<trioanytls.Client of memory:1 connections=0>"
        await work(client)
        assert repr(client) == "<trioanytls.Client of memory:1 connections=1>"
    assert repr(client) == "<trioanytls.Client of memory:1 connections=0 closed>"
    assert "password" not in repr(client)


async def test_a_password_that_cannot_be_sent_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="surrogates"):
        async with trioanytls.open_client("localhost", 1, password="\udc80"):
            pass
