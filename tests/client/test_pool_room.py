"""A client has room for as many streams as its settings say, even if connections are old, dead or slow."""

from __future__ import annotations

import math
import random

import hypothesis
import pytest
import trio
import trio.testing
from hypothesis import strategies as st

import trioanytls
from trioanytls import PoolConfig
from trioanytls._client.pool import Client

from ..helpers.pool_harness import Clock, Link, MemoryServer, client_of, memory_server, use, work
from ..helpers.raw_peer import SERVER_NEGO, RawPeer, data

HOUR = 3600.0
#: Only the pool closes these streams and connections. The last two settings reduce the number of timers, which is what
#: simulated time costs.
UNTIMED = trioanytls.Config(
    stream_idle_timeout=math.inf, idle_timeout=math.inf, keepalive_timeout=1e6, write_timeout=1e6
)


async def wait_until_blocked() -> None:
    await trio.testing.wait_all_tasks_blocked()


# Past their lifetime


async def test_one_long_stream_a_second_fills_every_place(autojump_clock: Clock) -> None:
    pool = PoolConfig(max_connections=3, max_streams_per_connection=100, max_lifetime=1)
    async with memory_server() as server, client_of(server, pool=pool, config=UNTIMED) as client:
        streams = []
        for _ in range(300):
            streams.append(await client.open_stream())
            await trio.sleep(1)
        assert client.stats.streams == 300
        assert len(server.links) == 3
        for stream in (streams[0], streams[150], streams[-1]):
            await use(stream)
        # Now all connections are full.
        with pytest.raises(trioanytls.ConnectFailed, match=r"^no connection had room \(within 30 s\)$"):
            await client.open_stream()
        await streams[7].aclose()
        await work(client)


async def test_a_month_of_one_long_stream_an_hour_with_the_default_settings(autojump_clock: Clock) -> None:
    hours = 30 * 24
    # To reduce the number of timers, as above.
    pool = PoolConfig(check_interval=HOUR / 2)
    async with (
        memory_server(config=UNTIMED) as server,
        client_of(server, pool=pool, config=UNTIMED) as client,
    ):
        streams = []
        for hour in range(hours):
            start = trio.current_time()
            stream = await client.open_stream()
            streams.append(stream)
            await use(stream)
            assert await work(client) is not None
            assert trio.current_time() == start
            assert client.stats.connections <= client._limits.max_connections
            await trio.sleep_until((hour + 1) * HOUR)
        assert client.stats.streams == hours
        assert client.stats.streams_failed == 0
        # When the long streams are closed, their connections are closed, and a new one is made.
        for stream in streams:
            await stream.aclose()
        await wait_until_blocked()
        connection = await work(client)
        assert connection is not streams[-1].connection
        await trio.sleep(HOUR)
        assert client.stats.connections == 1


async def test_a_new_connection_is_made_as_long_as_there_is_a_place(autojump_clock: Clock) -> None:
    pool = PoolConfig(max_connections=3, max_lifetime=10)
    async with memory_server() as server, client_of(server, pool=pool, config=UNTIMED) as client:
        held = []
        for _ in range(3):
            held.append(await client.open_stream())
            await trio.sleep(11)
        assert len({stream.connection for stream in held}) == 3
        # The newest of the reserves is used, so that the others become empty.
        assert client.newest_connection is held[2].connection
        for _ in range(3):
            assert await work(client) is held[2].connection
        # An empty reserve is closed, and a new connection replaces it.
        await held[0].aclose()
        await wait_until_blocked()
        new = await work(client)
        assert new not in [stream.connection for stream in held]
        assert client.newest_connection is new
        assert client.stats.connections_closed == {"lifetime": 1}


async def test_whoever_is_beyond_those_being_made_uses_the_old_ones(autojump_clock: Clock) -> None:
    pool = PoolConfig(max_connections=2, max_streams_per_connection=3, max_lifetime=10)
    async with memory_server(latency=5) as server, client_of(server, pool=pool, config=UNTIMED) as client:
        held = await client.open_stream()
        await trio.sleep(11)
        start = trio.current_time()
        opened: list[tuple[int, float, bool]] = []

        async def caller(number: int) -> None:
            stream = await client.open_stream()
            opened.append((number, trio.current_time() - start, stream.connection is held.connection))

        async with trio.open_nursery() as nursery:
            for number in range(5):
                nursery.start_soon(caller, number)
                await wait_until_blocked()
        # The connection being made has room for three. With a fourth caller, the first in the queue gets the old one.
        assert sorted(opened) == [(0, 0, True), (1, 0, True), (2, 5, False), (3, 5, False), (4, 5, False)]


