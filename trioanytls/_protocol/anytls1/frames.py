"""Frame types, flags and close codes, and the encoding of every frame (spec: Frames; protocol: 2).

A frame is `type (i), stream_id (i)` and then whatever its type has. Encoders return the whole frame as
bytes, except for DATA frames, of which they return what precedes the payload, so that the payload is never copied here.
"""

from __future__ import annotations

import enum
import functools

from . import varint


class FrameType(enum.IntEnum):
    """The `type` field (spec: Frames Types and Formats)."""

    #: Password hash and padding: the client's first frame, sent once.
    AUTH = 0x00
    #: What went wrong, as text: the last frame before the connection is closed.
    ALERT = 0x01
    #: The end of the connection, with an error code.
    CLOSE = 0x02
    #: The client's half of the negotiation.
    CLIENT_NEGO = 0x03
    #: The server's half of the negotiation.
    SERVER_NEGO = 0x04
    #: Bytes to be discarded.
    PADDING = 0x05
    #: The padding scheme that the server wants used.
    PADDING_UPDATE_SCHEME = 0x06
    #: Request and reply in one.
    PINGPONG = 0x07
    #: The STREAM class, 0x08 to 0x0f, with no flag set: it only refreshes the stream's timer.
    STREAM = 0x08
    #: Closes a stream in both directions.
    STREAM_RST = 0x09
    #: Carries a stream's bytes. (The spec prints 0x10 beside the bits 1 010, which are 0x0a.)
    STREAM_DATA = 0x0A
    #: Opens a stream.
    STREAM_OPEN = 0x0C
    #: The server's application has accepted the stream.
    STREAM_ACK = 0x10


class StreamFlag(enum.IntFlag):
    """The low three bits of a STREAM frame's type (spec: STREAM Frame Class)."""

    RST = 0b001
    DATA = 0b010
    OPEN = 0b100


#: The stream id of all control frames but one.
CONTROL_STREAM = 0
#: What the specification prints in the server's NEGO frame. Sent so, accepted as this or 0 (protocol: 2).
SERVER_NEGO_STREAM = 6
#: Explicit Data Stream ids go from 1 to this (spec: Streams / Explicit Data Stream Identifiers).
MAX_STREAM_ID = varint.MAX_VALUE
#: SHA-256 of the password, in bytes.
PASSWORD_HASH_SIZE = 32
#: The longest length-prefixed payload that is not DATA or PADDING, and the longest AUTH padding, in bytes.
MAX_CONTROL_PAYLOAD = 64 * 1024
#: A PADDING frame is a byte of type, a byte of stream id, and a length of at least one byte.
MIN_PADDING_FRAME = 3


def describe(frame_type: int) -> str:
    """The name of a frame type for messages; STREAM frames by their flags."""
    if frame_type == FrameType.STREAM_ACK or frame_type <= FrameType.PINGPONG:
        return FrameType(frame_type).name
    if 0x08 <= frame_type <= 0x0F:
        flags = StreamFlag(frame_type & 0b111)
        names = [
            flag.name for flag in (StreamFlag.OPEN, StreamFlag.DATA, StreamFlag.RST) if flag in flags and flag.name
        ]
        return f"STREAM[{'+'.join(names)}]"
    return f"frame type {frame_type:#04x}"


def _header(frame_type: int, stream_id: int = CONTROL_STREAM) -> bytes:
    return varint.encode(frame_type) + varint.encode(stream_id)


def _with_payload(frame_type: int, payload: bytes, stream_id: int = CONTROL_STREAM) -> bytes:
    if len(payload) > MAX_CONTROL_PAYLOAD:
        raise ValueError(f"{describe(frame_type)} carries at most {MAX_CONTROL_PAYLOAD} bytes, not {len(payload)}")
    return _header(frame_type, stream_id) + varint.encode(len(payload)) + payload


def encode_auth(password_hash: bytes, padding_length: int) -> bytes:
    """AUTH with `padding_length` bytes of padding (spec: AUTH Frame). TLS hides them, so zeros do."""
    if len(password_hash) != PASSWORD_HASH_SIZE:
        raise ValueError(f"the password hash has {PASSWORD_HASH_SIZE} bytes, not {len(password_hash)}")
    if padding_length > MAX_CONTROL_PAYLOAD:
        raise ValueError(f"AUTH carries at most {MAX_CONTROL_PAYLOAD} bytes of padding, not {padding_length}")
    return _header(FrameType.AUTH) + password_hash + varint.encode(padding_length) + bytes(padding_length)


def encode_alert(text: bytes) -> bytes:
    """ALERT with a text block of Appendix B (spec: ALERT Frame)."""
    return _with_payload(FrameType.ALERT, text)


def encode_close(code: int) -> bytes:
    """CLOSE (spec: Close Frame)."""
    return _header(FrameType.CLOSE) + varint.encode(code)


def encode_client_nego(block: bytes) -> bytes:
    """The client's NEGO with a key-value block (spec: Nego Frame)."""
    return _with_payload(FrameType.CLIENT_NEGO, block)


def encode_server_nego(block: bytes) -> bytes:
    """The server's NEGO with a key-value block, on the stream id that the spec prints (spec: Nego Frame)."""
    return _with_payload(FrameType.SERVER_NEGO, block, SERVER_NEGO_STREAM)


def encode_padding(payload_length: int) -> bytes:
    """PADDING with a payload of `payload_length` bytes, its header on top (spec: PADDING Frame)."""
    return _header(FrameType.PADDING) + varint.encode(payload_length) + bytes(payload_length)


def encode_padding_of_size(size: int) -> bytes:
    """PADDING that is `size` bytes long as a whole, header included.

    Between two capacities of the length's forms the shortest one misses the size by its own extra byte; the
    next longer form hits it (protocol: 6).

    Raises:
      ValueError: `size` is below `MIN_PADDING_FRAME`, or beyond what the eight-byte form can say.
    """
    for length in varint.LENGTHS:
        payload_length = size - 2 - length
        if 0 <= payload_length <= varint.CAPACITY[length]:
            return _header(FrameType.PADDING) + varint.encode(payload_length, length) + bytes(payload_length)
    raise ValueError(f"no PADDING frame is {size} bytes long")


def encode_padding_update_scheme(block: bytes) -> bytes:
    """PADDING_UPDATE_SCHEME with the scheme's key-value block (spec: PADDING_UPDATE_SCHEME Frame)."""
    return _with_payload(FrameType.PADDING_UPDATE_SCHEME, block)


def encode_pingpong() -> bytes:
    """PINGPONG (spec: PINGPONG Frame)."""
    return _header(FrameType.PINGPONG)


def encode_open(stream_id: int) -> bytes:
    """STREAM with the OPEN flag (spec: STREAM Frame Class)."""
    return _header(FrameType.STREAM_OPEN, stream_id)


def encode_rst(stream_id: int) -> bytes:
    """STREAM with the RST flag (spec: STREAM Frame Class)."""
    return _header(FrameType.STREAM_RST, stream_id)


def encode_ack(stream_id: int) -> bytes:
    """STREAM_ACK (spec: STREAM_ACK)."""
    return _header(FrameType.STREAM_ACK, stream_id)


def data_prefix(stream_id: int) -> bytes:
    """What every DATA frame of a stream begins with; the payload's length and the payload follow."""
    return _header(FrameType.STREAM_DATA, stream_id)


@functools.lru_cache(maxsize=1024)
def encode_length(length: int) -> bytes:
    """What stands between a DATA frame's prefix and its payload: the payload's length. Applications repeat theirs."""
    return varint.encode(length)
