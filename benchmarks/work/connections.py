"""(j): many connections with one stream each: time to open them, memory, and the throughput of all at once.

The client's memory includes the benchmark's task for each connection, the server's that of the handler. Fewer than 40
connections give no figure of memory: the difference of the readings would be within the noise.
"""

from __future__ import annotations

import resource

import trio

from benchmarks.handler import DONE, HELLO, SINK, command, expect, resident_bytes, server_memory

from . import Task

CONNECTIONS = 2_000
QUICK_CONNECTIONS = 60
BASE = 20
"""The number of open connections at the first reading of memory, after the process has made its own objects."""
ENOUGH = 2 * BASE
"""The least number of connections for a figure of memory."""
OPENERS = 16
SPARE_DESCRIPTORS = 100


class _Fleet:
    """The connections, each held by a task."""

    def __init__(self, task: Task, nursery: trio.Nursery) -> None:
        self._task = task
        self._nursery = nursery
        self._limit = trio.CapacityLimiter(OPENERS)
        self.streams: list[trio.abc.Stream] = []

    async def _hold(self, task_status: trio.TaskStatus[trio.abc.Stream]) -> None:
        async with self._task.peer.connect(self._task.port) as session:
            stream = await session.open_stream()
            await command(stream, HELLO)
            task_status.started(stream)
            await trio.sleep_forever()

    async def _open_one(self) -> None:
        async with self._limit:
            self.streams.append(await self._nursery.start(self._hold))

    async def grow(self, count: int, deadline: float) -> None:
        """Open connections until there are `count`, or until the deadline."""
        while len(self.streams) < count and trio.current_time() < deadline:
            async with trio.open_nursery() as nursery:
                for _ in range(min(4 * OPENERS, count - len(self.streams))):
                    nursery.start_soon(self._open_one)


async def _volley(streams: list[trio.abc.Stream], data: bytes, writes: int) -> float:
    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(command, stream, SINK, writes * len(data))

    async def send(stream: trio.abc.Stream) -> None:
        for _ in range(writes):
            await stream.send_all(data)
        await expect(stream, DONE)

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(send, stream)
    return trio.current_time() - start


async def many(task: Task) -> dict[str, float]:
    """Measure (j): open the connections, compare the memory, send on all of them."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(QUICK_CONNECTIONS if task.quick else CONNECTIONS, soft - SPARE_DESCRIPTORS)
    data = bytes(task.peer.write_size)
    async with trio.open_nursery() as nursery:
        fleet = _Fleet(task, nursery)
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
        await _volley(fleet.streams, data, 1)
        writes = 2
        volley = await _volley(fleet.streams, data, writes)
        figures["rate"] = writes * len(data) * count / volley / 1e6
        nursery.cancel_scope.cancel()
    return figures
