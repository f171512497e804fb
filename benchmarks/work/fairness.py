"""(k): a small stream on a connection with eight busy ones.

A ping waits for the bytes that are queued ahead of it: the batch being written, and the socket's buffers. Their
number is the throughput times the additional time of a ping, compared with one on an idle connection.
"""

from __future__ import annotations

from statistics import median

import trio

from benchmarks.handler import ECHO, SINK, command

from . import NotApplicable, Task
from .latency import percentiles, pinged, repeat

BULK_STREAMS = 8
SETTLE = 0.2


async def ninth(task: Task) -> dict[str, float]:
    """Measure a ping-pong on the ninth stream, and the throughput of the eight at the same time."""
    if not task.peer.multiplexed:
        raise NotApplicable("its streams share no connection")
    data = bytes(task.peer.write_size)
    sent = 0
    stopped = False

    async def saturate(stream: trio.abc.Stream) -> None:
        nonlocal sent
        while not stopped:
            await stream.send_all(data)
            sent += len(data)

    async with task.peer.connect(task.port) as session:
        small = await session.open_stream()
        await command(small, ECHO)
        idle = median(await repeat(lambda: pinged(small), task.seconds / 4, 20))
        async with trio.open_nursery() as nursery:
            for _ in range(BULK_STREAMS):
                stream = await session.open_stream()
                await command(stream, SINK)
                nursery.start_soon(saturate, stream)
            await trio.sleep(SETTLE)
            start, before = trio.current_time(), sent
            times = await repeat(lambda: pinged(small), task.seconds, 0)
            rate = (sent - before) / (trio.current_time() - start)
            stopped = True
    return {**percentiles(times), "bulk": rate / 1e6, "ahead": max(0.0, median(times) - idle) * rate / 1024}
