"""A peer of the legacy format that sends arbitrary bytes, for tests of what the programs in the field do."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any, cast

import trio
import trio.testing
from attrs import evolve

import trioanytls
from trioanytls._connection.connection import Connection
from trioanytls._protocol.credentials import UserTable
from trioanytls._server.connection import ServerConnection
from trioanytls._server.context import Handler, ServerContext
from trioanytls.testing import RecordedTransport, StreamQueue, echo

from .connection_ends import End, Role
from .frame_peer import FramePeer
from .legacy_bytes import HELLO, PASSWORD, SERVER_SETTINGS_2, WASTE, syn, synack

#: A frame: command, stream id, data.
Frame = tuple[int, int, bytes]


class LegacyPeer(FramePeer[Frame]):
    """The other end of a connection, on a transport in memory or any other.

    Attributes:
      preamble: (as a server) the bytes that the client authenticated with.
    """

    def __init__(self, transport: trio.abc.Stream) -> None:
        super().__init__(transport)
        self.preamble = b""
        self._received = bytearray()

    async def _more(self, size: int) -> bool:
        """Receive until there are this many bytes. Return False at the end of the transport."""
        while len(self._received) < size:
            received = await self.transport.receive_some()
            if not received:
                return False
            self._received += received
        return True

    def _take(self, size: int) -> bytes:
        taken = bytes(self._received[:size])
        del self._received[:size]
        return taken

    async def receive(self, *, skip: int | None = WASTE) -> Frame | None:
        """Receive the next frame other than Waste. Return None at the end of the transport."""
        while await self._more(7):
            header = bytes(self._received[:7])
            size = int.from_bytes(header[5:], "big")
            if not await self._more(7 + size):
                break
            frame = header[0], int.from_bytes(header[1:5], "big"), self._take(7 + size)[7:]
            if frame[0] != skip:
                return frame
        return None

    async def receive_preamble(self) -> bytes:
        """(as a server) Receive the preamble, and keep the frames after it."""
        assert await self._more(34)
        size = 34 + int.from_bytes(self._received[32:34], "big")
        assert await self._more(size)
        self.preamble = self._take(size)
        return self.preamble


@contextlib.asynccontextmanager
async def legacy_client(
    handler: Handler = echo,
    config: trioanytls.Config | None = None,
    *,
    hello: bytes = HELLO,
    scheme: trioanytls.PaddingScheme = trioanytls.PaddingScheme.DEFAULT,
    pair: tuple[trio.abc.Stream, trio.abc.Stream] | None = None,
) -> AsyncIterator[tuple[LegacyPeer, Connection]]:
    """Run a server's connection, with a raw peer as its client, which has sent `hello`."""
    near, far = pair or trio.testing.memory_stream_pair()
    config = config or trioanytls.Config()
    service = ServerContext(handler, UserTable({"alice": PASSWORD}), scheme, config, protocols=("anytls1", "legacy"))
    server = ServerConnection(far, service)
    peer = LegacyPeer(near)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server._run)
        if hello:
            await peer.send(hello)
        yield peer, server
        await near.aclose()
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def legacy_server(
    config: trioanytls.Config | None = None,
    scheme: trioanytls.PaddingScheme | None = None,
    pair: tuple[trio.abc.Stream, trio.abc.Stream] | None = None,
) -> AsyncIterator[tuple[trioanytls.Connection, LegacyPeer, RecordedTransport]]:
    """Run a client's connection, with a raw peer as its server, and record the client's writes."""
    near, far = pair or trio.testing.memory_stream_pair()
    recorded = RecordedTransport(near)
    config = config or trioanytls.Config()
    async with trioanytls.wrap_client(
        recorded, password=PASSWORD, protocol="legacy", padding_scheme=scheme, config=config
    ) as client:
        yield client, LegacyPeer(far), recorded
        await far.aclose()


@contextlib.asynccontextmanager
async def legacy_end(role: Role, config: trioanytls.Config | None = None, streams: int = 0) -> AsyncIterator[End]:
    """Give an established end with this many streams, which no task reads. Its peer is a `LegacyPeer` of version 2."""
    pair = trio.testing.memory_stream_pair()
    if role == "client":
        # Otherwise SYN would wait for data.
        config = evolve(config or trioanytls.Config(), initial_flush_delay=0)
        async with legacy_server(config, pair=pair) as (client, peer, _):
            opened = [await client.open_stream() for _ in range(streams)]
            await peer.receive_preamble()
            await peer.pending()
            await peer.send(SERVER_SETTINGS_2, *(synack(stream.stream_id) for stream in opened))
            await trio.testing.wait_all_tasks_blocked()
            yield End(client, opened, cast("Any", peer), pair[0])
    else:
        queue = StreamQueue()
        async with legacy_client(queue, config, pair=pair) as (peer, server):
            await peer.send(*map(syn, range(1, streams + 1)))
            opened = sorted([await queue.get() for _ in range(streams)], key=lambda stream: stream.stream_id)
            await peer.pending()
            yield End(server, opened, cast("Any", peer), pair[1])
