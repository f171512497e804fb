"""Cutting the data of a send into frames: each as large as the wire format and the peer's credit allow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .stream_core import StreamCore

#: The least credit to send with, in bytes, if there is as much data: a peer that grants single bytes gets no frame for
#: each.
MIN_CREDIT: Final = 256


class Pieces:
    """The data of one call of `send_all`, cut into frames. It is a `PendingData`.

    Attributes:
      is_empty: whether all frames have been taken.
    """

    __slots__ = ("_core", "_data", "_encode_length", "_max_data", "_position", "_prefix", "_size", "_view", "is_empty")

    def __init__(
        self,
        core: StreamCore,
        data: bytes | bytearray | memoryview,
        prefix: bytes,
        encode_length: Callable[[int], bytes],
        max_data: int,
    ) -> None:
        self._core = core
        self._data = data
        self._view = memoryview(data).cast("B")
        self._size = len(self._view)
        self._position = 0
        self.is_empty: bool = not self._size
        self._prefix = prefix
        self._encode_length = encode_length
        self._max_data = max_data

    @property
    def is_one_frame(self) -> bool:
        """Whether at most one frame is left."""
        return self._size - self._position <= self._max_data

    @property
    def needed_credit(self) -> int:
        """The least credit to make a frame with, in bytes."""
        return min(self._size - self._position, MIN_CREDIT)

    def next_frame(self) -> tuple[StreamCore, bytes, bytes] | None:
        """Take the next frame. Return None if there is no credit for it."""
        core, start, end = self._core, self._position, self._size
        credit = core.credit
        # The body of `needed_credit`, without a call: this runs once for each frame of a large send.
        if credit < MIN_CREDIT and credit < end - start:
            return None
        size = min(end - start, self._max_data, credit)
        stop = start + size
        # Copied unless immutable and whole: the caller may change its data.
        is_whole = size == end and type(self._data) is bytes
        payload = self._data if is_whole and isinstance(self._data, bytes) else bytes(self._view[start:stop])
        self._position = stop
        self.is_empty = stop == end
        core.credit = credit - size
        core.queued += 1
        return core, self._prefix + self._encode_length(size), payload
