"""What the decoders of all wire formats do the same: they keep incomplete frames, and count frames."""

from __future__ import annotations

from typing import Final

#: The most frames whose payloads are joined. Each takes 200 bytes meanwhile, and a peer may send frames of one byte.
MAX_JOINED: Final = 1024


class IncrementalDecoder:
    """Decodes frames from bytes that arrive in any pieces. A wire format derives its decoder from it.

    Attributes:
      frames: the number of frames begun, indexed by the frame type on the wire.
      payload_bytes: the number of payload bytes received in frames of stream data and padding, indexed the same way.
      progressed: whether the last call of `decode` yielded a frame, or a piece of payload that is passed on as it
        arrives. It did not if all its bytes belong to one frame that is still incomplete.
    """

    def __init__(self, frame_types: int) -> None:
        self.frames = [0] * frame_types
        self.payload_bytes = [0] * frame_types
        self.progressed = False
        # Kept between two calls: the beginning of an incomplete frame, and the number of bytes that decoding it further
        # needs. (Without that number, a frame that arrives byte by byte would cost quadratic time.)
        self._kept = bytearray()
        self._needed = 0
        # The payload that is being passed on or skipped: the number of bytes left, and its frame.
        self._left = 0
        self._type = 0
        self._stream_id = 0
        # The bytes being decoded, and the offset of the frame yielded last.
        self._data: bytes | memoryview = b""
        self._start = 0

    @property
    def unconsumed(self) -> bytes:
        """The bytes from the beginning of the last frame on.

        The fallback receives them if that frame is a violation. Read this before the next checkpoint, since the decoded
        data may be a view of a buffer that is reused.
        """
        return bytes(self._data[self._start :])

    @property
    def incomplete(self) -> bytes:
        """The beginning of a frame that is still incomplete."""
        return bytes(self._kept)

    def _complete(self, data: bytes | memoryview) -> bytes | None:
        """Add `data` to the kept bytes, and take these out. Return None if the frame is still incomplete."""
        self._kept += data
        if len(self._kept) < self._needed:
            self.progressed = False
            return None
        joined = bytes(self._kept)
        self._kept.clear()
        return joined

    def _keep(self, needed_end: int) -> None:
        """Keep an incomplete frame until there are bytes up to `needed_end`, an offset in the current data."""
        self._kept += self._data[self._start :]
        self.progressed = self._start > 0
        self._needed = needed_end - self._start
