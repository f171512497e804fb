"""`trioanytls server` in its own process: output, relaying, signals, and errors at the start."""

import contextlib
import functools
import json
import os
import signal
import socket
import ssl
import stat
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import attrs
import pytest
import trio
import trustme
from click.testing import CliRunner, Result

import trioanytls
from trioanytls.cli import main
from trioanytls.cli.server import run as run_module
from trioanytls.destination import Destination, encode

from ..conftest import HOST
from ..helpers.cli_process import Program, program

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="requires POSIX signals and permissions")

HERE = ["--listen", f"{HOST}:0", "--allow", "127.0.0.0/8"]
MEBIBYTE = 1 << 20


@contextlib.asynccontextmanager
async def echoing() -> AsyncIterator[Destination]:
    """Run an echo server, and yield its address."""

    async def echo(stream: trio.SocketStream) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            async for data in stream:
                await stream.send_all(data)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(functools.partial(trio.serve_tcp, echo, 0, host=HOST))
        yield Destination(HOST, listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


@contextlib.asynccontextmanager
async def serving(*arguments: object, environment: None = None) -> AsyncIterator[tuple[Program, str]]:
    """Run a server. Yield it and the URI that it prints."""
    async with program("server", *HERE, *arguments, environment=environment) as running:
        yield running, await running.out.find("anytls://")


async def receive_exactly(stream: trioanytls.Stream, size: int) -> bytes:
    received = bytearray()
    while len(received) < size:
        piece = await stream.receive_some(size - len(received))
        assert piece
        received += piece
    return bytes(received)


async def echo_once(client: trioanytls.Client, destination: Destination, text: bytes = b"hello") -> None:
    """Open a stream, send `text`, and receive it back."""
    async with await client.open_stream() as stream:
        await stream.send_all(encode(destination) + text)
        await stream.wait_acknowledged()
        assert await receive_exactly(stream, len(text)) == text


async def works(uri: str, destination: Destination) -> None:
    async with trioanytls.open_client_uri(uri) as client:
        await echo_once(client, destination)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# Output and signals


async def test_self_signed_server(tmp_path: Path) -> None:
    state = tmp_path / "state"
    uris = []
    async with echoing() as destination:
        for _ in range(2):
            async with serving("--self-signed", "--state-dir", state) as (server, uri):
                uris.append(trioanytls.parse_uri(uri))
                async with trioanytls.open_client_uri(uri) as client:
                    await finishes(server, client, destination, signal.SIGINT)
            assert server.out.lines == [uri]
            # Only the URI contains the password.
            assert not [line for line in server.err.lines if uris[-1].password in line]
    # A restart does not change the URI.
    assert (uris[0].password, uris[0].pin) == (uris[1].password, uris[1].pin)
    assert mode(state) == 0o700
    assert {path.name: mode(path) for path in state.iterdir()} == {"self-signed.pem": 0o600, "password": 0o600}


@pytest.mark.parametrize("protocols", [["anytls1", "legacy"], ["anytls1"], ["legacy"]])
async def test_wire_formats(tmp_path: Path, protocols: list[trioanytls.WireFormat]) -> None:
    options = [word for protocol in protocols for word in ("--protocol", protocol)]
    async with (
        echoing() as destination,
        serving("--self-signed", "--state-dir", tmp_path / "state", *options) as (server, uri),
    ):
        described = trioanytls.parse_uri(uri)
        assert described.protocol == protocols[0]
        for protocol in ("anytls1", "legacy"):
            other = trioanytls.format_uri(attrs.evolve(described, protocol=protocol))
            if protocol in protocols:
                await works(other, destination)
                await server.err.find(f"authenticated (protocol {protocol})")
            else:
                with pytest.raises(trio.BrokenResourceError):
                    await works(other, destination)


async def test_worker_processes_accept_both_wire_formats(tmp_path: Path) -> None:
    async with (
        echoing() as destination,
        serving("--self-signed", "--state-dir", tmp_path / "state", "--workers", "2") as (_, uri),
    ):
        for protocol in ("anytls1", "legacy"):
            await works(trioanytls.format_uri(attrs.evolve(trioanytls.parse_uri(uri), protocol=protocol)), destination)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Callable[[], None], trustme.CA]:
    """Create a certificate and its key in two files. Return a function that renews them, and the authority."""
    authority = trustme.CA()

    def issue() -> None:
        issued = authority.issue_cert("localhost", HOST)
        issued.private_key_pem.write_to_path(tmp_path / "key.pem")
        issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")

    issue()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    (tmp_path / "key.pem").chmod(0o600)
    return issue, authority


