"""A client that keeps connections: which one carries a stream, what is done about dead ones; and nothing is lost."""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import PoolConfig
from trioanytls._client.pool import Client
from trioanytls._connection.connection import multiplexer_of
from trioanytls.testing import StreamQueue

from ..connection.test_cancellation import cancelled_at
from ..helpers.pool_harness import Clock, Link, MemoryServer, client_of, memory_server, use, work
from ..helpers.raw_peer import SERVER_NEGO, RawPeer, data

#: One stream after the other on each connection.
SINGLE = PoolConfig(max_streams_per_connection=1)
#: And one connection.
ONE = PoolConfig(max_streams_per_connection=1, max_connections=1)


@contextlib.asynccontextmanager
async def pooled(
    *,
    pool: PoolConfig | None = None,
    config: trioanytls.Config | None = None,
    password: str = "password",
    **options: Any,
) -> AsyncIterator[tuple[Client, MemoryServer]]:
    """A client and its server."""
    async with (
        memory_server(**options) as server,
        client_of(server, pool=pool, config=config, password=password) as client,
    ):
        yield client, server


async def settle() -> None:
    """Let everybody do what can be done without more time."""
    await trio.testing.wait_all_tasks_blocked()


async def never_accept(stream: trioanytls.Stream) -> None:
    """A handler on a server with `acknowledge="manual"`: it sends back what it receives, and does not accept."""
    async for piece in stream:
        await stream.send_all(piece)


MANUAL = trioanytls.Config(acknowledge="manual")


# Which connection carries a stream


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
        await trio.sleep(pool.idle_timeout + pool.check_interval + 1)
        # The oldest have gone.
        assert client._leases.connections == newest
        assert client.stats.connections_closed == {"idle": 20 - min_idle}
        # And what is kept is kept.
        await trio.sleep(1000)
        assert client._leases.connections == newest
        assert len(server.open) == min_idle


async def test_an_idle_connection_is_kept_for_as_long_as_it_says(autojump_clock: Clock) -> None:
    pool = PoolConfig(min_idle=0, idle_timeout=100, check_interval=1)
    async with pooled(pool=pool) as (client, server):
        await work(client)
        # Between two of the checks, so that it does not matter which of two tasks is first.
        await trio.sleep(50.5)
        await work(client)
        await trio.sleep(99)
        assert len(server.open) == 1
        await trio.sleep(2)
        assert len(server.open) == 0
        # A stream that stays open is not idle, however silent it is.
        held = await client.open_stream()
        await trio.sleep(150)
        assert held.connection in [pooled.connection for pooled in client._leases.connections]


async def test_a_connection_has_a_lifetime(autojump_clock: Clock) -> None:
    async with pooled(pool=PoolConfig(max_lifetime=100, idle_timeout=math.inf)) as (client, _):
        old = await client.open_stream()
        await trio.sleep(99)
        assert await work(client) is old.connection
        await trio.sleep(1)
        new = await work(client)
        assert new is not old.connection
        # It goes on for as long as it has streams.
        await trio.sleep(50)
        await use(old)
        await old.aclose()
        await old.connection.wait_closed()
        await settle()
        assert client.stats.connections_closed == {"lifetime": 1}
        # One without streams goes when its time has come.
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


# Limits, and the line


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
            # The place is free, and promised; whoever asks now comes behind.
            multiplexer_of(held.connection).close_stream(held, drop=False)
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
        # It accepts one frame beyond what it holds.
        for _ in range(2):
            with trio.move_on_after(1):
                await stream.send_all(bytes(5000))
        with pytest.raises(trioanytls.ConnectFailed, match="no connection had room"):
            await client.open_stream()
        server.links[0].held.set()
        await work(client)


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
                server.links[-1].held.set()

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
            # All places are there, and each carries a stream.
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


async def test_an_attempt_goes_on_for_those_who_still_wait(autojump_clock: Clock) -> None:
    async with pooled(latency=5) as (client, server):
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(3):
                nursery.start_soon(work, client)
                await client.open_stream()
        assert trio.current_time() == pytest.approx(5)
        assert len(server.dials) == 1


async def test_a_connection_that_nobody_waits_for_any_more_serves_the_next_one(autojump_clock: Clock) -> None:
    async with pooled(latency=5) as (client, server):
        with trio.move_on_after(3):
            await client.open_stream()
        await trio.sleep(3)
        assert client.stats.idle == 1
        await work(client)
        assert len(server.dials) == 1


async def test_attempts_end_when_nobody_waits(autojump_clock: Clock) -> None:
    async with pooled(error=OSError("no")) as (client, server):
        with trio.move_on_after(3):
            await client.open_stream()
        attempts = len(server.dials)
        assert attempts > 3
        await trio.sleep(100)
        assert len(server.dials) == attempts
        assert client.stats.connecting == 0


