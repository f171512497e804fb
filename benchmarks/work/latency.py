"""(e), (f), (h): the time until an answer arrives."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter

import trio

from benchmarks.handler import ECHO, HELLO, command, receive_exactly

from . import NotApplicable, Task

PING = bytes(64)
OPENERS = 16


def percentiles(times: list[float]) -> dict[str, float]:
    """Return the percentiles in microseconds."""
    times = sorted(times)
    return {"p50": times[len(times) // 2] * 1e6, "p99": times[min(len(times) - 1, len(times) * 99 // 100)] * 1e6}


async def repeat(once: Callable[[], Awaitable[float]], seconds: float, warm_up: int) -> list[float]:
    """Repeat a measurement for this long, at least ten times. Return the times without those of the warm-up."""
    for _ in range(warm_up):
        await once()
    times: list[float] = []
    end = perf_counter() + seconds
    while perf_counter() < end or len(times) < 10:
        times.append(await once())
    return times


async def pinged(stream: trio.abc.Stream) -> float:
    """Return the time of one ping-pong on a stream that echoes."""
    start = perf_counter()
    await stream.send_all(PING)
    if len(await receive_exactly(stream, len(PING))) != len(PING):
        raise RuntimeError("the stream has ended")
    return perf_counter() - start


async def ping(task: Task) -> dict[str, float]:
    """Measure (e), a ping-pong."""
    async with task.peer.connect(task.port) as session:
        stream = await session.open_stream()
        await command(stream, ECHO)
        return percentiles(await repeat(lambda: pinged(stream), task.seconds, 50))


async def open_stream(task: Task) -> dict[str, float]:
    """Measure (f), opening a stream: one after another for the time, then 16 tasks for the rate."""
    if task.peer.streams_per_connection == 1:
        raise NotApplicable("it has one stream: see (h)")

    async with task.peer.connect(task.port) as session:

        async def once() -> float:
            start = perf_counter()
            stream = await session.open_stream()
            await command(stream, HELLO)
            taken = perf_counter() - start
            await stream.aclose()
            return taken

        times = await repeat(once, task.seconds / 2, 10)
        opened = 0
        start = trio.current_time()
        end = start + task.seconds / 2

        async def open_many() -> None:
            nonlocal opened
            while trio.current_time() < end:
                await once()
                opened += 1

        async with trio.open_nursery() as nursery:
            for _ in range(OPENERS):
                nursery.start_soon(open_many)
        return {**percentiles(times), "rate": opened / (trio.current_time() - start)}


async def connect(task: Task) -> dict[str, float]:
    """Measure (h), a new connection with its first stream. The time does not include closing."""

    async def once() -> float:
        start = perf_counter()
        async with task.peer.connect(task.port) as session:
            stream = await session.open_stream()
            await command(stream, HELLO)
            return perf_counter() - start

    return percentiles(await repeat(once, task.seconds, 3))
