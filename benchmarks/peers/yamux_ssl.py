"""py-libp2p's yamux over a `trio.SSLStream`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import cast

import trio
from libp2p.abc import ISecureConn
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID

from benchmarks.peer import Handler, Session, closing, serve_transport

from . import _yamux

_UNUSED_ID = ID(b"benchmark")
"""An unused identity: TLS has authenticated the peer."""


class _Secured:
    """The part of a secured connection that yamux uses. Reads are buffered, because yamux reads headers separately."""

    def __init__(self, stream: trio.abc.Stream, *, initiator: bool) -> None:
        self._stream = stream
        self._buffer = b""
        self._start = 0
        self.is_initiator = initiator

    async def read(self, n: int | None = None) -> bytes:
        if self._start == len(self._buffer):
            try:
                self._buffer = bytes(await self._stream.receive_some())
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise ConnectionClosedError("connection closed") from error
            self._start = 0
        end = len(self._buffer) if n is None else min(self._start + n, len(self._buffer))
        data = self._buffer[self._start : end]
        self._start = end
        return data

    async def write(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionClosedError("connection closed") from error

    async def close(self) -> None:
        await trio.aclose_forcefully(self._stream)


def _secured(stream: trio.abc.Stream, *, initiator: bool) -> ISecureConn:
    return cast(ISecureConn, _Secured(stream, initiator=initiator))


class Peer(_yamux.Peer):
    """Yamux over `trio.SSLStream`."""

    async def serve(self, handler: Handler, *, task_status: trio.TaskStatus[int]) -> None:
        async def serve_one(transport: trio.SocketStream) -> None:
            async with closing(self.tls.wrap_server(transport)) as stream:
                await _yamux.serve_muxed(_secured(stream, initiator=False), _UNUSED_ID, handler)

        await serve_transport(serve_one, task_status=task_status)

    @asynccontextmanager
    async def connect(self, port: int) -> AsyncIterator[Session]:
        async with (
            closing(await self.tls.connect(port)) as stream,
            _yamux.session_over(_secured(stream, initiator=True), _UNUSED_ID) as session,
        ):
            yield session