async def test_an_old_connection_carries_streams_while_no_new_one_can_be_made(autojump_clock: Clock) -> None:
    pool = PoolConfig(max_lifetime=10)
    async with memory_server() as server, client_of(server, pool=pool, config=UNTIMED) as client:
        held = await client.open_stream()
        await trio.sleep(11)
        server.error = ConnectionRefusedError("connection refused")
        dials = len(server.dials)
        for _ in range(100):
            assert await work(client) is held.connection
            await trio.sleep(1)
        # Attempts to connect went on meanwhile.
        assert len(server.dials) > dials + 50
        server.error = None
        assert await work(client) is not held.connection
        assert client.stats.streams_failed == 0


async def test_attempts_that_take_too_long_leave_the_old_connection(autojump_clock: Clock) -> None:
    pool = PoolConfig(max_lifetime=10, connect_timeout=4)
    async with memory_server() as server, client_of(server, pool=pool, config=UNTIMED) as client:
        held = await client.open_stream()
        await trio.sleep(11)
        server.latency = math.inf
        start = trio.current_time()
        assert await work(client) is held.connection
        assert trio.current_time() - start == pytest.approx(4)


async def test_an_old_connection_that_broke_is_not_used_again(autojump_clock: Clock) -> None:
    pool = PoolConfig(max_connections=1, max_lifetime=10)
    async with memory_server() as server, client_of(server, pool=pool, config=UNTIMED) as client:
        held = await client.open_stream()
        await use(held)
        await trio.sleep(11)
        server.links[0].far.receive_stream.close()
        await held.send_all(b"into the void")
        await wait_until_blocked()
        assert not held.connection.closed
        assert await work(client) is not held.connection
        assert held.connection.closed


# Connections that are dead or broken


@pytest.mark.parametrize(
    ("pool", "idle"),
    [
        (PoolConfig(max_streams_per_connection=1, min_idle=32, idle_timeout=1000), True),
        (PoolConfig(max_streams_per_connection=2, max_lifetime=1), False),
    ],
    ids=["idle", "past their lifetime"],
)
async def test_connections_that_died_at_the_same_time_are_found_at_the_same_time(
    autojump_clock: Clock, pool: PoolConfig, idle: bool
) -> None:
    # A laptop has moved to another network: the server is up, and all connections are dead.
    async with memory_server() as server, client_of(server, pool=pool, config=UNTIMED) as client:
        streams = []
        for _ in range(32):
            streams.append(await client.open_stream())
            await trio.sleep(0 if idle else 1)
        if idle:
            for stream in streams:
                await stream.aclose()
        await trio.sleep(10)
        assert (client.stats.connections, client.stats.idle) == (32, 32 * idle)
        for link in server.links:
            link.swallows = True
        start = trio.current_time()
        await work(client)
        assert trio.current_time() - start == pytest.approx(2 * pool.verify_timeout)
        await wait_until_blocked()
        assert client.stats.connections == 1


async def test_those_that_live_survive_the_death_of_another(autojump_clock: Clock) -> None:
    pool = PoolConfig(max_streams_per_connection=1, min_idle=3, idle_timeout=1000)
    async with memory_server() as server, client_of(server, pool=pool, config=UNTIMED) as client:
        streams = [await client.open_stream() for _ in range(3)]
        for stream in streams[1:]:
            await stream.aclose()
        await trio.sleep(10)
        server.links[2].swallows = True
        assert await work(client) is streams[1].connection
        assert client.stats.connections == 2
        await use(streams[0])


