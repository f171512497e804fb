"""(g), (i): many open streams on one connection: the time to open them, their memory, and their cost for the others.

One session measures both, as it takes long with some peers. Streams are opened in steps. A stream counts as open when
its handler has answered, so that the server's task exists. A peer whose streams take long to open gets as many as it
can open in time, and the figures include their number.

Memory is the resident size of each process (see `benchmarks.handler.resident_bytes`), the difference between 100
streams and all, divided by their number, in fresh processes. On the client it is read twice: with the streams alone,
and with a task that waits in ``receive_some`` on each. Fewer than 200 streams give no figure: the difference of the
readings would be within the noise.

The cost of a message, at every step: one-way messages on one stream, each a separate call, while the others are open
and idle. It is the least of several volleys, because noise only adds. Then the median of pings, each on another stream.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import trio
import trio.testing

from benchmarks.handler import ECHO, command, resident_bytes, server_memory
from benchmarks.peer import Session

from . import STREAM_COUNTS, NotApplicable, Task
from .latency import percentiles, pinged
from .messages import timed

OPENERS = 32
BASE = 100
"""The number of open streams at the first reading of memory, after the connection has made its own objects. A step."""
ENOUGH = 2 * BASE
"""The least number of streams for a figure of memory."""
QUICK_MOST = 1_000


@dataclass
class _Crowd:
    """The open streams, and the time it took to open them."""

    session: Session
    seconds: float
    streams: list[trio.abc.Stream] = field(default_factory=list)
    taken: float = 0.0

    async def grow(self, count: int) -> None:
        """Open streams until there are `count`, or until the time is used up."""
        missing = count - len(self.streams)
        start = trio.current_time()
        deadline = start + self.seconds - self.taken

        async def open_some() -> None:
            nonlocal missing
            while missing > 0 and trio.current_time() < deadline:
                missing -= 1
                stream = await self.session.open_stream()
                await command(stream, ECHO)
                self.streams.append(stream)

        async with trio.open_nursery() as nursery:
            for _ in range(OPENERS):
                nursery.start_soon(open_some)
        self.taken += trio.current_time() - start


async def _reading_tasks(streams: list[trio.abc.Stream]) -> float:
    """Return the additional bytes of a stream if a task waits to receive from it."""
    before = resident_bytes()
    async with trio.open_nursery() as nursery:
        for stream in streams:
            nursery.start_soon(stream.receive_some)
        await trio.testing.wait_all_tasks_blocked(0.05)
        more = resident_bytes() - before
        nursery.cancel_scope.cancel()
    return more / len(streams)


async def _message_cost(stream: trio.abc.Stream, *, quick: bool) -> float:
    """Return the microseconds of a message: the least of the volleys that fit into the time, at least three."""
    seconds, messages = (0.0, 300) if quick else (0.6, 1_000)
    volleys: list[float] = []
    end = trio.current_time() + seconds
    while len(volleys) < 3 or trio.current_time() < end:
        volleys.append(await timed([stream], messages))
    return min(volleys) / messages * 1e6


async def _ping_cost(streams: list[trio.abc.Stream], pings: int) -> float:
    """Return the median of pings in microseconds, taking the streams in turn."""
    step = max(1, len(streams) // pings)
    return percentiles([await pinged(streams[turn * step % len(streams)]) for turn in range(pings)])["p50"]


async def crowd(task: Task) -> dict[str, float]:
    """Measure the memory of streams, the time to open them, and the cost of a message, with more and more of them."""
    if task.peer.streams_per_connection == 1:
        raise NotApplicable("it has one stream")
    most = min(task.peer.many, QUICK_MOST) if task.quick else task.peer.many
    steps = sorted({count for count in STREAM_COUNTS if count < most} | {most})
    figures: dict[str, float] = {}
    async with task.peer.connect(task.port) as session:
        busy = await session.open_stream()
        await _message_cost(busy, quick=True)
        opened = _Crowd(session, task.seconds)
        memory: list[tuple[int, int]] = []
        for count in steps:
            await opened.grow(count)
            short = len(opened.streams) < count
            if count in (BASE, most) or short:
                memory.append((await server_memory(busy), resident_bytes()))
            if short:
                break
            if count in STREAM_COUNTS:
                pings = 50 if task.quick else 300
                figures[f"at_{count}"] = await _message_cost(busy, quick=task.quick)
                figures[f"ping_{count}"] = await _ping_cost(opened.streams, pings)
        count = len(opened.streams)
        figures |= {"streams": count, "open": opened.taken}
        if count >= ENOUGH:
            server, client = (
                (after - before) / (count - BASE) / 1024 for before, after in zip(memory[0], memory[-1], strict=True)
            )
            client_task = client + await _reading_tasks(opened.streams) / 1024
            figures |= {"client": client, "client_task": client_task, "server": server}
        else:
            task.problems.append(f"too few streams to tell the memory of one: {count}")
    costs = [figure for key, figure in figures.items() if key.startswith("at_")]
    return {**figures, "growth": max(costs) / costs[0]} if costs else figures
