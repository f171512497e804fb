"""(j), (m), (n), (o), (p): many connections with one stream each.

(j) sends on all of 2,000 at once, and (p) reads the memory of 1,000. Memory is the resident size of each process (see
`benchmarks.handler.resident_bytes`), the difference between 20 connections and all, divided by their number. The
client's includes the benchmark's task for each connection, the server's that of the handler. Fewer than 40 connections
give no figure of memory: the difference of the readings would be within the noise.

One session measures (m), (n) and (o) with 300 connections at a time, all held open. (o) is the rate at which 16 tasks
open them, including the first byte of each. For (n) the clock starts when all TLS handshakes are done, before the first
byte of a stream, and each connection does 20 exchanges. This includes the authentication and the shaped packets of
ANYTLS. (m) continues with 64-byte ping-pongs on the same connections, after the last shaped packet.
"""

from __future__ import annotations

import math
import resource
from collections.abc import Awaitable, Callable

import trio

from benchmarks.handler import DONE, ECHO, HELLO, SINK, command, expect, resident_bytes, server_memory

from . import NotApplicable, Task
from ._calibrate import calibrated
from .latency import pinged

CONNECTIONS = 2_000
QUICK_CONNECTIONS = 60
HELD = 1_000
PINGED = 300
QUICK_PINGED = 20
FLEETS = 2
"""How many times (o) opens the connections, after one time to warm up."""
EXCHANGES = 20
"""The exchanges of (n) on each connection. The default padding scheme shapes fewer packets."""
BASE = 20
"""The number of open connections at the first reading of memory, after the process has made its own objects."""
ENOUGH = 2 * BASE
"""The least number of connections for a figure of memory."""
OPENERS = 16
SPARE_DESCRIPTORS = 100


def descriptors() -> int:
    """Return how many connections the limit of open files allows. `benchmarks.worker` has raised it already."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft - SPARE_DESCRIPTORS


def _require(count: int) -> None:
    """Check that this many connections can be open at once.

    Raises:
      NotApplicable: the limit of open files is too low.
    """
    if descriptors() < count:
        raise NotApplicable(
            f"it needs {count + SPARE_DESCRIPTORS:,} open files, and RLIMIT_NOFILE is "
            f"{descriptors() + SPARE_DESCRIPTORS:,}"
        )


class _Fleet:
    """The connections, each held by a task. A `silent` one has sent nothing yet."""

    def __init__(self, task: Task, nursery: trio.Nursery, *, silent: bool = False) -> None:
        self._task = task
        self._nursery = nursery
        self._silent = silent
        self.streams: list[trio.abc.Stream] = []

    async def _hold(self, task_status: trio.TaskStatus[trio.abc.Stream]) -> None:
        async with self._task.peer.connect(self._task.port) as session:
            stream = await session.open_stream()
            if not self._silent:
                await command(stream, HELLO)
            task_status.started(stream)
            await trio.sleep_forever()

    async def grow(self, count: int, deadline: float) -> None:
        """Open connections until there are `count`, or until the deadline."""
        missing = count - len(self.streams)

        async def open_some() -> None:
            nonlocal missing
            while missing > 0 and trio.current_time() < deadline:
                missing -= 1
                self.streams.append(await self._nursery.start(self._hold))

        async with trio.open_nursery() as nursery:
            for _ in range(OPENERS):
                nursery.start_soon(open_some)


async def _on_all(
    streams: list[trio.abc.Stream], function: Callable[..., Awaitable[None]], *arguments: object
) -> float:
    """Run a function with each stream and the arguments, one task a stream. Return the time."""
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(function, stream, *arguments)
    return trio.current_time() - start


async def _volley(streams: list[trio.abc.Stream], data: bytes, writes: int) -> float:
    await _on_all(streams, command, SINK, writes * len(data))

    async def send(stream: trio.abc.Stream) -> None:
        for _ in range(writes):
            await stream.send_all(data)
        await expect(stream, DONE)

    return await _on_all(streams, send)


async def _grown(task: Task, fleet: _Fleet, wanted: int) -> dict[str, float]:
    """Open the connections of a fleet. Return their number, the time to open them, and the memory of each."""
    start = trio.current_time()
    deadline = start + task.seconds
    await fleet.grow(min(BASE, wanted), deadline)
    taken = trio.current_time() - start
    if not fleet.streams:
        task.problems.append("no connection was opened")
        return {"connections": 0, "open": taken}
    server, client = await server_memory(fleet.streams[0]), resident_bytes()
    resumed = trio.current_time()
    await fleet.grow(wanted, deadline)
    taken += trio.current_time() - resumed
    count = len(fleet.streams)
    figures: dict[str, float] = {"connections": count, "open": taken}
    if count >= ENOUGH:
        server, client = await server_memory(fleet.streams[0]) - server, resident_bytes() - client
        figures |= {"client": client / (count - BASE) / 1024, "server": server / (count - BASE) / 1024}
    else:
        task.problems.append(f"too few connections to tell the memory of one: {count}")
    return figures


async def many(task: Task) -> dict[str, float]:
    """Measure (j): open the connections, compare the memory, send on all of them."""
    wanted = min(QUICK_CONNECTIONS if task.quick else CONNECTIONS, descriptors())
    data = bytes(task.peer.write_size)
    async with trio.open_nursery() as nursery:
        fleet = _Fleet(task, nursery)
        figures = await _grown(task, fleet, wanted)
        if fleet.streams:
            await _volley(fleet.streams, data, 1)
            writes = 2
            volley = await _volley(fleet.streams, data, writes)
            figures["rate"] = writes * len(data) * len(fleet.streams) / volley / 1e6
        nursery.cancel_scope.cancel()
    return figures


async def memory(task: Task) -> dict[str, float]:
    """Measure (p): open the connections, and compare the memory."""
    wanted = QUICK_CONNECTIONS if task.quick else HELD
    _require(wanted)
    async with trio.open_nursery() as nursery:
        figures = await _grown(task, _Fleet(task, nursery), wanted)
        nursery.cancel_scope.cancel()
    return figures


async def _exchange(stream: trio.abc.Stream, count: int) -> None:
    """Do this many exchanges on a stream that has done none: the command, then ping-pongs, which may follow."""
    await command(stream, ECHO)
    await _ping(stream, count - 1)


async def _ping(stream: trio.abc.Stream, count: int) -> None:
    for _ in range(count):
        await pinged(stream)


async def pings(task: Task) -> dict[str, float]:
    """Measure (m), (n) and (o)."""
    count = QUICK_PINGED if task.quick else PINGED
    _require(count)
    opening = 0.0
    for number in range(1 + FLEETS):
        async with trio.open_nursery() as nursery:
            start = trio.current_time()
            await _Fleet(task, nursery).grow(count, math.inf)
            if number:  # the first one is the warm-up
                opening += trio.current_time() - start
            nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        fleet = _Fleet(task, nursery, silent=True)
        await fleet.grow(count, math.inf)
        first = await _on_all(fleet.streams, _exchange, EXCHANGES)
        each, later = await calibrated(lambda each: _on_all(fleet.streams, _ping, each), EXCHANGES, task.seconds)
        nursery.cancel_scope.cancel()
    return {
        "pings": count * each / later,
        "first_pings": count * EXCHANGES / first,
        "connects": FLEETS * count / opening,
    }
