"""For the tests of the pool: a server in memory that can fail and come back, and clients of it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import trio
import trio.testing
from attrs import define, field

import trioanytls
from trioanytls import PoolConfig
from trioanytls._client.connector import Dial
from trioanytls._client.pool import Client, run_client
from trioanytls._protocol.interface import WireFormat
from trioanytls.testing import echo

PASSWORD = "password"
Clock = trio.testing.MockClock
Handler = Callable[[trioanytls.Stream], Awaitable[object]]

#: One stream at a time on each connection.
SINGLE = PoolConfig(max_streams_per_connection=1)


#: The same, and only one connection.
ONE = PoolConfig(max_streams_per_connection=1, max_connections=1)

MANUAL = trioanytls.Config(acknowledge="manual")


@define(eq=False)
class Link(trio.abc.Stream):
    """The client's end of one connection to a server in memory.

    Attributes:
      near, far: the two ends of the transport.
      swallows: if set, nothing arrives on either side, without an error.
      held: if set, the client's `send_all` waits for this event.
      resumed: see `TLSStream.resumed`.
      sent: the data that the client has sent.
      open: whether the client has not closed it.
      scope: the scope of the server's task.
    """

    near: trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]
    far: trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]
    swallows: bool = False
    held: trio.Event | None = None
    resumed: bool = False
    sent: list[bytes] = field(init=False, factory=list)
    open: bool = field(init=False, default=True)
    scope: trio.CancelScope = field(init=False, factory=trio.CancelScope)

    def lose(self) -> None:
        """Close the server's end, without any frame."""
        self.far.send_stream.close()
        self.far.receive_stream.close()
        self.scope.cancel()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sent.append(bytes(data))
        if self.held is not None:
            await self.held.wait()
        if self.swallows:
            await trio.lowlevel.checkpoint()
        else:
            await self.near.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.near.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self.near.receive_some(max_bytes)
        if self.swallows:
            await trio.sleep_forever()
        return data

    async def aclose(self) -> None:
        self.open = False
        await self.near.aclose()


@define(eq=False)
class MemoryServer:
    """A server that clients connect to by `dial`.

    Attributes:
      handler, users, padding_scheme, config: see `trioanytls.serve`.
      error: the exception that attempts to connect raise.
      latency: the duration of an attempt, in seconds.
      resumes: whether connections report that they have resumed a TLS session.
      speaks: whether it speaks ANYTLS. Otherwise it closes each connection at once.
      dials: the times of all attempts, on Trio's clock.
      links: all connections so far, in order.
      protocols: the wire formats that it accepts.
      peak: the largest number of concurrent connections, including attempts under way.
    """

    _nursery: trio.Nursery
    handler: Handler = echo
    users: dict[str, str] = field(factory=lambda: {"alice": PASSWORD})
    padding_scheme: trioanytls.PaddingScheme | None = None
    config: trioanytls.Config = trioanytls.Config()
    error: Exception | None = None
    latency: float = 0
    resumes: bool = False
    speaks: bool = True
    protocols: tuple[WireFormat, ...] = ("anytls1",)
    dials: list[float] = field(init=False, factory=list)
    links: list[Link] = field(init=False, factory=list)
    peak: int = field(init=False, default=0)
    _dialling: int = field(init=False, default=0)

    async def dial(self, timeout: float) -> Link:  # noqa: ASYNC109 - the signature of `Dial`
        self.dials.append(trio.current_time())
        self._dialling += 1
        try:
            self.peak = max(self.peak, self._dialling + len(self.open))
            await trio.sleep(min(self.latency, timeout))
            if self.latency > timeout:
                raise TimeoutError(f"connecting took longer than {timeout:g} s")
            if self.error is not None:
                raise self.error
            link = Link(*trio.testing.memory_stream_pair(), resumed=self.resumes)
            self.links.append(link)
        finally:
            self._dialling -= 1
        if self.speaks:
            self._nursery.start_soon(self._serve, link)
        else:
            link.lose()
        return link

    async def _serve(self, link: Link) -> None:
        with link.scope:
            await trioanytls.serve_connection(
                link.far,
                self.handler,
                users=self.users,
                padding_scheme=self.padding_scheme,
                config=self.config,
                protocols=self.protocols,
            )

    @property
    def open(self) -> list[Link]:
        """The connections that the client has not closed."""
        return [link for link in self.links if link.open]

    def kill(self) -> None:
        """Break all connections, and refuse new ones."""
        self.error = ConnectionRefusedError("connection refused")
        for link in self.open:
            link.lose()

    def start(self) -> None:
        """Accept connections again."""
        self.error = None


@contextlib.asynccontextmanager
async def memory_server(handler: Handler = echo, **options: Any) -> AsyncIterator[MemoryServer]:
    async with trio.open_nursery() as nursery:
        yield MemoryServer(nursery, handler, **options)
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def client_of(
    server: MemoryServer,
    *,
    pool: trioanytls.PoolConfig | None = None,
    config: trioanytls.Config | None = None,
    dial: Dial | None = None,
    **options: Any,
) -> AsyncIterator[Client]:
    """Run a client of the server, or of `dial`. Check at the end that its counters agree and nothing is left."""
    options = {"key": "memory:1", "password": PASSWORD, "padding_scheme": None, **options}
    client = Client(
        dial or server.dial, config=config or trioanytls.Config(), pool=pool or trioanytls.PoolConfig(), **options
    )
    async with run_client(client):
        yield client
    assert_nothing_left(client, server)


def assert_nothing_left(client: Client, server: MemoryServer) -> None:
    stats = client.stats
    now = (stats.connections, stats.connecting, stats.idle, stats.streams, stats.waiting)
    assert now == (0, 0, 0, 0, 0)
    assert stats.connections_made == sum(stats.connections_closed.values())
    assert not client._acknowledgements.pending
    assert not server.open
    assert server.peak <= client._limits.max_connections


async def use(stream: trioanytls.Stream) -> None:
    """Check that a stream to `echo` works."""
    await stream.send_all(b"ping")
    received = b""
    # A padding scheme may cut it.
    while received != b"ping":
        piece = await stream.receive_some()
        assert piece
        received += piece


async def work(client: Client) -> trioanytls.Connection:
    """Open a stream, use it and close it. Return its connection."""
    async with await client.open_stream() as stream:
        await use(stream)
        return stream.connection


@contextlib.asynccontextmanager
async def pooled(
    *,
    pool: PoolConfig | None = None,
    config: trioanytls.Config | None = None,
    password: str = "password",
    **options: Any,
) -> AsyncIterator[tuple[Client, MemoryServer]]:
    """Run a server and a client of it."""
    async with (
        memory_server(**options) as server,
        client_of(server, pool=pool, config=config, password=password) as client,
    ):
        yield client, server


async def settle() -> None:
    """Wait until all tasks are blocked."""
    await trio.testing.wait_all_tasks_blocked()


async def never_accept(stream: trioanytls.Stream) -> None:
    """Send back all data without accepting the stream. A handler for a server with `acknowledge="manual"`."""
    async for piece in stream:
        await stream.send_all(piece)
