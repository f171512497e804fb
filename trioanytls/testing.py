"""For the tests of programs that use trioanytls: connections in memory, and a transport that remembers."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import trio
import trio.testing
from attrs import define, field

from trioanytls._client.connect import wrap_client
from trioanytls._connection.connection import Connection
from trioanytls._connection.nursery import background_nursery
from trioanytls._connection.stream import Stream
from trioanytls._protocol.anytls1.server import ServerProtocol
from trioanytls._protocol.credentials import UserTable
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._server.context import Handler, ServerContext

from ._config import Config

__all__ = ["RecordedTransport", "StreamQueue", "echo", "memory_connection_pair", "memory_stream_pair"]

_PASSWORD = "password"  # noqa: S105 - of a server that exists in memory


async def echo(stream: Stream) -> None:
    """A handler that sends back whatever it receives."""
    async for data in stream:
        await stream.send_all(data)


@define
class StreamQueue:
    """A handler that hands each stream to the test, by `await queue.get()`; it is open until the test closes it."""

    _send: trio.MemorySendChannel[Stream] = field(init=False)
    _receive: trio.MemoryReceiveChannel[Stream] = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Stream](1024)

    async def __call__(self, stream: Stream) -> None:
        """Be the handler of a stream."""
        await self._send.send(stream)
        await stream.wait_closed_locally()

    async def get(self) -> Stream:
        """The next stream that a client has opened."""
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
) -> AsyncIterator[tuple[Connection, Connection]]:
    """A client's and a server's `Connection` that are connected to each other, without TLS; both are closed at the end.

    Args:
      handler: what serves the streams that the client opens; default: `echo`. See `StreamQueue` for another one.
      client_config, server_config: the settings of each side.
      padding_scheme, server_padding_scheme: default: the built-in one.
      transports: what carries the bytes, the client's end first; default: `trio.testing.memory_stream_pair`.
    """
    client_transport, server_transport = transports or trio.testing.memory_stream_pair()
    scheme = server_padding_scheme or PaddingScheme.DEFAULT
    service = ServerContext(handler, UserTable({"user": _PASSWORD}), scheme, server_config)
    protocol = ServerProtocol(service.users, scheme, server_config.limits)
    server = Connection(server_transport, protocol, scheme, server_config, service)
    async with background_nursery() as nursery:
        await nursery.start(server._run)
        try:
            async with wrap_client(
                client_transport, password=_PASSWORD, padding_scheme=padding_scheme, config=client_config
            ) as client:
                yield client, server
        finally:
            nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def memory_stream_pair(
    *,
    client_config: Config = Config(),
    server_config: Config = Config(),
) -> AsyncIterator[tuple[Stream, Stream]]:
    """Both ends of one stream, the client's first, on a connection of its own in memory."""
    queue = StreamQueue()
    async with (
        memory_connection_pair(queue, client_config=client_config, server_config=server_config) as (client, _),
        await client.open_stream() as near,
        await queue.get() as far,
    ):
        yield near, far


@define
class RecordedTransport(trio.abc.Stream):
    """A transport that passes everything on to another one, and remembers it.

    Attributes:
      transport: the other one.
      sent: the argument of each `send_all`, in order: each Write of a connection.
      received: what each `receive_some` returned.
    """

    transport: trio.abc.Stream
    # AUTH has the password's hash in it.
    sent: list[bytes] = field(init=False, factory=list, repr=False)
    received: list[bytes] = field(init=False, factory=list, repr=False)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream`."""
        self.sent.append(bytes(data))
        await self.transport.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        await self.transport.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """See `trio.abc.ReceiveStream`."""
        data = await self.transport.receive_some(max_bytes)
        self.received.append(bytes(data))
        return data

    async def aclose(self) -> None:
        """See `trio.abc.AsyncResource`."""
        await self.transport.aclose()
