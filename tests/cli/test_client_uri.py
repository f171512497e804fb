"""The URIs that a server prints for its clients, and their QR codes."""

import datetime as dt
import errno
import io
import socket
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest
import segno

import trioanytls
from trioanytls.cli.common.option_types import ListenAddress, PublicAddress
from trioanytls.cli.server import client_uri
from trioanytls.cli.server.certificate_files import CertificateDescription

PIN = "ab" * 32
BOTH: tuple[trioanytls.WireFormat, ...] = ("anytls1", "legacy")


def describe(*hosts: str, self_signed: bool = False) -> CertificateDescription:
    return CertificateDescription(PIN, self_signed, hosts, dt.datetime.max, "cd" * 32)


def make_uri(
    address: PublicAddress,
    port: int,
    password: str,
    certificate: CertificateDescription,
    *,
    protocols: Collection[trioanytls.WireFormat] = BOTH,
) -> str:
    return trioanytls.format_uri(client_uri.describe_server(address, port, password, certificate, protocols))


def servers(**users: str) -> dict[str, trioanytls.ServerURI]:
    """Return the server of each user, at host x and port 1."""
    return {name: trioanytls.ServerURI("x", password, 1, protocol="anytls1") for name, password in users.items()}


@pytest.mark.parametrize(
    ("given", "listen", "certificate", "host"),
    [
        ("relay.example", "127.0.0.1:1", None, "relay.example"),
        (None, "127.0.0.1:1", None, "127.0.0.1"),
        (None, "[::1]:1", describe("relay.example"), "::1"),
        (None, ":1", describe("192.0.2.7", "*.example", "relay.example"), "relay.example"),
        (None, "0.0.0.0:1", describe("relay.example"), "relay.example"),
        (None, "[::]:1", describe("*.example"), "a guess"),
        (None, ":1", describe("relay.example", self_signed=True), "a guess"),
        (None, ":1", None, "a guess"),
    ],
)
def test_find_public_address(
    monkeypatch: pytest.MonkeyPatch,
    given: str | None,
    listen: str,
    certificate: CertificateDescription | None,
    host: str,
) -> None:
    monkeypatch.setattr(client_uri, "guess_address", lambda: "a guess")
    address = PublicAddress.parse(given) if given else None
    assert client_uri.find_public_address(address, ListenAddress.parse(listen), certificate).host == host


def test_guess_is_valid() -> None:
    PublicAddress.parse(client_uri.guess_address())


def test_guess_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_invalid_public_address(text: str) -> None:
    with pytest.raises(ValueError, match=r"host|port|colon|IPv6"):
        PublicAddress.parse(text)


@pytest.mark.parametrize(
    ("address", "certificate", "uri"),
    [
        ("relay.example", describe("relay.example"), "anytls://p%2Fw@relay.example:8443/?proto=anytls1"),
        ("relay.example:443", describe("relay.example"), "anytls://p%2Fw@relay.example/?proto=anytls1"),
        (
            "192.0.2.7",
            describe("*.example", "relay.example"),
            "anytls://p%2Fw@192.0.2.7:8443/?sni=relay.example&proto=anytls1",
        ),
        ("192.0.2.7", describe("*.example"), "anytls://p%2Fw@192.0.2.7:8443/?proto=anytls1"),
        ("192.0.2.7", describe("192.0.2.7", "relay.example"), "anytls://p%2Fw@192.0.2.7:8443/?proto=anytls1"),
        ("relay.example", describe(), "anytls://p%2Fw@relay.example:8443/?proto=anytls1"),
        (
            "2001:db8::7",
            describe("other.example", self_signed=True),
            f"anytls://p%2Fw@[2001:db8::7]:8443/?pin={PIN}&proto=anytls1",
        ),
    ],
)
def test_uri(address: str, certificate: CertificateDescription, uri: str) -> None:
    assert make_uri(PublicAddress.parse(address), 8443, "p/w", certificate) == uri
    assert trioanytls.parse_uri(uri).password == "p/w"


@pytest.mark.parametrize(
    ("protocols", "query"),
    [(["anytls1", "legacy"], "?proto=anytls1"), (["anytls1"], "?proto=anytls1"), (["legacy"], "")],
)
def test_uri_names_the_format_of_the_specification_if_the_server_accepts_it(
    protocols: list[trioanytls.WireFormat], query: str
) -> None:
    address = PublicAddress.parse("relay.example")
    uri = make_uri(address, 8443, "p", describe("relay.example"), protocols=protocols)
    assert uri == f"anytls://p@relay.example:8443/{query}"


def test_uris_of_several_users(capsys: pytest.CaptureFixture[str]) -> None:
    client_uri.announce(servers(alice="a", bob="b"), qr=None)
    assert capsys.readouterr().out == "# alice\nanytls://a@x:1/?proto=anytls1\n# bob\nanytls://b@x:1/?proto=anytls1\n"


def test_qr_codes(capsys: pytest.CaptureFixture[str]) -> None:
    client_uri.announce(servers(alice="a", bob="b"), qr=True)
    shown = capsys.readouterr().out
    expected = io.StringIO()
    segno.make("anytls://b@x:1/?proto=anytls1", error="l", micro=False).terminal(expected, border=2, compact=True)
    assert shown.endswith(f"anytls://b@x:1/?proto=anytls1\n{expected.getvalue()}")


def test_qr_code_on_a_terminal_without_the_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    client_uri.announce(servers(alice="a"), qr=True)
    out.flush()
    assert out.buffer.getvalue().startswith(b"anytls://a@x:1/?proto=anytls1\n")
    assert b"QR code not shown" in out.buffer.getvalue()


def test_detect_the_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    with (tmp_path / "out").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert not client_uri.is_journal()
        status = (tmp_path / "out").stat()
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert client_uri.is_journal()
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    assert not client_uri.is_journal()
