"""The kinds of work whose cost is counted, and the settings to count them with."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import cast

import trio
from attrs import Factory, field, frozen

import trioanytls
from trioanytls.relay.address_policy import AddressPolicy
from trioanytls.relay.handler import RelayHandler
from trioanytls.relay.socks_proxy import SOCKSProxy
from trioanytls.relay.upstream import Upstream

from ._ends import HOST, Connect, Handler, Setting, server, socket_pair
from ._meter import on_side, settle

_KIB = 1024
_FRAME, _MIB = 64 * _KIB, 1024 * _KIB
_MESSAGE = bytes(64)
#: More frames than the padding scheme shapes.
_SHAPED = 20

#: Does a number of units, and waits until they are done.
DoUnits = Callable[[int], Awaitable[object]]
#: Connects the two ends, and gives the function that works.
Prepare = Callable[[Setting], AbstractAsyncContextManager[DoUnits]]

TLS = Setting()
NO_EXTENSIONS = Setting(extensions=False)
LEGACY = Setting(protocol="legacy")
MEMORY = Setting(tls=False)


@frozen
class Work:
    """A kind of work.

    Attributes:
      name: its name in the tables.
      unit: a unit of it.
      prepare: see `Prepare`.
      units: the number of units in the first of two runs. The second has twice as many, and the difference counts.
      settings: the settings to count it with.
      warm_up: the number of units before the first run.
    """

    name: str
    unit: str
    prepare: Prepare
    units: int
    settings: tuple[Setting, ...] = (TLS,)
    warm_up: int = field(default=Factory(lambda self: self.units, takes_self=True))


async def receive_exactly(stream: trio.abc.ReceiveStream, size: int) -> None:
    """Receive this number of bytes."""
    while size > 0:
        data = await stream.receive_some()
        assert data
        size -= len(data)


async def echo(stream: trioanytls.Stream) -> None:
    """Send back all data."""
    async for data in stream:
        await stream.send_all(data)


class Sink:
    """A handler that receives all data of all streams, and counts the bytes."""

    def __init__(self) -> None:
        self._missing = 0
        self._complete = trio.Event()

    def expect(self, size: int) -> None:
        """Let `wait` wait for this number of bytes from now on."""
        self._missing, self._complete = size, trio.Event()

    async def wait(self) -> None:
        """Wait until all bytes have arrived."""
        await self._complete.wait()

    async def __call__(self, stream: trioanytls.Stream) -> None:
        async for data in stream:
            self._missing -= len(data)
            if not self._missing:
                self._complete.set()


@contextlib.asynccontextmanager
async def connected(setting: Setting, handler: Handler) -> AsyncIterator[trioanytls.Connection]:
    """Open a connection to a server with this handler."""
    async with server(setting, handler) as connect, connect() as connection:
        yield connection


def sending(size: int, streams: int = 1) -> Prepare:
    """Return a work that sends `size` bytes by each call of `send_all`, on some streams at the same time."""

    @contextlib.asynccontextmanager
    async def prepare(setting: Setting) -> AsyncIterator[DoUnits]:
        sink, data = Sink(), bytes(size)
        async with connected(setting, sink) as connection:
            opened = [await connection.open_stream() for _ in range(streams)]
            for _ in range(_SHAPED):
                await opened[0].send_all(b"x")
                await settle()

            async def send(stream: trioanytls.Stream, units: int) -> None:
                for _ in range(units):
                    await stream.send_all(data)

            async def send_on_all(units: int) -> None:
                sink.expect(units * size)
                async with trio.open_nursery() as nursery:
                    for stream in opened:
                        nursery.start_soon(send, stream, units // streams)
                await sink.wait()

            yield send_on_all

    return prepare


@contextlib.asynccontextmanager
async def ping_pong(setting: Setting) -> AsyncIterator[DoUnits]:
    """Prepare sending messages, each after the answer to the last one."""
    async with connected(setting, echo) as connection:
        stream = await connection.open_stream()

        async def ping(units: int) -> None:
            for _ in range(units):
                await stream.send_all(_MESSAGE)
                await receive_exactly(stream, len(_MESSAGE))

        await ping(_SHAPED)
        yield ping


async def exchange(connection: trioanytls.Connection) -> None:
    """Open a stream, send a message, receive the answer, and close the stream."""
    async with await connection.open_stream() as stream:
        await stream.send_all(_MESSAGE)
        await receive_exactly(stream, len(_MESSAGE))


@contextlib.asynccontextmanager
async def exchanges(setting: Setting) -> AsyncIterator[DoUnits]:
    """Prepare an exchange on each of many streams, one after the other."""
    async with connected(setting, echo) as connection:

        async def exchange_on_each(units: int) -> None:
            for _ in range(units):
                await exchange(connection)

        await exchange_on_each(_SHAPED)
        yield exchange_on_each


class _Connections:
    """Connections that were opened one after the other. They are closed in the opposite order."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._open: list[AbstractAsyncContextManager[trioanytls.Connection]] = []

    async def open(self, count: int) -> None:
        """Open connections, each with an exchange."""
        for _ in range(count):
            manager = self._connect()
            await exchange(await manager.__aenter__())
            self._open.append(manager)

    async def close(self, count: int) -> None:
        """Close connections."""
        for _ in range(count):
            await self._open.pop().__aexit__(None, None, None)

    async def close_all(self) -> None:
        """Close all connections that are left."""
        await self.close(len(self._open))


