"""The settings of the client, from its options, the environment and its configuration file."""

from __future__ import annotations

import ipaddress
import logging
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner

import trioanytls
from trioanytls.cli.client import run as run_module
from trioanytls.cli.client.settings import ClientSettings, Forwarding
from trioanytls.cli.common.connection_settings import make_config
from trioanytls.cli.common.logging import LogSettings
from trioanytls.cli.common.option_types import ListenAddress
from trioanytls.cli.main import trioanytls as command
from trioanytls.destination import Destination
from trioanytls.relay.bypass import BypassRule

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs signals as POSIX has them")


@pytest.fixture
def collect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ClientSettings]:
    """Return a function that collects the settings of a configuration file and a command line."""
    monkeypatch.chdir(tmp_path)

    def run(
        config: str, *options: str, environment: str | None = None, at: Path = Path("configuration")
    ) -> ClientSettings:
        settings: list[ClientSettings] = []

        def note(one: ClientSettings, _read_again: object) -> int:
            settings.append(one)
            return 0

        monkeypatch.setattr(run_module, "run", note)
        at.mkdir(exist_ok=True)
        (at / "client.toml").write_text(config, encoding="utf-8")
        (at / "client.toml").chmod(0o600)
        arguments = ["client", "--config", str(at / "client.toml"), *options]
        result = CliRunner(env={"TRIOANYTLS_SERVER": environment}).invoke(command, arguments)
        assert result.exit_code == 0, result.output
        return settings[0]

    return run


@pytest.mark.parametrize(
    "text", ["anytls://p@h ", "\ufeffanytls://p@h\r\n", "\n  anytls://p@h\n\n", "\ufeff anytls://p@h"]
)
@pytest.mark.parametrize("place", ["environment", "option", "file"])
def test_whitespace_around_a_uri(collect: Callable[..., ClientSettings], tmp_path: Path, text: str, place: str) -> None:
    (tmp_path / "uri").write_text(text, encoding="utf-8")
    options = {"environment": [], "option": ["--server", text], "file": ["--server-file", "uri"]}[place]
    settings = collect("", *options, environment=text if place == "environment" else None)
    assert settings.server == trioanytls.ServerURI("h", "p")


@pytest.mark.parametrize(
    ("uri", "config", "options", "protocol", "streams"),
    [
        ("anytls://p@h", "", [], "legacy", 1),
        ("anytls://p@h/?proto=anytls1", "", [], "anytls1", 32),
        ("anytls://p@h", "", ["--protocol", "anytls1"], "anytls1", 32),
        ("anytls://p@h/?proto=anytls1", 'protocol = "legacy"', [], "legacy", 1),
        ("anytls://p@h/?proto=anytls1", 'protocol = "legacy"', ["--protocol", "anytls1"], "anytls1", 32),
        ("anytls://p@h", "", ["--streams", "7"], "legacy", 7),
    ],
)
def test_the_option_for_the_wire_format_overrides_the_uri(
    collect: Callable[..., ClientSettings], uri: str, config: str, options: list[str], protocol: str, streams: int
) -> None:
    settings = collect(f'server = "{uri}"\n{config}', *options)
    assert (settings.server.protocol, settings.streams_per_connection) == (protocol, streams)