def connect(uri: str, authority: trustme.CA) -> AbstractAsyncContextManager[trioanytls.Client]:
    parsed = trioanytls.parse_uri(uri)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return trioanytls.open_client(parsed.host, parsed.port, password=parsed.password, ssl_context=context)


async def shown_certificate(uri: str) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    parsed = trioanytls.parse_uri(uri)
    stream = await trio.open_ssl_over_tcp_stream(parsed.host, parsed.port, ssl_context=context)
    await stream.do_handshake()
    certificate: bytes = stream.getpeercert(binary_form=True)
    await trio.aclose_forcefully(stream)
    return certificate


async def finishes(
    server: Program, client: trioanytls.Client, destination: Destination, number: signal.Signals
) -> None:
    """Signal the server, and check that an open stream can finish."""
    text = os.urandom(MEBIBYTE)
    async with await client.open_stream() as stream:
        await stream.send_all(encode(destination) + text[:1000])
        assert await receive_exactly(stream, 1000) == text[:1000]
        server.signal(number)
        await server.err.find(f"{number.name}: draining")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.send_all, text)
            assert await receive_exactly(stream, MEBIBYTE) == text
    assert await server.wait() == 0
    assert server.err.lines[-1].endswith("server stopped")


@pytest.mark.parametrize("workers", [1, 2])
async def test_sighup_reloads_passwords_and_certificate(
    tmp_path: Path, pair: tuple[Callable[[], None], trustme.CA], workers: int
) -> None:
    issue, authority = pair
    password = tmp_path / "password"
    password.write_text("the old one\n")
    password.chmod(0o600)
    arguments = ["--cert", tmp_path / "cert.pem", "--key", tmp_path / "key.pem", "--password-file", password]
    async with echoing() as destination, serving(*arguments, "--workers", workers) as (server, uri):
        assert trioanytls.parse_uri(uri).password == "the old one"
        assert "pin=" not in uri
        first = await shown_certificate(uri)
        async with connect(uri, authority) as old_client:
            await echo_once(old_client, destination)
            issue()
            password.write_text("the new one")
            server.signal(signal.SIGHUP)
            await server.err.find("SIGHUP: loaded 1 user")
            await server.err.find("SIGHUP: loaded the certificate, which is valid until ")
            # Open connections are kept.
            await echo_once(old_client, destination)
        with pytest.raises(trioanytls.ConnectionClosed):
            async with connect(uri, authority) as client:
                await echo_once(client, destination)
        new_uri = uri.replace("old", "new")
        async with connect(new_uri, authority) as client:
            await echo_once(client, destination)
        assert await shown_certificate(uri) != first

        # Invalid files change nothing.
        password.write_text("")
        (tmp_path / "key.pem").write_bytes(trustme.CA().issue_cert(HOST).private_key_pem.bytes())
        server.signal(signal.SIGHUP)
        assert "is empty" in await server.err.find("SIGHUP: cannot load the users, keeping the previous ones: ")
        assert "does not match" in await server.err.find(
            "SIGHUP: cannot load the certificate, keeping the previous one: "
        )
        async with connect(new_uri, authority) as client:
            await finishes(server, client, destination, signal.SIGTERM)
    text = "\n".join(server.err.lines)
    assert "the old one" not in text
    assert "the new one" not in text


async def test_second_signal_stops_immediately(tmp_path: Path) -> None:
    number = signal.SIGTERM
    async with (
        echoing() as destination,
        serving("--self-signed", "--state-dir", tmp_path) as (server, uri),
        trioanytls.open_client_uri(uri) as client,
        await client.open_stream() as stream,
    ):
        await stream.send_all(encode(destination))
        await stream.wait_acknowledged()
        for text in ("draining", "again: stopping immediately"):
            server.signal(number)
            await server.err.find(text)
        with pytest.raises(trioanytls.ConnectionClosed) as info:
            await stream.receive_some()
        assert info.value.code == trioanytls.CloseCode.SHUTTING_DOWN
        assert await server.wait() == 128 + number


