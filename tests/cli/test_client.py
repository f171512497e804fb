"""`trioanytls client` in its own process: proxies, forwards, and errors at the start."""

from __future__ import annotations

import contextlib
import ipaddress
import math
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

import trioanytls
from trioanytls._client.pool import Client, run_client
from trioanytls._protocol.interface import WireFormat
from trioanytls.cli.client import connectivity_check, status_display
from trioanytls.cli.common.certificates import make_certificate
from trioanytls.destination import Destination, encode
from trioanytls.relay.address_policy import AddressPolicy
from trioanytls.relay.handler import RelayHandler
from trioanytls.relay.upstream import Upstream

from ..conftest import HOST, USERS, Serving
from ..helpers import cli_process
from ..helpers.cli_process import Program, program
from ..helpers.relay_processes import port_of

PASSWORD = USERS["alice"]
MANUAL = trioanytls.Config(acknowledge="manual")
RELAY = RelayHandler(AddressPolicy(allow=[ipaddress.ip_network("127.0.0.0/8")]), connect_timeout=5)
COMMAND = [*cli_process.COMMAND, "client"]
#: A connection that its application closed looks like one that still receives, so draining waits for the whole timeout.
#: Tests use a short one.
QUICK = ["--drain-timeout", "0.1"]
CERTIFICATE = make_certificate(HOST)

posix = pytest.mark.skipif(sys.platform == "win32", reason="requires POSIX signals")


def uri(
    port: int,
    *,
    password: str = PASSWORD,
    pin: str | None = CERTIFICATE.pin,
    protocol: WireFormat = "anytls1",
) -> str:
    return trioanytls.format_uri(trioanytls.ServerURI(HOST, password, port, pin=pin, protocol=protocol))


@contextlib.asynccontextmanager
async def relay(serving: Serving) -> AsyncIterator[int]:
    options = {"config": MANUAL, "ssl_context": CERTIFICATE.server_context(), "protocols": ("anytls1", "legacy")}
    async with serving(RELAY, **options) as port:
        yield port


@contextlib.asynccontextmanager
async def running(server: str, *options: str) -> AsyncIterator[tuple[Program, list[int]]]:
    """Run the command. Yield it and the ports that it prints, in the order of the options."""
    expected = sum(option in ("--socks", "--http", "--forward") for option in options)
    async with program("client", *QUICK, *options, environment={"TRIOANYTLS_SERVER": server}) as client:
        await client.out.find(lambda _: len(client.out.lines) >= expected)
        yield client, [port_of(line) for line in client.out.lines[:expected]]
        if client.running:
            client.signal(signal.SIGTERM)
        await client.wait()


async def fails(server: str, *options: str) -> str:
    """Run the command, which must fail to start, and return the line that it prints."""
    async with program("client", "--quiet", *options, environment={"TRIOANYTLS_SERVER": server}) as client:
        assert await client.wait() == 1
    assert client.out.lines == []
    (line,) = client.err.lines
    return line


async def shout(stream: trio.SocketStream) -> None:
    # A relay that stops resets its connections.
    with contextlib.suppress(trio.BrokenResourceError):
        async for data in stream:
            await stream.send_all(data.upper())


@contextlib.asynccontextmanager
async def destination() -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, shout, 0, host=HOST))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def through_socks(socks: int, far: int) -> trio.SocketStream:
    stream = await trio.open_tcp_stream(HOST, socks)
    await stream.send_all(b"\x05\x01\x00\x05\x01\x00" + encode(Destination(HOST, far)))
    answer = b""
    while len(answer) < 12:
        data = await stream.receive_some(12 - len(answer))
        if not data:
            raise trio.BrokenResourceError
        answer += data
    if answer[3]:
        raise trio.BrokenResourceError
    return stream


@posix
async def test_the_legacy_format_leads_to_the_destination(serving: Serving) -> None:
    async with (
        relay(serving) as port,
        destination() as far,
        running(uri(port, protocol="legacy"), "--socks", f"{HOST}:0") as (_process, (socks,)),
        await through_socks(socks, far) as stream,
    ):
        await stream.send_all(b"by socks")
        assert await stream.receive_some() == b"BY SOCKS"


async def test_the_check_accepts_a_legacy_server_that_says_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """As one of version 1 does, which has no ServerSettings. The status shows no round-trip time then."""
    servers: list[trio.abc.Stream] = []

    async def dial(_timeout: float) -> trio.abc.Stream:
        near, far = trio.testing.memory_stream_pair()
        servers.append(far)
        return near

    client = Client(
        dial,
        key="memory",
        password=PASSWORD,
        padding_scheme=None,
        config=trioanytls.Config(),
        pool=trioanytls.PoolConfig(),
        protocol="legacy",
    )
    async with run_client(client):
        await connectivity_check.check(client, Destination(HOST, 443), connectivity_check.ConnectFailures())
        connection = client.newest_connection
        assert connection is not None
        assert connection.version is None
        assert not connection.closed
        view = status_display.View(Upstream(client), "server:443")
        with trio.move_on_after(60):
            await view.measure()
        assert math.isnan(view.round_trip)


