"""The two ends of connections in one process.

The transports are in memory, or TLS over Unix sockets: the kernel passes their bytes on at once, which TCP does not
promise even on loopback. The clock stands still until all tasks wait.
"""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from unittest import mock

import trio
import trio.testing
import trustme
from attrs import evolve, frozen

import trioanytls
from trioanytls._connection.nursery import BackgroundNursery

from ..helpers.extensions import ALL, NO_EXTENSIONS, extending
from ._meter import on_side

HOST, _USER, _PASSWORD = "127.0.0.1", "alice", "password"
#: The buffers of sockets in bytes: not more than Linux allows by default, and the same everywhere.
_BUFFER = 208 * 1024

Handler = Callable[[trioanytls.Stream], Awaitable[object]]


@functools.cache
def _tls_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    authority = trustme.CA()
    client, server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.configure_trust(client)
    authority.issue_cert(HOST).configure_cert(server)
    return client, server


def _peer_address(_transport: object) -> tuple[str, int]:
    return HOST, 1


def _round_trip(_transport: object) -> float:
    # The kernel knows it for TCP only. Without it, windows do not grow.
    return 0.001


def sized(sock: trio.socket.SocketType) -> trio.SocketStream:
    """Make a stream of a socket, with buffers of a fixed size."""
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
    return trio.SocketStream(sock)


def socket_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return two connected sockets."""
    first, second = trio.socket.socketpair()
    return sized(first), sized(second)


@frozen
class Setting:
    """How the two ends are connected.

    Attributes:
      tls: whether over TLS and sockets, not in memory.
      extensions: whether both ends have the extensions of the protocol.
      protocol: the wire format.
      manual: whether the server's handler acknowledges the streams, as that of a relay does.
    """

    tls: bool = True
    extensions: bool = True
    protocol: trioanytls.WireFormat = "anytls1"
    manual: bool = False

    @property
    def config(self) -> trioanytls.Config:
        """The settings of the client."""
        return extending(ALL if self.extensions else NO_EXTENSIONS)

    @property
    def server_config(self) -> trioanytls.Config:
        """The settings of the server."""
        return evolve(self.config, acknowledge="manual") if self.manual else self.config

    def __str__(self) -> str:
        return ", ".join(
            (
                "TLS" if self.tls else "memory",
                *(() if self.protocol == "anytls1" else (self.protocol,)),
                *(() if self.extensions else ("no extensions",)),
            )
        )


#: Opens a connection to the server. It is used in `async with`.
Connect = Callable[[], contextlib.AbstractAsyncContextManager[trioanytls.Connection]]


@contextlib.asynccontextmanager
async def server(setting: Setting, handler: Handler) -> AsyncIterator[Connect]:
    """Run a server during the block. Give the function that connects to it."""
    async with _tls_server(setting, handler) if setting.tls else _memory_server(setting, handler) as connect:
        yield connect


@contextlib.asynccontextmanager
async def _tls_server(setting: Setting, handler: Handler) -> AsyncIterator[Connect]:
    client_context, server_context = _tls_contexts()
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "socket")
        # Trio would bind it in a thread.
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(path)
        bound.listen()
        listening = trio.socket.from_stdlib_socket(bound)

        async def open_listeners(*_arguments: object, **_options: object) -> list[trio.SocketListener]:
            return [trio.SocketListener(listening)]

        async def open_socket(*_arguments: object, **_options: object) -> trio.SocketStream:
            sock = trio.socket.socket(socket.AF_UNIX)
            await sock.connect(path)
            return sized(sock)

        async def serve(task_status: trio.TaskStatus[list[trio.SocketListener]]) -> None:
            on_side("server")
            await trioanytls.serve(
                handler,
                0,
                host=HOST,
                ssl_context=server_context,
                users={_USER: _PASSWORD},
                protocols=(setting.protocol,),
                config=setting.server_config,
                task_status=task_status,
            )

        with (
            mock.patch("trioanytls._server.serve.open_listeners", open_listeners),
            mock.patch("trioanytls._server.handshake.peer_address", _peer_address),
            mock.patch("trioanytls._transport.tls_stream.estimated_round_trip", _round_trip),
            mock.patch("trioanytls._client.connect.open_tcp_stream", open_socket),
        ):
            async with trio.open_nursery() as nursery:
                await nursery.start(serve)
                yield functools.partial(
                    trioanytls.open_connection,
                    HOST,
                    1,
                    password=_PASSWORD,
                    ssl_context=client_context,
                    protocol=setting.protocol,
                    config=setting.config,
                )
                nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def _memory_server(setting: Setting, handler: Handler) -> AsyncIterator[Connect]:
    async with BackgroundNursery() as nursery:

        @contextlib.asynccontextmanager
        async def connect() -> AsyncIterator[trioanytls.Connection]:
            near, far = trio.testing.memory_stream_pair()
            nursery.start_soon(serve, far)
            async with trioanytls.wrap_client(
                near, password=_PASSWORD, protocol=setting.protocol, config=setting.config
            ) as connection:
                yield connection

        async def serve(transport: trio.abc.Stream) -> None:
            on_side("server")
            await trioanytls.serve_connection(
                transport,
                handler,
                users={_USER: _PASSWORD},
                protocols=(setting.protocol,),
                config=setting.server_config,
            )

        yield connect
        nursery.cancel_scope.cancel()
