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
_INTEGER = 0x02
_VERSION = 0xA0
# What stands before the key: serial number, algorithm, issuer, validity and subject.
_BEFORE_KEY = (_INTEGER, _SEQUENCE, _SEQUENCE, _SEQUENCE, _SEQUENCE)


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

    It has to be found where the TLS library finds the key that the peer has proved to have. That one also reads BER,
    where an element may have no length but an end: one who took the first for the second would be shown another key.

    Raises:
      ValueError: it is no certificate, or not in DER.
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
    """The content of the DER element at `position`, and where it ends."""
    header = data[position : position + 2]
    if len(header) < 2 or header[0] != tag:
        raise ValueError("not a certificate in DER")
    length, start = header[1], position + 2
    if length & 0x80:
        digits = data[start : start + (length & 0x7F)]
        length, start = int.from_bytes(digits), start + len(digits)
        # In DER, one length has one spelling; no digits at all would be an element without one.
        if length < 0x80 or digits[0] == 0:
            raise ValueError("not a certificate in DER")
    if start + length > len(data):
        raise ValueError("not a certificate in DER")
    return data[start : start + length], start + length
