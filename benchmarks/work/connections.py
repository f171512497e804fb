"""(j): many connections with one stream each: time to open them, memory, and the throughput of all at once.

The client's memory includes the task of this benchmark that holds the connection, the server's the handler's.
"""

from __future__ import annotations

import resource

import trio

from benchmarks.handler import DONE, HELLO, SINK, command, expect, resident_bytes, server_memory

from . import Task

CONNECTIONS = 2_000
QUICK_CONNECTIONS = 60
BASE = 20
OPENERS = 16
SPARE_DESCRIPTORS = 100


class _Fleet:
    """The connections, each in a task that holds it."""

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
        """Open until there are `count`, or until the deadline."""
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
    """Open them, weigh them, send over all of them."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = min(QUICK_CONNECTIONS if task.quick else CONNECTIONS, soft - SPARE_DESCRIPTORS)
    data = bytes(task.peer.write_size)
    async with trio.open_nursery() as nursery:
        fleet = _Fleet(task, nursery)
        start = trio.current_time()
        deadline = start + task.seconds
        await fleet.grow(BASE, deadline)
        paused = trio.current_time()
        server, client = await server_memory(fleet.streams[0]), resident_bytes()
        resumed = trio.current_time()
        await fleet.grow(wanted, deadline)
        taken = trio.current_time() - resumed + paused - start
        count = len(fleet.streams) - BASE
        server, client = await server_memory(fleet.streams[0]) - server, resident_bytes() - client
        await _volley(fleet.streams, data, 1)
        writes = 2
        volley = await _volley(fleet.streams, data, writes)
        size = writes * len(data) * len(fleet.streams)
        figures = {
            "rate": size / volley / 1e6,
            "connections": len(fleet.streams),
            "open": taken,
            "client": client / count / 1024,
            "server": server / count / 1024,
        }
        nursery.cancel_scope.cancel()
    return figures
