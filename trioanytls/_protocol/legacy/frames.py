"""Frames of the legacy format: their layout, and encoding (legacy: 3).

    command (1 byte) | stream id (4) | length (2) | data (`length` bytes)

Integers are big-endian.
"""

from __future__ import annotations

import enum
import functools
from typing import Final

HEADER_SIZE: Final = 1 + 4 + 2
#: The largest data of a frame, in bytes.
MAX_DATA: Final = 0xFFFF
MAX_STREAM_ID: Final = 0xFFFF_FFFF
#: The stream id of frames that belong to no stream.
NO_STREAM: Final = 0


class Command(enum.IntEnum):
    """The commands. A receiver skips a command that it does not know."""

    WASTE = 0
    SYN = 1
    PSH = 2
    FIN = 3
    SETTINGS = 4
    ALERT = 5
    UPDATE_PADDING_SCHEME = 6
    #: Since version 2, as are all after it.
    SYNACK = 7
    HEART_REQUEST = 8
    HEART_RESPONSE = 9
    SERVER_SETTINGS = 10


#: The index at which decoders count all unknown commands.
UNKNOWN: Final = len(Command)

_NAMES: Final = {
    Command.WASTE: "Waste",
    Command.SYN: "SYN",
    Command.PSH: "PSH",
    Command.FIN: "FIN",
    Command.SETTINGS: "Settings",
    Command.ALERT: "Alert",
    Command.UPDATE_PADDING_SCHEME: "UpdatePaddingScheme",
    Command.SYNACK: "SYNACK",
    Command.HEART_REQUEST: "HeartRequest",
    Command.HEART_RESPONSE: "HeartResponse",
    Command.SERVER_SETTINGS: "ServerSettings",
}


def describe(command: int) -> str:
    """Return the name of a command for texts: `SYN`, or `unknown command` for all others."""
    return _NAMES[Command(command)] if command < UNKNOWN else "unknown command"


def encode(command: int, stream_id: int = NO_STREAM, data: bytes = b"") -> bytes:
    """Encode a frame. `data` has at most `MAX_DATA` bytes."""
    return bytes((command,)) + stream_id.to_bytes(4, "big") + encode_length(len(data)) + data


def data_prefix(stream_id: int) -> bytes:
    """Return what each PSH frame of a stream begins with. The length and the data follow."""
    return bytes((Command.PSH,)) + stream_id.to_bytes(4, "big")


@functools.lru_cache(maxsize=1024)
def encode_length(length: int) -> bytes:
    """Encode the length field of a frame. Cached: applications repeat lengths."""
    return length.to_bytes(2, "big")


def encode_waste(size: int) -> bytes:
    """Encode a Waste frame with `size` zeros, from 0 to `MAX_DATA`. The frame is `HEADER_SIZE` bytes longer."""
    return encode(Command.WASTE, NO_STREAM, bytes(size))


def encode_waste_of_size(size: int) -> bytes:
    """Encode a Waste frame that is `size` bytes long in all, at least `HEADER_SIZE`."""
    return encode_waste(size - HEADER_SIZE)
