"""Long runs of a client: a week of use, and a server that is killed repeatedly under load."""

from __future__ import annotations

import collections
import contextlib
import functools
import os
import random
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import PoolConfig
from trioanytls._client.pool import Client
from trioanytls.testing import memory_connection_pair

from ..conftest import HOST
from ..helpers.pool_harness import Clock, MemoryServer, client_of, memory_server
from ..helpers.programs import restarted_server as restarted_server

# A week


HOUR = 3600.0
DAY = 24 * HOUR
#: The timeouts are longer than usual, to reduce the number of timers in a simulated week.
CONFIG = trioanytls.Config(keepalive_interval=300, keepalive_timeout=60, write_timeout=300, idle_timeout=2000)
SERVER_CONFIG = trioanytls.Config(keepalive_timeout=2000, write_timeout=2000, idle_timeout=2000)
POOL = PoolConfig(
    max_streams_per_connection=4,
    max_connections=6,
    min_idle=1,
    idle_timeout=900,
    check_interval=300,
    max_lifetime=2 * HOUR,
    acknowledge_timeout=30,
    open_timeout=30,
    max_retry_delay=5,
)
#: The time in which an accepted stream fails if its connection is dead: nothing is received for the first interval, and
#: the PINGPONG is not answered for the second.
DEADLINE = CONFIG.keepalive_interval + CONFIG.keepalive_timeout


class Week:
    """Random events that happen to a client."""

    def __init__(self, client: Client, server: MemoryServer, seed: int) -> None:
        self.client = client
        self.server = server
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.quiet_hours = 0
        self._draw = random.Random(seed)
        self._begun = trio.current_time()

    async def run(self) -> None:
        async with trio.open_nursery() as callers, trio.open_nursery() as nursery:
            for trouble in (self._restarts, self._half_deaths):
                nursery.start_soon(trouble, callers)
            await self._use(callers)
            nursery.cancel_scope.cancel()

    async def _use(self, callers: trio.Nursery) -> None:
        for day in range(7):
            while self._is_day():
                self._call(callers, self._draw.choice([1, 1, 2, 5, 30]))
                await trio.sleep(self._draw.uniform(0, 2) * HOUR)
            await trio.sleep_until(self._begun + day * DAY + 22 * HOUR)
            self._assert_quiet()
            await trio.sleep_until(self._begun + (day + 1) * DAY)

    async def _restarts(self, callers: trio.Nursery) -> None:
        while True:
            await trio.sleep(self._draw.uniform(1, 5) * HOUR)
            # Some callers are working when the server dies, some call while it is down, and some when it is back.
            self._call(callers, 5)
            await trio.sleep(1)
            self.server.kill()
            self._call(callers, 5)
            # Most outages are shorter than `open_timeout`, some are not.
            await trio.sleep(self._draw.choice([0, 1, 5, 20, 100]))
            self.server.start()

    async def _half_deaths(self, callers: trio.Nursery) -> None:
        while True:
            await trio.sleep(self._draw.uniform(0, 4) * HOUR)
            self._call(callers, 5)
            await trio.sleep(1)
            if self.server.open:
                self._draw.choice(self.server.open).swallows = True

    def _is_day(self) -> bool:
        return (trio.current_time() - self._begun) % DAY < 16 * HOUR

    def _call(self, callers: trio.Nursery, number: int) -> None:
        if self._is_day():
            for _ in range(number):
                callers.start_soon(self._caller)

    def _assert_quiet(self) -> None:
        """Check that after hours without callers only the idle connections to be kept remain."""
        stats = self.client.stats
        assert (stats.streams, stats.waiting, stats.connecting) == (0, 0, 0)
        assert stats.connections <= self.client._limits.min_idle
        assert not self.client._acknowledgements.pending
        self.quiet_hours += 1

    async def _caller(self) -> None:
        await trio.sleep(self._draw.uniform(0, 2))
        try:
            with trio.fail_after(POOL.open_timeout + 1):
                stream = await self.client.open_stream()
        except trioanytls.ConnectFailed as error:
            self.outcomes["no room" if error.__cause__ is None else "no connection"] += 1
            return
        try:
            async with stream:
                if self._draw.random() < 0.02:
                    # A caller that cancels.
                    with trio.move_on_after(self._draw.uniform(0, 5)):
                        await self._exchange(stream)
                    self.outcomes["cancelled"] += 1
                else:
                    await self._exchange(stream)
                    self.outcomes["works"] += 1
        except trioanytls.ConnectionClosed:
            self.outcomes["connection closed"] += 1
        except trioanytls.StreamTimeout:
            self.outcomes["not accepted"] += 1

    async def _exchange(self, stream: trioanytls.Stream) -> None:
        for _ in range(self._draw.choice([1, 1, 2, 5])):
            data = self._draw.randbytes(self._draw.choice([1, 100, 3000]))
            received = b""
            with trio.fail_after(DEADLINE + 1):
                await stream.send_all(data)
                while len(received) < len(data):
                    piece = await stream.receive_some()
                    # A broken connection must not look like the end of the stream.
                    assert piece
                    received += piece
            assert received == data
            await trio.sleep(self._draw.choice([0, 0, 1, 10]))


async def living_tasks() -> int:
    """Return the number of tasks. The one that waits for the timers of all connections stays after the first one."""
    async with memory_connection_pair():
        pass
    return trio.lowlevel.current_statistics().tasks_living


