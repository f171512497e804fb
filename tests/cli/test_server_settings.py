"""What the server is told in several places, what it says when it starts, and how it heeds signals."""

import datetime as dt
import errno
import io
import json
import logging
import pickle
import re
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import segno
import trio
from click.testing import CliRunner

import trioanytls
from trioanytls.cli import main
from trioanytls.cli.common import os_errors
from trioanytls.cli.common.certificates import make_certificate
from trioanytls.cli.common.errors import UserError
from trioanytls.cli.common.logging import LogSettings
from trioanytls.cli.common.option_types import ListenAddress, PublicAddress
from trioanytls.cli.server import client_uri, signals
from trioanytls.cli.server import run as _server
from trioanytls.cli.server.certificate_files import CertificateDescription, CertificateFiles
from trioanytls.cli.server.settings import ServerSettings
from trioanytls.destination import Destination

PIN = "ab" * 32
DOCS = Path(__file__).parent.parent.parent / "docs"


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIOANYTLS_PASSWORD", raising=False)


@pytest.fixture
def collect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ServerSettings]:
    """The settings that a command line comes to."""
    for name in ("one", "two"):
        made = make_certificate("relay.example")
        (tmp_path / f"{name}.pem").write_bytes(made.key + made.certificate)
    for name in ("password", "other"):
        (tmp_path / name).write_text(f"sesame of {name}")
        (tmp_path / name).chmod(0o600)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, config: str | None = None, environment: dict[str, Any] | None = None) -> ServerSettings:
        settings: list[ServerSettings] = []

        def note(one: ServerSettings) -> int:
            settings.append(one)
            return 0

        monkeypatch.setattr(_server, "run", note)
        if config is not None:
            (tmp_path / "config.toml").write_text(config)
            (tmp_path / "config.toml").chmod(0o600)
            arguments = ("--config", "config.toml", *arguments)
        result = CliRunner(env=environment).invoke(main.trioanytls, ["server", *map(str, arguments)])
        assert result.exit_code == 0, result.output
        return settings[0]

    return run


CONFIG = """
cert = "one.pem"
password-file = "password"
"""


@pytest.mark.parametrize(
    ("arguments", "config", "environment", "users"),
    [
        ([], CONFIG, None, {"user": "sesame of password"}),
        (["--password-file", "other"], CONFIG, None, {"user": "sesame of other"}),
        ([], CONFIG, "sesame", {"user": "sesame"}),
        (["--password-file", "other"], CONFIG, "sesame", {"user": "sesame of other"}),
        (["--password-insecure", "open sesame"], CONFIG, "sesame", {"user": "open sesame"}),
        ([], 'cert = "one.pem"\npassword = "the sesame"', None, {"user": "the sesame"}),
        ([], 'cert = "one.pem"\npassword = "the sesame"', "sesame", {"user": "sesame"}),
        ([], CONFIG + '[users]\nalice = "sesame"', None, {"user": "sesame of password", "alice": "sesame"}),
        (["--password-file", "other"], CONFIG + '[users]\nalice = "sesame"', None, {"user": "sesame of other"}),
        (["--cert", "one.pem", "--password-file", "password"], None, None, {"user": "sesame of password"}),
    ],
)
def test_whose_passwords_count(
    collect: Callable[..., ServerSettings],
    arguments: list[str],
    config: str | None,
    environment: str | None,
    users: dict[str, str],
) -> None:
    settings = collect(*arguments, config=config, environment={"TRIOANYTLS_PASSWORD": environment})
    assert settings.serving.users == users
    assert settings.secrets.read_users() == users
    # Whoever logs them tells no secret.
    assert "sesame" not in repr(settings)


def test_which_certificate_counts(collect: Callable[..., ServerSettings], tmp_path: Path) -> None:
    def used(*arguments: str, config: str = CONFIG) -> CertificateFiles:
        return collect(*arguments, config=config).serving.certificate

    assert used().certificate.name == "one.pem"
    assert used("--cert", "two.pem").certificate.name == "two.pem"
    # The key of the file belongs to the certificate of the file.
    with_key = CONFIG + 'key = "one.pem"'
    assert str(used(config=with_key).key) == "one.pem"
    assert used("--cert", "two.pem", config=with_key).key is None
    assert used("--self-signed", "--state-dir", "state").certificate.name == "self-signed.pem"
    own = 'self-signed = true\nstate-dir = "state"\npassword = "sesame"'
    assert used(config=own).certificate.resolve() == tmp_path / "state" / "self-signed.pem"
    assert used("--cert", "two.pem", config=own).certificate.name == "two.pem"


def test_how_much_is_said(collect: Callable[..., ServerSettings]) -> None:
    for arguments, config, level in (
        ([], "", logging.INFO),
        (["-q"], "", logging.WARNING),
        (["-v"], "", logging.DEBUG),
        ([], "quiet = true", logging.WARNING),
        (["-v"], "quiet = true", logging.DEBUG),
    ):
        assert collect(*arguments, config=CONFIG + config).serving.log.level == level


