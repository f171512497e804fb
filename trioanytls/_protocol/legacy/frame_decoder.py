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
from trioanytls._protocol.incremental import IncrementalDecoder

from .frames import HEADER_SIZE, MAX_DATA, UNKNOWN, Command, describe

#: Command, stream id, data. The data is bytes for PSH and for commands with a text, else None.
Frame = tuple[int, int, bytes | None]

# Command, stream id, length. One call takes 0.3 us, reading the fields one by one 0.5 to 0.8.
_read_header: Final = struct.Struct(">BIH").unpack_from
# Plain integers: comparing with a member of an IntEnum would look it up for each frame.
_PSH: Final = int(Command.PSH)
_WASTE: Final = int(Command.WASTE)
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
    """

    def __init__(self, max_text: int = MAX_DATA) -> None:
        super().__init__(UNKNOWN + 1)
        self._max_text = max_text

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
