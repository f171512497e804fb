"""Servers with a fallback, and the clients and services that a test connects to them."""

from __future__ import annotations

import contextlib
import functools
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import trio
import trio.testing

import trioanytls
from trioanytls._server.context import Handler
from trioanytls._server.fallback import Fallback
from trioanytls._transport.tls_stream import TLSStream
from trioanytls.testing import echo

from ..conftest import HOST, USERS, Connecting

GET = b"GET /page HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"

#: `client = await dialling(port)`
Dialling = Callable[[int], Awaitable[TLSStream]]


class Relayed:
    """The connection of an unauthenticated client, and its other end at the fallback service."""

    def __init__(self, client: TLSStream, service: trio.SocketStream) -> None:
        self.client = client
        self.service = service


#: `async with relaying(first_bytes, **options) as relayed:`
Relaying = Callable[..., contextlib.AbstractAsyncContextManager[Relayed]]


@contextlib.asynccontextmanager
async def service_listener() -> AsyncIterator[tuple[trio.SocketListener, Fallback]]:
    """Yield the listener of a TCP service, and the fallback that relays to it."""
    async with (await trio.open_tcp_listeners(0, host=HOST))[0] as listener:
        yield listener, trioanytls.relay_to(HOST, listener.socket.getsockname()[1])


async def receive_exactly(stream: trio.abc.ReceiveStream, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = await stream.receive_some(size - len(received))
        assert piece, f"the end, after {received!r}"
        received += piece
    return received


async def receive_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([bytes(piece) async for piece in stream])


async def end_tls(client: TLSStream) -> None:
    """Send a close_notify, and keep TCP open."""
    client._write_close_notify()
    await client._flush()


async def end_tls_and_tcp(client: TLSStream) -> None:
    await client.send_eof()


async def end_tcp(client: TLSStream) -> None:
    """End TCP without a close_notify, as many clients do."""
    assert isinstance(client.transport, trio.abc.HalfCloseableStream)
    await client.transport.send_eof()


END_METHODS = [end_tls, end_tls_and_tcp, end_tcp]


def reset(stream: trio.SocketStream) -> None:
    """Reset the TCP connection."""
    stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def stays_without_an_answer(stream: trio.SocketStream) -> None:
    """Wait forever for the rest of each request, and answer complete ones."""
    request = b""
    # The client may disconnect.
    with contextlib.suppress(trio.BrokenResourceError):
        while b"\r\n\r\n" not in request:
            piece = await stream.receive_some()
            if not piece:
                return
            request += piece
        await stream.send_all(b"the page")


@contextlib.asynccontextmanager
async def patient_service() -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(functools.partial(trio.serve_tcp, stays_without_an_answer, 0, host=HOST))
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def facing(
    fallback: Fallback | None, handler: Handler = echo, **config: Any
) -> AsyncIterator[trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]]:
    """Yield the client's end of a connection in memory, without TLS, to a server with the fallback."""
    near, far = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        serve = functools.partial(trioanytls.serve_connection, users=USERS, fallback=fallback)
        nursery.start_soon(functools.partial(serve, far, handler, config=trioanytls.Config(**config)))
        yield near
        nursery.cancel_scope.cancel()


async def check_echo(connecting: Connecting, port: int) -> None:
    async with connecting(port) as connection, await connection.open_stream() as stream:
        await stream.send_all(b"hello")
        assert await receive_exactly(stream, 5) == b"hello"