def test_all_of_it_reaches_worker_processes(collect: Callable[..., ServerSettings], tmp_path: Path) -> None:
    (tmp_path / "scheme").write_bytes(b"stop=2\n1=1-2\n")
    config = (
        CONFIG
        + 'padding-scheme = "scheme"\nallow = "10.0.0.0/8"\nfallback = "127.0.0.1:1"\n[connection]\nmax_streams = 3'
    )
    serving = collect(config=config).serving
    assert pickle.loads(pickle.dumps(serving)) == serving
    assert (serving.config.max_streams, serving.config.acknowledge) == (3, "manual")
    assert serving.fallback == Destination("127.0.0.1", 1)


def test_every_setting_of_connections_can_be_in_the_file(collect: Callable[..., ServerSettings]) -> None:
    table = "\n".join(
        f"{one.name} = {json.dumps(one.default) if one.default != float('inf') else 'inf'}"
        for one in attrs.fields(trioanytls.Config)
        if one.name not in ("acknowledge", "drain_timeout", "initial_flush_delay")
        and not one.name.startswith("max_scheme_")
    )
    assert collect(config=f"{CONFIG}\n[connection]\n{table}").serving.config == trioanytls.Config(acknowledge="manual")


def test_the_file_in_the_documentation(collect: Callable[..., ServerSettings], tmp_path: Path) -> None:
    [example] = re.findall(r"```toml\n(.*?)```", (DOCS / "server.md").read_text(encoding="utf-8"), re.DOTALL)
    made = make_certificate("relay.example")
    (tmp_path / "fullchain.pem").write_bytes(made.certificate)
    (tmp_path / "privkey.pem").write_bytes(made.key)
    settings = collect(config=example)
    assert settings.serving.users == {"alice": "open sesame", "bob": "another one"}
    assert (settings.workers, settings.serving.config.max_streams) == (2, 256)


# URIs


def describe(*hosts: str, own: bool = False) -> CertificateDescription:
    return CertificateDescription(PIN, own, hosts, dt.datetime.max)


@pytest.mark.parametrize(
    ("given", "listen", "certificate", "host"),
    [
        ("relay.example", "127.0.0.1:1", None, "relay.example"),
        (None, "127.0.0.1:1", None, "127.0.0.1"),
        (None, "[::1]:1", describe("relay.example"), "::1"),
        (None, ":1", describe("192.0.2.7", "*.example", "relay.example"), "relay.example"),
        (None, "0.0.0.0:1", describe("relay.example"), "relay.example"),
        (None, "[::]:1", describe("*.example"), "a guess"),
        (None, ":1", describe("relay.example", own=True), "a guess"),
        (None, ":1", None, "a guess"),
    ],
)
def test_what_clients_connect_to(
    monkeypatch: pytest.MonkeyPatch,
    given: str | None,
    listen: str,
    certificate: CertificateDescription | None,
    host: str,
) -> None:
    monkeypatch.setattr(client_uri, "guess_address", lambda: "a guess")
    address = PublicAddress.parse(given) if given else None
    assert client_uri.find_public_address(address, ListenAddress.parse(listen), certificate).host == host


def test_the_guess_is_an_address_or_a_name() -> None:
    PublicAddress.parse(client_uri.guess_address())


def test_the_guess_of_a_machine_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(self: socket.socket, address: tuple[Any, ...]) -> None:
        raise OSError(errno.ENETUNREACH, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", connect)
    assert client_uri.guess_address() == "localhost"


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("relay.example", "relay.example", None),
        ("relay.example:443", "relay.example", 443),
        ("192.0.2.7", "192.0.2.7", None),
        ("2001:db8::7", "2001:db8::7", None),
        ("[2001:db8::7]", "2001:db8::7", None),
        ("[2001:db8::7]:443", "2001:db8::7", 443),
    ],
)
def test_public_address(text: str, host: str, port: int | None) -> None:
    address = PublicAddress.parse(text)
    assert (address.host, address.port) == (host, port)


@pytest.mark.parametrize("text", ["", "a b", "a:b", "a:0", "[a]", "a:b:1", ":1"])
def test_public_address_that_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"host|port|colon|IPv6"):
        PublicAddress.parse(text)


