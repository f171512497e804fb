"""A stream that no application reads, among 100 others, for an hour over a path with a round-trip time of 100 ms.

With `window`, the others do not notice it. Without, they wait until it is closed.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection

import pytest
import trio
import trio.testing
from attrs import define, field

import trioanytls
from trioanytls.testing import memory_connection_pair

from ..helpers.connection_ends import ROLES, Role
from ..helpers.delayed_path import Path, delayed_stream_pair
from ..helpers.extensions import NO_EXTENSIONS, extending

Clock = trio.testing.MockClock

PATH = Path()
HOUR = 3600.0
OTHERS = 100
#: The time between two requests of each stream, in seconds. In between, each of the others has its turn.
PAUSE = 60.0
#: The sizes of the answers, in bytes. All streams ask for a large one at the same time, once in ten minutes.
SMALL, LARGE = 1000, 100_000
PIECE = bytes(64 * 1024)

ANSWER, SEND, IGNORE = b"A", b"S", b"I"


async def handle(stream: trioanytls.Stream) -> None:
    """Answer requests, send without end, or read nothing, as the first byte says."""
    command = await stream.receive_some(1)
    if command == IGNORE:
        await trio.sleep_forever()
    if command == SEND:
        await send_without_end(stream)
    while size := await stream.receive_some(4):
        # A request is too short to be cut.
        await stream.send_all(bytes(int.from_bytes(size, "big")))


async def send_without_end(stream: trioanytls.Stream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        while True:
            await stream.send_all(PIECE)


@define
class Load:
    """Requests on 100 streams, and on streams that are opened for one request.

    Attributes:
      round_trips: the duration of each small request, in seconds.
      bursts: the duration of the large requests that were made at the same time.
      held: the largest size of the receive buffers of a connection, of either end, in bytes.
    """

    ends: tuple[trioanytls.Connection, trioanytls.Connection]
    round_trips: list[float] = field(factory=list)
    bursts: list[float] = field(factory=list)
    held: int = 0

    async def open(self) -> trioanytls.Stream:
        stream = await self.ends[0].open_stream()
        await stream.send_all(ANSWER)
        return stream

    async def run(self, streams: list[trioanytls.Stream], seconds: float) -> None:
        ends = trio.current_time() + seconds
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            while trio.current_time() < ends:
                for _ in range(10):
                    await self._ask_in_turn(streams)
                await self._ask_at_once(streams)
            nursery.cancel_scope.cancel()

    async def _ask_in_turn(self, streams: list[trioanytls.Stream]) -> None:
        for stream in streams:
            begun = trio.current_time()
            await self._ask(stream, SMALL)
            self.round_trips.append(trio.current_time() - begun)
            await trio.sleep(PAUSE / OTHERS)
        begun = trio.current_time()
        async with await self.open() as stream:
            await self._ask(stream, SMALL)
        self.round_trips.append(trio.current_time() - begun)

    async def _ask_at_once(self, streams: list[trioanytls.Stream]) -> None:
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            for stream in streams:
                nursery.start_soon(self._ask, stream, LARGE)
        self.bursts.append(trio.current_time() - begun)

    async def _ask(self, stream: trioanytls.Stream, size: int) -> None:
        await stream.send_all(size.to_bytes(4, "big"))
        while size:
            data = await stream.receive_some(size)
            assert data
            size -= len(data)

    async def _watch(self) -> None:
        while True:
            self.held = max(self.held, *(end._multiplexer.budget.total for end in self.ends))
            await trio.sleep(1)


async def load(extensions: Collection[str], reader: Role | None, seconds: float = HOUR) -> Load:
    """Send requests next to a stream that the end `reader` does not read, if there is one."""
    # The unread stream is silent as soon as its sender has no credit.
    config = extending(extensions, stream_idle_timeout=math.inf)
    pair = memory_connection_pair(
        handle, client_config=config, server_config=config, transports=delayed_stream_pair(PATH)
    )
    async with pair as ends, trio.open_nursery() as nursery:
        measured = Load(ends)
        streams = [await measured.open() for _ in range(OTHERS)]
        # Before the answer to NEGO, a client may send more than a window.
        await ends[0].ping()
        unread: trioanytls.Stream | None = None
        if reader is not None:
            unread = await ends[0].open_stream()
            await unread.send_all(SEND if reader == "client" else IGNORE)
            if reader == "server":
                nursery.start_soon(send_without_end, unread)
        # Its first credit takes its time on the path.
        await trio.sleep(1)
        await measured.run(streams, seconds)
        if extensions and unread is not None:
            # Nothing has closed it, and what it has received can still be read.
            assert ends[0].stats.open_streams == OTHERS + 1
            if reader == "client":
                assert await unread.receive_some()
        nursery.cancel_scope.cancel()
    return measured


async def test_the_others_do_not_notice_a_stream_that_is_not_read(autojump_clock: Clock) -> None:
    undisturbed = await load(["window"], None)
    for reader in ROLES:
        disturbed = await load(["window"], reader)
        assert disturbed.round_trips == pytest.approx(undisturbed.round_trips, rel=0.05)
        assert disturbed.bursts == pytest.approx(undisturbed.bursts, rel=0.05)
        # It takes its window, and no more.
        assert disturbed.held < 2 * trioanytls.Config().stream_window


@pytest.mark.parametrize("reader", ROLES)
async def test_without_a_window_the_others_wait_until_it_is_closed(reader: Role, autojump_clock: Clock) -> None:
    disturbed = await load(NO_EXTENSIONS, reader, 100)
    # The first one that waits begins a moment after the reader has stopped.
    assert max(disturbed.round_trips) > 0.9 * trioanytls.Config().stall_timeout