# Dead connections: asked before they are used


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
        # Too little time for a verdict.
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
    config = trioanytls.Config(receive_buffer_size=1000, stall_timeout=1000, stream_idle_timeout=10_000)
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


# Dead connections: streams that the server does not accept


async def test_a_stream_that_is_not_accepted_fails_alone_while_the_connection_lives(autojump_clock: Clock) -> None:
    pool = PoolConfig(acknowledge_timeout=8)
    async with pooled(handler=never_accept, pool=pool) as (client, server):
        server.config = MANUAL
        other = await client.open_stream()
        server.config = trioanytls.Config()
        connection = other.connection
        await trio.sleep(5)
        late = await client.open_stream()
        assert late.connection is connection
        await trio.sleep(1)
        await use(late)
        with pytest.raises(trioanytls.StreamTimeout, match="did not accept the stream within acknowledge_timeout"):
            await other.receive_some()
        assert trio.current_time() == pytest.approx(8)
        # The other one was not accepted either, but later.
        await use(late)
        with pytest.raises(trioanytls.StreamTimeout):
            while True:
                await trio.sleep(0.5)
                await use(late)
        assert trio.current_time() == pytest.approx(13, abs=0.5)
        assert not connection.closed
        assert client.stats.streams_unacknowledged == 2
        assert await work(client) is connection


async def test_a_silent_connection_is_given_up_with_all_its_streams(autojump_clock: Clock) -> None:
    pool = PoolConfig(acknowledge_timeout=8, verify_after=1000)
    async with pooled(pool=pool) as (client, server):
        accepted = await client.open_stream()
        await use(accepted)
        await trio.sleep(1)
        server.links[0].swallows = True
        streams = [await client.open_stream() for _ in range(5)]
        async with trio.open_nursery() as nursery:

            async def meet(stream: trioanytls.Stream) -> None:
                with pytest.raises(trioanytls.ConnectionClosed, match="neither accepted nor refused a stream"):
                    await stream.receive_some()
                assert trio.current_time() == pytest.approx(9)

            for stream in [accepted, *streams]:
                nursery.start_soon(meet, stream)
        await settle()
        assert client.stats.connections_closed == {"silent": 1}
        # And the client goes on, also with looking after such streams.
        await work(client)
        server.links[-1].swallows = True
        with pytest.raises(trioanytls.ConnectionClosed, match="neither accepted nor refused"):
            await (await client.open_stream()).receive_some()
        await settle()
        assert client.stats.connections_closed == {"silent": 2}


async def test_the_time_to_accept_stands_still_while_our_own_application_does_not_read(autojump_clock: Clock) -> None:
    config = trioanytls.Config(receive_buffer_size=1000, stall_timeout=1000)
    queue = StreamQueue()
    pool = PoolConfig(acknowledge_timeout=8)
    async with pooled(handler=queue, config=config, pool=pool) as (client, server):
        server.config = MANUAL
        flood = await client.open_stream()
        far = await queue.get()
        await far.acknowledge()
        await far.send_all(bytes(10_000))
        await trio.sleep(5)
        waiting, late = await client.open_stream(), await client.open_stream()
        far_waiting = await queue.get()
        await far_waiting.acknowledge()
        # The acceptance has come, behind what nobody reads.
        await trio.sleep(60)
        assert not waiting.closed
        received = 0
        while received < 10_000:
            received += len(await flood.receive_some())
        await waiting.wait_acknowledged()
        # From here on, the other one has its time.
        start = trio.current_time()
        with pytest.raises(trioanytls.StreamTimeout):
            await late.receive_some()
        assert trio.current_time() - start == pytest.approx(8)
        for stream in (far, far_waiting, await queue.get()):
            await stream.aclose()


async def test_without_a_time_to_accept_streams_wait_for_ever(autojump_clock: Clock) -> None:
    config = trioanytls.Config(stream_idle_timeout=math.inf, keepalive_interval=100)
    async with pooled(handler=never_accept, config=config, pool=PoolConfig(acknowledge_timeout=math.inf)) as (
        client,
        s,
    ):
        s.config = trioanytls.Config(acknowledge="manual", stream_idle_timeout=math.inf)
        stream = await client.open_stream()
        assert not client._acknowledgements.pending
        await trio.sleep(10_000)
        await use(stream)


async def test_a_stream_that_was_closed_is_not_waited_for(autojump_clock: Clock) -> None:
    async with pooled(handler=never_accept) as (client, server):
        server.config = MANUAL
        for _ in range(3):
            await work(client)
        assert not client._acknowledgements.pending
        await trio.sleep(100)
        assert client.stats.streams_unacknowledged == 0


# Attempts to connect