def test_an_empty_identifier_is_for_legacy_alone(collect: Callable[..., ClientSettings], tmp_path: Path) -> None:
    config = 'server = "anytls://p@h"\n[connection]\nclient_identifier = ""'
    assert collect(config).config.client_identifier == ""
    arguments = ["client", "--config", str(tmp_path / "configuration" / "client.toml"), "--protocol", "anytls1"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 2
    assert "client_identifier must not be empty with the wire format anytls1" in result.output


@pytest.mark.parametrize(
    ("config", "options", "level"),
    [
        ("", [], logging.INFO),
        ("quiet = true", [], logging.WARNING),
        ("quiet = true", ["--verbose"], logging.DEBUG),
        ("verbose = true", ["--quiet"], logging.WARNING),
    ],
)
def test_log_level(collect: Callable[..., ClientSettings], config: str, options: list[str], level: int) -> None:
    settings = collect('server = "anytls://p@h"\n' + config, *options)
    assert settings.log.level == level
    assert settings.quiet == (level == logging.WARNING)


def test_no_state_excludes_state_dir() -> None:
    result = CliRunner().invoke(command, ["client", "--server", "anytls://p@x", "--no-state", "--state-dir", "x"])
    assert result.exit_code == 2
    assert "--no-state and --state-dir are mutually exclusive" in result.output


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([], "No server URI"),
        (["--server", "http://x"], "does not begin with 'anytls://'"),
        (["--server", "anytls://@x"], "the password is empty"),
        (["--server", "anytls://p@x", "-q", "-v"], "--quiet and --verbose are mutually exclusive"),
        (["--server", "anytls://p@x", "--socks", "localhost"], "missing port in"),
        (["--server", "anytls://p@x", "--mixed", "70000"], "invalid port '70000'"),
        (["--server", "anytls://p@x", "--forward-udp", "53"], "expected LOCAL=HOST:PORT"),
        (["--server", "anytls://p@x", "--bypass", "10.0.0.1/8"], "an address within the network"),
        (["--server", "anytls://p@x", "--bypass", "*"], "invalid rule '*'"),
        (["--server", "anytls://p@x", "--forward", "80"], "expected LOCAL=HOST:PORT"),
        (["--server", "anytls://p@x", "--forward", "80=x"], "missing port in"),
        (["--server", "anytls://p@x", "--protocol", "v1"], "'v1' is not one of 'anytls1', 'legacy'"),
        (["--server", "anytls://p@x", "--server-file", "/nonexistent"], "does not exist"),
        (["--server", "anytls://p@x", "--no-reuse", "--streams", "2"], "with --no-reuse, --streams can only be 1"),
    ],
)
def test_invalid_options(options: list[str], text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRIOANYTLS_SERVER", raising=False)
    result = CliRunner().invoke(command, ["client", *options])
    assert result.exit_code == 2
    assert text in result.output


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b"", "no users in"),
        (b"# alice:secret\n\n", "no users in"),
        (b"nobody", "line 1"),
        (b":secret", "line 1"),
        (b"user:", "line 1"),
        (b"alice:secret\r\n\r\nuser\r\n", "line 3"),
        (b"alice:secret\n" + b"x" * 256 + b":y", "line 2"),
        (b"x:" + b"y" * 256, "line 1"),
    ],
)
def test_invalid_proxy_users(content: bytes, place: str, tmp_path: Path) -> None:
    path = tmp_path / "auth"
    path.write_bytes(content)
    result = CliRunner().invoke(command, ["client", "--server", "anytls://p@x", "--proxy-auth-file", str(path)])
    assert result.exit_code == 2
    assert place in result.output
    assert "user:password" in result.output
    assert "secret" not in result.output


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"alice:one\nalice:two", "line 2: duplicate user 'alice'"), (b"alice:one\nb\xff:x", "line 2: ")],
)
def test_more_invalid_proxy_users(content: bytes, why: str, tmp_path: Path) -> None:
    path = tmp_path / "auth"
    path.write_bytes(content)
    result = CliRunner().invoke(command, ["client", "--server", "anytls://p@x", "--proxy-auth-file", str(path)])
    assert result.exit_code == 2
    assert why in result.output


def test_proxy_users(collect: Callable[..., ClientSettings], tmp_path: Path) -> None:
    path = tmp_path / "auth"
    path.write_bytes(
        b"\xef\xbb\xbf# for the browser\r\nalice:sec:ret \r\n\r\n"
        + "b\u00f6b:\u00fc".encode()
        + b"\r\n"
        + b"x" * 255
        + b":y"
    )
    path.chmod(0o600)
    settings = collect('server = "anytls://p@x"', "--proxy-auth-file", str(path))
    assert settings.proxy_users == {"alice": "sec:ret ", "b\u00f6b": "\u00fc", "x" * 255: "y"}


