"""A TCP proxy that reads the headers of TLS records, and so observes what a network can."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial

import trio
from attrs import Factory, define

from ..conftest import HOST

_HEADER = 5
_APPLICATION_DATA = 23
#: A record of TLS 1.3 is longer than its content by the content's type and the tag of AES-GCM or ChaCha20-Poly1305.
_OVERHEAD = 17


@define
class _Records:
    """Reads the records that a client sends.

    Attributes:
      sizes: the sizes of the records' content, in bytes.
    """

    sizes: list[int] = Factory(list)
    _received: bytearray = Factory(bytearray)
    _skipped: bool = False

    def feed(self, data: bytes) -> None:
        """Process the next bytes."""
        self._received += data
        while len(self._received) >= _HEADER:
            length = int.from_bytes(self._received[3:_HEADER], "big")
            if len(self._received) < _HEADER + length:
                return
            if self._received[0] == _APPLICATION_DATA:
                self._add(length - _OVERHEAD)
            del self._received[: _HEADER + length]

    def _add(self, size: int) -> None:
        if self._skipped:
            self.sizes.append(size)
        # The first encrypted record is the end of the handshake.
        self._skipped = True


@define(eq=False)
class Observer:
    """The proxy.

    Attributes:
      port: its port.
      connections: the sizes of the records that the client has sent on each connection.
    """

    port: int = 0
    connections: list[list[int]] = Factory(list)
    _server: int = 0
    _scopes: set[trio.CancelScope] = Factory(set)
    _ended: trio.Event = Factory(trio.Event)

    async def serve(self, client: trio.SocketStream) -> None:
        """Forward one connection."""
        records = _Records()
        self.connections.append(records.sizes)
        with trio.CancelScope() as scope:
            self._scopes.add(scope)
            with contextlib.suppress(trio.BrokenResourceError, OSError):
                async with (
                    client,
                    await trio.open_tcp_stream(HOST, self._server) as server,
                    trio.open_nursery() as nursery,
                ):
                    nursery.start_soon(self._forward, server, client, scope, None)
                    await self._forward(client, server, scope, records)
        self._scopes.discard(scope)
        if not self._scopes:
            self._ended.set()

    async def cut(self) -> None:
        """End all connections."""
        if self._scopes:
            self._ended = trio.Event()
            for scope in self._scopes:
                scope.cancel()
            await self._ended.wait()

    async def _forward(
        self, source: trio.SocketStream, target: trio.SocketStream, scope: trio.CancelScope, records: _Records | None
    ) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in source:
                if records is not None:
                    records.feed(bytes(data))
                await target.send_all(data)
        scope.cancel()


@contextlib.asynccontextmanager
async def observing(server: int) -> AsyncIterator[Observer]:
    """Run a proxy in front of the server on this port."""
    observer = Observer(server=server)
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, observer.serve, 0, host=HOST))
        observer.port = listeners[0].socket.getsockname()[1]
        yield observer
        nursery.cancel_scope.cancel()