# All options


async def test_all_options_from_a_configuration_file(
    tmp_path: Path, pair: tuple[Callable[[], None], trustme.CA]
) -> None:
    _, authority = pair
    (tmp_path / "scheme").write_bytes(b"stop=3\n0=10-20\n1=100-200\n")

    async def answer(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

    async with echoing() as destination, trio.open_nursery() as nursery:
        listeners = await nursery.start(functools.partial(trio.serve_tcp, answer, 0, host=HOST))
        config = tmp_path / "config.toml"
        config.write_text(f"""
listen = "{HOST}:0"
cert = "cert.pem"
key = "key.pem"
public-host = "relay.example:1234"
fallback = "{HOST}:{listeners[0].socket.getsockname()[1]}"
padding-scheme = "scheme"
workers = 1
allow = ["127.0.0.0/8"]
deny = "127.0.0.2"
metrics = "{HOST}:0"
proxy-protocol = ["127.0.0.3"]
connect-timeout = 5
drain-timeout = 1.5
log-format = "json"
verbose = true
[users]
alice = "sesame 1"
bob = "sesame 2"
[connection]
idle_timeout = 100
max_streams = 7
""")
        config.chmod(0o600)
        async with program("server", "--config", config) as server:
            records = server.err
            address = json.loads(await records.find("listening on"))["message"].removeprefix("listening on ")
            host, _, port = address.rpartition(":")
            assert (
                await server.out.find("sesame%202")
                == "anytls://sesame%202@relay.example:1234/?sni=localhost&proto=anytls1"
            )
            assert [line for line in server.out.lines if line.startswith("#")] == ["# alice", "# bob"]

            context = ssl.create_default_context()
            authority.configure_trust(context)
            open_client = functools.partial(
                trioanytls.open_client, host, int(port), password="sesame 2", ssl_context=context
            )
            async with open_client() as client:
                await echo_once(client, destination)
                assert client.padding_scheme.stop == 3
                with pytest.raises(trioanytls.StreamRefused):
                    await echo_once(client, Destination("127.0.0.2", destination.port))
                assert "127.0.0.2 is denied" in await records.find("refused: ")
            told = json.loads(await records.find("relaying to"))
            assert (told["user"], told["level"], told["logger"]) == ("bob", "debug", "trioanytls.relay")
            assert f"relaying to {destination}" in told["message"]
            assert told["peer"].startswith(HOST)

            # A client that is not an ANYTLS client reaches the fallback.
            stream = await trio.open_ssl_over_tcp_stream(host, int(port), ssl_context=context)
            await stream.send_all(b"GET / HTTP/1.1\r\nhost: relay.example\r\n\r\n")
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200 OK")
            await trio.aclose_forcefully(stream)

            metrics = json.loads(await records.find("serving metrics at"))["message"].split("http://")[1]
            async with await trio.open_tcp_stream(HOST, int(metrics.split(":")[1].split("/")[0])) as plain:
                await plain.send_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n")
                shown = b"".join([bytes(piece) async for piece in plain])
            assert b"anytls" in shown

            server.signal(signal.SIGTERM)
            assert await server.wait() == 0
            for line in records.lines:
                assert {"time", "level", "logger", "process", "message"} <= json.loads(line).keys()
                assert "sesame" not in line
        nursery.cancel_scope.cancel()


async def test_proxy_protocol(tmp_path: Path) -> None:
    arguments = ["--self-signed", "--state-dir", tmp_path, "--proxy-protocol", HOST]
    async with echoing() as destination, serving(*arguments) as (server, uri):
        parsed = trioanytls.parse_uri(uri)

        async def proxy(stream: trio.SocketStream) -> None:
            """Forward a connection to the server, after a PROXY protocol header."""
            async with await trio.open_tcp_stream(parsed.host, parsed.port) as far:
                await far.send_all(b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n")
                async with trio.open_nursery() as nursery:
                    for source, sink in ((stream, far), (far, stream)):

                        async def copy(source: trio.SocketStream = source, sink: trio.SocketStream = sink) -> None:
                            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                                async for data in source:
                                    await sink.send_all(data)
                                await sink.send_eof()

                        nursery.start_soon(copy)

        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(functools.partial(trio.serve_tcp, proxy, 0, host=HOST))
            port = listeners[0].socket.getsockname()[1]
            await works(uri.replace(f":{parsed.port}/", f":{port}/"), destination)
            await server.err.find("203.0.113.7:4711, user 'user': authenticated")
            nursery.cancel_scope.cancel()


async def test_qr_code_on_a_terminal(tmp_path: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    try:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "trioanytls", "server", *HERE, "--self-signed", "--state-dir", str(tmp_path)],
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        )
        os.close(theirs)
        shown = b""
        try:
            with trio.fail_after(30):
                while b"anytls://" not in shown or shown.count(b"\n") < 20:
                    await trio.lowlevel.wait_readable(ours)
                    shown += os.read(ours, 65536)
        finally:
            process.terminate()
            await process.wait()
    finally:
        os.close(ours)
    assert "▄".encode() in shown


async def test_quiet(tmp_path: Path) -> None:
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((HOST, 0))
        port = held.getsockname()[1]
    arguments = ["--listen", f"{HOST}:{port}", "--self-signed", "--state-dir", tmp_path, "--quiet"]
    async with program("server", *arguments) as server:
        with trio.fail_after(30):
            while True:
                with contextlib.suppress(OSError):
                    await (await trio.open_tcp_stream(HOST, port)).aclose()
                    break
                await trio.sleep(0.01)
        server.signal(signal.SIGTERM)
        assert await server.wait() == 0
    assert (server.out.lines, server.err.lines) == ([], [])


# Invalid settings


@pytest.fixture
def invoke(files: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs the command in this process, in a directory with files. It must not serve."""
    monkeypatch.chdir(files)
    monkeypatch.setattr(run_module, "run", lambda settings: pytest.fail("the server would start"))

    def run(*arguments: str, environment: dict[str, str] | None = None) -> Result:
        return CliRunner(env=environment).invoke(main.trioanytls, ["server", *map(str, arguments)])

    return run


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Create a directory with valid and invalid files, which no test changes."""
    tmp_path = tmp_path_factory.mktemp("files")
    authority = trustme.CA()
    for name in ("one", "two"):
        issued = authority.issue_cert("localhost")
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.crt")
    contents: dict[str, str | bytes] = {
        "password": "sesame\n",
        "empty": "",
        "blank": "\n",
        "long": "sesame\nand sesame\n",
        "binary": b"\xff\xfe",
        "huge": "x" * 5000,
        "users": "# all of them\nalice:sesame 1\n\nbob: sesame:2 \n",
        "bad-users": "alice:sesame\nbob\n",
        "same-users": "alice:sesame\nbob:sesame\n",
        "twice": "alice:sesame\nalice:other\n",
        "nobody": "# nobody\n",
        "no-password": "alice:\n",
        "scheme": "stop=x",
        "long-scheme": "stop=2\n0=1153-1153\n",
        "encrypted": "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n",
        "bad.toml": "[connection]\nidle_timeout = -1\n",
        "unknown.toml": "[connection]\nidle-timeout = 1\n",
        "drain.toml": "[connection]\ndrain_timeout = 1\n",
        "fallback.toml": '[connection]\non_violation = "fallback"\n',
        "ack.toml": '[connection]\nacknowledge = "auto"\n',
        "empty-user.toml": '[users]\nalice = ""\n',
        "number-user.toml": "[users]\nalice = 1\n",
        "insecure.toml": 'password-insecure = "sesame"\n',
    }
    for name, content in contents.items():
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(0o600)
    (tmp_path / "one-and-one").write_bytes((tmp_path / "one.key").read_bytes() + (tmp_path / "one.crt").read_bytes())
    return tmp_path


PAIR = ["--cert", "one.crt", "--key", "one.key"]
PASSWORD = ["--password-file", "password"]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        # The certificate.
        (PASSWORD, "no certificate: pass --cert FILE and --key FILE, or --self-signed"),
        (["--key", "one.key", *PASSWORD], "no certificate: pass --cert FILE"),
        (["--self-signed", *PAIR, *PASSWORD], "--self-signed and --cert are mutually exclusive"),
        (["--self-signed", "--key", "one.key"], "--key requires --cert"),
        # Passwords.
        (PAIR, "no password: write one to a file (chmod 600) and pass --password-file"),
        ([*PAIR, "--password-file", "none"], "cannot read the password file none: No such file or directory"),
        ([*PAIR, "--password-file", "."], "cannot read the password file .: Is a directory"),
        (
            [*PAIR, "--password-file", "empty"],
            "the password file empty is empty: write the password on its first line",
        ),
        ([*PAIR, "--password-file", "blank"], "the password file blank is empty"),
        ([*PAIR, "--password-file", "long"], "has more than one line: use --users-file for several users"),
        ([*PAIR, "--password-file", "binary"], "binary, line 1: invalid UTF-8 in a password file"),
        ([*PAIR, "--password-file", "huge"], "huge is too large for a password file: the limit is 4096 bytes"),
        ([*PAIR, "--users-file", "bad-users"], "bad-users, line 2: expected NAME:PASSWORD"),
        ([*PAIR, "--users-file", "same-users"], "the users 'alice' and 'bob' have the same password"),
        ([*PAIR, "--users-file", "twice"], "twice, line 2: duplicate user 'alice'"),
        ([*PAIR, "--users-file", "nobody"], "no users in nobody: write a line NAME:PASSWORD for each user"),
        ([*PAIR, "--users-file", "no-password"], "no-password, line 1: the password of 'alice' is empty"),
        ([*PAIR, "--password-insecure", ""], "--password-insecure: the password is empty"),
        # The rest.
        ([*PAIR, *PASSWORD, "--padding-scheme", "scheme"], "scheme: "),
        ([*PAIR, *PASSWORD, "--padding-scheme", "none"], "cannot read none: No such file or directory"),
        (
            [*PAIR, *PASSWORD, "--padding-scheme", "long-scheme"],
            "legacy clients can have at most 1152; or accept no others: --protocol anytls1",
        ),
        (
            [*PAIR, *PASSWORD, "--protocol", "anytls1", "--print", "sing-box"],
            "--print sing-box requires --protocol legacy: sing-box speaks no other wire format",
        ),
        ([*PAIR, *PASSWORD, "--quiet", "--verbose"], "--quiet and --verbose are mutually exclusive"),
        # The configuration file.
        ([*PAIR, *PASSWORD, "--config", "none.toml"], "cannot read none.toml: No such file or directory"),
        ([*PAIR, *PASSWORD, "--config", "bad.toml"], "bad.toml, line 2: connection.idle_timeout: idle_timeout must be"),
        (
            [*PAIR, *PASSWORD, "--config", "unknown.toml"],
            "unknown connection setting; did you mean 'idle_timeout'?",
        ),
        (
            [*PAIR, *PASSWORD, "--config", "drain.toml"],
            "drain.toml, line 2: connection.drain_timeout: write drain-timeout instead",
        ),
        ([*PAIR, *PASSWORD, "--config", "ack.toml"], "connection.acknowledge: unknown connection setting"),
        (
            [*PAIR, *PASSWORD, "--config", "fallback.toml"],
            "requires --fallback HOST:PORT",
        ),
        (
            [*PAIR, "--config", "empty-user.toml"],
            "empty-user.toml, line 2: users.alice: a password must be a non-empty string",
        ),
        (
            [*PAIR, "--config", "number-user.toml"],
            "number-user.toml, line 2: users.alice: a password must be a non-empty string",
        ),
        ([*PAIR, "--config", "insecure.toml"], "insecure.toml, line 1: password-insecure: unknown key"),
    ],
)
def test_invalid_settings(invoke: Callable[..., Result], arguments: list[str], complaint: str) -> None:
    fails(invoke(*arguments), 2, complaint)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--cert", "none.crt", "--key", "one.key", *PASSWORD], "cannot read none.crt: No such file or directory"),
        (["--cert", "one.crt", "--key", "none.key", *PASSWORD], "cannot read none.key: No such file or directory"),
        (
            ["--cert", "password", "--key", "one.key", *PASSWORD],
            "no certificate in PEM format (-----BEGIN CERTIFICATE-----) in password",
        ),
        (
            ["--cert", "one.crt", "--key", "one.crt", *PASSWORD],
            "no private key in PEM format (-----BEGIN PRIVATE KEY-----) in one.crt",
        ),
        (["--cert", "one.crt", *PASSWORD], "(-----BEGIN PRIVATE KEY-----) in one.crt; give the key's file with --key"),
        (["--cert", "one.crt", "--key", "two.key", *PASSWORD], "the key in two.key does not match the certificate"),
        (["--self-signed", "--state-dir", "password"], "cannot use the state directory password: "),
    ],
)
def test_files_that_cannot_be_used(invoke: Callable[..., Result], arguments: list[str], complaint: str) -> None:
    """A certificate may be in the middle of a renewal: the exit code is not the one that prevents a restart."""
    fails(invoke(*arguments), 1, complaint)


