"""Frame types, flags and close codes, and the encoding of every frame (spec: Frames; protocol: 2).

A frame is `type (i), stream_id (i)`, followed by the fields of its type. Encoders return the whole frame as bytes. Only
for DATA frames they return the part before the payload, so that the payload is never copied here.
"""

from __future__ import annotations

import enum
import functools

from trioanytls._protocol.stream_codes import MAX_REASON

from . import varint


class FrameType(enum.IntEnum):
    """The `type` field (spec: Frames Types and Formats)."""

    #: Password hash and padding: the client's first frame, sent once.
    AUTH = 0x00
    #: The reason for closing the connection, as text. The last frame before the end.
    ALERT = 0x01
    #: Closes the connection, with an error code.
    CLOSE = 0x02
    #: The client's half of the negotiation.
    CLIENT_NEGO = 0x03
    #: The server's half of the negotiation.
    SERVER_NEGO = 0x04
    #: Bytes that the receiver discards.
    PADDING = 0x05
    #: The padding scheme that the server asks the client to use.
    PADDING_UPDATE_SCHEME = 0x06
    #: Both the request and the reply of a ping.
    PINGPONG = 0x07
    #: The STREAM class, 0x08 to 0x0f, without a flag: only restarts the stream's timer.
    STREAM = 0x08
    #: Closes a stream in both directions.
    STREAM_RST = 0x09
    #: Carries a stream's bytes. (The spec prints 0x10 next to the bits 1 010, which are 0x0a.)
    STREAM_DATA = 0x0A
    #: Opens a stream.
    STREAM_OPEN = 0x0C
    #: The server's application has accepted the stream.
    STREAM_ACK = 0x10
    #: More credit for the data of a stream (extensions: 2).
    STREAM_WINDOW = 0x11
    #: The sender sends no more data on a stream (extensions: 3).
    STREAM_FIN = 0x12
    #: RST with a reason (extensions: 4).
    STREAM_RESET = 0x13
    #: The server serves no streams above an id (extensions: 5).
    GOAWAY = 0x14


class StreamFlag(enum.IntFlag):
    """The low three bits of a STREAM frame's type (spec: STREAM Frame Class)."""

    RST = 0b001
    DATA = 0b010
    OPEN = 0b100


#: The stream id of all control frames except the server's NEGO.
CONTROL_STREAM = 0
#: The stream id of the server's NEGO frame in the specification. We send it, and accept 0 as well (protocol: 2).
SERVER_NEGO_STREAM = 6
#: Explicit Data Stream ids go from 1 to this (spec: Streams / Explicit Data Stream Identifiers).
MAX_STREAM_ID = varint.MAX_VALUE
#: SHA-256 of the password, in bytes.
PASSWORD_HASH_SIZE = 32
#: The maximum length of a payload other than DATA and PADDING, and of the padding in AUTH, in bytes.
MAX_CONTROL_PAYLOAD = 64 * 1024
#: The smallest PADDING frame: one byte each for the type, the stream id and the length.
MIN_PADDING_FRAME = 3


def describe(frame_type: int) -> str:
    """Return the name of a frame type for messages. STREAM frames are named by their flags."""
    if FrameType.STREAM_ACK <= frame_type <= FrameType.GOAWAY or frame_type <= FrameType.PINGPONG:
        return FrameType(frame_type).name
    if 0x08 <= frame_type <= 0x0F:
        flags = StreamFlag(frame_type & 0b111)
        names = [
            flag.name for flag in (StreamFlag.OPEN, StreamFlag.DATA, StreamFlag.RST) if flag in flags and flag.name
        ]
        return f"STREAM[{'+'.join(names)}]"
    return f"frame type {frame_type:#04x}"


_TYPES = {int(kind): varint.encode(kind) for kind in FrameType}


def _header(frame_type: int, stream_id: int = CONTROL_STREAM) -> bytes:
    return _TYPES[frame_type] + varint.encode(stream_id)


def _with_payload(frame_type: int, payload: bytes, stream_id: int = CONTROL_STREAM) -> bytes:
    if len(payload) > MAX_CONTROL_PAYLOAD:
        raise ValueError(
            f"{describe(frame_type)} payload of {len(payload)} bytes exceeds the limit of {MAX_CONTROL_PAYLOAD}"
        )
    return _header(frame_type, stream_id) + varint.encode(len(payload)) + payload


def encode_auth(password_hash: bytes, padding_length: int) -> bytes:
    """Encode AUTH with `padding_length` zeros of padding (spec: AUTH Frame). TLS encrypts them, so zeros are enough."""
    if len(password_hash) != PASSWORD_HASH_SIZE:
        raise ValueError(f"the password hash must have {PASSWORD_HASH_SIZE} bytes, not {len(password_hash)}")
    if padding_length > MAX_CONTROL_PAYLOAD:
        raise ValueError(f"padding of {padding_length} bytes in AUTH exceeds the limit of {MAX_CONTROL_PAYLOAD}")
    return _header(FrameType.AUTH) + password_hash + varint.encode(padding_length) + bytes(padding_length)


