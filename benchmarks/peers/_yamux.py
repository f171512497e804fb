"""py-libp2p's yamux: the common part of the two peers, over its own TLS and over a `trio.SSLStream`.

`libp2p` has a separate environment. It is tuned as follows. Writes have 65,524 bytes, which fill a frame. Logging is
off. Credit is returned in large steps instead of with every read, by a variable of the package: this saves a
quarter of the time in bulk. The limit of 256 open streams is raised, as many streams could not be measured with it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import trio
from libp2p.abc import ISecureConn
from libp2p.io.exceptions import IOException
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable, MuxedStreamEOF, MuxedStreamError, MuxedStreamReset
from libp2p.stream_muxer.yamux.yamux import Yamux, YamuxStream

from benchmarks.peer import Handler, Session
from benchmarks.peer import Peer as AbstractPeer

logging.disable(logging.CRITICAL)
os.environ.setdefault("PY_YAMUX_RELEASE_ON_READ", "0")

READ_SIZE = 256 * 1024
MOST_STREAMS = 1_000_000
WRITE_SIZE = 65_524
"""A frame of at most 64 KiB, its header of 12 bytes included."""


class Stream(trio.abc.Stream):
    """A yamux stream with the end and the errors of Trio."""

    __slots__ = ("_stream",)

    def __init__(self, stream: YamuxStream) -> None:
        self._stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await self._stream.write(data)
        except (MuxedStreamError, IOException) as error:
            raise trio.BrokenResourceError from error

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            data: bytes = await self._stream.read(READ_SIZE if max_bytes is None else max_bytes)
        except MuxedStreamReset as error:
            raise trio.BrokenResourceError from error
        except MuxedStreamEOF:
            return b""
        return data

    async def aclose(self) -> None:
        await self._stream.close()


class _Session(Session):
    def __init__(self, muxer: Yamux) -> None:
        self._muxer = muxer

    async def open_stream(self) -> trio.abc.Stream:
        return Stream(await self._muxer.open_stream())


@asynccontextmanager
async def muxed(connection: ISecureConn, remote: ID, *, initiator: bool) -> AsyncIterator[Yamux]:
    """Run yamux over a secured connection."""
    muxer = Yamux(connection, remote, is_initiator=initiator)
    muxer.stream_backlog_semaphore = trio.Semaphore(MOST_STREAMS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxer.start)
        await muxer.event_started.wait()
        yield muxer
        nursery.cancel_scope.cancel()


async def serve_muxed(connection: ISecureConn, remote: ID, handler: Handler) -> None:
    """Serve every stream that arrives on a secured connection."""
    async with muxed(connection, remote, initiator=False) as muxer, trio.open_nursery() as nursery:
        try:
            while True:
                nursery.start_soon(_run, handler, Stream(await muxer.accept_stream()))
        except MuxedConnUnavailable:
            nursery.cancel_scope.cancel()


async def _run(handler: Callable[[trio.abc.Stream], Awaitable[None]], stream: Stream) -> None:
    async with stream:
        await handler(stream)


@asynccontextmanager
async def session_over(connection: ISecureConn, remote: ID) -> AsyncIterator[Session]:
    """Give the client's end over a secured connection."""
    async with muxed(connection, remote, initiator=True) as muxer:
        yield _Session(muxer)


class Peer(AbstractPeer):
    """Yamux over either TLS."""

    write_size = WRITE_SIZE
