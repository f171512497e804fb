"""Frame types, flags, close codes, and the encoding of frames (spec: Frames; protocol: 2)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.frames import FrameType, StreamFlag
from trioanytls._protocol.close_codes import CloseCode

from ..helpers.wire_bytes import AUTH, frame, number

HASH = hashlib.sha256(b"password").digest()
LIMIT = 65536


def test_frame_types_have_their_numbers() -> None:
    assert {kind.name: kind.value for kind in FrameType} == {
        "AUTH": 0x00,
        "ALERT": 0x01,
        "CLOSE": 0x02,
        "CLIENT_NEGO": 0x03,
        "SERVER_NEGO": 0x04,
        "PADDING": 0x05,
        "PADDING_UPDATE_SCHEME": 0x06,
        "PINGPONG": 0x07,
        "STREAM": 0x08,
        "STREAM_RST": 0x09,
        "STREAM_DATA": 0x0A,
        "STREAM_OPEN": 0x0C,
        "STREAM_ACK": 0x10,
        "STREAM_WINDOW": 0x11,
        "STREAM_FIN": 0x12,
        "STREAM_RESET": 0x13,
        "GOAWAY": 0x14,
    }


def test_stream_flags_are_the_low_three_bits() -> None:
    assert (StreamFlag.OPEN, StreamFlag.DATA, StreamFlag.RST) == (4, 2, 1)
    assert FrameType.STREAM | StreamFlag.OPEN == FrameType.STREAM_OPEN
    assert FrameType.STREAM | StreamFlag.DATA == FrameType.STREAM_DATA
    assert FrameType.STREAM | StreamFlag.RST == FrameType.STREAM_RST


def test_close_codes_have_their_numbers() -> None:
    assert {code.value: code.name for code in CloseCode} == {
        0: "NO_ERROR",
        1: "PROTOCOL_ERROR",
        2: "VERSION_NOT_SUPPORTED",
        3: "IDLE_TIMEOUT",
        4: "INTERNAL_ERROR",
        5: "LIMIT_EXCEEDED",
        6: "SHUTTING_DOWN",
    }


@pytest.mark.parametrize("code", list(CloseCode))
def test_a_known_close_code_is_itself(code: CloseCode) -> None:
    assert CloseCode.from_wire(code.value) is code


@pytest.mark.parametrize("value", [7, 63, 64, 2**14, 2**62 - 1])
def test_an_unknown_close_code_counts_as_a_protocol_error(value: int) -> None:
    assert CloseCode.from_wire(value) is CloseCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        # The bytes that every implementation writes (protocol: 2).
        (
            frames.encode_auth(HASH, 30),
            "00005e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d81e" + 30 * "00",
        ),
        (frames.encode_open(1), "0c01"),
        (frames.data_prefix(1) + frames.encode_length(5) + b"hello", "0a010568656c6c6f"),
        (frames.encode_rst(1), "0901"),
        (frames.encode_ack(1), "1001"),
        (frames.encode_server_nego(b"v=1\n"), "040604763d310a"),
        (frames.encode_alert(b"bad"), "010003626164"),
        (frames.encode_pingpong(), "0700"),
        (frames.encode_close(2), "020002"),
        (frames.encode_client_nego(b"v=1\n"), "030004763d310a"),
        (frames.encode_padding(2), "0500020000"),
        (frames.encode_padding(0), "050000"),
        (frames.encode_padding_update_scheme(b"stop=1\n"), "06000773746f703d310a"),
        # The extensions (extensions: 1).
        (frames.encode_window(1, 65536), "110180010000"),
        (frames.encode_fin(1), "1201"),
        (frames.encode_reset(1, 3, b"refused"), "13010307" + "72656675736564"),
        (frames.encode_reset(300, 12, b""), "13412c0c00"),
        (frames.encode_goaway(5), "140005"),
        (frames.encode_goaway(2**62 - 1), "1400ffffffffffffffff"),
    ],
)
def test_vectors(encoded: bytes, expected: str) -> None:
    assert encoded.hex() == expected


def test_the_auth_vector_is_put_together_from_its_parts() -> None:
    # The last byte before the zeros in the test vector is 1e, the padding's length. It is not part of the hash.
    assert AUTH[2:34] == HASH
    assert AUTH[34] == 30
    assert len(AUTH) == 2 + 32 + 1 + 30


@pytest.mark.parametrize("stream_id", [1, 63, 64, 16383, 16384, 2**30, 2**62 - 1])
def test_stream_ids_are_written_in_the_shortest_form(stream_id: int) -> None:
    assert frames.encode_open(stream_id) == b"\x0c" + number(stream_id)
    assert frames.encode_rst(stream_id) == b"\x09" + number(stream_id)
    assert frames.encode_ack(stream_id) == b"\x10" + number(stream_id)
    assert frames.data_prefix(stream_id) + frames.encode_length(300) == b"\x0a" + number(stream_id) + b"\x41\x2c"


def test_a_stream_id_beyond_the_last_cannot_be_written() -> None:
    assert frames.MAX_STREAM_ID == 2**62 - 1
    for encode in (frames.encode_open, frames.encode_rst, frames.encode_ack, frames.data_prefix, frames.encode_fin):
        with pytest.raises(ValueError, match="does not fit"):
            encode(2**62)


@pytest.mark.parametrize("length", [0, 1, 30, 63, 64, 16383, 16384, LIMIT])
def test_auth_has_as_much_padding_as_asked_for(length: int) -> None:
    assert frames.encode_auth(HASH, length) == b"\0\0" + HASH + number(length) + bytes(length)


@pytest.mark.parametrize("length", [-1, LIMIT + 1])
def test_auth_cannot_have_more_padding_than_a_server_accepts(length: int) -> None:
    with pytest.raises(ValueError, match=r"in AUTH exceeds the limit of 65536|does not fit"):
        frames.encode_auth(HASH, length)


@pytest.mark.parametrize("size", [0, 31, 33])
def test_auth_needs_a_hash_of_32_bytes(size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        frames.encode_auth(bytes(size), 0)


@pytest.mark.parametrize(
    ("encode", "kind", "stream_id"),
    [
        (frames.encode_alert, 0x01, 0),
        (frames.encode_client_nego, 0x03, 0),
        (frames.encode_server_nego, 0x04, 6),
        (frames.encode_padding_update_scheme, 0x06, 0),
    ],
)
def test_control_payloads_are_limited_to_64_kib(encode: Callable[[bytes], bytes], kind: int, stream_id: int) -> None:
    for size in (0, 1, 63, 64, LIMIT):
        assert encode(bytes(size)) == frame(kind, stream_id, bytes(size))
    with pytest.raises(ValueError, match="65537 bytes exceeds the limit of 65536"):
        encode(bytes(LIMIT + 1))


def test_a_reason_is_limited_to_512_bytes() -> None:
    """extensions: 1."""
    assert frames.encode_reset(1, 1, bytes(512)) == b"\x13\x01\x01\x42\x00" + bytes(512)
    with pytest.raises(ValueError, match="513 bytes exceeds the limit of 512"):
        frames.encode_reset(1, 1, bytes(513))


@given(st.integers(0, 2**62 - 1))
def test_close_carries_any_code(code: int) -> None:
    assert frames.encode_close(code) == b"\x02\x00" + number(code)


def payload_of_padding(padding: bytes) -> int:
    """Return the length of the payload of a complete PADDING frame."""
    assert padding[:2] == b"\x05\x00"
    length = 1 << (padding[2] >> 6)
    payload = int.from_bytes(padding[2 : 2 + length], "big") & (1 << (8 * length - 2)) - 1
    assert len(padding) == 2 + length + payload
    return payload


def test_every_size_with_room_for_a_header_is_hit_exactly() -> None:
    for size in range(3, 20001):
        padding = frames.encode_padding_of_size(size)
        assert len(padding) == size
        payload_of_padding(padding)


@pytest.mark.parametrize(
    ("size", "form"),
    [
        (3, 1),
        (66, 1),
        # One byte of length allows 63 bytes of payload: 67 bytes need the longer form of 63.
        (67, 2),
        (68, 2),
        (16387, 2),
        # Two bytes of length allow 16383 bytes: 16388 and 16389 need a longer form than their payload.
        (16388, 4),
        (16389, 4),
        (16390, 4),
        (65535, 4),
        (65536, 4),
        (1 << 20, 4),
    ],
)
def test_between_two_forms_the_next_longer_one_is_taken(size: int, form: int) -> None:
    padding = frames.encode_padding_of_size(size)
    assert len(padding) == size
    assert 1 << (padding[2] >> 6) == form
    assert payload_of_padding(padding) == size - 2 - form


@pytest.mark.parametrize("size", [-1, 0, 1, 2])
def test_no_padding_frame_is_smaller_than_its_header(size: int) -> None:
    with pytest.raises(ValueError, match="invalid size of a PADDING frame"):
        frames.encode_padding_of_size(size)


@pytest.mark.parametrize("length", [0, 1, 63, 64, 16383, 16384, 70000])
def test_padding_by_payload_has_its_header_on_top(length: int) -> None:
    assert frames.encode_padding(length) == frame(0x05, 0, bytes(length))


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (0x00, "AUTH"),
        (0x04, "SERVER_NEGO"),
        (0x07, "PINGPONG"),
        (0x0A, "STREAM[DATA]"),
        (0x0F, "STREAM[OPEN+DATA+RST]"),
        (0x10, "STREAM_ACK"),
        (0x11, "STREAM_WINDOW"),
        (0x12, "STREAM_FIN"),
        (0x13, "STREAM_RESET"),
        (0x14, "GOAWAY"),
        (0x15, "frame type 0x15"),
        (0x40, "frame type 0x40"),
    ],
)
def test_types_have_names_for_messages(kind: int, name: str) -> None:
    assert frames.describe(kind) == name