@pytest.mark.parametrize(
    ("address", "certificate", "uri"),
    [
        ("relay.example", describe("relay.example"), "anytls://p%2Fw@relay.example:8443/"),
        ("relay.example:443", describe("relay.example"), "anytls://p%2Fw@relay.example/"),
        ("192.0.2.7", describe("*.example", "relay.example"), "anytls://p%2Fw@192.0.2.7:8443/?sni=relay.example"),
        ("192.0.2.7", describe("*.example"), "anytls://p%2Fw@192.0.2.7:8443/"),
        ("192.0.2.7", describe("192.0.2.7", "relay.example"), "anytls://p%2Fw@192.0.2.7:8443/"),
        ("relay.example", describe(), "anytls://p%2Fw@relay.example:8443/"),
        ("2001:db8::7", describe("other.example", own=True), f"anytls://p%2Fw@[2001:db8::7]:8443/?pin={PIN}"),
    ],
)
def test_uri(address: str, certificate: CertificateDescription, uri: str) -> None:
    assert client_uri.make_uri(PublicAddress.parse(address), 8443, "p/w", certificate) == uri
    assert trioanytls.parse_uri(uri).password == "p/w"


def test_uris_of_several_users(capsys: pytest.CaptureFixture[str]) -> None:
    client_uri.announce({"alice": "a", "bob": "b"}, PublicAddress("x"), 1, describe("x"), qr=None)
    assert capsys.readouterr().out == "# alice\nanytls://a@x:1/\n# bob\nanytls://b@x:1/\n"


def test_qr_codes_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    client_uri.announce({"alice": "a", "bob": "b"}, PublicAddress("x"), 1, describe("x"), qr=True)
    shown = capsys.readouterr().out
    expected = io.StringIO()
    segno.make("anytls://b@x:1/", error="l", micro=False).terminal(expected, border=2, compact=True)
    assert shown.endswith(f"anytls://b@x:1/\n{expected.getvalue()}")


def test_a_terminal_without_the_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    client_uri.announce({"alice": "a"}, PublicAddress("x"), 1, describe("x"), qr=True)
    out.flush()
    assert out.buffer.getvalue().startswith(b"anytls://a@x:1/\n")
    assert b"QR code not shown" in out.buffer.getvalue()


def hello(settings: ServerSettings, **changes: Any) -> None:
    _server.announce(attrs.evolve(settings, **changes), 8443)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    caplog.set_level(logging.INFO, "trioanytls.cli")
    return lambda: "\n".join(caplog.messages)


def test_what_is_said_at_the_start(
    collect: Callable[..., ServerSettings], capsys: pytest.CaptureFixture[str], said: Callable[..., Any]
) -> None:
    settings = collect("--allow", "10.0.0.0/8", "--deny", "10.1.0.0/16", "--deny", "1.1.1.1", config=CONFIG)
    hello(settings, public=PublicAddress("192.0.2.7"), is_guessed=True)
    assert capsys.readouterr().out.startswith("anytls://sesame%20of%20password@192.0.2.7:8443/?pin=")
    assert "destinations allowed by --allow: 10.0.0.0/8" in said()
    assert "destinations denied by --deny: 10.1.0.0/16, 1.1.1.1/32" in said()
    assert "The URI uses this machine's address 192.0.2.7; pass --public-host if clients use another one" in said()


@pytest.mark.parametrize(
    ("scheme", "warning"),
    [
        (b"stop=1001\n", "the scheme's stop is 1001, but clients with the default limits accept at most 1000"),
        (b"stop=2\n1=65535-65535,65535-65535,65535-65535,65535-65535,4-4\n", "the scheme's largest deliver is 262144"),
        (b"stop=2\n1=65535-65535,65535-65535,65535-65535,65535-65535,5-5\n", "the scheme's largest deliver is 262145"),
        (
            b"stop=1000\n" + b"".join(b"%d=5000-5000\n" % index for index in range(1000)),
            "the scheme's total is 5000000",
        ),
    ],
)
def test_a_scheme_that_clients_do_not_accept(
    collect: Callable[..., ServerSettings], said: Callable[..., Any], tmp_path: Path, scheme: bytes, warning: str
) -> None:
    (tmp_path / "scheme").write_bytes(scheme)
    hello(collect("-q", config=CONFIG + 'padding-scheme = "scheme"\n'))
    within = "262144" in warning
    assert (warning in said()) is not within
    assert ("--padding-scheme" in said()) is not within


