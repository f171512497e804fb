"""Tools for testing programs that use trioanytls: connections in memory, and a transport that records its traffic."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import trio
import trio.testing
from attrs import define, field

from trioanytls._client.connect import wrap_client
from trioanytls._connection.connection import Connection, run_connection
from trioanytls._connection.nursery import BackgroundNursery
from trioanytls._connection.stream import Stream, core_of
from trioanytls._protocol.credentials import UserTable
from trioanytls._protocol.interface import WireFormat
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._server.connection import ServerConnection
from trioanytls._server.context import Handler, ServerContext

from ._config import Config

__all__ = ["RecordedTransport", "StreamQueue", "echo", "memory_connection_pair", "memory_stream_pair"]

_PASSWORD = "password"  # noqa: S105 - of servers in memory only


async def echo(stream: Stream) -> None:
    """Send back everything that is received on the stream. A handler for servers."""
    async for data in stream:
        await stream.send_all(data)


@define
class StreamQueue:
    """A handler that passes each stream to the test, which gets it from `get()` and must close it."""

    _send: trio.MemorySendChannel[Stream] = field(init=False)
    _receive: trio.MemoryReceiveChannel[Stream] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Stream](1024)

    async def __call__(self, stream: Stream) -> None:
        """Handle a stream: put it into the queue, and return when it is closed."""
        await self._send.send(stream)
        await core_of(stream).wait_closed_locally()

    async def get(self) -> Stream:
        """Return the next stream that a client has opened."""
        return await self._receive.receive()


@contextlib.asynccontextmanager
async def memory_connection_pair(
    handler: Handler = echo,
    *,
    client_config: Config = Config(),
    server_config: Config = Config(),
    padding_scheme: PaddingScheme | None = None,
    server_padding_scheme: PaddingScheme | None = None,
    transports: tuple[trio.abc.Stream, trio.abc.Stream] | None = None,
    protocol: WireFormat = "anytls1",
) -> AsyncIterator[tuple[Connection, Connection]]:
    """Connect a client to a server in memory, without TLS. Yield both `Connection` objects, the client's first.

    Both are closed at the end of the block.

    Args:
      handler: serves the streams that the client opens; default: `echo`. See also `StreamQueue`.
      client_config, server_config: the settings of each end.
      padding_scheme, server_padding_scheme: the scheme of each end; default: the built-in one.
      transports: the two connected transports, the client's first; default: `trio.testing.memory_stream_pair()`.
      protocol: the wire format of the connection, the only one that the server accepts.
    """
    client_transport, server_transport = transports or trio.testing.memory_stream_pair()
    scheme = server_padding_scheme or PaddingScheme.DEFAULT
    service = ServerContext(handler, UserTable({"user": _PASSWORD}), scheme, server_config, protocols=(protocol,))
    server = ServerConnection(server_transport, service)
    async with BackgroundNursery() as nursery:
        await nursery.start(run_connection, server)
        try:
            async with wrap_client(
                client_transport,
                password=_PASSWORD,
                padding_scheme=padding_scheme,
                config=client_config,
                protocol=protocol,
            ) as client:
                yield client, server
        finally:
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def memory_stream_pair(
    *,
    client_config: Config = Config(),
    server_config: Config = Config(),
    protocol: WireFormat = "anytls1",
) -> AsyncIterator[tuple[Stream, Stream]]:
    """Open a stream on a new connection in memory. Yield both of its ends, the client's first."""
    queue = StreamQueue()
    pair = memory_connection_pair(queue, client_config=client_config, server_config=server_config, protocol=protocol)
    async with (
        pair as (client, _),
        await client.open_stream() as near,
        await queue.get() as far,
    ):
        yield near, far


@define
class RecordedTransport(trio.abc.Stream):
    """A transport that wraps another one and records its traffic.

    Attributes:
      transport: the wrapped transport.
      sent: the argument of each `send_all`, in order. Each is one write of a connection.
      received: the result of each `receive_some`, in order.
    """

    transport: trio.abc.Stream
    # Not in `repr`: AUTH contains the hash of the password.
    sent: list[bytes] = field(init=False, factory=list, repr=False)
    received: list[bytes] = field(init=False, factory=list, repr=False)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Record the data and send it, see `trio.abc.SendStream`."""
        self.sent.append(bytes(data))
        await self.transport.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait for the wrapped transport, see `trio.abc.SendStream`."""
        await self.transport.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive data and record it, see `trio.abc.ReceiveStream`."""
        data = await self.transport.receive_some(max_bytes)
        self.received.append(bytes(data))
        return data

    async def aclose(self) -> None:
        """Close the wrapped transport, see `trio.abc.AsyncResource`."""
        await self.transport.aclose()
