"""HTTP/2 with coalesced writes: one task writes all output that has accumulated since its last write."""

from __future__ import annotations

import trio

from . import _h2

HIGH_WATER = 128 * 1024
"""Senders wait if this many bytes have accumulated since the last write. Larger batches do not fit the cache."""


class Connection(_h2.Connection):
    """A writing task, woken by an event. Senders wait for it only if they are far ahead."""

    def __init__(self, transport: trio.abc.Stream, *, client: bool) -> None:
        super().__init__(transport, client=client)
        self._due = trio.Event()
        self._taken = trio.Event()
        self._queued = 0

    async def flush(self, size: int = 0) -> None:
        self._queued += size
        self._due.set()
        if self._queued >= HIGH_WATER:
            await self._taken.wait()
        else:
            await trio.lowlevel.checkpoint()

    def flush_soon(self) -> None:
        self._due.set()

    async def run_writer(self) -> None:
        while True:
            await self._due.wait()
            self._due = trio.Event()
            data = self.engine.data_to_send()
            self._queued = 0
            self._taken.set()
            self._taken = trio.Event()
            if data:
                await self.transport.send_all(data)


class Peer(_h2.Peer):
    """HTTP/2 with a task that coalesces writes."""

    connection = Connection
