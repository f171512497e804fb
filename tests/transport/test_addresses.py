"""The addresses of transports and connections."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls._transport.addresses import format_address, peer_address
from trioanytls._transport.tls_stream import TLSStream
from trioanytls.testing import memory_connection_pair

from ..conftest import HOST, Connecting, Serving


async def test_both_ends_of_a_connection_over_tcp(serving: Serving, connecting: Connecting) -> None:
    seen: list[tuple[str, int] | None] = []

    async def handler(stream: trioanytls.Stream) -> None:
        seen.append(stream.connection.peer_address)

    async with serving(handler) as port, connecting(port) as client:
        assert client.peer_address == (HOST, port)
        assert await (await client.open_stream()).receive_some() == b""
        (server_sees,) = seen
        assert server_sees is not None
        assert server_sees[0] == HOST
        assert isinstance(client._transport, TLSStream)
        assert isinstance(client._transport.transport, trio.SocketStream)
        assert server_sees[1] == client._transport.transport.socket.getsockname()[1]


async def test_a_custom_transport_has_no_addresses() -> None:
    async with memory_connection_pair() as (client, server):
        assert client.peer_address is None
        assert server.peer_address is None


async def test_a_peer_that_has_gone() -> None:
    transport = trio.SocketStream(trio.socket.socket())
    assert peer_address(transport) is None
    await transport.aclose()
    assert peer_address(transport) is None


async def test_a_unix_socket_has_no_port() -> None:
    near, far = socket.socketpair()
    with near, far:
        near.setblocking(False)
        async with trio.SocketStream(trio.socket.from_stdlib_socket(near)) as transport:
            assert peer_address(transport) is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        (None, None),
        (("192.0.2.1", 443), "192.0.2.1:443"),
        (("2001:db8::1", 443), "[2001:db8::1]:443"),
        (("::ffff:192.0.2.1", 443), "[::ffff:192.0.2.1]:443"),
    ],
)
def test_how_addresses_are_written(address: tuple[str, int] | None, expected: str | None) -> None:
    assert format_address(address) == expected
