"""A server with its control, on loopback, and clients that speak bytes over TLS: for tests of its control."""

from __future__ import annotations

import contextlib
import functools
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio
import trio.testing
from attrs import define, field

import trioanytls
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.frame_decoder import Frame
from trioanytls._protocol.anytls1.frames import FrameType
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._server.context import Handler
from trioanytls._transport.handshake import handshake
from trioanytls.testing import echo

from ..conftest import HOST, USERS
from .raw_peer import HELLO, RawPeer

#: The last frame of a server that stops.
CLOSE_6 = (FrameType.CLOSE, 0, CloseCode.SHUTTING_DOWN)


@define
class Running:
    """A running server.

    Attributes:
      control, port: the control and the port of the server.
      client_context: a context that trusts its certificate.
      returned: set when `serve` has returned.
      scope: cancels `serve`.
    """

    control: trioanytls.ServerControl
    port: int
    client_context: ssl.SSLContext
    returned: trio.Event
    scope: trio.CancelScope
    _transports: list[trio.SocketStream] = field(init=False, factory=list)

    @property
    def stats(self) -> trioanytls.ServerStats:
        return self.control.snapshot()

    def connect(self, **options: Any) -> AbstractAsyncContextManager[trioanytls.Connection]:
        options = {"password": USERS["alice"], "ssl_context": self.client_context, **options}
        return trioanytls.open_connection(HOST, self.port, **options)

    async def tcp(self) -> trio.SocketStream:
        """Open a TCP connection without TLS. It is closed with the server."""
        transport = await trio.open_tcp_stream(HOST, self.port)
        self._transports.append(transport)
        return transport

    async def raw(self, hello: bytes = HELLO, transport: trio.abc.Stream | None = None) -> RawPeer:
        """Connect a client that sends raw bytes over TLS, and send `hello`."""
        secured = await handshake(transport or await self.tcp(), self.client_context, timeout=10, server_hostname=HOST)
        peer = RawPeer(secured)
        if hello:
            await peer.send(hello)
        return peer

    async def with_streams(self, count: int = 1, *, hello: bytes = HELLO) -> RawPeer:
        """Connect a client that sends raw bytes, and open streams from 1 on. Return when their handlers run."""
        peer = await self.raw(hello + b"".join(frames.encode_open(number + 1) for number in range(count)))
        received = [await peer.receive() for _ in range(count + 1)]
        assert [frame and frame[0] for frame in received] == [FrameType.SERVER_NEGO] + [FrameType.STREAM_ACK] * count
        return peer

    async def shown_certificate(self) -> bytes:
        """Return the certificate that the server presents now."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        transport = trio.SSLStream(await self.tcp(), context, server_hostname=HOST)
        await transport.do_handshake()
        certificate: bytes = transport.getpeercert(binary_form=True)
        await trio.aclose_forcefully(transport)
        return certificate

    async def draining(self, nursery: trio.Nursery, seconds: float | None = None) -> trio.Event:
        """Begin to drain. Return when no connection is accepted any more. The event is set when draining is done."""
        done = trio.Event()

        async def drain() -> None:
            await self.control.drain(seconds)
            done.set()

        nursery.start_soon(drain)
        await eventually(lambda: self.stats.draining)
        await trio.testing.wait_all_tasks_blocked()
        return done


async def check_works(stream: trioanytls.Stream) -> None:
    """Check that a server echoes what is sent on a stream."""
    for _ in range(3):
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"


@contextlib.asynccontextmanager
async def running(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    handler: Handler = echo,
    *,
    config: trioanytls.Config | None = None,
    control: trioanytls.ServerControl | None = None,
    **options: Any,
) -> AsyncIterator[Running]:
    """Run a server during the block. Its counters must add up at the end."""
    control = control or trioanytls.ServerControl()
    returned = trio.Event()
    options = {"host": HOST, "ssl_context": server_context, "users": USERS, "config": config, **options}
    if config is None:
        del options["config"]

    async def run(*, task_status: trio.TaskStatus[tuple[list[trio.SocketListener], trio.CancelScope]]) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                serve = functools.partial(trioanytls.serve, handler, 0, control=control, **options)
                # `serve` returns in this nursery, which ends with it.
                listeners = await nursery.start(serve)
                task_status.started((listeners, scope))
        returned.set()

    async with trio.open_nursery() as nursery:
        listeners, scope = await nursery.start(run)
        server = Running(control, listeners[0].socket.getsockname()[1], client_context, returned, scope)
        try:
            yield server
        finally:
            with trio.CancelScope(shield=True):
                for transport in server._transports:
                    await trio.aclose_forcefully(transport)
            scope.cancel()
    if options.get("handler_nursery") is None:
        stats = server.stats
        assert (stats.connections, stats.unauthenticated, stats.fallback_connections, stats.streams) == (0, 0, 0, 0)
        ended = sum(stats.connections_refused.values()) + sum(stats.connections_closed.values())
        assert stats.connections_accepted == ended


async def last_frames(peer: RawPeer) -> list[Frame]:
    """Return all frames up to CLOSE or ALERT, and close the transport then."""
    received: list[Frame] = []
    while (frame := await peer.receive()) is not None:
        received.append(frame)
        if frame[0] in (FrameType.CLOSE, FrameType.ALERT):
            break
    await peer.transport.aclose()
    return received


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait for a condition that other tasks or sockets bring about, with Trio's clock stopped or not."""
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "the condition did not become true within 10 s"
        await trio.lowlevel.checkpoint()


#: `async with start(handler, **options) as server:`
Start = Callable[..., AbstractAsyncContextManager[Running]]


async def answers(connection: trioanytls.Connection) -> bool:
    """Return whether a stream of this connection can be opened and used."""
    async with await connection.open_stream() as stream:
        await stream.send_all(b"hello")
        return await stream.receive_some() == b"hello"


async def is_accepted(server: Running, password: str) -> bool:
    """Return whether a client with this password can use the server."""
    try:
        async with server.connect(password=password) as connection:
            return await answers(connection)
    except trioanytls.ConnectionClosed:
        return False
