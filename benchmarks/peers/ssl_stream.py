"""The bare `trio.SSLStream`: one connection, one stream, no multiplexing. All peers are compared with it.

It does the work of many streams on its one stream, the same bytes from one task: a bare connection's best case.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

import trio

from benchmarks.peer import Handler, Session, SingleStream, closing, serve_transport
from benchmarks.peer import Peer as AbstractPeer


class Peer(AbstractPeer):
    """One `trio.SSLStream` over one TCP connection."""

    streams_per_connection: ClassVar[int | None] = 1
    multiplexed = False
    many = 1

    async def serve(self, handler: Handler, *, task_status: trio.TaskStatus[int]) -> None:
        async def serve_one(transport: trio.SocketStream) -> None:
            async with closing(self.tls.wrap_server(transport)) as stream:
                await handler(stream)

        await serve_transport(serve_one, task_status=task_status)

    @asynccontextmanager
    async def connect(self, port: int) -> AsyncIterator[Session]:
        async with closing(await self.tls.connect(port)) as stream:
            yield SingleStream(stream)
