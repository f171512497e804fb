"""A peer that sends arbitrary bytes, for tests of what no well-behaved end would do."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import trio
import trio.testing

import trioanytls
from trioanytls._connection.connection import Connection
from trioanytls._protocol import data_blocks
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.auth_decoder import AuthDecoder
from trioanytls._protocol.anytls1.frame_decoder import Frame, FrameDecoder
from trioanytls._protocol.credentials import UserTable, hash_password
from trioanytls._server.connection import ServerConnection
from trioanytls._server.context import Handler, ServerContext
from trioanytls.testing import echo

from .frame_peer import FramePeer

SCHEME = trioanytls.PaddingScheme.DEFAULT
NEGO_BLOCK = data_blocks.format_key_values({"v": ["1"], "client": ["raw/1"], "padding-md5": [SCHEME.digest]})
NEGO = frames.encode_client_nego(NEGO_BLOCK)
AUTH = frames.encode_auth(hash_password("password"), 30)
HELLO = AUTH + NEGO
SERVER_NEGO = frames.encode_server_nego(b"v=1\n")
PINGPONG = frames.encode_pingpong()


def data(stream_id: int, payload: bytes) -> bytes:
    return frames.data_prefix(stream_id) + frames.encode_length(len(payload)) + payload


class RawPeer(FramePeer[Frame]):
    """The other end of a connection, on a transport in memory or any other."""

    def __init__(self, transport: trio.abc.Stream) -> None:
        super().__init__(transport)
        self.auth: AuthDecoder | None = None
        self._decoder = FrameDecoder()
        self._frames: list[Frame] = []

    def know(self, *kinds: frames.FrameType) -> None:
        """Decode these frames of extensions as well. They have been agreed upon."""
        self._decoder.extension_frames |= frozenset(kinds)

    async def receive(self) -> Frame | None:
        """Receive the next frame other than PADDING. Return None at the end of the transport."""
        while not self._frames:
            received = await self.transport.receive_some()
            if not received:
                return None
            self._decode(bytes(received))
        return self._frames.pop(0)

    def _decode(self, received: bytes) -> None:
        decoded = self._decoder.decode(received)
        self._frames += [frame for frame in decoded if frame[0] != frames.FrameType.PADDING]

    async def receive_auth(self) -> None:
        """(as a server) Receive AUTH. Keep the frames after it."""
        self.auth = AuthDecoder()
        while self.auth.rest is None:
            self.auth.feed(bytes(await self.transport.receive_some()))
        self._decode(self.auth.rest)


@contextlib.asynccontextmanager
async def raw_client(
    handler: Handler = echo, config: trioanytls.Config | None = None, *, hello: bytes = HELLO
) -> AsyncIterator[tuple[RawPeer, Connection]]:
    """Run a server's connection, with a raw peer as its client, which has sent `hello`."""
    near, far = trio.testing.memory_stream_pair()
    config = config or trioanytls.Config()
    service = ServerContext(handler, UserTable({"alice": "password"}), SCHEME, config)
    server = ServerConnection(far, service)
    peer = RawPeer(near)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server._run)
        if hello:
            await peer.send(hello)
        yield peer, server
        await near.aclose()
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def raw_server(config: trioanytls.Config | None = None) -> AsyncIterator[tuple[trioanytls.Connection, RawPeer]]:
    """Run a client's connection, with a raw peer as its server."""
    near, far = trio.testing.memory_stream_pair()
    async with trioanytls.wrap_client(near, password="password", config=config or trioanytls.Config()) as client:
        yield client, RawPeer(far)
        await far.aclose()
