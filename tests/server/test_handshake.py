"""The steps before ANYTLS: a server after proxies that send PROXY protocol headers, trusted and untrusted ones."""

from __future__ import annotations

import ipaddress
import ssl
import struct
from typing import Any

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls import Config
from trioanytls._transport.proxy_protocol import crc32c
from trioanytls.testing import StreamQueue, echo

from ..conftest import HOST, USERS
from ..helpers.raw_peer import HELLO
from ..helpers.server_harness import Running, Start, eventually

Clock = trio.testing.MockClock

# The tests connect from loopback.
TRUSTED = ["192.0.2.0/24", "127.0.0.0/8", "::1"]
UNTRUSTED = ["192.0.2.0/24", "2001:db8::/32"]

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
V1 = b"PROXY TCP4 198.51.100.7 203.0.113.1 56324 443\r\n"
V1_IPV6 = b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n"
V1_UNKNOWN = b"PROXY UNKNOWN\r\n"


def v2(source: str, port: int = 56324, *, command: int = 1, tlvs: bytes = b"") -> bytes:
    """Return a header of version 2 with the address and port of a client."""
    address = ipaddress.ip_address(source)
    family = 0x11 if address.version == 4 else 0x21
    body = address.packed * 2 + struct.pack("!HH", port, 443) + tlvs
    return SIGNATURE + bytes([0x20 | command, family]) + struct.pack("!H", len(body)) + body


V2_LOCAL = SIGNATURE + b"\x20\x00\x00\x00"


def with_checksum(source: str) -> bytes:
    header = bytearray(v2(source, tlvs=b"\x03\x00\x04" + bytes(4)))
    header[-4:] = struct.pack("!I", crc32c(header))
    return bytes(header)


class ProxiedStream(trio.abc.Stream):
    """A client's transport through a proxy, which sends `header` first, and sends pieces of `size` bytes."""

    def __init__(self, transport: trio.SocketStream, header: bytes, size: int | None = None) -> None:
        self._transport = transport
        self._header = header
        self._size = size

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        data, self._header = self._header + bytes(data), b""
        size = self._size or len(data)
        for start in range(0, len(data), size):
            await self._transport.send_all(data[start : start + size])
            # Let the server read each piece separately.
            await trio.lowlevel.checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        await self._transport.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._transport.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._transport.aclose()


async def connect_through(server: Running, header: bytes, size: int | None = None, hello: bytes = HELLO) -> None:
    """Connect through a proxy that sends `header`."""
    await server.raw(hello, transport=ProxiedStream(await server.tcp(), header, size))


async def peer_address(server: Running, queue: StreamQueue, header: bytes, size: int | None = None) -> Any:
    """Return the peer address that a handler sees."""
    await connect_through(server, header, size, HELLO + b"\x0c\x01")
    stream = await queue.get()
    address = stream.connection.peer_address
    await stream.aclose()
    return address


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (V1, ("198.51.100.7", 56324)),
        (V1_IPV6, ("2001:db8::7", 56324)),
        (v2("198.51.100.7"), ("198.51.100.7", 56324)),
        (v2("2001:db8::7", 1), ("2001:db8::7", 1)),
        (with_checksum("198.51.100.7"), ("198.51.100.7", 56324)),
        (v2("198.51.100.7", tlvs=b"\x02\x00\x0bexample.com"), ("198.51.100.7", 56324)),
    ],
)
@pytest.mark.parametrize("size", [None, 7, 1], ids=["one segment", "7 bytes each", "byte by byte"])
async def test_a_connection_is_the_clients(
    start: Start, header: bytes, expected: tuple[str, int], size: int | None
) -> None:
    queue = StreamQueue()
    async with start(queue, trusted_proxies=TRUSTED) as server:
        assert await peer_address(server, queue, header, size) == expected


async def test_the_header_alone_and_the_handshake_later(start: Start) -> None:
    queue = StreamQueue()
    async with start(queue, trusted_proxies=TRUSTED) as server:
        transport = await server.tcp()
        await transport.send_all(V1)
        await eventually(lambda: server.stats.connections == 1)
        await trio.testing.wait_all_tasks_blocked()
        await server.raw(HELLO + b"\x0c\x01", transport=transport)
        stream = await queue.get()
        assert stream.connection.peer_address == ("198.51.100.7", 56324)
        await stream.aclose()


