"""(q), (r): downloads through a relay beside those through a real sing-box.

The clock stops when the application has the last byte. The processor time is that of the relay's two ends together,
without the application and the destination. A download of a tenth of the size warms up the ends.
"""

from __future__ import annotations

import math
import sys

import trio

from benchmarks.handler import SOURCE, command
from benchmarks.peer import Session

from . import Task

ONE = 200_000_000
EIGHT = 50_000_000
QUICK_PART = 20
"""The part of the size that `--quick` downloads."""
READ_SIZE = 256 * 1024


async def _download(stream: trio.abc.Stream, size: int) -> None:
    await command(stream, SOURCE, size)
    while size > 0:
        data = await stream.receive_some(READ_SIZE)
        if not data:
            raise RuntimeError(f"the download ended {size:,} bytes early")
        size -= len(data)


async def _timed(session: Session, count: int, size: int) -> tuple[float, float]:
    """Download on this many connections at once. Return MB/s, and the seconds of processor time for a GB."""
    streams = [await session.open_stream() for _ in range(count)]
    measurable = sys.platform == "linux"
    start, used = trio.current_time(), session.cpu_seconds() if measurable else math.nan
    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(_download, stream, size)
    taken = trio.current_time() - start
    cpu = session.cpu_seconds() - used if measurable else math.nan
    for stream in streams:
        await stream.aclose()
    return count * size / taken / 1e6, cpu / (count * size / 1e9)


async def downloads(task: Task) -> dict[str, float]:
    """Measure (q), one download, then (r), eight at once."""
    part = QUICK_PART if task.quick else 1
    async with task.peer.connect(task.port) as session:
        await _timed(session, 1, ONE // part // 10)
        one, one_cpu = await _timed(session, 1, ONE // part)
        await _timed(session, 8, EIGHT // part // 10)
        eight, eight_cpu = await _timed(session, 8, EIGHT // part)
    if math.isnan(one_cpu):
        task.problems.append("processor time can be read on Linux only")
    return {"one": one, "one_cpu": one_cpu, "eight": eight, "eight_cpu": eight_cpu}
