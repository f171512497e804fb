"""One port, and clients of all kinds at the same time: each gets what is its own."""

from __future__ import annotations

import os
import ssl
from functools import partial

import trio

import trioanytls
from trioanytls._protocol.interface import WireFormat

from ..conftest import HOST, Connecting, Serving
from ..helpers.front_ends import all_of, exactly
from ..helpers.relay_processes import listening

#: The number of connections of each of the four kinds.
EACH = 50
CONFIG = trioanytls.Config(
    max_unauthenticated_per_address=4 * EACH, max_fallbacks_per_address=2 * EACH, auth_timeout=60, handshake_timeout=60
)


class Start:
    """Lets all clients speak at once, when all of them are connected."""

    def __init__(self, clients: int) -> None:
        self._missing = clients
        self._all = trio.Event()

    async def wait(self) -> None:
        self._missing -= 1
        if not self._missing:
            self._all.set()
        await self._all.wait()


async def web(stream: trio.abc.Stream) -> None:
    """Answer a request with its first line, and anything else with an error and what it was."""
    received = bytes(await stream.receive_some())
    if received.startswith(b"GET "):
        while b"\r\n\r\n" not in received:
            received += await stream.receive_some()
        status, body = b"200 OK", received.split(b"\r\n")[0]
    else:
        status, body = b"400 Bad Request", received
    await stream.send_all(b"HTTP/1.0 %s\r\n\r\n%s" % (status, body))
    await stream.aclose()


async def use_format(connecting: Connecting, port: int, start: Start, wire_format: WireFormat, number: int) -> None:
    async with connecting(port, protocol=wire_format, config=trioanytls.Config(handshake_timeout=60)) as connection:
        await start.wait()
        async with await connection.open_stream() as stream:
            question = b"%d of %s " % (number, wire_format.encode()) * 500
            await stream.send_all(question)
            assert await exactly(stream, len(question)) == question
        assert connection.protocol == wire_format


async def send_raw(port: int, context: ssl.SSLContext, start: Start, request: bytes, expected: bytes) -> None:
    transport = trio.SSLStream(
        await trio.open_tcp_stream(HOST, port), context, server_hostname="localhost", https_compatible=True
    )
    async with transport:
        await transport.do_handshake()
        await start.wait()
        await transport.send_all(request)
        assert await all_of(transport) == expected


async def test_200_connections_of_four_kinds(
    serving: Serving, connecting: Connecting, client_context: ssl.SSLContext
) -> None:
    start = Start(4 * EACH)
    async with (
        listening(web) as behind,
        serving(protocols=("anytls1", "legacy"), fallback=trioanytls.relay_to(HOST, behind), config=CONFIG) as port,
        trio.open_nursery() as nursery,
    ):
        for number in range(EACH):
            for wire_format in ("anytls1", "legacy"):
                nursery.start_soon(use_format, connecting, port, start, wire_format, number)
            line = b"GET /%d HTTP/1.0" % number
            raw = partial(send_raw, port, client_context, start)
            nursery.start_soon(raw, line + b"\r\n\r\n", b"HTTP/1.0 200 OK\r\n\r\n" + line)
            # The first byte is not that of HTTP, nor of AUTH. The length is below, at and above that of a preamble.
            garbage = bytes([0x80 + number]) + os.urandom(number)
            nursery.start_soon(raw, garbage, b"HTTP/1.0 400 Bad Request\r\n\r\n" + garbage)
