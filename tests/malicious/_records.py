"""TLS 1.3 records that no TLS library would send, with the keys of an existing connection (RFC 8446: 5)."""

from __future__ import annotations

import hmac
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

CHANGE_CIPHER_SPEC: Final = 20
ALERT: Final = 21
HANDSHAKE: Final = 22
APPLICATION_DATA: Final = 23

# Cipher suite -> its hash, its cipher, and the length of its key.
_SUITES: Final[dict[str, tuple[str, Callable[[bytes], AESGCM | ChaCha20Poly1305], int]]] = {
    "TLS_AES_128_GCM_SHA256": ("sha256", AESGCM, 16),
    "TLS_AES_256_GCM_SHA384": ("sha384", AESGCM, 32),
    "TLS_CHACHA20_POLY1305_SHA256": ("sha256", ChaCha20Poly1305, 32),
}


def recording_context(path: Path) -> ssl.SSLContext:
    """Create a client's context for one connection, whose secrets are written to a file."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.keylog_filename = str(path)
    return context


def handshake_message(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def key_update(requested: bool) -> bytes:
    """Encode a KeyUpdate: its sender continues with new keys, and so does its receiver if requested."""
    return handshake_message(24, bytes([requested]))


class Records:
    """The records that one end, by default the client, sends after the handshake instead of its TLS library."""

    def __init__(self, path: Path, suite: str, end: str = "CLIENT") -> None:
        self._hash, self._cipher, self._key_length = _SUITES[suite]
        (line,) = [line for line in path.read_text().splitlines() if line.startswith(f"{end}_TRAFFIC_SECRET_0 ")]
        self._use(bytes.fromhex(line.split()[2]))

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._aead = self._cipher(self._expand(b"key", self._key_length))
        self._iv = int.from_bytes(self._expand(b"iv", 12))
        self._number = 0

    def _expand(self, label: bytes, length: int) -> bytes:
        """Compute HKDF-Expand-Label, for outputs not longer than the hash (RFC 8446: 7.1)."""
        label = b"tls13 " + label
        info = length.to_bytes(2) + bytes([len(label)]) + label + b"\x00"
        return hmac.digest(self._secret, info + b"\x01", self._hash)[:length]

    def seal(self, content: bytes, kind: int = APPLICATION_DATA, padding: int = 0) -> bytes:
        """Encrypt a record with this content."""
        plaintext = content + bytes([kind]) + bytes(padding)
        header = b"\x17\x03\x03" + (len(plaintext) + 16).to_bytes(2)
        nonce = (self._iv ^ self._number).to_bytes(12)
        self._number += 1
        return header + self._aead.encrypt(nonce, plaintext, header)

    def update_keys(self, *, requested: bool) -> bytes:
        """Encrypt a record with a KeyUpdate. The following records have new keys."""
        record = self.seal(key_update(requested), HANDSHAKE)
        self._use(self._expand(b"traffic upd", len(self._secret)))
        return record