@contextlib.asynccontextmanager
async def opening(setting: Setting) -> AsyncIterator[DoUnits]:
    """Prepare opening connections, each with an exchange."""
    async with server(setting, echo) as connect:
        connections = _Connections(connect)
        yield connections.open
        await connections.close_all()


@contextlib.asynccontextmanager
async def closing(setting: Setting) -> AsyncIterator[DoUnits]:
    """Prepare closing connections. There are enough for two runs, and for one to warm up."""
    async with server(setting, echo) as connect:
        connections = _Connections(connect)
        await connections.open(4 * _FEW)
        yield connections.close
        await connections.close_all()


@contextlib.asynccontextmanager
async def open_streams(setting: Setting) -> AsyncIterator[DoUnits]:
    """Prepare opening streams that stay open, each after an exchange. The server waits for more."""
    async with connected(setting, echo) as connection:
        opened: list[trioanytls.Stream] = []

        async def open_some(units: int) -> None:
            for _ in range(units):
                opened.append(stream := await connection.open_stream())
                await stream.send_all(_MESSAGE)
                await receive_exactly(stream, len(_MESSAGE))

        yield open_some


def relaying(size: int, *, up: bool, bulk: bool = False) -> Prepare:
    """Return a work that sends pieces through a relay: from the application to the destination (`up`), or back.

    In `bulk`, each piece follows the last one at once. Otherwise it waits until that has arrived.
    """

    @contextlib.asynccontextmanager
    async def prepare(setting: Setting) -> AsyncIterator[DoUnits]:
        (application, near), (destination, far) = socket_pair(), socket_pair()
        source, sink = (application, destination) if up else (destination, application)
        data, moved = bytes(size), [0, 0]

        def count(up: int, down: int) -> None:
            moved[0] += up
            moved[1] += down

        async def relay(stream: trioanytls.Stream) -> None:
            await trioanytls.copy_both_ways(stream, far, on_bytes=count)

        async def send(units: int) -> None:
            for _ in range(units):
                await source.send_all(data)

        async def move(units: int) -> None:
            for count in (units,) if bulk else (1,) * units:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(send, count)
                    await receive_exactly(sink, count * size)

        async with connected(setting, relay) as connection, trio.open_nursery() as nursery:
            nursery.start_soon(trioanytls.copy_both_ways, near, await connection.open_stream())
            on_side("application")
            for _ in range(_SHAPED):
                await source.send_all(b"x")
                await receive_exactly(sink, 1)
            yield move
            on_side("client")
            await application.aclose()
            await destination.aclose()

    return prepare


