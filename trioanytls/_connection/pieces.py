"""Cutting the data of a send into frames: each as large as the wire format and the peer's credit allow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .stream_core import StreamCore
from .writer import Writer

#: The least credit to send with, in bytes, if there is as much data: a peer that grants single bytes gets no frame for
#: each.
MIN_CREDIT: Final = 256
# The most frames of data that is queued as views.
_MOST_FRAMES: Final = 4


class Pieces:
    """The data of one call of `send_all`, cut into frames. It is a `PendingData`.

    Attributes:
      size: the size of the data, in bytes.
      is_empty: whether all frames have been taken.
    """

    __slots__ = (
        "_core",
        "_data",
        "_encode_length",
        "_is_shared",
        "_max_data",
        "_position",
        "_prefix",
        "_view",
        "is_empty",
        "size",
    )

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
        self.size: int = len(self._view)
        self._position = 0
        self.is_empty: bool = not self.size
        self._prefix = prefix
        self._encode_length = encode_length
        self._max_data = max_data
        self._is_shared = type(data) is bytes and self.size <= _MOST_FRAMES * max_data

    @property
    def is_one_frame(self) -> bool:
        """Whether at most one frame is left."""
        return self.size - self._position <= self._max_data

    @property
    def needed_credit(self) -> int:
        """The least credit to make a frame with, in bytes."""
        return min(self.size - self._position, MIN_CREDIT)

    def write(self, writer: Writer) -> int:
        """Write the next frame inline. Return its size, 0 if it must be queued or there is no credit for it."""
        core, start = self._core, self._position
        credit, left = core.credit, self.size - start
        # The body of `needed_credit`, without a call: this runs once for each frame of a large send.
        if credit < MIN_CREDIT and credit < left:
            return 0
        size = min(left, self._max_data, credit)
        header = self._prefix + self._encode_length(size)
        if not writer.write_now(core, header, self._view[start : start + size]):
            return 0
        self._position = stop = start + size
        self.is_empty = stop == self.size
        core.credit = credit - size
        return size

    def next_frame(self) -> tuple[StreamCore, bytes, bytes | memoryview] | None:
        """Take the next frame, to be queued. Return None if there is no credit for it."""
        core, start, end = self._core, self._position, self.size
        credit = core.credit
        # As in `write`.
        if credit < MIN_CREDIT and credit < end - start:
            return None
        size = min(end - start, self._max_data, credit)
        stop = start + size
        payload: bytes | memoryview = self._view[start:stop]
        # Copied if the caller may change it. A view keeps all of the data in memory: its frame must be a large part of
        # that, and not the last one, after which the caller frees the data.
        if not (self._is_shared and size == self._max_data and stop < end):
            payload = self._data if size == end and isinstance(self._data, bytes) else bytes(payload)
        self._position = stop
        self.is_empty = stop == end
        core.credit = credit - size
        return core, self._prefix + self._encode_length(size), payload
