"""The preamble, with which a legacy client authenticates (legacy: 2).

SHA-256 of the password (32 bytes) | length of the padding (2) | padding
"""

from __future__ import annotations

from typing import Final

from trioanytls._protocol.exceptions import AuthenticationFailed

PASSWORD_HASH_SIZE: Final = 32
HEADER_SIZE: Final = PASSWORD_HASH_SIZE + 2
#: The largest padding that a client may send, in bytes: the programs in the field read the preamble at once, into
#: 8 KiB at least.
MAX_SENT_PADDING: Final = 8158


def encode_preamble(password_hash: bytes, padding_length: int) -> bytes:
    """Encode a preamble with `padding_length` zeros, cut to `MAX_SENT_PADDING`."""
    length = min(padding_length, MAX_SENT_PADDING)
    return password_hash + length.to_bytes(2, "big") + bytes(length)


class PreambleDecoder:
    """Decodes the preamble, however it is split. It keeps all bytes, for the fallback.

    Attributes:
      received: all bytes so far.
      password_hash: the hash; None until the header is complete.
      rest: the bytes after the preamble; None until it is complete.
    """

    def __init__(self, max_padding: int) -> None:
        self._max_padding = max_padding
        self.received = bytearray()
        self.password_hash: bytes | None = None
        self.rest: bytes | None = None

    def feed(self, data: bytes) -> None:
        """Decode the next bytes. Must not be called again once `rest` is set.

        Raises:
          AuthenticationFailed: the padding is longer than the limit.
        """
        self.received += data
        if len(self.received) < HEADER_SIZE:
            return
        self.password_hash = bytes(self.received[:PASSWORD_HASH_SIZE])
        length = int.from_bytes(self.received[PASSWORD_HASH_SIZE:HEADER_SIZE], "big")
        if length > self._max_padding:
            raise AuthenticationFailed(f"preamble with {length} bytes of padding exceeds the limit")
        if len(self.received) >= HEADER_SIZE + length:
            self.rest = bytes(self.received[HEADER_SIZE + length :])
