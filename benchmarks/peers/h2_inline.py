"""HTTP/2 with inline writes: the task that sends writes the output, and waits until it is written.

One task writes at a time. Others wait for the end of that write. The first of them then writes the output of all, so
that the others find theirs written. A plain lock would wake them one by one.
"""

from __future__ import annotations

import trio

from . import _h2


class Connection(_h2.Connection):
    """Writes in the task that sends."""

    def __init__(self, transport: trio.abc.Stream, *, client: bool) -> None:
        super().__init__(transport, client=client)
        self._due = trio.Event()
        self._turn = trio.Event()
        self._writing = False
        self._asked = 0
        self._written = 0

    async def flush(self, size: int = 0) -> None:
        self._asked += 1
        mine = self._asked
        while self._written < mine:
            if self._writing:
                await self._turn.wait()
            else:
                await self._write()

    async def _write(self) -> None:
        self._writing = True
        asked = self._asked
        try:
            data = self.engine.data_to_send()
            if data:
                await self.transport.send_all(data)
            else:
                await trio.lowlevel.checkpoint()
            self._written = asked
        finally:
            self._writing = False
            self._turn.set()
            self._turn = trio.Event()

    def flush_soon(self) -> None:
        self._due.set()

    async def run_writer(self) -> None:
        while True:
            await self._due.wait()
            self._due = trio.Event()
            await self.flush()


class Peer(_h2.Peer):
    """HTTP/2 with inline writes."""

    connection = Connection
