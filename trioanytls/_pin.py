"""Pins: the SHA-256 of a server's public key, known beforehand (RFC 7469, section 2.4, as for HTTP).

The key, not the certificate: it may stay when the certificate is renewed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable

_HEX = re.compile(r"[0-9a-fA-F]{64}")
_SHA256_SIZE = 32

# DER: the tags of a certificate's parts (RFC 5280, section 4.1).
_SEQUENCE = 0x30
_VERSION = 0xA0


def parse_pin(text: str) -> bytes:
    """A pin as 64 hex digits, or in Base64 (the URL-safe alphabet as well, with or without `=`) with or without a
    leading `sha256/`.

    Raises:
      ValueError: it is neither.
    """
    digits = text.removeprefix("sha256/")
    if _HEX.fullmatch(digits):
        return bytes.fromhex(digits)
    try:
        pin = base64.b64decode(digits.replace("-", "+").replace("_", "/").rstrip("=") + "=", validate=True)
    except (ValueError, binascii.Error):
        pin = b""
    if len(pin) != _SHA256_SIZE:
        raise ValueError(f"a pin is the SHA-256 of a public key, 64 hex digits or 43 of Base64, not {text!r}")
    return pin


def parse_pins(pins: str | Iterable[str] | None) -> frozenset[bytes]:
    """One pin, or any number, of which the server's key has to fit one."""
    if pins is None:
        return frozenset()
    return frozenset(map(parse_pin, [pins] if isinstance(pins, str) else pins))


def format_pin(pin: bytes) -> str:
    """A pin in hex digits."""
    return pin.hex()


def pin_of(certificate: bytes) -> bytes:
    """The pin of a certificate in DER: SHA-256 of its SubjectPublicKeyInfo.

    Raises:
      ValueError: it is no certificate.
    """
    outer, _ = _read(certificate, 0, _SEQUENCE)
    to_be_signed, _ = _read(outer, 0, _SEQUENCE)
    position = 0
    if to_be_signed[:1] == bytes([_VERSION]):
        _, position = _read(to_be_signed, 0, _VERSION)
    # Serial number, algorithm, issuer, validity and subject stand before the key.
    for _ in range(5):
        _, position = _read(to_be_signed, position)
    start = position
    _, end = _read(to_be_signed, start, _SEQUENCE)
    return hashlib.sha256(to_be_signed[start:end]).digest()


def _read(data: bytes, position: int, tag: int | None = None) -> tuple[bytes, int]:
    """The content of the DER element at `position`, and where it ends."""
    header = data[position : position + 2]
    if len(header) < 2 or (tag is not None and header[0] != tag):
        raise ValueError("not a certificate")
    length, start = header[1], position + 2
    if length & 0x80:
        size = length & 0x7F
        length = int.from_bytes(data[start : start + size])
        start += size
    if start + length > len(data):
        raise ValueError("not a certificate")
    return data[start : start + length], start + length