def fails(result: Result, exit_code: int, complaint: str) -> None:
    assert result.exit_code == exit_code, result.output
    assert complaint in result.output
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    assert "sesame" not in result.output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--listen", "host"], "Invalid value for '--listen': missing port in 'host': expected HOST:PORT"),
        (["--listen", "[::1:8443"], "invalid IPv6 address in brackets"),
        (["--fallback", "localhost:0"], "invalid port '0': expected an integer from 1 to 65535"),
        (["--allow", "10.0.0.1/8"], "'10.0.0.1/8' is an address within the network 10.0.0.0/8"),
        (["--deny", "private"], "'private' is neither an address nor a network like 10.0.0.0/8 or fd00::/8"),
        (["--proxy-protocol", "x"], "'x' is neither an address nor a network"),
        (["--workers", "-1"], "-1 is not in the range"),
        (["--drain-timeout", "0"], "0.0 is not in the range"),
        (["--public-host", "a b"], "invalid character ' ' in the host"),
        (["--log-format", "xml"], "'xml' is not one of"),
    ],
)
def test_invalid_options(invoke: Callable[..., Result], arguments: list[str], complaint: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.split())


def test_empty_password_in_the_environment(invoke: Callable[..., Result]) -> None:
    result = invoke(*PAIR, environment={"TRIOANYTLS_PASSWORD": ""})
    assert (result.exit_code, result.output) == (
        2,
        "Error: the password in TRIOANYTLS_PASSWORD is empty: set it, or unset the variable\n",
    )