async def test_weeks_of_use(autojump_clock: Clock) -> None:
    # Two weeks, as the shares of the outcomes differ by some percent from run to run.
    weeks = [await one_week(seed) for seed in (1, 2)]
    outcomes = sum((outcomes for outcomes, _ in weeks), collections.Counter[str]())
    # All outcomes occurred, and most calls worked.
    assert outcomes["works"] > 0.8 * outcomes.total()
    assert all(outcomes.total() > 1000 for outcomes, _ in weeks)
    for outcomes, stats in weeks:
        assert {"works", "cancelled", "connection closed", "no connection"} <= set(outcomes)
        assert {"idle", "lifetime", "silent", "lost"} <= set(stats.connections_closed)
        assert stats.streams_unacknowledged
        assert stats.connections_failed > 50
        assert stats.verified > 100


async def one_week(seed: int) -> tuple[collections.Counter[str], trioanytls.ClientStats]:
    before, begun = await living_tasks(), trio.current_time()
    async with (
        memory_server(config=SERVER_CONFIG) as server,
        client_of(server, pool=POOL, config=CONFIG) as client,
    ):
        week = Week(client, server, seed=seed)
        await week.run()
    stats, outcomes = client.stats, week.outcomes
    assert trio.current_time() >= begun + 7 * DAY
    assert week.quiet_hours == 7
    # The harness has checked that nothing is left, and that `max_connections` was kept.
    assert trio.lowlevel.current_statistics().tasks_living == before
    opened = sum(outcomes.values()) - outcomes["no room"] - outcomes["no connection"]
    assert (stats.streams_opened, stats.streams_failed) == (opened, outcomes.total() - opened)
    return outcomes, stats


# Killed and restarted


CALLERS = 50
RESTARTS = 20
#: A generous timeout for a busy machine, in seconds.
TIMEOUT = 30


class Restarted:
    """A server in a separate process."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process

    async def start(self) -> int:
        return int(await self._command(b"start\n"))

    async def kill(self) -> None:
        assert await self._command(b"kill\n") == b"dead\n"

    async def _command(self, line: bytes) -> bytes:
        with trio.fail_after(TIMEOUT):
            await self._process.stdin.send_all(line)
            answer = b""
            while not answer.endswith(b"\n"):
                piece = await self._process.stdout.receive_some()
                assert piece, "the server is gone"
                answer += piece
            return answer


class Load:
    """Callers that open and use streams in a loop."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.outcomes: collections.Counter[str] = collections.Counter()
        self.stopped = False
        self._worked = trio.Event()

    async def caller(self, number: int) -> None:
        draw = random.Random(number)
        while not self.stopped:
            try:
                with trio.fail_after(TIMEOUT):
                    async with await self.client.open_stream() as stream:
                        await self._exchange(stream, draw.randbytes(draw.choice([1, 1000, 10_000])))
            except (trioanytls.ConnectionClosed, trioanytls.ConnectFailed) as error:
                self.outcomes[type(error).__name__] += 1
            else:
                self.outcomes["works"] += 1
                self._worked.set()
                self._worked = trio.Event()
            await trio.sleep(draw.uniform(0, 0.01))

    async def _exchange(self, stream: trioanytls.Stream, data: bytes) -> None:
        await stream.send_all(data)
        received = b""
        while len(received) < len(data):
            piece = await stream.receive_some()
            assert piece
            received += piece
        assert received == data

    async def wait_for_work(self, times: int) -> None:
        enough = self.outcomes["works"] + times
        with trio.fail_after(TIMEOUT):
            while self.outcomes["works"] < enough:
                await self._worked.wait()


@contextlib.asynccontextmanager
async def restarted(certificate: Path) -> AsyncIterator[tuple[Restarted, int]]:
    """Yield a server that is not started yet, and its port."""
    # A port that is free, so that the server can use it again after each restart.
    listeners = await trio.open_tcp_listeners(0, host=HOST)
    port = listeners[0].socket.getsockname()[1]
    await listeners[0].aclose()
    command = [sys.executable, str(Path(restarted_server.__file__)), str(port), str(certificate)]
    async with trio.open_nursery() as nursery:
        run = functools.partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        process = await nursery.start(run)
        yield Restarted(process), port
        # The process exits at the end of its input.
        await process.stdin.aclose()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
async def test_a_server_that_is_killed_and_restarted_under_load(
    certificate: Path, client_context: ssl.SSLContext
) -> None:
    pool = PoolConfig(max_streams_per_connection=8, max_connections=10)
    before = await living_tasks()
    async with restarted(certificate) as (server, port):
        await server.start()
        async with trioanytls.open_client(
            HOST, port, password="password", ssl_context=client_context, pool=pool
        ) as client:
            load = Load(client)
            draw = random.Random(1)
            async with trio.open_nursery() as nursery:
                for number in range(CALLERS):
                    nursery.start_soon(load.caller, number)
                for _ in range(RESTARTS):
                    await load.wait_for_work(CALLERS)
                    await server.kill()
                    await trio.sleep(draw.choice([0, 0, 0.02, 0.2]))
                    await server.start()
                await load.wait_for_work(CALLERS)
                # All callers end, in whichever state they are.
                load.stopped = True
        await server.kill()
    stats = client.stats
    assert (stats.connections, stats.connecting, stats.streams, stats.waiting) == (0, 0, 0, 0)
    assert trio.lowlevel.current_statistics().tasks_living == before
    assert load.outcomes["works"] >= RESTARTS * CALLERS
    # Each restart broke streams, and there were no other errors.
    assert set(load.outcomes) <= {"works", "ConnectionClosed", "ConnectFailed"}
    assert load.outcomes["ConnectionClosed"] >= RESTARTS
    assert stats.connections_closed["lost"] >= RESTARTS
    assert stats.connections_made <= client._limits.max_connections * (RESTARTS + 1)
