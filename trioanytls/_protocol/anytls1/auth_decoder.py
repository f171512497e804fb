"""Bytes in any pieces -> the AUTH frame (spec: AUTH Frame; protocol: 2 and 4)."""

from __future__ import annotations

from trioanytls._protocol.exceptions import AuthenticationFailed

from . import varint
from .frames import CONTROL_STREAM, MAX_CONTROL_PAYLOAD, PASSWORD_HASH_SIZE, FrameType


class AuthDecoder:
    """The client's first frame, AUTH (spec: AUTH Frame).

    It fails at the first byte that cannot belong to one, in whatever pieces the bytes come (protocol: 4), and keeps
    all of them, which are few, for whoever takes over then.

    Attributes:
      received: every byte so far.
      password_hash: the hash, as soon as its last byte is there.
      rest: what follows the frame, once the frame is complete.
    """

    def __init__(self, max_padding: int = MAX_CONTROL_PAYLOAD) -> None:
        self._max_padding = max_padding
        self.received = bytearray()
        self.password_hash: bytes | None = None
        self.rest: bytes | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Not to be called again once `rest` is there.

        Raises:
          AuthenticationFailed: the bytes are not the beginning of an AUTH frame.
        """
        self.received += data
        position = 0
        for expected in (FrameType.AUTH, CONTROL_STREAM):
            if (read := self._read(position, expected)) is None:
                return
            position = read[1]
        hash_end = position + PASSWORD_HASH_SIZE
        if len(self.received) < hash_end:
            return
        self.password_hash = bytes(self.received[position:hash_end])
        if (read := self._read(hash_end, self._max_padding)) is None:
            return
        padding_length, position = read
        if len(self.received) >= position + padding_length:
            self.rest = bytes(self.received[position + padding_length :])

    def _read(self, position: int, largest: int) -> tuple[int, int] | None:
        """Read the integer at `position`, None where it is not complete yet; it cannot be more than `largest`."""
        if varint.lower_bound(self.received, position) > largest:
            raise AuthenticationFailed(f"from byte {position} on it is not an AUTH frame")
        return varint.decode(self.received, position)