@contextlib.asynccontextmanager
async def relayed_connections(setting: Setting) -> AsyncIterator[DoUnits]:
    """Prepare connections of an application through SOCKS5 and a relay, each with an exchange."""

    async def echo_all(stream: trio.SocketStream) -> None:
        async for data in stream:
            await stream.send_all(data)

    async def serve_destination(listeners: list[trio.SocketListener]) -> None:
        on_side("application")
        await trio.serve_listeners(echo_all, listeners)

    listeners = await trio.open_tcp_listeners(0, host=HOST)
    address = b"\x01" + bytes(map(int, HOST.split("."))) + listeners[0].socket.getsockname()[1].to_bytes(2, "big")
    policy = AddressPolicy(allow=(ipaddress.ip_network(HOST),))
    async with connected(setting, RelayHandler(policy)) as connection, trio.open_nursery() as nursery:
        nursery.start_soon(serve_destination, listeners)
        # A connection opens streams like a client with one connection.
        proxy = SOCKSProxy(Upstream(cast("trioanytls.Client", connection)))

        async def connect(units: int) -> None:
            for _ in range(units):
                application, near = socket_pair()
                on_side("client")
                nursery.start_soon(proxy, near)
                on_side("application")
                for request, size in ((b"\x05\x01\x00", 2), (b"\x05\x01\x00" + address, 10), (_MESSAGE, len(_MESSAGE))):
                    await application.send_all(request)
                    await receive_exactly(application, size)
                await application.aclose()
                await settle()

        yield connect
        nursery.cancel_scope.cancel()


#: The number of units for connections.
_FEW = 4
_FORMATS = (TLS, NO_EXTENSIONS, LEGACY)

#: Windows grow while data is read, up to 16 MiB: so much is sent to warm up.
_GROWN = 32 * 1024 * _KIB

WORKS = (
    Work("message", "64 bytes in one direction", sending(64), 400, (*_FORMATS, MEMORY)),
    Work("message, 100 streams", "64 bytes in one direction", sending(64, 100), 1000),
    Work("ping-pong", "64 bytes and an answer", ping_pong, 10, (*_FORMATS, MEMORY)),
    Work("frame", "64 KiB sent by one call", sending(_FRAME), 16, (*_FORMATS, MEMORY), _GROWN // _FRAME),
    Work("large send", "1 MiB sent by one call", sending(_MIB), 2, _FORMATS, _GROWN // _MIB),
    Work("stream", "opened, one exchange, closed", exchanges, 10, (*_FORMATS, MEMORY)),
    Work("connection opened", "TLS, the first exchange", opening, _FEW, (*_FORMATS, MEMORY)),
    Work("connection closed", "by the client", closing, _FEW, _FORMATS),
    Work("relayed connection", "SOCKS5, one exchange", relayed_connections, 8, (Setting(manual=True),)),
    Work("relay up, 64 KiB", "a piece alone", relaying(_FRAME, up=True), 8, warm_up=_GROWN // _FRAME),
    Work("relay down, 64 KiB", "a piece alone", relaying(_FRAME, up=False), 8, warm_up=_GROWN // _FRAME),
    Work("relay up, 256 KiB", "a piece alone", relaying(4 * _FRAME, up=True), 4, warm_up=_GROWN // _FRAME // 4),
    Work("relay down, 256 KiB", "a piece alone", relaying(4 * _FRAME, up=False), 4, warm_up=_GROWN // _FRAME // 4),
    Work("relay up, bulk", "1 MiB of many", relaying(_MIB, up=True, bulk=True), 4, _FORMATS, _GROWN // _MIB),
    Work("relay down, bulk", "1 MiB of many", relaying(_MIB, up=False, bulk=True), 4, _FORMATS, _GROWN // _MIB),
)

#: What stays in memory. The table of Trio's set of tasks grew before, and does not during the measurement.
HOLDINGS = (
    Work("idle connection", "after one exchange", opening, 32, _FORMATS, 64),
    Work("idle stream", "after one exchange", open_streams, 64, _FORMATS),
)