def test_without_the_extra_metrics(invoke: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    result = invoke(*PAIR, *PASSWORD, "--metrics", "127.0.0.1:0")
    assert result.exit_code == 2
    assert result.output.endswith("install it with: python3 -m pip install 'trioanytls[metrics]'\n")


# Errors of listening


@pytest.fixture
def listen(files: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Return a function that runs the command in this process. It must fail to listen."""
    monkeypatch.chdir(files)

    def run(*arguments: int | str) -> Result:
        return CliRunner().invoke(main.trioanytls, ["server", *PAIR, *PASSWORD, "-q", *map(str, arguments)])

    return run


@pytest.mark.parametrize("workers", [1, 2])
def test_port_in_use(listen: Callable[..., Result], workers: int) -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        address = f"{HOST}:{taken.getsockname()[1]}"
        result = listen("--listen", address, "--workers", workers)
        assert (result.exit_code, result.output) == (
            1,
            f"Error: {address} is in use: stop the other program, or choose another port with --listen\n",
        )
        result = listen("--listen", f"{HOST}:0", "--metrics", address)
        assert (result.exit_code, result.output) == (
            1,
            f"Error: {address} is in use: stop the other program, or choose another port with --metrics\n",
        )


def test_address_of_another_machine(listen: Callable[..., Result]) -> None:
    result = listen("--listen", "192.0.2.1:8443")
    assert (result.exit_code, result.output) == (
        1,
        (
            "Error: 192.0.2.1:8443 is not an address of this machine: choose one with --listen, or *:8443 for all "
            "addresses\n"
        ),
    )