def encode_alert(text: bytes) -> bytes:
    """Encode ALERT with a text block of Appendix B (spec: ALERT Frame)."""
    return _with_payload(FrameType.ALERT, text)


def encode_close(code: int) -> bytes:
    """Encode CLOSE (spec: Close Frame)."""
    return _header(FrameType.CLOSE) + varint.encode(code)


def encode_client_nego(block: bytes) -> bytes:
    """Encode the client's NEGO with a key-value block (spec: Nego Frame)."""
    return _with_payload(FrameType.CLIENT_NEGO, block)


def encode_server_nego(block: bytes) -> bytes:
    """Encode the server's NEGO with a key-value block, on the stream id that the spec prints (spec: Nego Frame)."""
    return _with_payload(FrameType.SERVER_NEGO, block, SERVER_NEGO_STREAM)


def encode_padding(payload_length: int) -> bytes:
    """Encode PADDING with `payload_length` bytes of payload, not counting its header (spec: PADDING Frame)."""
    return _header(FrameType.PADDING) + varint.encode(payload_length) + bytes(payload_length)


def encode_padding_of_size(size: int) -> bytes:
    """Encode a PADDING frame of exactly `size` bytes, including its header.

    For a few sizes, no payload fits if the length is encoded in its shortest form: a payload one byte longer makes the
    length longer, too. A longer form of the length reaches those sizes (protocol: 6).

    Raises:
      ValueError: `size` is less than `MIN_PADDING_FRAME`, or more than the eight-byte form of the length allows.
    """
    for length in varint.LENGTHS:
        payload_length = size - 2 - length
        if 0 <= payload_length <= varint.CAPACITY[length]:
            return _header(FrameType.PADDING) + varint.encode(payload_length, length) + bytes(payload_length)
    raise ValueError(f"invalid size of a PADDING frame: {size} bytes")


def encode_padding_update_scheme(block: bytes) -> bytes:
    """Encode PADDING_UPDATE_SCHEME with the scheme's key-value block (spec: PADDING_UPDATE_SCHEME Frame)."""
    return _with_payload(FrameType.PADDING_UPDATE_SCHEME, block)


def encode_pingpong() -> bytes:
    """Encode PINGPONG (spec: PINGPONG Frame)."""
    return _header(FrameType.PINGPONG)


def encode_open(stream_id: int) -> bytes:
    """Encode STREAM with the OPEN flag (spec: STREAM Frame Class)."""
    return _header(FrameType.STREAM_OPEN, stream_id)


def encode_rst(stream_id: int) -> bytes:
    """Encode STREAM with the RST flag (spec: STREAM Frame Class)."""
    return _header(FrameType.STREAM_RST, stream_id)


def encode_ack(stream_id: int) -> bytes:
    """Encode STREAM_ACK (spec: STREAM_ACK)."""
    return _header(FrameType.STREAM_ACK, stream_id)


def encode_window(stream_id: int, increment: int) -> bytes:
    """Encode STREAM_WINDOW with the bytes that the peer may send in addition (extensions: 2)."""
    return _header(FrameType.STREAM_WINDOW, stream_id) + varint.encode(increment)


def encode_fin(stream_id: int) -> bytes:
    """Encode STREAM_FIN (extensions: 3)."""
    return _header(FrameType.STREAM_FIN, stream_id)


def encode_reset(stream_id: int, code: int, text: bytes) -> bytes:
    """Encode STREAM_RESET with a code and a text block of Appendix B (extensions: 4).

    Raises:
      ValueError: the text has more than `MAX_REASON` bytes.
    """
    if len(text) > MAX_REASON:
        raise ValueError(f"a reason of {len(text)} bytes exceeds the limit of {MAX_REASON}")
    return _header(FrameType.STREAM_RESET, stream_id) + varint.encode(code) + varint.encode(len(text)) + text


def encode_goaway(highest_id: int) -> bytes:
    """Encode GOAWAY with the highest stream id that was or will be served (extensions: 5)."""
    return _header(FrameType.GOAWAY) + varint.encode(highest_id)


def data_prefix(stream_id: int) -> bytes:
    """Encode the beginning of all DATA frames of a stream. The payload's length and the payload follow."""
    return _header(FrameType.STREAM_DATA, stream_id)


@functools.lru_cache(maxsize=1024)
def encode_length(length: int) -> bytes:
    """Encode the length of a DATA frame's payload, which follows the prefix. Cached: applications repeat lengths."""
    return varint.encode(length)
