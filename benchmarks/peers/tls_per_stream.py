"""A new TLS connection for each stream, as without multiplexing."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from benchmarks.peer import Session, TLSOverTCP

from .ssl_stream import Peer as SSLStreamPeer


class _Session(Session):
    def __init__(self, tls: TLSOverTCP, port: int) -> None:
        self._tls = tls
        self._port = port
        self._streams: list[trio.abc.Stream] = []

    async def open_stream(self) -> trio.abc.Stream:
        stream = await self._tls.connect(self._port)
        self._streams.append(stream)
        return stream

    async def aclose(self) -> None:
        # Shielded, because a cancelled loop would end at the first stream.
        with trio.CancelScope(shield=True):
            for stream in self._streams:
                await trio.aclose_forcefully(stream)


class Peer(SSLStreamPeer):
    """One `trio.SSLStream` for each stream. The server is that of the bare one."""

    streams_per_connection = None
    many = 2_000

    @asynccontextmanager
    async def connect(self, port: int) -> AsyncIterator[Session]:
        session = _Session(self.tls, port)
        try:
            yield session
        finally:
            await session.aclose()
