"""HAProxy in front of a server: the server reads the headers that a real HAProxy sends."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import socket
import ssl
import subprocess
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
from ..helpers.server_harness import Running, running

# Debian installs it in a directory that is on root's path only.
HAPROXY = shutil.which("haproxy", path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin")))
pytestmark = pytest.mark.skipif(HAPROXY is None, reason="haproxy is not installed: apt-get install haproxy")

# It inherits its listening socket, so that no other program can take the port.
CONFIG = """\
defaults
    mode tcp
    timeout connect 5s
    timeout client 20s
    timeout server 20s
    timeout check 5s

listen anytls
    bind fd@{descriptor}
    server one {host}:{port} {options}
"""

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
    config = directory / "haproxy.cfg"
    with socket.create_server((HOST, 0)) as listener:
        descriptor = listener.fileno()
        config.write_text(
            CONFIG.format(descriptor=descriptor, host=HOST, port=server.port, options=options), encoding="utf-8"
        )
        # -db: in the foreground, one process.
        command = [str(HAPROXY), "-db", "-f", str(config)]
        async with trio.open_nursery() as nursery:
            run = functools.partial(
                trio.run_process,
                command,
                pass_fds=[descriptor],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
            )
            process = await nursery.start(run)
            yield listener.getsockname()[1]
            # HAProxy has kept the connection open.
            assert process.poll() is None
            nursery.cancel_scope.cancel()


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
