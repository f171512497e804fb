"""`trioanytls bench`, and the relay's destination for speed tests."""

from __future__ import annotations

import json
import ssl
from functools import partial

import pytest
import trio
import trio.testing
from click.testing import CliRunner
from rich.console import Console

import trioanytls
import trioanytls.testing
from trioanytls.cli.bench import measure
from trioanytls.cli.common import runner
from trioanytls.cli.common.errors import ClientError
from trioanytls.cli.main import trioanytls as command
from trioanytls.destination import Destination, encode
from trioanytls.relay import speed_test
from trioanytls.relay.address_policy import AddressPolicy
from trioanytls.relay.handler import RelayHandler

from ..conftest import HOST, USERS, Connecting, Serving

MANUAL = trioanytls.Config(acknowledge="manual")
RELAY = RelayHandler(AddressPolicy(), special_hosts={speed_test.HOST: speed_test.serve})
NAMES = {
    "connect, first byte back": "s",
    "round trip": "s",
    "open a stream, first byte back": "s",
    "64 bytes there and back": "s",
    "download, 1 stream": "B/s",
    "download, 8 streams": "B/s",
    "upload, 1 stream": "B/s",
    "upload, 8 streams": "B/s",
}


@pytest.mark.parametrize("options", [[], ["--protocol", "legacy"]])
def test_measure_a_server_in_the_same_process(options: list[str]) -> None:
    result = CliRunner().invoke(command, ["bench", "--quick", "--json", *options])
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert {name: figure["unit"] for name, figure in figures.items()} == NAMES
    assert all(figure["value"] > 0 for figure in figures.values())


@pytest.mark.parametrize(
    ("server", "title"),
    [
        (None, "A server in this process"),
        (trioanytls.ServerURI("2001:db8::1", "hunter2", 8443), "2001:db8::1:8443"),
    ],
)
def test_table_of_the_figures(
    server: trioanytls.ServerURI | None,
    title: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    figures = {
        "round trip": measure.Figure(0.002, "s", "2.0 ms [bold]"),
        "upload": measure.Figure(3e6, "B/s", "3 MB/s"),
    }
    monkeypatch.setattr(runner, "run", lambda _main: figures)
    assert measure.run(server, 1, as_json=False) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == title
    assert any("protocol" in line and ("anytls1" if server is None else "legacy") in line for line in lines)
    assert any("round trip" in line and "2.0 ms [bold]" in line for line in lines)
    assert any("upload" in line and "3 MB/s" in line for line in lines)
    assert not any("hunter2" in line for line in lines)


async def test_measure_a_given_server(serving: Serving, server_context: ssl.SSLContext) -> None:
    async with serving(RELAY, config=MANUAL) as port:
        uri = trioanytls.ServerURI(HOST, USERS["alice"], port, insecure=True, protocol="anytls1")
        figures = await measure.measure(uri, 0.1, Console(quiet=True))
    assert list(figures) == list(NAMES)


async def test_server_without_measurement(serving: Serving) -> None:
    async with serving(RelayHandler(AddressPolicy()), config=MANUAL) as port:
        uri = trioanytls.ServerURI(HOST, USERS["alice"], port, insecure=True, protocol="anytls1")
        with pytest.raises(ClientError, match="does not support measurement"):
            await measure.measure(uri, 0.1, Console(quiet=True))


async def test_wrong_password(serving: Serving) -> None:
    async with serving(RELAY, config=MANUAL) as port:
        uri = trioanytls.ServerURI(HOST, "wrong", port, insecure=True, protocol="anytls1")
        with pytest.raises(ClientError, match="after the client sent the password"):
            await measure.measure(uri, 0.1, Console(quiet=True))


@pytest.mark.parametrize(
    ("port", "count", "sent", "answer"),
    [
        (speed_test.ECHO, 0, b"hello", b"hello"),
        (speed_test.DISCARD, 5, b"hello", b"\0"),
        (speed_test.DISCARD, 0, b"", b"\0"),
        (speed_test.GENERATE, 100_000, b"", bytes(100_000)),
        (speed_test.GENERATE, 0, b"", b""),
    ],
)
async def test_speed_test_destination(
    serving: Serving, connecting: Connecting, port: int, count: int, sent: bytes, answer: bytes
) -> None:
    preamble = encode(Destination(speed_test.HOST, port)) + count.to_bytes(8)
    async with (
        serving(RELAY, config=MANUAL) as server,
        connecting(server) as connection,
        await connection.open_stream() as stream,
    ):
        await stream.send_all(preamble + sent)
        received = b""
        while len(received) < len(answer) or not answer:
            data = await stream.receive_some()
            if not data:
                break
            received += data
        assert received == answer


async def test_unknown_speed_test_port_is_refused(serving: Serving, connecting: Connecting) -> None:
    async with (
        serving(RELAY, config=MANUAL) as server,
        connecting(server) as connection,
        await connection.open_stream() as stream,
    ):
        await stream.send_all(encode(Destination(speed_test.HOST, 80)) + bytes(8))
        with pytest.raises(trioanytls.StreamRefused):
            await stream.wait_acknowledged()


async def test_idle_speed_test_ends(autojump_clock: trio.testing.MockClock) -> None:
    queue = trioanytls.testing.memory_connection_pair
    serve = partial(speed_test.serve, destination=Destination(speed_test.HOST, speed_test.ECHO))
    async with queue(serve, server_config=MANUAL) as (client, _), await client.open_stream() as stream:
        await stream.send_all(bytes(8))
        assert await stream.receive_some() == b""
