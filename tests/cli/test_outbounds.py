"""The configurations that a server prints for other programs, against the fields that their documentation names."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization

import trioanytls
from trioanytls.cli.common.certificates import make_certificate
from trioanytls.cli.main import trioanytls as command
from trioanytls.cli.server import outbounds
from trioanytls.cli.server.certificate_files import CertificateDescription, CertificateFiles

# https://sing-box.sagernet.org/configuration/outbound/anytls/ and ../shared/tls/
SING_BOX = {
    "type": str,
    "tag": str,
    "server": str,
    "server_port": int,
    "password": str,
    "idle_session_check_interval": str,
    "idle_session_timeout": str,
    "min_idle_session": int,
    "tls": dict,
}
SING_BOX_TLS = {
    "enabled": bool,
    "disable_sni": bool,
    "server_name": str,
    "insecure": bool,
    "alpn": list,
    "certificate": list,
    "certificate_path": str,
    "certificate_public_key_sha256": list,
}
# https://wiki.metacubex.one/en/config/proxies/anytls/ and ../tls/
MIHOMO = {
    "name": str,
    "type": str,
    "server": str,
    "port": int,
    "password": str,
    "client-fingerprint": str,
    "udp": bool,
    "idle-session-check-interval": int,
    "idle-session-timeout": int,
    "min-idle-session": int,
    "sni": str,
    "alpn": list,
    "skip-cert-verify": bool,
    "fingerprint": str,
}
CERTIFICATE = CertificateDescription("ab" * 32, True, ("relay.example",), dt.datetime.max, "cd" * 32)
URI = trioanytls.ServerURI


def fits(entry: dict[str, Any], documented: dict[str, type]) -> bool:
    """Return whether all fields of an entry are documented, with these types."""
    return all(type(value) is documented.get(key) for key, value in entry.items())


def sing_box(**users: trioanytls.ServerURI) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(outbounds.to_sing_box(users, CERTIFICATE))["outbounds"]
    for entry in entries:
        assert fits(entry, SING_BOX)
        assert fits(entry["tls"], SING_BOX_TLS)
    return entries


def mihomo(**users: trioanytls.ServerURI) -> list[dict[str, Any]]:
    """Parse the YAML, of which only a small part is used: a list of mappings, with scalars as in JSON."""
    first, *lines = outbounds.to_mihomo(users, CERTIFICATE).split("\n")
    assert first == "proxies:"
    entries: list[dict[str, Any]] = []
    for line in lines:
        found = re.fullmatch(r"(  - |    )([a-z-]+): (.*)", line)
        assert found is not None
        start, key, value = found.groups()
        if start == "  - ":
            entries.append({})
        assert key not in entries[-1]
        entries[-1][key] = json.loads(re.sub(r"\\U([0-9a-f]{8})", lambda one: chr(int(one[1], 16)), value))
    for entry in entries:
        assert fits(entry, MIHOMO)
    return entries


def test_the_option_offers_each_form() -> None:
    [option] = [one for one in command.commands["server"].params if "--print" in one.opts]
    assert tuple(option.type.choices) == tuple(outbounds.FORMS)  # type: ignore[attr-defined]  # click.Choice


def test_a_server_with_a_certificate_of_an_authority() -> None:
    uri = URI("192.0.2.7", "open sesame", 8443, sni="relay.example", protocol="anytls1")
    assert sing_box(user=uri) == [
        {
            "type": "anytls",
            "tag": "trioanytls",
            "server": "192.0.2.7",
            "server_port": 8443,
            "password": "open sesame",
            "tls": {"enabled": True, "server_name": "relay.example"},
        }
    ]
    assert mihomo(user=uri) == [
        {
            "name": "trioanytls",
            "type": "anytls",
            "server": "192.0.2.7",
            "port": 8443,
            "password": "open sesame",
            "client-fingerprint": "chrome",
            "udp": True,
            "sni": "relay.example",
            "skip-cert-verify": False,
        }
    ]


def test_a_self_signed_certificate_is_pinned() -> None:
    """By its key for sing-box, by the whole certificate for mihomo."""
    uri = URI("relay.example", "p", 8443, pin=CERTIFICATE.pin)
    pin = base64.b64encode(b"\xab" * 32).decode()
    assert sing_box(user=uri)[0]["tls"] == {
        "enabled": True,
        "server_name": "relay.example",
        "certificate_public_key_sha256": [pin],
    }
    assert mihomo(user=uri)[0]["fingerprint"] == "cd" * 32


def test_digests_of_a_certificate(tmp_path: Path) -> None:
    made = make_certificate("relay.example")
    (tmp_path / "one.pem").write_bytes(made.key + made.certificate)
    described = CertificateFiles(tmp_path / "one.pem").check()
    certificate = x509.load_pem_x509_certificate(made.certificate)
    der = certificate.public_bytes(serialization.Encoding.DER)
    assert described.fingerprint == hashlib.sha256(der).hexdigest()
    assert described.pin == made.pin


def test_each_user_has_an_entry() -> None:
    users = {"alice": URI("x", "a"), "bob": URI("x", "b")}
    assert [(one["tag"], one["password"]) for one in sing_box(**users)] == [
        ("trioanytls-alice", "a"),
        ("trioanytls-bob", "b"),
    ]
    assert [(one["name"], one["password"]) for one in mihomo(**users)] == [
        ("trioanytls-alice", "a"),
        ("trioanytls-bob", "b"),
    ]


def test_all_characters_of_passwords_and_names() -> None:
    awkward = 'p: "w" \\ #\n\t\x00\x85\u2028é日😀'
    users = {awkward: URI("2001:db8::1", awkward), "bob": URI("x", "b")}
    assert sing_box(**users)[0]["password"] == mihomo(**users)[0]["password"] == awkward
    assert mihomo(**users)[0]["name"] == f"trioanytls-{awkward}"
    assert sing_box(**users)[0]["server"] == mihomo(**users)[0]["server"] == "2001:db8::1"
    assert outbounds.to_mihomo(users, CERTIFICATE).isascii()