@posix
async def test_socks_http_and_forwards_lead_to_the_destination(serving: Serving) -> None:
    async with relay(serving) as port, destination() as far:
        doors = ("--socks", f"{HOST}:0", "--http", f"{HOST}:0", "--forward", f"0={HOST}:{far}")
        async with running(uri(port), *doors) as (client, (socks, http, forward)):
            async with await through_socks(socks, far) as stream:
                await stream.send_all(b"by socks")
                assert await stream.receive_some() == b"BY SOCKS"
            async with await trio.open_tcp_stream(HOST, http) as stream:
                await stream.send_all(b"CONNECT %b:%d HTTP/1.1\r\nHost: x\r\n\r\n" % (HOST.encode(), far))
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 ")
                await stream.send_all(b"by http")
                assert await stream.receive_some() == b"BY HTTP"
            async with await trio.open_tcp_stream(HOST, forward) as stream:
                await stream.send_all(b"by forward")
                assert await stream.receive_some() == b"BY FORWARD"
            client.signal(signal.SIGTERM)
            with trio.fail_after(20):
                assert await client.wait() == 0


@posix
async def test_ctrl_c_stops_the_client_in_order(serving: Serving) -> None:
    async with relay(serving) as port, running(uri(port), "--socks", f"{HOST}:0") as (client, _):
        client.signal(signal.SIGINT)
        with trio.fail_after(20):
            assert await client.wait() == 0


@posix
@pytest.mark.parametrize(("options", "updates"), [((), [1, 0]), (("--no-state",), [1, 1])])
async def test_each_start_uses_the_scheme_that_the_server_sent_last(
    serving: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...], updates: list[int]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    control = trioanytls.ServerControl()
    seen: list[trioanytls.Connection] = []

    async def handler(stream: trioanytls.Stream) -> None:
        seen.append(stream.connection)
        await RELAY(stream)

    scheme = trioanytls.PaddingScheme.parse(b"stop=3\n0=40-40\n1=200-300\n2=300-400\n")
    relayed = {"config": MANUAL, "ssl_context": CERTIFICATE.server_context()}
    async with serving(handler, padding_scheme=scheme, control=control, **relayed) as port, destination() as far:
        for start, expected in enumerate(updates, 1):
            async with (
                running(uri(port), "--socks", f"{HOST}:0", *options) as (_, (socks,)),
                await through_socks(socks, far) as stream,
            ):
                await stream.send_all(b"hello")
                assert await stream.receive_some() == b"HELLO"
            assert seen[-1].stats.frames_sent.get("PADDING_UPDATE_SCHEME", 0) == expected
            # The check at the start opens no additional connection with another scheme.
            assert control.snapshot().connections_accepted == start


