"""Pins: their formats, and the key that they are computed from."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import re
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from trioanytls._transport.pinning import format_pin, parse_pin, parse_pins, pin_of

PIN = hashlib.sha256(b"a key").digest()
HEX = PIN.hex()
BASE64 = base64.b64encode(PIN).decode()
NAME = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
KEYS: list[Any] = [
    ec.generate_private_key(ec.SECP256R1()),
    ed25519.Ed25519PrivateKey.generate(),
    rsa.generate_private_key(65537, 2048),
]


Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def public_key(key: Key) -> bytes:
    """Return the SubjectPublicKeyInfo of a key."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def certificate(key: Key, days: int = 1, *names: str) -> bytes:
    """Create a self-signed certificate in DER."""
    builder = x509.CertificateBuilder().subject_name(NAME).issuer_name(NAME).public_key(key.public_key())
    builder = builder.serial_number(5).not_valid_before(START).not_valid_after(START + dt.timedelta(days))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(map(x509.DNSName, names)), critical=False)
    signed = builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256())
    return signed.public_bytes(Encoding.DER)


def element(tag: int, content: bytes) -> bytes:
    """Encode a DER element of less than 64 KiB."""
    size = len(content)
    length = bytes([size]) if size < 0x80 else bytes([0x81, size]) if size < 0x100 else b"\x82" + size.to_bytes(2)
    return bytes([tag]) + length + content


def elements(content: bytes) -> list[bytes]:
    """Split the content of a DER element into its elements."""
    found = []
    while content:
        header, size = 2, content[1]
        if size & 0x80:
            header, size = 2 + (size & 0x7F), int.from_bytes(content[2 : 2 + (size & 0x7F)])
        found.append(content[: header + size])
        content = content[header + size :]
    return found


def content_of(whole: bytes) -> bytes:
    return whole[2 + (whole[1] & 0x7F if whole[1] & 0x80 else 0) :]


def with_parts(der: bytes, change: Callable[[list[bytes]], None]) -> bytes:
    """Return the certificate with changed parts of the signed content."""
    signed, *rest = elements(content_of(der))
    parts = elements(content_of(signed))
    change(parts)
    return element(0x30, b"".join([element(0x30, b"".join(parts)), *rest]))


def two_faced(mine: ec.EllipticCurvePrivateKey, pinned: ec.EllipticCurvePrivateKey) -> bytes:
    """Create a certificate with the attacker's key, in which a careless parser finds the pinned one.

    The parameters of the algorithm can have any type, even a sequence. The sequence and its parent have an end marker
    instead of a length. A parser that treats them as empty continues with their content.
    """
    der = certificate(mine)

    def change(parts: list[bytes]) -> None:
        identifier = elements(content_of(parts[2]))[0]
        parameters = b"\x30\x80" + b"\x05\x00" + public_key(pinned) + b"\x00\x00"
        parts[2] = b"\x30\x80" + identifier + parameters + b"\x00\x00"

    return with_parts(der, change)


@pytest.mark.parametrize(
    "text",
    [
        HEX,
        HEX.upper(),
        BASE64,
        BASE64.rstrip("="),
        base64.urlsafe_b64encode(PIN).decode(),
        f"sha256/{BASE64}",
        f"sha256/{HEX}",
    ],
)
def test_a_pin_is_hex_or_base64(text: str) -> None:
    assert parse_pin(text) == PIN
    assert format_pin(parse_pin(text)) == HEX


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha256/",
        HEX[:-1],
        HEX + "0",
        HEX[:-1] + "g",
        BASE64[:-2],
        BASE64 + "A",
        BASE64[:20] + "\n" + BASE64[20:],
        "ü",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    message = f"invalid pin {text!r}: expected the SHA-256 of a public key as 64 hex digits or in Base64"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        parse_pin(text)


def test_there_may_be_none_one_or_several() -> None:
    assert parse_pins(None) == parse_pins([]) == frozenset()
    assert parse_pins(HEX) == {PIN}
    assert parse_pins([HEX, BASE64, "0" * 64]) == {PIN, bytes(32)}


@pytest.mark.parametrize("key", KEYS, ids=lambda key: type(key).__name__)
def test_the_pin_of_a_certificate_is_that_of_its_key(key: ec.EllipticCurvePrivateKey) -> None:
    expected = hashlib.sha256(public_key(key)).digest()
    assert pin_of(certificate(key)) == expected
    # A renewed certificate with the same key has the same pin.
    assert pin_of(certificate(key, 700, "localhost", "another.example")) == expected


def test_a_certificate_of_version_1_has_no_version() -> None:
    key = KEYS[0]
    der = certificate(key)
    without = with_parts(der, lambda parts: parts.__delitem__(0))
    assert without != der
    assert pin_of(without) == hashlib.sha256(public_key(key)).digest()


def test_what_is_cut_off_is_no_certificate() -> None:
    der = certificate(KEYS[0], 1, "localhost")
    for size in range(len(der)):
        with pytest.raises(ValueError, match="not a certificate in DER"):
            pin_of(der[:size])


def test_what_could_be_read_in_two_ways_is_no_certificate() -> None:
    mine, pinned = ec.generate_private_key(ec.SECP256R1()), KEYS[0]
    with pytest.raises(ValueError, match="not a certificate in DER"):
        pin_of(two_faced(mine, pinned))


@pytest.mark.parametrize(
    ("number", "spelling"),
    [
        # The serial number: a long length, a length with leading zeros, an indefinite length, another type.
        (1, b"\x02\x81\x01\x05"),
        (1, b"\x02\x82\x00\x01\x05"),
        (1, b"\x02\x82\x00\x80" + b"\x05" * 128),
        (1, b"\x02\x80\x05\x00\x00"),
        (1, b"\x22\x03\x02\x01\x05"),
        # Names: empty ones with a tag in another encoding.
        (3, b"\x3f\x10\x00"),
        (5, b"\x31\x00"),
        (0, b"\xa0\x80\x02\x01\x02\x00\x00"),
        (0, b"\xbf\x00\x03\x02\x01\x02"),
    ],
)
def test_only_der_is_read(number: int, spelling: bytes) -> None:
    def change(parts: list[bytes]) -> None:
        parts[number] = spelling

    with pytest.raises(ValueError, match="not a certificate in DER"):
        pin_of(with_parts(certificate(KEYS[0]), change))