@pytest.fixture
def full_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """No jitter."""
    monkeypatch.setattr(random, "uniform", lambda _low, high: high)


async def test_pauses_double_up_to_a_limit(autojump_clock: Clock, full_pauses: None) -> None:
    pool = PoolConfig(retry_delay=0.5, max_retry_delay=5, open_timeout=20)
    async with pooled(pool=pool, error=ConnectionRefusedError("nobody listens")) as (client, server):
        message = r"^no connection could be made: nobody listens \(within 20 s\)$"
        with pytest.raises(trioanytls.ConnectFailed, match=message) as caught:
            await client.open_stream()
        assert caught.value.__cause__ is server.error
        assert trio.current_time() == pytest.approx(20)
        assert server.dials == pytest.approx([0, 0.5, 1.5, 3.5, 7.5, 12.5, 17.5])
        assert client.stats.connections_failed == 7


async def test_each_pause_is_shortened_by_up_to_a_half(autojump_clock: Clock) -> None:
    pool = PoolConfig(retry_delay=1, max_retry_delay=1, open_timeout=1000)
    async with pooled(pool=pool, error=OSError("no")) as (client, server):
        with pytest.raises(trioanytls.ConnectFailed):
            await client.open_stream()
    pauses = [later - sooner for sooner, later in zip(server.dials, server.dials[1:], strict=False)]
    assert min(pauses) >= 0.5 - 1e-9
    assert max(pauses) <= 1 + 1e-9
    # Over more than a thousand of them, and nearly everywhere in between.
    assert max(pauses) - min(pauses) > 0.4
    assert sum(pauses) / len(pauses) == pytest.approx(0.75, abs=0.05)


async def test_pauses_begin_anew_when_the_server_has_answered(autojump_clock: Clock, full_pauses: None) -> None:
    async with pooled(pool=PoolConfig(retry_delay=0.5, max_retry_delay=100)) as (client, server):
        for _ in range(3):
            server.kill()
            began = len(server.dials)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(work, client)
                await trio.sleep(3)
                server.start()
            assert [at - server.dials[began] for at in server.dials[began:]] == pytest.approx([0, 0.5, 1.5, 3.5])
            await trio.sleep(1)


async def test_one_attempt_at_a_time_however_many_wait(autojump_clock: Clock, full_pauses: None) -> None:
    pool = PoolConfig(max_streams_per_connection=1, retry_delay=1, max_retry_delay=100)
    async with pooled(pool=pool, error=OSError("no"), latency=0.01) as (client, server):
        failed = 0

        async def caller() -> None:
            nonlocal failed
            with pytest.raises(trioanytls.ConnectFailed):
                await client.open_stream()
            failed += 1

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(caller)
            await trio.sleep(0.5)
            # What was under way when nobody knew.
            assert len(server.dials) == 20
            assert client.stats.connecting == 1
        assert failed == 20
        # All that was one failure, and not twenty.
        assert server.dials[20:] == pytest.approx([1, 3, 7, 15], abs=0.1)


async def test_work_goes_on_within_a_second_when_the_server_comes_back(autojump_clock: Clock) -> None:
    for pool in (PoolConfig(), PoolConfig(max_streams_per_connection=1, max_connections=50)):
        async with pooled(pool=pool, latency=0.01) as (client, server):
            await work(client)
            server.kill()
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(work, client)
                await trio.sleep(13.2)
                server.start()
                back = trio.current_time()
            assert trio.current_time() - back < 1


async def test_all_go_on_as_soon_as_the_server_has_answered_one(autojump_clock: Clock, full_pauses: None) -> None:
    pool = PoolConfig(max_streams_per_connection=1, retry_delay=10, max_retry_delay=10)
    async with pooled(pool=pool, error=OSError("no"), latency=0.01) as (client, server):
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(client.open_stream)
            await trio.sleep(5)
            server.start()
        assert trio.current_time() == pytest.approx(10, abs=0.1)
        assert client.stats.streams == 20


async def test_an_attempt_has_a_time_of_its_own(autojump_clock: Clock) -> None:
    pool = PoolConfig(connect_timeout=4, open_timeout=9)
    async with pooled(pool=pool, latency=math.inf) as (client, server):
        with pytest.raises(trioanytls.ConnectFailed, match="connecting took longer than 4 s") as caught:
            await client.open_stream()
        assert type(caught.value.__cause__) is TimeoutError
        assert len(server.dials) == 3


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (trioanytls.CertificateError("not the one that was meant"), logging.INFO),
        (UnicodeError("not the one that was meant"), logging.ERROR),
    ],
)
async def test_what_can_have_no_other_outcome_is_not_tried_again(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture, error: Exception, level: int
) -> None:
    caplog.set_level(logging.INFO, "trioanytls.client")
    async with pooled(error=error, latency=1) as (client, server):

        async def caller() -> None:
            with pytest.raises(trioanytls.ConnectFailed, match=r"^not the one that was meant$") as caught:
                await client.open_stream()
            assert caught.value.__cause__ is error

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(caller)
        assert trio.current_time() == pytest.approx(1)
        assert len(server.dials) == 1
        # Whoever asks later has an attempt of its own, at once: it may have been mended.
        await caller()
        assert server.dials == pytest.approx([0, 1])
        server.start()
        await work(client)
    record = next(record for record in caplog.records if "attempt 1 to connect failed: not the" in record.message)
    assert (record.levelno, bool(record.exc_info)) == (level, level == logging.ERROR)


