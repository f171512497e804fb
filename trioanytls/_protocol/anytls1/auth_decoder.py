"""The incremental decoder of the AUTH frame (spec: AUTH Frame; protocol: 2 and 4)."""

from __future__ import annotations

from trioanytls._protocol.exceptions import AuthenticationFailed

from . import varint
from .frames import CONTROL_STREAM, MAX_CONTROL_PAYLOAD, PASSWORD_HASH_SIZE, FrameType


class AuthDecoder:
    """Decodes AUTH, the client's first frame (spec: AUTH Frame).

    It fails at the first byte that cannot belong to an AUTH frame, no matter how the bytes are split (protocol: 4). It
    keeps all bytes, which are few, for the fallback.

    Attributes:
      received: all bytes so far.
      password_hash: the hash; None until its last byte has arrived.
      rest: the bytes after the frame; None until the frame is complete.
    """

    def __init__(self, max_padding: int = MAX_CONTROL_PAYLOAD) -> None:
        self._max_padding = max_padding
        self.received = bytearray()
        self.password_hash: bytes | None = None
        self.rest: bytes | None = None

    def feed(self, data: bytes) -> None:
        """Decode the next bytes. Must not be called again once `rest` is set.

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
        """Read the integer at `position`, which must not exceed `largest`. Return None if it is incomplete."""
        if varint.lower_bound(self.received, position) > largest:
            raise AuthenticationFailed(f"not an AUTH frame from byte {position} on")
        return varint.decode(self.received, position)
