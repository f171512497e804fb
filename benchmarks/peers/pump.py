"""The transport of trioanytls alone: one connection, one stream, no multiplexing.

The application's tasks read and write `TLSStream` themselves. This is what multiplexing could reach if it cost nothing.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property
from typing import ClassVar

import trio

from benchmarks.peer import HOST, SERVER_NAME, Handler, Session, SingleStream, closing, serve_transport
from benchmarks.peer import Peer as AbstractPeer
from trioanytls._transport.handshake import handshake

HANDSHAKE_TIMEOUT = 30.0


class Peer(AbstractPeer):
    """One `TLSStream` over one TCP connection."""

    streams_per_connection: ClassVar[int | None] = 1
    multiplexed = False
    many = 1

    @cached_property
    def client_context(self) -> ssl.SSLContext:
        """The TLS context. It is made once, because it costs more than a handshake."""
        return self.credentials.client_context()

    async def serve(self, handler: Handler, *, task_status: trio.TaskStatus[int]) -> None:
        context = self.credentials.server_context()

        async def serve_one(transport: trio.SocketStream) -> None:
            secured = await handshake(transport, context, timeout=HANDSHAKE_TIMEOUT, server_side=True)
            async with closing(secured) as stream:
                await handler(stream)

        await serve_transport(serve_one, task_status=task_status)

    @asynccontextmanager
    async def connect(self, port: int) -> AsyncIterator[Session]:
        secured = await handshake(
            await trio.open_tcp_stream(HOST, port),
            self.client_context,
            timeout=HANDSHAKE_TIMEOUT,
            server_hostname=SERVER_NAME,
        )
        async with closing(secured) as stream:
            yield SingleStream(stream)