@posix
@pytest.mark.parametrize("option", ["proxy-auth-file", "server-file"])
def test_warning_about_accessible_secrets(
    option: str, collect: Callable[..., ClientSettings], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "secret"
    path.write_text("anytls://p@x" if option == "server-file" else "alice:secret")
    config = "" if option == "server-file" else 'server = "anytls://p@x"'
    for mode, warnings in ((0o640, 1), (0o604, 1), (0o600, 0)):
        path.chmod(mode)
        caplog.clear()
        collect(config, f"--{option}", str(path))
        assert [f"chmod 600 {path}" in record.getMessage() for record in caplog.records] == [True] * warnings


def test_options_in_the_configuration_file(collect: Callable[..., ClientSettings], tmp_path: Path) -> None:
    (tmp_path / "configuration").mkdir()
    (tmp_path / "configuration" / "auth").write_text("alice:secret")
    settings = collect(
        """
        server = "anytls://password@relay.example"
        socks = ["127.0.0.1:1080", "[::1]:1080"]
        http = "127.0.0.1:8888"
        mixed = [8080, "*:8081"]
        http-via = "laptop"
        forward = ["5432=db.internal:5432"]
        forward-udp = ":53=9.9.9.9:53"
        bypass = ["10.0.0.0/8", ".lan"]
        proxy-auth-file = "auth"
        streams = 4
        check = false
        verbose = true
        [connection]
        idle_timeout = 120
        """
    )
    assert settings == ClientSettings(
        server=trioanytls.ServerURI("relay.example", "password"),
        socks=(ListenAddress("127.0.0.1", 1080), ListenAddress("::1", 1080)),
        http=(ListenAddress("127.0.0.1", 8888),),
        mixed=(ListenAddress("127.0.0.1", 8080), ListenAddress(None, 8081)),
        http_via="laptop",
        forwards=(Forwarding.parse("5432=db.internal:5432"),),
        udp_forwards=(Forwarding.parse(":53=9.9.9.9:53"),),
        bypass=(BypassRule(network=ipaddress.ip_network("10.0.0.0/8")), BypassRule(name="lan", is_suffix=True)),
        # Next to the configuration file.
        proxy_users={"alice": "secret"},
        state_dir=None,
        keeps_state=True,
        config=make_config(None, "client", idle_timeout=120),
        drain_timeout=10,
        streams=4,
        check=False,
        quiet=False,
        log=LogSettings(logging.DEBUG),
    )


@pytest.mark.parametrize(
    ("uri", "options", "streams"),
    [
        ("anytls://p@h", [], 1),
        ("anytls://p@h/?proto=anytls1", [], 32),
        ("anytls://p@h", ["--streams", "8"], 8),
        ("anytls://p@h/?proto=anytls1", ["--streams", "1"], 1),
        ("anytls://p@h/?proto=anytls1", ["--no-reuse"], 1),
        ("anytls://p@h", ["--no-reuse", "--streams", "1"], 1),
    ],
)
def test_streams_of_a_connection(
    collect: Callable[..., ClientSettings], uri: str, options: list[str], streams: int
) -> None:
    settings = collect("socks = 1080", *options, environment=uri)
    assert settings.streams_per_connection == streams
    assert settings.reuse == ("--no-reuse" not in options)


@pytest.mark.default_extensions
@pytest.mark.parametrize(
    ("text", "options", "extensions"),
    [
        ("", [], {"fin", "goaway", "reset", "window"}),
        ("", ["--extensions", "none"], set()),
        ('extensions = "fin,window"', [], {"fin", "window"}),
        ('extensions = "fin,window"', ["--extensions", "reset"], {"reset"}),
        ('extensions = "goaway"\n[connection]\nextensions = ["fin"]', [], {"goaway"}),
    ],
)
def test_extensions(
    collect: Callable[..., ClientSettings], text: str, options: list[str], extensions: set[str]
) -> None:
    assert collect(text, *options, environment="anytls://p@h").config.extensions == extensions


def test_example_in_the_documentation(collect: Callable[..., ClientSettings], tmp_path: Path) -> None:
    # docs/relay.md includes this file. Its comments are valid options, too.
    example = (Path(__file__).parent.parent.parent / "docs" / "systemd" / "client.toml").read_text(encoding="utf-8")
    (tmp_path / "configuration").mkdir()
    (tmp_path / "configuration" / "uri").write_text("anytls://p@relay.example")
    settings = collect(example)
    assert settings.server.host == "relay.example"
    assert [str(one) for one in settings.mixed] == ["127.0.0.1:1080"]
    assert not settings.check
    settings = collect(re.sub(r"^# (?=[a-z-]+ = )", "", example, flags=re.MULTILINE))
    assert [str(one) for one in (*settings.socks, *settings.http)] == ["127.0.0.1:1080", "127.0.0.1:8888"]
    assert [str(one.destination) for one in settings.forwards] == ["10.0.0.20:5432", "server.example.com:22"]
    assert [str(one.destination) for one in settings.udp_forwards] == ["9.9.9.9:53"]
    assert [str(one) for one in settings.bypass] == [".lan", "192.168.0.0/16"]


@pytest.mark.parametrize(
    ("config", "options", "environment", "host"),
    [
        ('server = "anytls://p@config"', [], None, "config"),
        ('server-file = "uri"', [], None, "file"),
        ('server = "anytls://p@config"\nserver-file = "uri"', [], None, "file"),
        ('server = "anytls://p@config"', [], "anytls://p@environment", "environment"),
        ('server-file = "uri"', [], "anytls://p@environment", "environment"),
        ('server-file = "uri"', ["--server", "anytls://p@option"], "anytls://p@environment", "option"),
        ('server = "anytls://p@config"', ["--server-file", "configuration/uri"], None, "file"),
    ],
)
def test_precedence_of_the_server(
    collect: Callable[..., ClientSettings],
    tmp_path: Path,
    config: str,
    options: list[str],
    environment: str | None,
    host: str,
) -> None:
    (tmp_path / "configuration").mkdir()
    (tmp_path / "configuration" / "uri").write_text("anytls://p@file\n")
    assert collect(config, *options, environment=environment).server.host == host


@posix
def test_warning_about_an_accessible_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(run_module, "run", lambda _settings, _again: 0)
    monkeypatch.delenv("TRIOANYTLS_SERVER", raising=False)
    path = tmp_path / "client.toml"
    path.write_text('server = "anytls://password@relay.example"')
    for mode, warnings in ((0o644, 1), (0o600, 0)):
        path.chmod(mode)
        caplog.clear()
        result = CliRunner().invoke(command, ["client", "--config", str(path)])
        assert result.exit_code == 0, result.output
        assert len(caplog.records) == warnings
        assert "password@" not in caplog.text


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("stream = 4", "line 1: stream: unknown key; did you mean 'streams'?"),
        ('\nstreams = "4"', "line 2: streams: must be an integer, not a string"),
        ("bypass = 1080", "line 1: bypass: must be a string or a list of them, not an integer"),
        ("socks = 70000", "line 1: socks: invalid port '70000': expected an integer from 0 to 65535"),
        ("socks = 1.5", "line 1: socks: must be a string or a port number or a list of them, not a float"),
        ('bypass = [".lan", "10.0.0.0/33"]', "line 1: bypass: '10.0.0.0/33' is neither an address nor a network"),
        ('forward = ["5432"]', "line 1: forward: invalid forward '5432': expected LOCAL=HOST:PORT"),
        ('[users]\nalice = "x"', "line 1: users: unknown key"),
        ("[connection]\nmax_streams = 1", "line 2: connection.max_streams: this setting has no effect on a client"),
    ],
)
def test_invalid_configuration(config: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "client.toml"
    path.write_text(config)
    result = CliRunner().invoke(command, ["client", "--config", str(path)])
    assert result.exit_code == 2
    assert f"client.toml, {message}" in result.output


def test_parse_forwards() -> None:
    assert Forwarding.parse("5432=db.internal:5433") == Forwarding(
        ListenAddress("127.0.0.1", 5432), Destination("db.internal", 5433)
    )
    assert Forwarding.parse("[::1]:1=[::2]:3") == Forwarding(ListenAddress("::1", 1), Destination("::2", 3))
    assert Forwarding.parse(":1=x:3").local == ListenAddress("127.0.0.1", 1)
    assert Forwarding.parse("*:1=x:3").local == ListenAddress(None, 1)
