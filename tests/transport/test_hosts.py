"""Host names in ASCII, and that all functions that accept a host treat it alike."""

from __future__ import annotations

import ast
import re
import ssl
import sys
import tomllib
from pathlib import Path

import pytest
import trustme
from hypothesis import example, given
from hypothesis import strategies as st

import trioanytls
from trioanytls import ServerURI, URIError
from trioanytls._client.connect import Endpoint
from trioanytls._transport.hosts import encode_host, encode_tls_name
from trioanytls.destination import Destination, encode

from ..conftest import HOST, USERS, Serving

#: The host, the host in ASCII, and the host for TLS.
NAMES = [
    ("example.com", "example.com", "example.com"),
    ("EXAMPLE.com", "EXAMPLE.com", "EXAMPLE.com"),
    ("example.com.", "example.com.", "example.com"),
    ("localhost", "localhost", "localhost"),
    ("under_score.example", "under_score.example", "under_score.example"),
    ("_service.bücher.example", "_service.xn--bcher-kva.example", "_service.xn--bcher-kva.example"),
    ("xn--bcher-kva.example", "xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("bücher.example", "xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("BÜCHER.Example", "xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("bu\u0308cher.example", "xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("bücher.example.", "xn--bcher-kva.example.", "xn--bcher-kva.example"),
    ("bücher\u3002example", "xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("exam\xadple.com", "example.com", "example.com"),
    # IDNA 2003 maps these to other hosts: fass.de, and the second one without its joiner.
    ("faß.de", "xn--fa-hia.de", "xn--fa-hia.de"),
    ("\u0dc1\u0dca\u200d\u0dbb\u0dd3.com", "xn--10cl1a0b660p.com", "xn--10cl1a0b660p.com"),
    ("例え.テスト", "xn--r8jz45g.xn--zckzah", "xn--r8jz45g.xn--zckzah"),
    ("ü" * 56 + ".de", "xn--" + "tda" + "a" * 55 + ".de", "xn--" + "tda" + "a" * 55 + ".de"),
]
ADDRESSES = [
    ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
    ("2001:db8::1", "2001:db8::1", "2001:db8::1"),
    ("fe80::1%eth0", "fe80::1%eth0", "fe80::1"),
    ("\uff11\uff19\uff12.0.2.\uff17", "192.0.2.7", "192.0.2.7"),
]
#: Texts that are not hosts, and the error's reason.
INVALID = [
    ("", "the host is missing"),
    ("exa mple", "invalid character ' ' in the host"),
    ("exa\0mple", r"invalid character '\\x00' in the host"),
    ("💩.la", "U\\+1F4A9 .* not allowed"),
    # A joiner at an invalid position.
    ("a\u200db.de", "U\\+200D not allowed"),
    ("exa\u202emple\xfc", "U\\+202E"),
    ("ü..example", "Empty Label"),
    (".ü", "Empty Label"),
    ("\uff0e", "Empty Label"),
    ("\xad", "0 characters when encoded"),
    ("ü" * 60 + ".de", "Label too long"),
    ("x" * 64 + ".ü", "Label too long"),
    (".".join(["ü" * 20] * 12), "characters when encoded"),
    ("ü" * 1025, "1025 characters exceeds the limit of 1024"),
    ("-ü.de", "hyphen"),
    ("ü-.de", "hyphen"),
    ("a\uff0fb.example", "U\\+002F"),
    ("a\uff20b.example", "U\\+0040"),
    ("\u2100.example", "U\\+002F"),
    ("1\uff1a2", "U\\+003A"),
    ("ü\udc80", "invalid host name"),
]


@pytest.mark.parametrize(("host", "encoded", "tls_name"), [*NAMES, *ADDRESSES])
def test_encode(host: str, encoded: str, tls_name: str) -> None:
    assert encode_host(host) == encoded
    assert encode_tls_name(host) == tls_name
    # Encoding the result again does not change it.
    assert encode_host(encoded) == encoded
    assert encode_tls_name(tls_name) == tls_name


@pytest.mark.parametrize(("host", "complaint"), INVALID)
def test_what_cannot_be_encoded(host: str, complaint: str) -> None:
    for function in (encode_host, encode_tls_name):
        with pytest.raises(ValueError, match=complaint) as caught:
            function(host)
        text = str(caught.value)
        assert text.isascii()
        assert text.isprintable()
        assert len(text) < 1000
        assert not isinstance(caught.value, UnicodeError)


@given(st.text(max_size=40))
@example("\uff0e.")
@example("a" * 63 + ".\xfc")
def test_any_result_is_a_valid_name(host: str) -> None:
    try:
        encoded = encode_host(host)
    except ValueError:
        return
    assert encoded.isascii()
    assert encoded.isprintable()
    if host.isascii():
        assert encoded == host
    else:
        assert re.fullmatch(r"([A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?", encoded)
    assert encode_host(encoded) == encoded


# All functions that accept a host


@pytest.mark.parametrize(("host", "encoded", "tls_name"), NAMES)
def test_all_mean_the_same_name(host: str, encoded: str, tls_name: str) -> None:
    assert ServerURI(host, "password").host == host
    assert encode(Destination(host, 1)) == bytes([3, len(encoded)]) + encoded.encode() + b"\x00\x01"
    assert Destination.parse(f"{host}:1").host == host
    address = Endpoint(host, 1, None, None, None)
    assert (address.host, address._server_hostname) == (encoded, tls_name)
    assert Endpoint("192.0.2.7", 1, None, host, None)._server_hostname == tls_name


@pytest.mark.parametrize(("host", "encoded", "tls_name"), ADDRESSES)
def test_all_mean_the_same_address(host: str, encoded: str, tls_name: str) -> None:
    assert ServerURI(host, "password").host == host
    address = Endpoint(host, 1, None, None, None)
    assert (address.host, address._server_hostname) == (encoded, tls_name)
    if "%" not in host:
        assert encode(Destination(host, 1)) == encode(Destination(encoded, 1))
        assert encode(Destination(host, 1))[0] != 3


@pytest.mark.parametrize(("host", "complaint"), INVALID)
async def test_all_refuse_the_same(host: str, complaint: str) -> None:
    with pytest.raises(URIError):
        ServerURI(host, "password")
    with pytest.raises(ValueError, match=f"{complaint}|invalid character"):
        encode(Destination(host, 1))
    with pytest.raises(ValueError, match=r"host|colon"):
        Destination.parse(f"{host}:1")
    # At once, and not only when the first connection is made.
    with pytest.raises(ValueError, match=complaint):
        async with trioanytls.open_client(host, 1, password="password"):
            raise AssertionError
    with pytest.raises(ValueError, match=complaint):
        async with trioanytls.open_connection(host, 1, password="password"):
            raise AssertionError
    with pytest.raises(ValueError, match=complaint):
        trioanytls.relay_to(host, 1)


async def test_the_server_sees_the_name_that_dns_has(serving: Serving, authority: trustme.CA) -> None:
    names: list[str | None] = []
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("xn--fa-hia.de").configure_cert(server)
    server.sni_callback = lambda _object, name, _context: names.append(name)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    async with serving(ssl_context=server) as port:
        for name in ("faß.de", "FAß.de.", "xn--fa-hia.de"):
            async with trioanytls.open_connection(
                HOST, port, password=USERS["alice"], ssl_context=client, server_hostname=name
            ) as connection:
                await connection.ping()
    assert names == ["xn--fa-hia.de"] * 3


# The package


ROOT = Path(trioanytls.__file__).parent
#: Parts of the package that need an extra.
EXTRAS = {"cli", "contrib", "metrics.py", "_metrics_endpoint.py"}


def test_what_is_imported_is_declared() -> None:
    imported = set()
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] in EXTRAS:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(str(node.module).split(".")[0])
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[^A-Za-z0-9-]", one)[0] for one in project["dependencies"]}
    assert imported - sys.stdlib_module_names - {"trioanytls"} == declared
