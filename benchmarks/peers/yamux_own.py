"""py-libp2p's yamux over py-libp2p's TLS, with the self-signed certificates that its specification requires."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cached_property

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.security.tls.transport import TLSTransport

from benchmarks.peer import HOST, Handler, Session, closing, serve_transport

from . import _yamux

_SERVER_KEY = create_new_key_pair(b"benchmark server".ljust(32))
"""From a known seed, so that the client knows the identity of the server."""


class Peer(_yamux.Peer):
    """Yamux over the TLS of `libp2p`."""

    async def serve(self, handler: Handler, *, task_status: trio.TaskStatus[int]) -> None:
        tls = TLSTransport(_SERVER_KEY)

        async def serve_one(transport: trio.SocketStream) -> None:
            async with closing(transport):
                secured = await tls.secure_inbound(RawConnection(TrioTCPStream(transport), False))
                await _yamux.serve_muxed(secured, secured.get_remote_peer(), handler)

        await serve_transport(serve_one, task_status=task_status)

    @cached_property
    def _client_tls(self) -> TLSTransport:
        return TLSTransport(create_new_key_pair())

    @asynccontextmanager
    async def connect(self, port: int) -> AsyncIterator[Session]:
        async with closing(await trio.open_tcp_stream(HOST, port)) as transport:
            server = ID.from_pubkey(_SERVER_KEY.public_key)
            secured = await self._client_tls.secure_outbound(RawConnection(TrioTCPStream(transport), True), server)
            async with _yamux.session_over(secured, server) as session:
                yield session