async def test_one_that_broke_and_is_not_read_gives_its_place_to_those_who_wait(autojump_clock: Clock) -> None:
    config = trioanytls.Config(
        receive_buffer_size=1000, stream_idle_timeout=math.inf, idle_timeout=math.inf, stall_timeout=math.inf
    )
    pool = PoolConfig(max_connections=1)
    async with memory_server() as server:
        link = Link(*trio.testing.memory_stream_pair())
        peer = RawPeer(link.far)
        server.links.append(link)
        links = [link]

        async def dial(timeout: float) -> Link:  # noqa: ASYNC109 - the signature of `Dial`
            return links.pop() if links else await server.dial(timeout)

        async with client_of(server, dial=dial, pool=pool, config=config) as client:
            unread = await client.open_stream()
            await peer.send(SERVER_NEGO + b"".join(data(1, bytes(1000)) for _ in range(20)))
            await wait_until_blocked()
            link.far.receive_stream.close()
            await unread.send_all(b"into the void")
            await trio.sleep(100)
            # The application can read the received data, unless a new connection is needed.
            assert client.stats.connections == 1
            await work(client)
            assert client.stats.connections_made == 2
            assert await unread.receive_some(1000)
            with pytest.raises(trioanytls.ConnectionClosed):
                while True:
                    await unread.receive_some()


# Random sequences of events


class Life:
    """Events drawn by Hypothesis that happen to a client, while the server works."""

    def __init__(self, client: Client, server: MemoryServer, draw: random.Random) -> None:
        self.client = client
        self.server = server
        self.room = client.capacity
        self.open: list[trioanytls.Stream] = []
        self._draw = draw

    async def step(self, kind: str) -> None:
        if kind == "open":
            await self._open_some(1)
        elif kind == "many":
            await self._open_some(self._draw.randint(1, self.room))
        elif kind == "close" and self.open:
            await self.open.pop(self._draw.randrange(len(self.open))).aclose()
        elif kind == "close most":
            while len(self.open) > 1:
                await self.open.pop().aclose()
        elif kind == "lose" and self.server.open:
            self._draw.choice(self.server.open).lose()
        elif kind == "swallow" and self.server.open:
            self._draw.choice(self.server.open).swallows = True
        elif kind == "swallow all":
            for link in self.server.open:
                link.swallows = True
        elif kind == "cancel":
            with trio.move_on_after(self._draw.choice([0, 0.01, 1])):
                self.open.append(await self.client.open_stream())
        elif kind in PAUSES:
            await trio.sleep(PAUSES[kind])
        self.open = [stream for stream in self.open if not stream.closed]

    async def _open_some(self, number: int) -> None:
        number = min(number, self.room - len(self.open))
        async with trio.open_nursery() as nursery:
            for _ in range(number):
                nursery.start_soon(self._open)

    async def _open(self) -> None:
        # The test searches for a `ConnectFailed`.
        self.open.append(await self.client.open_stream())


PAUSES = {"a moment": 0.1, "seconds": 7, "a minute": 60, "an hour": HOUR + 1}
STEPS = ["open", "many", "close", "close most", "lose", "swallow", "swallow all", "cancel", *PAUSES]


@hypothesis.settings(deadline=None, max_examples=60, suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.given(
    steps=st.lists(st.sampled_from(STEPS), min_size=3, max_size=25),
    connections=st.integers(1, 5),
    streams=st.integers(1, 4),
    lifetime=st.sampled_from([1, 50, HOUR]),
    latency=st.sampled_from([0, 0.5]),
    seed=st.integers(0, 1000),
)
def test_with_fewer_streams_than_places_each_opens(
    steps: list[str], connections: int, streams: int, lifetime: float, latency: float, seed: int
) -> None:
    pool = PoolConfig(max_connections=connections, max_streams_per_connection=streams, max_lifetime=lifetime)

    async def live() -> None:
        async with (
            memory_server(latency=latency) as server,
            client_of(server, pool=pool, config=UNTIMED) as client,
        ):
            life = Life(client, server, random.Random(seed))
            for step in steps:
                await life.step(step)
                assert client.stats.connections + client.stats.connecting <= connections
            # At the end, no lease was lost.
            await life.step("close most")
            await life._open_some(life.room)
            assert len([stream for stream in life.open if not stream.closed]) <= life.room

    clock = trio.testing.MockClock(autojump_threshold=0)
    trio.run(live, clock=clock)