def test_when_no_uri_is_printed(
    collect: Callable[..., ServerSettings],
    capsys: pytest.CaptureFixture[str],
    said: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = collect(config=CONFIG)
    hello(settings, print_uri=False)
    hello(settings, public=PublicAddress("not-$a-host"))
    assert "cannot make a URI for clients: " in said()
    hello(collect("-q", config=CONFIG))
    many = {f"user {number}": f"{number}" for number in range(11)}
    hello(attrs.evolve(settings, serving=attrs.evolve(settings.serving, users=many)))
    assert "the URIs of 11 users are not printed" in said()
    monkeypatch.setattr(client_uri, "is_journal", lambda: True)
    hello(settings)
    assert "is not printed to the journal; pass --print-uri to print it" in said()
    assert capsys.readouterr().out == ""
    # But where it is asked for, it is.
    hello(settings, print_uri=True)
    assert "anytls://" in capsys.readouterr().out


def test_the_journal_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    with (tmp_path / "out").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert not client_uri.is_journal()
        status = (tmp_path / "out").stat()
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert client_uri.is_journal()
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert not client_uri.is_journal()


# Errors of listening


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            OSError(errno.EADDRINUSE, "x"),
            "[::1]:443 is in use: stop the other program, or choose another port with --it",
        ),
        (
            OSError(errno.EACCES, "x"),
            "permission denied for [::1]:443: choose a port of 1024 or above with --it, or give",
        ),
        (OSError(errno.EADDRNOTAVAIL, "x"), "[::1]:443 is not an address of this machine: choose one with --it"),
        (
            OSError(errno.EAFNOSUPPORT, "x"),
            "this system does not support the address family of [::1]:443: choose another one with --it",
        ),
        (socket.gaierror(-2, "Name not known"), "--it: cannot resolve '::1': Name not known"),
        (OSError(errno.EMFILE, "Too many open files"), "cannot listen on [::1]:443 (--it): Too many open files"),
        (OSError("without a number"), "cannot listen on [::1]:443 (--it): without a number"),
    ],
)
def test_what_to_do_about_errors(error: OSError | PermissionError | socket.gaierror, text: str) -> None:
    told = os_errors.describe_listen_error(ListenAddress("::1", 443), "--it", error)
    assert told.startswith(text)
    assert "\n" not in told


# Signals


class Stubborn:
    """A server that does not end by itself."""

    def __init__(self) -> None:
        self.drained: list[tuple[float, float]] = []

    async def drain(self, timeout: float) -> None:  # noqa: ASYNC109 - as in ServerControl
        self.drained.append((trio.current_time(), timeout))
        await trio.sleep_forever()


@pytest.mark.skipif(sys.platform == "win32", reason="signals as POSIX has them")
async def test_who_does_not_end_is_killed(
    autojump_clock: trio.testing.MockClock, collect: Callable[..., ServerSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = []
    monkeypatch.setattr(signal, "signal", lambda number, what: killed.append(what))
    monkeypatch.setattr(signal, "raise_signal", lambda number: killed.append((trio.current_time(), number)))
    server = Stubborn()
    send, receive = trio.open_memory_channel(10)
    async with trio.open_nursery() as nursery:
        # Of the server, it calls `drain` alone.
        handler = signals.SignalHandler(collect(config=CONFIG), server, nursery)  # type: ignore[arg-type]
        nursery.start_soon(handler.handle, receive)
        start = trio.current_time()
        await send.send(signal.SIGTERM)
        await trio.sleep(10)
        assert (server.drained, handler.exit_code) == ([(start, 30)], 0)
        await send.send(signal.SIGTERM)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert server.drained == [(start, 30), (start + 10, 0)]
    assert killed == [signal.SIG_DFL, (pytest.approx(start + 11), signal.SIGTERM)]
    assert handler.exit_code == 128 + signal.SIGTERM


# Logging


def log(settings: LogSettings, *arguments: str, **options: Any) -> str:
    out = io.StringIO()
    settings.set_up(out)
    logging.getLogger("trioanytls.relay").info(*arguments, **options)
    return out.getvalue()


def test_a_line_for_people() -> None:
    line = log(LogSettings(), "user %r: %s", "bob", "evil\nline \x1b[31m\u202e")
    assert line.endswith(" INFO    user 'bob': evil\\nline \\x1b[31m\\u202e\n")
    assert line.count("\n") == 1
    assert log(LogSettings(show_process=True), "x").split("] ")[0].split("[")[1].isdigit()


def test_what_went_wrong_in_detail() -> None:
    try:
        raise UserError("wrong")
    except UserError as error:
        caught = error
    assert log(LogSettings(), "failed", exc_info=caught).count("\n") == 1
    assert "Traceback" in log(LogSettings(logging.DEBUG), "failed", exc_info=caught)
    told = json.loads(log(LogSettings(format="json"), "failed", exc_info=caught))
    assert told["exception"].startswith("Traceback")


def test_a_line_for_machines() -> None:
    about = {"connection": 7, "peer": "192.0.2.7:1", "user": None}
    line = log(LogSettings(format="json"), "a\nb", extra=about)
    assert line.count("\n") == 1
    told = json.loads(line)
    assert told["time"].endswith("+00:00")
    del told["time"], told["process"]
    assert told == {"level": "info", "logger": "trioanytls.relay", "message": "a\\nb", **about}


def test_what_is_said_depends_on_the_level() -> None:
    assert log(LogSettings(logging.WARNING), "x") == ""
    # A second time, nothing is said twice.
    assert log(LogSettings(), "x").count("x") == 1
