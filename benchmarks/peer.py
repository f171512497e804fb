"""The interface of a peer.

A peer carries streams of bytes from a client to a server over TLS 1.3. It is a `Peer` with two methods: `Peer.serve`
runs the handler once for each stream that arrives, `Peer.connect` gives a `Session` that opens streams. Streams are
`trio.abc.Stream` objects, so a measurement calls the same ``send_all`` and ``receive_some`` as an application.
"""

from __future__ import annotations

import logging
import ssl
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, TypeVar

import trio

logger = logging.getLogger("benchmarks")

HOST = "127.0.0.1"
"""The address of the server."""

SERVER_NAME = "localhost"
"""The name in the server's certificate."""

Resource = TypeVar("Resource", bound=trio.abc.AsyncResource)

Handler = Callable[[trio.abc.Stream], Awaitable[None]]
"""The function that a server runs for each stream. The peer closes the stream when it returns."""


@dataclass(frozen=True)
class Credentials:
    """The PEM files for the TLS contexts."""

    authority: str
    certificate: str
    key: str

    def server_context(self, *protocols: str) -> ssl.SSLContext:
        """Return a server's context: TLS 1.3 only, with these ALPN protocols."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(self.certificate, self.key)
        if protocols:
            context.set_alpn_protocols(protocols)
        return context

    def client_context(self, *protocols: str) -> ssl.SSLContext:
        """Return a client's context: TLS 1.3 only, verifying the server against the authority."""
        context = ssl.create_default_context(cafile=self.authority)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        if protocols:
            context.set_alpn_protocols(protocols)
        return context


class Session(ABC):
    """The client's end of one connection."""

    @abstractmethod
    async def open_stream(self) -> trio.abc.Stream:
        """Open one more stream."""

    def cpu_seconds(self) -> float:
        """Return the processor time of both ends until now. Only a relay, whose ends do nothing else, can tell."""
        raise NotImplementedError


class SingleStream(Session):
    """A connection that is one stream."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream

    async def open_stream(self) -> trio.abc.Stream:
        return self._stream


class Peer(ABC):
    """Both ends of one way to carry streams over TLS 1.3."""

    protocols: ClassVar[tuple[str, ...]] = ()
    """The ALPN protocols of its TLS connections."""

    streams_per_connection: ClassVar[int | None] = None
    """The number of streams that a session can have at once. ``None``: no limit."""

    multiplexed: ClassVar[bool] = True
    """Whether the streams of a session share a connection."""

    write_size: ClassVar[int] = 65536
    """The size of writes with which this peer is fastest in bulk, at most 64 KiB."""

    many: ClassVar[int] = 10_000
    """The largest number of idle streams to measure with."""

    def __init__(self, credentials: Credentials, *, crowded: bool = False) -> None:
        self.credentials = credentials
        #: Whether the server must allow 10,000 streams on a connection, even if it does not by default.
        self.crowded = crowded

    @cached_property
    def tls(self) -> TLSOverTCP:
        """The transport. It is made once, because a TLS context costs more than a handshake."""
        return TLSOverTCP(self.credentials, *self.protocols)

    @abstractmethod
    async def serve(self, handler: Handler, *, task_status: trio.TaskStatus[int]) -> None:
        """Listen on a free port of `HOST`, report it through `task_status`, and serve until cancelled."""

    @abstractmethod
    def connect(self, port: int) -> AbstractAsyncContextManager[Session]:
        """Connect to the server on this port of `HOST`."""


async def serve_transport(
    serve_one: Callable[[trio.SocketStream], Awaitable[None]], *, task_status: trio.TaskStatus[int]
) -> None:
    """Accept TCP connections on a free port. An error of one connection does not end the others."""

    async def guarded(transport: trio.SocketStream) -> None:
        try:
            await serve_one(transport)
        except Exception:
            logger.exception("serving a connection failed")

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host=HOST, backlog=4096)
        nursery.start_soon(trio.serve_listeners, guarded, listeners)
        task_status.started(listeners[0].socket.getsockname()[1])


class TLSOverTCP:
    """The transport of every peer without a TLS of its own: a `trio.SSLStream` over a `trio.SocketStream`."""

    def __init__(self, credentials: Credentials, *protocols: str) -> None:
        self._server = credentials.server_context(*protocols)
        self._client = credentials.client_context(*protocols)

    def wrap_server(self, transport: trio.SocketStream) -> trio.SSLStream[trio.SocketStream]:
        """Return the server's end over an accepted connection. Its first use does the handshake."""
        return trio.SSLStream(transport, self._server, server_side=True, https_compatible=True)

    async def connect(self, port: int) -> trio.SSLStream[trio.SocketStream]:
        """Return the client's end over a new connection, after the handshake."""
        transport = await trio.open_tcp_stream(HOST, port)
        stream = trio.SSLStream(transport, self._client, server_hostname=SERVER_NAME, https_compatible=True)
        try:
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream


@asynccontextmanager
async def closing(resource: Resource) -> AsyncIterator[Resource]:
    """Close forcefully at the end: the close handshake is not a part of any measurement."""
    try:
        yield resource
    finally:
        await trio.aclose_forcefully(resource)
