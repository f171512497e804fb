"""Signals to `trioanytls client`: SIGTERM drains it, and SIGHUP reloads its settings."""

from __future__ import annotations

import contextlib
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from attrs import define, field

import trioanytls
from trioanytls.cli.common.certificates import make_certificate
from trioanytls.destination import Destination, encode

from ..conftest import HOST, Serving
from ..helpers.cli_process import Program, program
from ..helpers.relay_processes import port_of
from .test_client import CERTIFICATE, MANUAL, PASSWORD, RELAY, destination, relay, uri

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="requires POSIX signals")


@define
class Applications:
    """Local applications of a client. Their connections are closed at the end of the test."""

    streams: list[trio.SocketStream] = field(factory=list)

    async def connect(self, port: int) -> trio.SocketStream:
        self.streams.append(await trio.open_tcp_stream(HOST, port))
        return self.streams[-1]

    async def socks(self, socks: int, to: int, user: tuple[bytes, bytes] | None = None) -> trio.SocketStream:
        """Connect through SOCKS5.

        Raises:
          trio.BrokenResourceError: the proxy refused the request.
        """
        stream = await self.connect(socks)
        if user is None:
            await stream.send_all(b"\x05\x01\x00")
            expected = b"\x05\x00"
        else:
            name, password = user
            await stream.send_all(b"\x05\x01\x02\x01" + bytes([len(name)]) + name + bytes([len(password)]) + password)
            expected = b"\x05\x02\x01\x00"
        await stream.send_all(b"\x05\x01\x00" + encode(Destination(HOST, to)))
        received = b""
        while len(received) < len(expected) + 10:
            data = await stream.receive_some()
            if not data:
                raise trio.BrokenResourceError(f"refused: {received!r}")
            received += data
        if received[: len(expected)] != expected or received[len(expected) + 1]:
            raise trio.BrokenResourceError(f"refused: {received!r}")
        return stream


@pytest.fixture
async def applications() -> AsyncIterator[Applications]:
    applications = Applications()
    yield applications
    for stream in applications.streams:
        await trio.aclose_forcefully(stream)


async def echoes(stream: trio.SocketStream, text: bytes) -> None:
    await stream.send_all(text)
    assert await stream.receive_some() == text.upper()