# Servers that do not answer


async def test_a_wrong_password_ends_each_stream_and_nothing_goes_hot(autojump_clock: Clock) -> None:
    async with pooled(password="wrong") as (client, server):
        for operation in (trioanytls.Stream.receive_some, trioanytls.Stream.wait_acknowledged):
            stream = await client.open_stream()
            await stream.send_all(b"x")
            with pytest.raises(trioanytls.ConnectionClosed):
                await operation(stream)
            with pytest.raises(trioanytls.ConnectionClosed):
                await stream.send_all(b"x")
        assert len(server.links) == 2
        # Nobody asks: nothing is done.
        await trio.sleep(1000)
        assert len(server.links) == 2


async def test_a_wrong_password_as_its_stream_meets_it(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "trioanytls.client")
    async with pooled(password="wrong") as (client, _):
        stream = await client.open_stream()
        with pytest.raises(trioanytls.ConnectionClosed, match="without a CLOSE frame") as caught:
            await stream.receive_some()
        assert caught.value.code is None
    assert "the server did not answer" in caplog.text
    assert "it may not know the password" in caplog.text
    assert "wrong" not in caplog.text


@pytest.mark.parametrize("password", ["password", "wrong"])
async def test_an_application_that_tries_again_and_again_is_slowed_down(
    autojump_clock: Clock, full_pauses: None, password: str
) -> None:
    async with pooled(password=password, pool=SINGLE) as (client, server):
        server.speaks = password == "wrong"

        async def application() -> None:
            while True:
                with contextlib.suppress(trioanytls.ConnectionClosed):
                    await work(client)

        with trio.move_on_after(60):
            async with trio.open_nursery() as nursery:
                for _ in range(5):
                    nursery.start_soon(application)
        # What was under way at once when nobody knew, and then one in each pause.
        assert 60 < len(server.dials) < 90
        # As soon as the server answers, there is no pause any more.
        server.speaks, server.users = True, {"alice": password}
        await trio.sleep(1)
        start = trio.current_time()
        for _ in range(100):
            await work(client)
        assert trio.current_time() == start


class GoneAtOnce(Link):
    """A connection that has ended when somebody looks at it for the first time."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        raise trio.BrokenResourceError("gone")


async def test_a_connection_that_ends_before_a_stream_is_on_it_is_a_failed_attempt(
    autojump_clock: Clock, full_pauses: None
) -> None:
    async with memory_server() as server:

        async def dial_in_vain(_timeout: float) -> Link:
            link = GoneAtOnce(*trio.testing.memory_stream_pair())
            server.links.append(link)
            server.dials.append(trio.current_time())
            return link

        pool = PoolConfig(retry_delay=1, max_retry_delay=1, open_timeout=10)
        async with client_of(server, pool=pool, dial=dial_in_vain) as client:
            for _ in range(3):
                # Depending on which of two tasks is first, the stream is opened before the end is seen.
                with pytest.raises((trioanytls.ConnectFailed, trioanytls.ConnectionClosed)) as caught:
                    await (await client.open_stream()).receive_some()
                if isinstance(caught.value, trioanytls.ConnectFailed):
                    assert "no connection could be made: the connection broke" in str(caught.value)
                    assert isinstance(caught.value.__cause__, trioanytls.ConnectionClosed)
            assert len(server.dials) <= 35
            # None that has ended stays.
            await settle()
            assert client.stats.connections == 0
            client._connector.dial = server.dial
            await trio.sleep(1)
            await work(client)


# What breaks meanwhile


async def test_a_connection_that_broke_while_sending_is_not_chosen_again(autojump_clock: Clock) -> None:
    async with pooled() as (client, server):
        stream = await client.open_stream()
        await use(stream)
        server.links[0].far.receive_stream.close()
        await stream.send_all(b"into the void")
        await settle()
        # What the server has sent may still come, so it has not ended.
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
            # It has the place, and waits for room on the connection.
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
            # The application's own deadline comes at the same moment, and finds the timer to have run out: nobody's
            # task is running then.
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
                # Somebody outside of what is cancelled has its turn when the block is done.
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
                        # It is looked after until the end.
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
