"""(c), (d): small messages a second. Each is a separate call. The clock stops when all are confirmed."""

from __future__ import annotations

import trio

from benchmarks.handler import DONE, SINK, command, expect

from . import Task
from ._calibrate import calibrated

MESSAGE = bytes(64)
WARM_UP = 1_000


async def send(stream: trio.abc.Stream, count: int) -> None:
    """Send messages and wait until they have arrived."""
    for _ in range(count):
        await stream.send_all(MESSAGE)
    await expect(stream, DONE)


async def timed(streams: list[trio.abc.Stream], messages: int) -> float:
    """Return the time of sending this many messages on each stream, one task a stream."""
    for stream in streams:
        await command(stream, SINK, messages * len(MESSAGE))
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(send, stream, messages)
    return trio.current_time() - start


async def _messages(task: Task, streams: int) -> dict[str, float]:
    streams = min(streams, task.peer.streams_per_connection or streams)
    async with task.peer.connect(task.port) as session:
        opened = [await session.open_stream() for _ in range(streams)]
        count, taken = await calibrated(lambda count: timed(opened, count), -(-WARM_UP // streams), task.seconds)
    return {"rate": count * streams / taken}


async def one(task: Task) -> dict[str, float]:
    """Measure (c), one stream."""
    return await _messages(task, 1)


async def hundred(task: Task) -> dict[str, float]:
    """Measure (d), a hundred streams with a task each. A peer with one stream sends the same bytes on it."""
    return await _messages(task, 100)
