"""Pins: the SHA-256 of a server's public key, known in advance (RFC 7469, section 2.4).

A pin is of the key and not of the certificate, since a renewed certificate can keep its key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable
from typing import Final

_HEX = re.compile(r"[0-9a-fA-F]{64}")
_SHA256_SIZE = 32

# DER: the tags of a certificate's parts (RFC 5280, section 4.1).
_SEQUENCE = 0x30
_INTEGER = 0x02
_VERSION = 0xA0
# The parts before the key: serial number, algorithm, issuer, validity and subject.
_BEFORE_KEY = (_INTEGER, _SEQUENCE, _SEQUENCE, _SEQUENCE, _SEQUENCE)


def parse_pin(text: str) -> bytes:
    """Parse a pin: 64 hex digits or Base64, after an optional `sha256/`.

    The URL-safe alphabet of Base64 is accepted as well, and the final `=` may be missing.

    Raises:
      ValueError: the text is not a pin.
    """
    digits = text.removeprefix("sha256/")
    if _HEX.fullmatch(digits):
        return bytes.fromhex(digits)
    try:
        pin = base64.b64decode(digits.replace("-", "+").replace("_", "/").rstrip("=") + "=", validate=True)
    except (ValueError, binascii.Error):
        pin = b""
    if len(pin) != _SHA256_SIZE:
        raise ValueError(f"invalid pin {text!r}: expected the SHA-256 of a public key as 64 hex digits or in Base64")
    return pin


_NO_PINS: Final[frozenset[bytes]] = frozenset()


def parse_pins(pins: str | Iterable[str] | None) -> frozenset[bytes]:
    """Parse any number of pins. The server's key must match one of them."""
    if pins is None:
        return _NO_PINS
    return frozenset(map(parse_pin, [pins] if isinstance(pins, str) else pins))


def format_pin(pin: bytes) -> str:
    """Return a pin as hex digits."""
    return pin.hex()


def pin_of(certificate: bytes) -> bytes:
    """Return the pin of a certificate in DER: the SHA-256 of its SubjectPublicKeyInfo.

    The key must be the one that the TLS library finds, since the peer has proved to own that one. The library also
    accepts BER, in which an element can have an end marker instead of a length. A parser that misread such an element
    would find a different key.

    Raises:
      ValueError: the bytes are not a certificate in DER.
    """
    outer, _ = _read(certificate, 0, _SEQUENCE)
    to_be_signed, _ = _read(outer, 0, _SEQUENCE)
    position = 0
    if to_be_signed[:1] == bytes([_VERSION]):
        _, position = _read(to_be_signed, 0, _VERSION)
    for tag in _BEFORE_KEY:
        _, position = _read(to_be_signed, position, tag)
    start = position
    _, end = _read(to_be_signed, start, _SEQUENCE)
    return hashlib.sha256(to_be_signed[start:end]).digest()


def _read(data: bytes, position: int, tag: int) -> tuple[bytes, int]:
    """Read the DER element at `position`. Return its content and the offset after it."""
    header = data[position : position + 2]
    if len(header) < 2 or header[0] != tag:
        raise ValueError("not a certificate in DER")
    length, start = header[1], position + 2
    if length & 0x80:
        digits = data[start : start + (length & 0x7F)]
        length, start = int.from_bytes(digits), start + len(digits)
        # In DER, each length has exactly one encoding. A length without digits would be an indefinite one.
        if length < 0x80 or digits[0] == 0:
            raise ValueError("not a certificate in DER")
    if start + length > len(data):
        raise ValueError("not a certificate in DER")
    return data[start : start + length], start + length
