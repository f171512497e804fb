"""The round trip of a TCP connection, as far as the system knows it."""

from __future__ import annotations

import socket
import ssl
import struct
import sys
from typing import Any, cast

import pytest
import trio
import trio.testing

from trioanytls._transport.tcp_info import FIELDS, estimated_round_trip
from trioanytls._transport.tls_stream import TLSStream

from ..conftest import HOST
from .test_tls_stream import Contexts

TCP_ONLY = pytest.mark.skipif(sys.platform not in FIELDS, reason="this system has no estimate")


async def _tcp_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    (listener,) = await trio.open_tcp_listeners(0, host=HOST)
    async with listener:
        client = await trio.open_tcp_stream(HOST, listener.socket.getsockname()[1])
        return client, await listener.accept()


class FakeSocket:
    """The socket of another system."""

    def __init__(self, option: int, info: bytes) -> None:
        self.option = option
        self.info = info

    def getsockopt(self, level: int, option: int, size: int) -> bytes:
        assert (level, option) == (socket.IPPROTO_TCP, self.option)
        return self.info[:size]

    def close(self) -> None:
        pass


def _with_option(option: int, info: bytes) -> trio.SocketStream:
    near, far = trio.socket.socketpair()
    stream = trio.SocketStream(near)
    far.close()
    near.close()
    stream.socket = cast("Any", FakeSocket(option, info))
    return stream


@TCP_ONLY
async def test_a_tcp_connection_has_a_round_trip() -> None:
    client, server = await _tcp_pair()
    async with client, server:
        await client.send_all(b"x")
        await server.receive_some()
        for end in (client, server):
            estimate = estimated_round_trip(end)
            assert estimate is not None
            # Loopback, on a machine that may be busy.
            assert 0 <= estimate < 1


@TCP_ONLY
@pytest.mark.skipif(sys.platform != "linux", reason="the option of Linux")
def test_the_number_of_the_option_is_that_of_the_module_socket() -> None:
    assert FIELDS["linux"].option == socket.TCP_INFO


async def test_a_closed_socket_has_none() -> None:
    client, server = await _tcp_pair()
    await client.aclose()
    await server.aclose()
    assert estimated_round_trip(client) is None


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")
async def test_a_unix_socket_has_none() -> None:
    near, far = (trio.SocketStream(end) for end in trio.socket.socketpair())
    async with near, far:
        assert estimated_round_trip(near) is None


async def test_a_stream_in_memory_has_none() -> None:
    near, _ = trio.testing.memory_stream_pair()
    assert estimated_round_trip(near) is None


async def test_a_system_without_the_option_has_none() -> None:
    client, server = await _tcp_pair()
    async with client, server:
        assert estimated_round_trip(client, platform="win32") is None


async def test_linux_counts_in_microseconds_and_zero_is_unknown() -> None:
    # struct tcp_info: 8 bytes, then tcpi_rto and 14 more numbers of 32 bits, then tcpi_rtt.
    for value, seconds in ((123456, 0.123456), (2**32 - 1, 4294.967295), (0, None)):
        info = bytes(8) + struct.pack("=16I", *range(1, 16), value) + bytes(100)
        assert estimated_round_trip(_with_option(11, info), "linux") == pytest.approx(seconds)


async def test_macos_counts_in_milliseconds_and_zero_is_short() -> None:
    # struct tcp_connection_info: 4 bytes, then tcpi_options and 9 more numbers of 32 bits, then tcpi_srtt.
    for value, seconds in ((123, 0.123), (0, 0.0)):
        info = bytes(4) + struct.pack("=11I", *range(1, 11), value) + bytes(100)
        assert estimated_round_trip(_with_option(0x106, info), "darwin") == pytest.approx(seconds)


async def test_a_kernel_whose_answer_is_too_short_has_none() -> None:
    assert estimated_round_trip(_with_option(11, bytes(71)), "linux") is None


@TCP_ONLY
async def test_tls_over_tcp_has_the_round_trip_of_its_socket(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    contexts = Contexts(server_context, client_context)
    async with trio.open_nursery() as nursery:
        client, server = await contexts.pair(*await contexts.sockets())
        assert client.estimate_round_trip() is not None
        assert server.estimate_round_trip() is not None
        # TLS in TLS
        inner = TLSStream(client, client_context, server_hostname=HOST)
        assert inner.estimate_round_trip() is None
        nursery.start_soon(client.aclose)
        await server.aclose()
    assert client.estimate_round_trip() is None