async def reset(stream: trio.SocketStream) -> None:
    """Reset a connection, so that the proxy detects at once that both directions are closed."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await stream.aclose()


async def ends(stream: trio.SocketStream) -> None:
    with trio.fail_after(20), contextlib.suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass


async def refuses(port: int) -> None:
    """Wait until a port refuses connections."""
    with trio.fail_after(20):
        while True:
            try:
                await (await trio.open_tcp_stream(HOST, port)).aclose()
            except OSError:
                return
            await trio.sleep(0.02)


@contextlib.asynccontextmanager
async def offering(serving: Serving, *options: str) -> AsyncIterator[tuple[Program, int]]:
    """Run a client with a SOCKS proxy. Yield it and the port of a destination."""
    async with (
        relay(serving) as port,
        destination() as far,
        program("client", "--socks", ":0", *options, environment={"TRIOANYTLS_SERVER": uri(port)}) as client,
    ):
        yield client, far


@contextlib.asynccontextmanager
async def configured(path: Path, text: str) -> AsyncIterator[Program]:
    write(path, text)
    async with program("client", "--config", path) as client:
        yield client


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


async def loaded(client: Program) -> None:
    client.signal(signal.SIGHUP)
    await client.err.find("SIGHUP: loaded the settings")
    client.err.lines.clear()


# SIGTERM


async def test_sigterm_drains(applications: Applications, serving: Serving) -> None:
    async with offering(serving) as (client, far):
        socks = port_of(await client.out.find("SOCKS5 on "))
        stream = await applications.socks(socks, far)
        await echoes(stream, b"before")
        client.signal(signal.SIGTERM)
        await client.err.find("SIGTERM: draining, open connections have 10 s to finish")
        await refuses(socks)
        await echoes(stream, b"while it drains")
        await reset(stream)
        assert await client.wait() == 0


async def test_second_sigterm_stops_immediately(applications: Applications, serving: Serving) -> None:
    async with offering(serving) as (client, far):
        stream = await applications.socks(port_of(await client.out.find("SOCKS5 on ")), far)
        client.signal(signal.SIGTERM)
        await client.err.find("SIGTERM: draining")
        client.signal(signal.SIGTERM)
        await client.err.find("SIGTERM again: stopping immediately")
        await ends(stream)
        assert await client.wait() == 128 + signal.SIGTERM


async def test_drain_timeout(applications: Applications, serving: Serving) -> None:
    async with offering(serving, "--drain-timeout", "0.1") as (client, far):
        stream = await applications.socks(port_of(await client.out.find("SOCKS5 on ")), far)
        client.signal(signal.SIGTERM)
        await ends(stream)
        assert await client.wait() == 0


# SIGHUP


async def test_sighup_changes_front_ends(applications: Applications, serving: Serving, tmp_path: Path) -> None:
    path = tmp_path / "client.toml"
    async with relay(serving) as port, destination() as far, destination() as other:
        server = f'server = "{uri(port)}"\n'
        async with configured(path, server + 'socks = "127.0.0.1:0"\n') as client:
            socks = port_of(await client.out.find("SOCKS5 on "))
            kept = await applications.socks(socks, far)
            write(path, server + f'http = ":0"\nsocks = "127.0.0.1:0"\nforward = "0={HOST}:{far}"\n')
            await loaded(client)
            forward = port_of(await client.out.find("forward to "))
            passing = await applications.connect(forward)
            await echoes(passing, b"forwarded")
            # The SOCKS proxy keeps its port and its connections.
            await echoes(kept, b"still here")
            await echoes(await applications.socks(socks, far), b"and new ones")

            # The port now forwards to another destination. The old connection continues.
            write(path, server + f'socks = "127.0.0.1:0"\nforward = "{forward}={HOST}:{other}"\n')
            await loaded(client)
            again = await applications.connect(forward)
            await echoes(again, b"to the other one")
            await echoes(passing, b"as before")

            write(path, server + 'http = "127.0.0.1:0"\n')
            await loaded(client)
            await refuses(socks)
            await refuses(forward)
            await echoes(kept, b"to its end")
            client.signal(signal.SIGINT)
            assert await client.wait() == 0


async def test_sighup_reloads_proxy_users(applications: Applications, serving: Serving, tmp_path: Path) -> None:
    path, users = tmp_path / "client.toml", tmp_path / "users"
    write(users, "alice:one\n")
    async with relay(serving) as port, destination() as far:
        text = f'server = "{uri(port)}"\nsocks = "127.0.0.1:0"\nproxy-auth-file = "users"\n'
        async with configured(path, text) as client:
            socks = port_of(await client.out.find("SOCKS5 on "))
            await echoes(await applications.socks(socks, far, (b"alice", b"one")), b"one")
            write(users, "alice:two\nbob:three\n")
            await loaded(client)
            with pytest.raises(trio.BrokenResourceError):
                await applications.socks(socks, far, (b"alice", b"one"))
            await echoes(await applications.socks(socks, far, (b"bob", b"three")), b"three")


async def test_sighup_changes_the_server(applications: Applications, serving: Serving, tmp_path: Path) -> None:
    path = tmp_path / "client.toml"
    certificate = make_certificate(HOST)
    controls = [trioanytls.ServerControl(), trioanytls.ServerControl()]
    async with (
        serving(RELAY, config=MANUAL, ssl_context=CERTIFICATE.server_context(), control=controls[0]) as first,
        serving(RELAY, config=MANUAL, ssl_context=certificate.server_context(), control=controls[1]) as second,
        destination() as far,
        configured(path, f'server = "{uri(first)}"\nsocks = "127.0.0.1:0"\n') as client,
    ):
        socks = port_of(await client.out.find("SOCKS5 on "))
        old = await applications.socks(socks, far)
        write(path, f'server = "{uri(second, pin=certificate.pin)}"\nsocks = "127.0.0.1:0"\n')
        await loaded(client)
        await echoes(await applications.socks(socks, far), b"by the new one")
        await echoes(old, b"by the old one")
        assert [control.snapshot().streams for control in controls] == [1, 1]
        await reset(old)
        # The connections to the old server are closed after the last stream.
        await client.err.find(f"{HOST}:{first}: connection")
        with trio.fail_after(20):
            while controls[0].snapshot().connections:  # noqa: ASYNC110 - a server has no event for that
                await trio.sleep(0.02)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('server = "{uri}"\nsocks = "127.0.0.1:0"\nstreams = 0\n', "client.toml, line 3: streams: "),
        ('server = "http://x"\nsocks = "127.0.0.1:0"\n', "Invalid server URI: "),
        ('server = "{wrong}"\nsocks = "127.0.0.1:0"\nhttp = ":0"\n', "after the client sent the password"),
        ('server = "{uri}"\nsocks = ["127.0.0.1:0", "{held}"]\nhttp = ":0"\n', "is in use"),
        (None, "cannot read "),
    ],
)
async def test_sighup_with_invalid_settings_changes_nothing(
    applications: Applications, serving: Serving, tmp_path: Path, text: str | None, error: str
) -> None:
    path = tmp_path / "client.toml"
    async with relay(serving) as port, destination() as far:
        good = f'server = "{uri(port)}"\nsocks = "127.0.0.1:0"\n'
        async with configured(path, good) as client:
            socks = port_of(await client.out.find("SOCKS5 on "))
            old = await applications.socks(socks, far)
            if text is None:
                path.unlink()
            else:
                values = {"uri": uri(port), "wrong": uri(port, password="another"), "held": f"{HOST}:{far}"}
                write(path, text.format(**values))
            client.signal(signal.SIGHUP)
            line = await client.err.find("SIGHUP: cannot apply the new settings, keeping the previous ones: ")
            assert error in line
            assert f"{PASSWORD}@" not in line
            await echoes(old, b"old")
            await echoes(await applications.socks(socks, far), b"new")
            assert len(client.out.lines) == 1
            # The next SIGHUP is handled.
            write(path, good + 'http = ":0"\n')
            await loaded(client)
            await client.out.find("HTTP proxy on ")