@posix
@pytest.mark.skipif(sys.platform != "linux", reason="requires a read-only file system")
@pytest.mark.parametrize("named", [True, False])
async def test_state_directory_that_is_not_writable(
    serving: Serving, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/proc/self")
    async with relay(serving) as port:
        if named:
            line = await fails(uri(port), "--socks", f"{HOST}:0", "--state-dir", "/proc/self/state")
            assert "cannot use the state directory /proc/self/state" in line
        else:
            # The user did not name the directory, so the client continues without it.
            async with running(uri(port), "--socks", f"{HOST}:0") as (client, _):
                await client.err.find("Without it, each start begins with the built-in padding scheme")


@posix
@pytest.mark.parametrize("closed", [(1,), (0, 1, 2), (2,)])
async def test_closed_standard_streams(serving: Serving, closed: tuple[int, ...]) -> None:
    with socket.socket() as held:
        held.bind((HOST, 0))
        socks = held.getsockname()[1]
    async with relay(serving) as port, destination() as far:
        arguments = ["--server", uri(port), "--socks", f"{HOST}:{socks}", "--drain-timeout", "0.1"]
        code = f"import os, sys; [os.close(n) for n in {closed}]; os.execv(sys.executable, {[*COMMAND, *arguments]})"
        process = await trio.lowlevel.open_process([sys.executable, "-c", code], stderr=subprocess.PIPE)
        try:
            with trio.fail_after(30):
                while True:
                    with contextlib.suppress(OSError, trio.BrokenResourceError):
                        stream = await through_socks(socks, far)
                        break
                    await trio.sleep(0.02)
                async with stream:
                    await stream.send_all(b"hello")
                    assert await stream.receive_some() == b"HELLO"
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0
                assert process.stderr is not None
                assert b"Traceback" not in await process.stderr.receive_some()
        finally:
            process.kill()
            await process.wait()


@posix
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is full")
async def test_full_standard_output(serving: Serving) -> None:
    async with relay(serving) as port:
        full = os.open("/dev/full", os.O_WRONLY)
        process = await trio.lowlevel.open_process(
            [*COMMAND, "--server", uri(port), "--socks", f"{HOST}:0"], stdout=full, stderr=subprocess.PIPE
        )
        os.close(full)
        try:
            assert process.stderr is not None
            said = b""
            with trio.fail_after(30):
                while b"cannot write to the standard output: No space left on device" not in said:
                    data = await process.stderr.receive_some()
                    assert data, said
                    said += data
                process.send_signal(signal.SIGTERM)
                assert await process.wait() == 0
        finally:
            process.kill()
            await process.wait()


@posix
async def test_log_formats_are_those_of_the_server(serving: Serving) -> None:
    patterns = {
        "text": rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d INFO    "
        rb"127\.0\.0\.1:\d+: connection \d+ closed: the client is closing\n",
        "json": rb'\{"time": "[^"]+", "level": "info", "logger": "trioanytls.client", [^\n]*the client is closing"\}\n',
    }
    async with relay(serving) as port:
        for form, pattern in patterns.items():
            process = await trio.lowlevel.open_process(
                [*COMMAND, "--server", uri(port), "--socks", f"{HOST}:0", "--log-format", form],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            assert process.stdout is not None
            assert process.stderr is not None
            with trio.fail_after(30):
                await process.stdout.receive_some()
                process.send_signal(signal.SIGINT)
                said = b""
                while data := await process.stderr.receive_some():
                    said += data
                await process.wait()
            assert re.fullmatch(pattern, said), said


@posix
async def test_server_restarts(server_context: ssl.SSLContext, serving: Serving) -> None:
    async with destination() as far, trio.open_nursery() as nursery:
        serve = partial(
            trioanytls.serve,
            RELAY,
            host=HOST,
            users=USERS,
            ssl_context=CERTIFICATE.server_context(),
            config=trioanytls.Config(acknowledge="manual", close_timeout=0.1),
        )

        async def start(port: int, scope: trio.CancelScope, *, task_status: trio.TaskStatus[object]) -> None:
            with scope:
                await serve(port, task_status=task_status)

        first = trio.CancelScope()
        listeners = await nursery.start(start, 0, first)
        port = listeners[0].socket.getsockname()[1]
        async with running(uri(port), "--socks", f"{HOST}:0") as (_, (socks,)):
            stream = await through_socks(socks, far)
            await stream.send_all(b"before")
            assert await stream.receive_some() == b"BEFORE"
            first.cancel()
            # The server stops in the middle of the stream: the application receives the end at once.
            with trio.fail_after(10):
                with contextlib.suppress(trio.BrokenResourceError):
                    while await stream.receive_some():
                        pass
            await stream.aclose()
            await nursery.start(start, port, trio.CancelScope())
            with trio.fail_after(10):
                while True:
                    try:
                        stream = await through_socks(socks, far)
                        break
                    except trio.BrokenResourceError:
                        await trio.sleep(0.05)
            async with stream:
                await stream.send_all(b"after")
                assert await stream.receive_some() == b"AFTER"
        nursery.cancel_scope.cancel()


async def test_port_in_use(serving: Serving) -> None:
    async with relay(serving) as port:
        line = await fails(uri(port), "--socks", f"{HOST}:{port}")
    assert f"{HOST}:{port} is in use" in line
    assert "choose another port with --socks" in line


@pytest.mark.parametrize("protocol", ["anytls1", "legacy"])
async def test_wrong_password(serving: Serving, protocol: WireFormat) -> None:
    async with relay(serving) as port:
        line = await fails(uri(port, password="wrong-secret", protocol=protocol), "--socks", f"{HOST}:0")
    assert "after the client sent the password" in line
    assert "wrong-secret" not in line


async def test_untrusted_certificate(serving: Serving) -> None:
    async with relay(serving) as port:
        assert "certificate is not accepted" in await fails(uri(port, pin=None), "--socks", f"{HOST}:0")
        line = await fails(uri(port, pin=make_certificate(HOST).pin), "--socks", f"{HOST}:0")
    assert "does not match a pin" in line
    assert "pin=..." in line


async def test_server_without_tls13(authority: object) -> None:
    context = CERTIFICATE.server_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2

    async def old(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.do_handshake()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_ssl_over_tcp, old, 0, context, host=HOST))
        line = await fails(uri(listeners[0].transport_listener.socket.getsockname()[1]), "--socks", f"{HOST}:0")
        nursery.cancel_scope.cancel()
    assert "TLS 1.3" in line


async def test_status_view(
    serving: Serving, client_context: ssl.SSLContext, autojump_clock: trio.testing.MockClock
) -> None:
    async with trioanytls.open_client(HOST, 1, password="x", ssl_context=client_context) as client:
        upstream = Upstream(client)
        view = status_display.View(upstream, "server:443")
        assert math.isnan(view.round_trip)
        view.advance(1.0)
        upstream.up, upstream.down = 3_000_000, 1500
        view.advance(3.0)
        assert (view.up, view.down) == (1_500_000, 750)
        view.round_trip = 0.0123
        rows = {line[:13].strip(): line[13:] for line in view.draw().plain.splitlines()}
        assert max(map(len, view.draw(20).plain.splitlines())) == 19
    assert rows["server"] == "server:443"
    assert (rows["up"], rows["down"]) == ("1.5 MB/s", "750 B/s")
    assert rows["protocol"] == "anytls1"
    assert rows["round trip"] == "12.3 ms"
    assert rows["scheme"] == trioanytls.PaddingScheme.DEFAULT.digest[:16]
