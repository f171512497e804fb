"""The program that is one end of the relay of `relay_two_pumps`.

    python -m benchmarks.peers._two_pumps server CERTIFICATE KEY
    python -m benchmarks.peers._two_pumps client AUTHORITY PORT

Both print a line with the port that they listen on.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
from collections.abc import Awaitable, Callable

import trio

from benchmarks.handler import receive_exactly
from benchmarks.peer import HOST, SERVER_NAME, Credentials, closing, serve_transport
from trioanytls._transport.direct_socket import DirectSocket
from trioanytls._transport.handshake import handshake
from trioanytls._transport.tls_stream import TLSStream

HANDSHAKE_TIMEOUT = 10.0
READ_SIZE = 256 * 1024
WRITE_SIZE = 64 * 1024
"""The size of a write into TLS, as in trioanytls: larger ones fall out of the processor's cache."""
ADDRESS = struct.Struct("!4sH")


async def _encrypt(plain: trio.SocketStream, secured: TLSStream) -> None:
    source = DirectSocket(plain)
    while data := await source.receive_some(READ_SIZE):
        for start in range(0, len(data), WRITE_SIZE):
            if not secured.send_nowait(data[start : start + WRITE_SIZE]):
                await secured.send_all(b"")


async def _decrypt(secured: TLSStream, plain: trio.SocketStream) -> None:
    receive, sink = secured.receiving_views(), DirectSocket(plain)
    while data := await receive():
        if (sent := sink.send_nowait(data)) < len(data):
            # The view is valid until the next checkpoint.
            await sink.send_rest(memoryview(bytes(data[sent:])))


async def _glue(plain: trio.SocketStream, secured: TLSStream) -> None:
    """Copy in both directions until one of them ends."""

    async def until_the_end(copy: Callable[..., Awaitable[None]], *streams: trio.abc.Stream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await copy(*streams)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(until_the_end, _encrypt, plain, secured)
        nursery.start_soon(until_the_end, _decrypt, secured, plain)


async def _accept_socks(application: trio.SocketStream) -> bytes:
    """Serve SOCKS5 for the harness. Return the address and port."""
    await receive_exactly(application, 3)
    await application.send_all(b"\x05\x00")
    # CONNECT to an IPv4 address.
    request = await receive_exactly(application, 4 + ADDRESS.size)
    await application.send_all(b"\x05\x00\x00\x01" + bytes(ADDRESS.size))
    return request[4:]


async def _run_client(credentials: Credentials, server: int) -> None:
    context = credentials.client_context()

    async def serve(application: trio.SocketStream) -> None:
        async with closing(application):
            address = await _accept_socks(application)
            transport = await trio.open_tcp_stream(HOST, server)
            secured = await handshake(transport, context, timeout=HANDSHAKE_TIMEOUT, server_hostname=SERVER_NAME)
            async with closing(secured):
                await secured.send_all(address)
                await _glue(application, secured)

    await _serve(serve)


async def _run_server(credentials: Credentials) -> None:
    context = credentials.server_context()

    async def serve(transport: trio.SocketStream) -> None:
        secured = await handshake(transport, context, timeout=HANDSHAKE_TIMEOUT, server_side=True)
        async with closing(secured):
            address, port = ADDRESS.unpack(await receive_exactly(secured, ADDRESS.size))
            async with closing(await trio.open_tcp_stream(socket.inet_ntoa(address), port)) as destination:
                await _glue(destination, secured)

    await _serve(serve)


async def _serve(serve_one: Callable[[trio.SocketStream], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        port = await nursery.start(lambda task_status: serve_transport(serve_one, task_status=task_status))
        print(f"listening on {HOST}:{port}", flush=True)


def main(side: str, *arguments: str) -> None:
    """Run an end until it is killed."""
    if side == "server":
        certificate, key = arguments
        trio.run(_run_server, Credentials("", certificate, key))
    else:
        authority, port = arguments
        trio.run(_run_client, Credentials(authority, "", ""), int(port))


if __name__ == "__main__":
    main(*sys.argv[1:])