@pytest.mark.parametrize(
    "header", [V1_UNKNOWN, b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", V2_LOCAL, v2("198.51.100.7", command=0)]
)
async def test_a_proxy_that_speaks_for_itself_is_the_peer(start: Start, header: bytes) -> None:
    queue = StreamQueue()
    async with start(queue, trusted_proxies=TRUSTED) as server:
        host, port = await peer_address(server, queue, header)
        assert host == HOST
        assert port != 56324


async def test_without_proxies_the_peer_is_the_client(start: Start) -> None:
    queue = StreamQueue()
    async with start(queue) as server:
        transport = await server.tcp()
        await server.raw(HELLO + b"\x0c\x01", transport=transport)
        stream = await queue.get()
        assert stream.connection.peer_address == transport.socket.getsockname()
        await stream.aclose()


async def test_a_trusted_address_may_not_leave_the_header_out(start: Start) -> None:
    async with start(trusted_proxies=TRUSTED) as server:
        with pytest.raises(trio.BrokenResourceError):
            await server.raw()
        await eventually(lambda: server.stats.connections == 0)
        assert server.stats.connections_closed == {"HANDSHAKE": 1}
        assert server.stats.handshakes_failed == 1


@pytest.mark.parametrize("header", [V1, v2("198.51.100.7"), V1_UNKNOWN, V2_LOCAL])
async def test_from_other_peers_a_header_is_invalid_tls(start: Start, header: bytes) -> None:
    async with start(trusted_proxies=UNTRUSTED) as server:
        with pytest.raises(trio.BrokenResourceError):
            await connect_through(server, header)
        await eventually(lambda: server.stats.connections == 0)
        assert server.stats.handshakes_failed == 1
        assert server.stats.authentications == 0
        # Without a header, they are served.
        await server.with_streams()


@pytest.mark.parametrize(
    "header",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 198.51.100.7 203.0.113.1 56324 65536\r\n",
        b"PROXY TCP4 198.51.100.7 2001:db8::1 56324 443\r\n",
        V1[:-2] + b"\n",
        SIGNATURE + b"\x31\x11\x00\x0c" + bytes(12),
        with_checksum("198.51.100.7")[:-1] + b"\0",
        V1 + V1,
    ],
)
async def test_an_invalid_header_ends_the_connection(start: Start, header: bytes) -> None:
    async with start(trusted_proxies=TRUSTED) as server:
        with pytest.raises(trio.BrokenResourceError):
            await connect_through(server, header)
        await eventually(lambda: server.stats.connections == 0)
        assert server.stats.connections_closed == {"HANDSHAKE": 1}
        # The next connection is not affected.
        await connect_through(server, V1)


@pytest.mark.parametrize("sent", [0, 1, len(V1) - 1])
async def test_a_client_that_leaves_before_the_end_of_the_header(start: Start, sent: int) -> None:
    async with start(trusted_proxies=TRUSTED) as server:
        transport = await server.tcp()
        if sent:
            await transport.send_all(V1[:sent])
        await transport.aclose()
        await eventually(lambda: server.stats.handshakes_failed == 1)
        await eventually(lambda: server.stats.connections == 0)


@pytest.mark.parametrize("sent", [0, 1, len(V1) - 1])
async def test_the_header_has_to_come_in_time(start: Start, mock_clock: Clock, sent: int) -> None:
    async with start(trusted_proxies=TRUSTED, config=Config(handshake_timeout=20)) as server:
        transport = await server.tcp()
        if sent:
            await transport.send_all(V1[:sent])
        await eventually(lambda: server.stats.connections == 1)
        await trio.testing.wait_all_tasks_blocked()
        mock_clock.jump(19.99)
        await trio.testing.wait_all_tasks_blocked()
        assert server.stats.connections == 1
        mock_clock.jump(0.02)
        assert await transport.receive_some() == b""
        await eventually(lambda: server.stats.connections == 0)
        assert server.stats.handshakes_failed == 1


async def test_the_limit_of_an_address_is_the_clients(start: Start) -> None:
    config = Config(max_unauthenticated_per_address=2)
    async with start(trusted_proxies=TRUSTED, config=config) as server:
        # All of these connections come from one proxy.
        for number, header in enumerate([V1, v2("198.51.100.7", 1), v2("198.51.100.8"), V1_UNKNOWN, V1_IPV6]):
            await connect_through(server, header, hello=b"")
            assert server.stats.unauthenticated == number + 1
        for header in (V1, v2("198.51.100.7", 2), v2("::ffff:198.51.100.7")):
            with pytest.raises(trio.BrokenResourceError):
                await connect_through(server, header, hello=b"")
        assert server.stats.connections_refused == {"max_unauthenticated_per_address": 3}
        # An address in the same /64 counts as the same address. This is the second connection from it.
        await connect_through(server, v2("2001:db8::8"), hello=b"")
        with pytest.raises(trio.BrokenResourceError):
            await connect_through(server, v2("2001:db8::9"), hello=b"")
        # Connections that the proxy makes for itself count as its own.
        await connect_through(server, V2_LOCAL, hello=b"")
        with pytest.raises(trio.BrokenResourceError):
            await connect_through(server, V2_LOCAL, hello=b"")
        await connect_through(server, v2("198.51.100.9"))


@pytest.mark.parametrize(
    ("proxies", "named"),
    [(["10.0.0.0/33"], "10.0.0.0/33"), (["10.0.0.1/8"], "10.0.0.1/8"), (["localhost"], "localhost"), ([""], "''")],
)
async def test_invalid_networks_are_refused(server_context: ssl.SSLContext, proxies: list[str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        await trioanytls.serve(echo, 0, host=HOST, ssl_context=server_context, users=USERS, trusted_proxies=proxies)


async def test_one_network_has_to_be_in_a_list_too(server_context: ssl.SSLContext) -> None:
    with pytest.raises(TypeError, match=r"trusted_proxies must be a sequence of addresses and networks"):
        await trioanytls.serve(
            echo, 0, host=HOST, ssl_context=server_context, users=USERS, trusted_proxies="10.0.0.0/8"
        )
