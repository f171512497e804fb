"""HAProxy in front of a server: the server reads the headers that a real HAProxy sends."""

from __future__ import annotations

import contextlib
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

import trioanytls
from trioanytls._protocol.formats import WIRE_FORMATS
from trioanytls._server.context import Handler
from trioanytls._transport.handshake import handshake
from trioanytls.testing import echo

from ..conftest import HOST, USERS
from ..helpers.haproxy import HAPROXY
from ..helpers.haproxy import haproxy as run_haproxy
from ..helpers.server_harness import Running, running

pytestmark = HAPROXY

# Frequent health checks keep the test short. One failed check takes the server out of service.
CHECKS = "check inter 20ms fall 1 rise 1"

Start = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture
def start(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> Start:
    def behind_haproxy(
        handler: Handler = echo, *, trusted_proxies: Sequence[str] = (HOST,)
    ) -> AbstractAsyncContextManager[Running]:
        return running(server_context, client_context, handler, trusted_proxies=trusted_proxies, protocols=WIRE_FORMATS)

    return behind_haproxy


@contextlib.asynccontextmanager
async def haproxy(directory: Path, server: Running, options: str) -> AsyncIterator[int]:
    """Run HAProxy in front of a server, and yield its port."""
    async with run_haproxy(directory, f"server one {HOST}:{server.port} {options}") as balancer:
        yield balancer.port


@pytest.mark.parametrize("protocol", WIRE_FORMATS)
@pytest.mark.parametrize("options", ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"])
async def test_the_peer_is_the_client_and_not_haproxy(
    start: Start, tmp_path: Path, options: str, protocol: trioanytls.WireFormat
) -> None:
    peers: list[object] = []

    async def handler(stream: trioanytls.Stream) -> None:
        peers.append(stream.connection.peer_address)
        await echo(stream)

    async with start(handler) as server, haproxy(tmp_path, server, options) as port:
        for content in (b"hello", b"x" * 100_000):
            transport = await trio.open_tcp_stream(HOST, port)
            ours = transport.socket.getsockname()
            secured = await handshake(transport, server.client_context, timeout=10, server_hostname=HOST)
            async with trioanytls.wrap_client(secured, password=USERS["alice"], protocol=protocol) as connection:
                stream = await connection.open_stream()
                await stream.send_all(content)
                received = b""
                while len(received) < len(content):
                    received += await stream.receive_some()
                assert received == content
            assert peers.pop() == ours
        assert server.stats.authentications == 2


async def checked(server: Running, times: int) -> Counter[str]:
    """Return how connections have ended, after this many health checks."""
    with trio.fail_after(10):
        # Another process decides when.
        while sum(server.stats.connections_closed.values()) < times:  # noqa: ASYNC110
            await trio.sleep(0.005)
    return Counter(server.stats.connections_closed)


async def is_served_soon(server: Running, port: int) -> None:
    # On a busy machine, a check may take longer than the interval, and count as failed. The next successful one puts
    # the server into service again.
    with trio.fail_after(10):
        while not await is_served(server, port):  # noqa: ASYNC110 - it is HAProxy that is waited for
            await trio.sleep(0.02)


async def is_served(server: Running, port: int) -> bool:
    try:
        async with trioanytls.open_connection(
            HOST, port, password=USERS["alice"], ssl_context=server.client_context
        ) as connection:
            return await connection.ping() >= 0
    except trioanytls.TLSError:
        return False


@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
async def test_a_check_of_the_port_does_no_harm(start: Start, tmp_path: Path, version: str) -> None:
    async with start() as server, haproxy(tmp_path, server, f"{version} {CHECKS}") as port:
        # HAProxy sends its header, and resets the connection. A failed check would take the server out of service.
        assert set(await checked(server, 5)) == {"HANDSHAKE"}
        await is_served_soon(server, port)
        assert server.stats.authentications == 1


@pytest.mark.parametrize("version", ["send-proxy", "send-proxy-v2"])
async def test_a_check_with_tls_finds_a_server_that_reads_its_header(
    start: Start, tmp_path: Path, version: str
) -> None:
    options = f"{version} check-ssl verify none {CHECKS}"
    async with start() as server, haproxy(tmp_path, server, options) as port:
        # It resets the connection after the handshake, possibly before the server has completed it.
        endings = await checked(server, 5)
        assert set(endings) <= {"LOST", "UNAUTHENTICATED", "HANDSHAKE"}
        await is_served_soon(server, port)
        assert server.stats.authentications == 1


async def test_a_check_with_tls_finds_a_server_that_does_not(start: Start, tmp_path: Path) -> None:
    # Since this check fails, the success of the others is meaningful.
    options = f"send-proxy-v2 check-ssl verify none {CHECKS}"
    async with start(trusted_proxies=[]) as server, haproxy(tmp_path, server, options) as port:
        assert set(await checked(server, 5)) == {"HANDSHAKE"}
        assert not await is_served(server, port)
        assert server.stats.authentications == 0


async def test_haproxy_without_its_header_is_not_served(start: Start, tmp_path: Path) -> None:
    async with start() as server, haproxy(tmp_path, server, "") as port:
        assert not await is_served(server, port)
        assert server.stats.handshakes_failed == 1
