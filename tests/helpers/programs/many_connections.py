"""Make many connections one after the other, in memory, and print the growth of the process for each.

    python -m tests.helpers.programs.many_connections WAY CONNECTIONS

WAY is "single", for connections as `open_connection` makes them, or "pool", for those of a `Client`.
"""

from __future__ import annotations

import gc
import math
import ssl
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio
import trio.testing
import trustme

import trioanytls
from trioanytls._client import connect as client_connect
from trioanytls._client.connect import Endpoint
from trioanytls._client.dialer import Dialer
from trioanytls._transport.handshake import handshake
from trioanytls._transport.tls_stream import TLSStream

from ...conftest import HOST, USERS

#: Connections that are not counted, during which one-time allocations happen.
FIRST = 200


def resident() -> int:
    """Return the resident size of the process, in bytes."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


async def main(way: str, connections: int) -> float:
    authority = trustme.CA()
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert(HOST).configure_cert(server_context)
    authority.configure_trust(client_context)

    async def handler(stream: trioanytls.Stream) -> None:
        await stream.send_all(await stream.receive_some())

    async def serve(transport: trio.abc.Stream) -> None:
        secured = await handshake(transport, server_context, timeout=math.inf, server_side=True)
        await trioanytls.serve_connection(secured, handler, users=USERS)

    address = Endpoint(HOST, 1, client_context, None, None)
    dialer = Dialer(address, math.inf)
    dial: Callable[[], Awaitable[TLSStream]] = (
        (lambda: address.dial(math.inf)) if way == "single" else (lambda: dialer.dial(math.inf))
    )
    before = 0
    async with trio.open_nursery() as nursery:

        async def connect(*_: object) -> trio.abc.Stream:
            near, far = trio.testing.memory_stream_pair()
            nursery.start_soon(serve, far)
            return near

        setattr(client_connect, "open_tcp_stream", connect)  # noqa: B010 - as a test's monkeypatch would
        for number in range(FIRST + connections):
            if number == FIRST:
                before = resident()
            async with trioanytls.wrap_client(await dial(), password=USERS["alice"]) as connection:
                stream = await connection.open_stream()
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"
                await stream.aclose()
    return (resident() - before) / connections


if __name__ == "__main__":
    print(trio.run(main, sys.argv[1], int(sys.argv[2])))
