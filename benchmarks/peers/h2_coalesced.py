"""HTTP/2, writes coalesced: one task writes, each time everything that has become ready meanwhile."""

from __future__ import annotations

import trio

from . import _h2

HIGH_WATER = 128 * 1024
"""Senders wait when as much has been made ready since the last write; larger batches leave the cache."""


class Connection(_h2.Connection):
    """A writing task, woken by an event; senders wait for it only when they are far ahead."""

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
    """HTTP/2 with writes by a task that coalesces."""

    connection = Connection
