"""(a), (b), (l): bytes a second. The clock stops when the receiver has confirmed the last byte."""

from __future__ import annotations

from functools import partial

import trio

from benchmarks.handler import DONE, DUPLEX, SINK, command, expect, swallow

from . import Task
from ._calibrate import calibrated

WARM_UP = 8 * 1024 * 1024


async def _send(stream: trio.abc.Stream, data: bytes, count: int) -> None:
    for _ in range(count):
        await stream.send_all(data)
    await expect(stream, DONE)


async def _send_and_receive(stream: trio.abc.Stream, data: bytes, count: int) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(swallow, stream, count * len(data), exactly=True))
        for _ in range(count):
            await stream.send_all(data)
    await expect(stream, DONE)


async def _bulk(task: Task, streams: int, word: bytes = SINK) -> dict[str, float]:
    data = bytes(task.peer.write_size)
    streams = min(streams, task.peer.streams_per_connection or streams)
    send = _send if word == SINK else _send_and_receive

    async with task.peer.connect(task.port) as session:
        opened = [await session.open_stream() for _ in range(streams)]

        async def run(writes: int) -> float:
            """Return the time of this many writes, shared among the streams."""
            each = -(-writes // streams)
            for stream in opened:
                await command(stream, word, each * len(data))
            start = trio.current_time()
            async with trio.open_nursery() as nursery:
                for stream in opened:
                    nursery.start_soon(send, stream, data, each)
            return trio.current_time() - start

        writes, taken = await calibrated(run, WARM_UP // len(data), task.seconds)
    size = -(-writes // streams) * streams * len(data)
    return {"rate": size / taken / 1e6}


async def one(task: Task) -> dict[str, float]:
    """Measure (a), one stream."""
    return await _bulk(task, 1)


async def sixteen(task: Task) -> dict[str, float]:
    """Measure (b), sixteen streams. A peer with one stream sends the same bytes on it."""
    return await _bulk(task, 16)


async def both_ways(task: Task) -> dict[str, float]:
    """Measure (l), four streams, each busy in both directions. The rate is that of one direction."""
    return await _bulk(task, 4, DUPLEX)
