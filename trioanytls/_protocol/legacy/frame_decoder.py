"""The incremental decoder of legacy frames (legacy: 3).

A frame is yielded as a tuple `(command, stream id, data)`. The data of PSH is passed on in the pieces in which it
arrives, and the data of Waste is dropped: neither is collected. The data of Settings and its like is collected, up to a
limit. A command that has no data in the protocol, or that is unknown, is yielded without data: the programs in the
field ignore the length field there, and never send one. Here, such data is skipped, so that the decoder stays in step.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Final

from trioanytls._protocol.exceptions import LimitExceeded
from trioanytls._protocol.incremental import MAX_JOINED, IncrementalDecoder

from .frames import HEADER_SIZE, MAX_DATA, UNKNOWN, Command, describe

#: Command, stream id, data. The data is bytes for PSH and for commands with a text, else None.
Frame = tuple[int, int, bytes | None]

# Command, stream id, length. One call takes 0.3 us, reading the fields one by one 0.5 to 0.8.
_read_header: Final = struct.Struct(">BIH").unpack_from
# Plain integers: comparing with a member of an IntEnum would look it up for each frame.
_PSH: Final = int(Command.PSH)
_WASTE: Final = int(Command.WASTE)
# The position of the last byte of the stream id in a frame.
_ID_END: Final = 4
_WITH_TEXT: Final = frozenset(
    int(command)
    for command in (
        Command.SETTINGS,
        Command.ALERT,
        Command.UPDATE_PADDING_SCHEME,
        Command.SYNACK,
        Command.SERVER_SETTINGS,
    )
)


class FrameDecoder(IncrementalDecoder):
    """Decodes everything after the preamble, in either direction.

    `frames` counts unknown commands at `frames.UNKNOWN`.

    Args:
      max_text: the most bytes of a text.
      join_data: whether PSH frames of one stream that follow each other directly, in one call of `decode`, are yielded
        as one.
    """

    def __init__(self, max_text: int = MAX_DATA, *, join_data: bool = False) -> None:
        super().__init__(UNKNOWN + 1)
        self._max_text = max_text
        self._join_data = join_data

    def decode(self, data: bytes | memoryview) -> Iterator[Frame]:
        """Decode `data`, the next bytes of the connection. Exhaust the iterator before the next call.

        Raises:
          LimitExceeded: a text is longer than the limit. The frames before it have been yielded. Nothing can be decoded
            after it.
        """
        if self._kept:
            joined = self._complete(data)
            if joined is None:
                return
            data = joined
        self._data = data
        self._start = position = 0
        self.progressed = True
        end = len(data)
        if self._left and end:
            position = min(self._left, end)
            if self._join_data and self._type == _PSH and position < end:
                self.payload_bytes[_PSH] += position
                self._left = 0
                piece, position = self._joined(data, 0, position)
                yield _PSH, self._stream_id, piece
            else:
                yield from self._piece(bytes(data[:position]))
        frames = self.frames
        while position < end:
            self._start = position
            if end - position < HEADER_SIZE:
                self._keep(self._start + HEADER_SIZE)
                return
            command, stream_id, length = _read_header(data, position)
            position += HEADER_SIZE
            stop = position + length
            if command == _PSH and stop <= end:
                # The most frequent frame, complete: there is nothing to keep.
                frames[_PSH] += 1
                self.payload_bytes[_PSH] += length
                # The last byte of the next frame's stream id.
                next_id = stop + _ID_END
                if next_id < end and data[next_id] == data[self._start + _ID_END] and length and self._join_data:
                    self._stream_id = stream_id
                    piece, position = self._joined(data, position, stop)
                    yield _PSH, stream_id, piece
                else:
                    yield _PSH, stream_id, bytes(data[position:stop])
                    position = stop
            elif command in _WITH_TEXT:
                if length > self._max_text:
                    raise LimitExceeded(
                        f"{describe(command)} on stream {stream_id}: text of {length} bytes exceeds the limit of "
                        f"{self._max_text}"
                    )
                if stop > end:
                    self._keep(self._start + HEADER_SIZE + length)
                    return
                frames[command] += 1
                yield command, stream_id, bytes(data[position:stop])
                position = stop
            else:
                frames[min(command, UNKNOWN)] += 1
                self._left, self._type, self._stream_id = length, command, stream_id
                if command != _PSH:
                    yield command, stream_id, None
                stop = min(stop, end)
                if stop > position:
                    yield from self._piece(bytes(data[position:stop]))
                elif command == _PSH and not length:
                    yield _PSH, stream_id, b""
                position = stop

    def _joined(self, data: bytes | memoryview, position: int, stop: int) -> tuple[bytes, int]:
        """Join the data of a frame with that in the PSH frames of the same stream that follow it directly.

        Return the whole, and the position after it. An empty frame is left, since it counts as idle. So is one
        whose data has not begun to arrive.
        """
        end, count = len(data), 1
        pieces = [data[position:stop]]
        while (begin := stop + HEADER_SIZE) < end and count < MAX_JOINED:
            command, stream_id, length = _read_header(data, stop)
            if command != _PSH or stream_id != self._stream_id or not length:
                break
            count += 1
            stop = begin + length
            if stop > end:
                self._left, self._type = stop - end, _PSH
                stop = end
            pieces.append(data[begin:stop])
        joined = b"".join(pieces)
        self.frames[_PSH] += count - 1
        self.payload_bytes[_PSH] += len(joined) - len(pieces[0])
        return joined, stop

    def _piece(self, piece: bytes) -> Iterator[Frame]:
        """Pass on a piece of PSH; drop it if it belongs to another frame."""
        command = self._type
        self._left -= len(piece)
        self.payload_bytes[min(command, UNKNOWN)] += len(piece)
        if command == _PSH:
            yield _PSH, self._stream_id, piece
        elif command == _WASTE:
            # Waste is reported whenever more of it arrives: it counts against a limit.
            yield _WASTE, self._stream_id, None
