"""The incremental decoder of frames (spec: Frames; protocol: 2)."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioanytls._protocol.anytls1.frame_decoder import FrameDecoder
from trioanytls._protocol.exceptions import ProtocolViolation

from ..helpers.wire_bytes import (
    CountingBytearray,
    Pieces,
    Report,
    byte_by_byte,
    cuts,
    decoded,
    frame,
    joined,
    number,
    ways,
)

LIMIT = 65536

STREAM, RST, DATA, OPEN, ACK = 0x08, 0x09, 0x0A, 0x0C, 0x10
WINDOW, FIN, RESET, GOAWAY = EXTENSION_FRAMES = 0x11, 0x12, 0x13, 0x14
HI = b"hi"
LARGEST = 2**62 - 1

# Encoded frames, and the tuples that the decoder yields for them.
FRAMES: dict[str, tuple[str, list[Report]]] = {
    "OPEN": ("0c01", [(OPEN, 1, None)]),
    "DATA": ("0a010568656c6c6f", [(DATA, 1, b"hello")]),
    "RST": ("0901", [(RST, 1, None)]),
    "STREAM_ACK": ("1001", [(ACK, 1, None)]),
    "server NEGO": ("040604763d310a", [(4, 6, b"v=1\n")]),
    "ALERT": ("010003626164", [(1, 0, b"bad")]),
    "PINGPONG": ("0700", [(7, 0, None)]),
    "CLOSE": ("020002", [(2, 0, 2)]),
    # Accepted on both stream ids.
    "server NEGO on stream 0": ("040004763d310a", [(4, 0, b"v=1\n")]),
    "client NEGO": ("030004763d310a", [(3, 0, b"v=1\n")]),
    "PADDING": ("050003010203", [(5, 0, None)]),
    "PADDING_UPDATE_SCHEME": ("06000773746f703d310a", [(6, 0, b"stop=1\n")]),
    "STREAM without a flag": ("0801", [(STREAM, 1, None)]),
    # Combined flags, in the order OPEN, DATA, RST.
    "DATA+RST": ("0b01026869", [(DATA, 1, HI), (RST, 1, None)]),
    "OPEN+RST": ("0d01", [(OPEN, 1, None), (RST, 1, None)]),
    "OPEN+DATA": ("0e01026869", [(OPEN, 1, None), (DATA, 1, HI)]),
    "OPEN+DATA+RST": ("0f01026869", [(OPEN, 1, None), (DATA, 1, HI), (RST, 1, None)]),
    # Without payload.
    "empty ALERT": ("010000", [(1, 0, b"")]),
    "empty PADDING": ("050000", [(5, 0, None)]),
    "empty DATA": ("0a0100", [(DATA, 1, b"")]),
    "empty OPEN+DATA+RST": ("0f0100", [(OPEN, 1, None), (DATA, 1, b""), (RST, 1, None)]),
    # Integers in longer forms than needed, and large ones.
    "PINGPONG in long forms": ("400780000000", [(7, 0, None)]),
    "DATA in long forms": ("8000000ac00000000000000140026869", [(DATA, 1, HI)]),
    "DATA+RST in long forms": ("c00000000000000b400180000000", [(DATA, 1, b""), (RST, 1, None)]),
    "server NEGO in long forms": ("40044006c000000000000004763d310a", [(4, 6, b"v=1\n")]),
    "CLOSE with the largest code": ("0200ffffffffffffffff", [(2, 0, 2**62 - 1)]),
    "OPEN of the largest id": ("0cffffffffffffffff", [(OPEN, 2**62 - 1, None)]),
    "STREAM_ACK of a two-byte id": ("107fff", [(ACK, 16383, None)]),
}
# The same for the frames of the extensions, when they are in force (extensions: 1).
EXTENDED: dict[str, tuple[str, list[Report]]] = {
    "STREAM_WINDOW": ("110180010000", [(WINDOW, 1, 65536)]),
    "STREAM_FIN": ("1201", [(FIN, 1, None)]),
    "STREAM_RESET": ("1301030772656675736564", [(RESET, 1, (3, b"refused"))]),
    "GOAWAY": ("140005", [(GOAWAY, 0, 5)]),
    "STREAM_WINDOW without an increment": ("110100", [(WINDOW, 1, 0)]),
    "STREAM_WINDOW with the most": ("11ffffffffffffffffffffffffffffffff", [(WINDOW, LARGEST, LARGEST)]),
    "STREAM_FIN of the largest id": ("12ffffffffffffffff", [(FIN, LARGEST, None)]),
    "STREAM_RESET without a text": ("13010000", [(RESET, 1, (0, b""))]),
    "STREAM_RESET with the largest code": ("1301ffffffffffffffff026869", [(RESET, 1, (LARGEST, HI))]),
    "STREAM_RESET with the longest text": ("1301014200" + 512 * "61", [(RESET, 1, (1, 512 * b"a"))]),
    "GOAWAY without a stream": ("140000", [(GOAWAY, 0, 0)]),
    "GOAWAY with the largest id": ("1400ffffffffffffffff", [(GOAWAY, 0, LARGEST)]),
    "STREAM_WINDOW in long forms": ("4011c0000000000000014007", [(WINDOW, 1, 7)]),
    "STREAM_FIN in long forms": ("c0000000000000128000012c", [(FIN, 300, None)]),
    "STREAM_RESET in long forms": ("800000134001c000000000000003800000026869", [(RESET, 1, (3, HI))]),
    "GOAWAY in long forms": ("401480000000c000000000000005", [(GOAWAY, 0, 5)]),
}
VECTORS = pytest.mark.parametrize(
    ("encoding", "reports"), [*FRAMES.values(), *EXTENDED.values()], ids=[*FRAMES, *EXTENDED]
)

# Data after a frame: nothing, another frame, the beginning of one.
TRAILING: dict[str, tuple[str, list[Report]]] = {
    "PINGPONG": ("0700", [(7, 0, None)]),
    "other DATA": ("0a0203616263", [(DATA, 2, b"abc")]),
    "the beginning of a type": ("c000", []),
    "the beginning of an id": ("0cc00000", []),
    "the beginning of a length": ("010080", []),
    "the beginning of a block": ("04060976", []),
    "the beginning of a number": ("110180", []),
    "the beginning of a text": ("1301030772", []),
}


@VECTORS
def test_each_frame_whole_byte_by_byte_and_in_two(encoding: str, reports: list[Report]) -> None:
    for pieces in ways(bytes.fromhex(encoding)):
        assert decoded(pieces, EXTENSION_FRAMES) == reports


@pytest.mark.parametrize(("trailing", "more"), TRAILING.values(), ids=TRAILING.keys())
@VECTORS
def test_each_frame_with_trailing_data(encoding: str, reports: list[Report], trailing: str, more: list[Report]) -> None:
    for pieces in ways(bytes.fromhex(encoding + trailing)):
        assert decoded(pieces, EXTENSION_FRAMES) == reports + more


@VECTORS
def test_what_does_not_pass_through_is_reported_with_its_last_byte_and_not_before(
    encoding: str, reports: list[Report]
) -> None:
    before = decoded([bytes.fromhex(encoding)[:-1]], EXTENSION_FRAMES)
    if reports[-1][0] not in (0x05, DATA):
        assert reports[-1] not in before
    if all(kind not in (0x05, DATA) for kind, _, _ in reports):
        assert before == []


def test_frames_are_counted_by_their_type_on_the_wire() -> None:
    vectors = [*FRAMES.values(), *EXTENDED.values()]
    data = b"".join(bytes.fromhex(encoding) for encoding, _ in vectors)
    expected = [0] * 21
    for encoding, _ in vectors:
        kind = bytes.fromhex(encoding)
        expected[int.from_bytes(kind[: 1 << (kind[0] >> 6)], "big") & 0x3F] += 1
    for pieces in ([data], byte_by_byte(data)):
        decoder = FrameDecoder()
        decoder.extension_frames = frozenset(EXTENSION_FRAMES)
        for piece in pieces:
            list(decoder.decode(piece))
        assert decoder.frames == expected
        assert sum(decoder.payload_bytes) == decoder.payload_bytes[5] + sum(decoder.payload_bytes[8:])
        assert decoder.payload_bytes[5] == 3
        assert (decoder.payload_bytes[DATA], decoder.payload_bytes[0x0E]) == (5 + 2, 2)


# Payloads that are passed on


def test_data_passes_in_the_pieces_in_which_it_arrives() -> None:
    decoder = FrameDecoder()
    pieces = [b"\x0a\x01\x0a01", b"2", b"34567", b"", b"89\x07\x00"]
    assert [list(decoder.decode(piece)) for piece in pieces] == [
        [(DATA, 1, b"01")],
        [(DATA, 1, b"2")],
        [(DATA, 1, b"34567")],
        [],
        [(DATA, 1, b"89"), (7, 0, None)],
    ]


@pytest.mark.parametrize(
    ("data", "reports"),
    [
        ("0a0101610a010162", [(DATA, 1, b"ab")]),
        # Lengths of one, two, four and eight bytes.
        ("0a0101610a014001620a0180000001630a01c00000000000000164", [(DATA, 1, b"abcd")]),
        # A stream id of two bytes, and the same in a longer form.
        ("0a412c01610a412c0162", [(DATA, 300, b"ab")]),
        ("0a0101610a40010162", [(DATA, 1, b"a"), (DATA, 1, b"b")]),
        ("0a412c01610a422c0162", [(DATA, 300, b"a"), (DATA, 556, b"b")]),
        # Other streams and frames.
        ("0a0101610a020162", [(DATA, 1, b"a"), (DATA, 2, b"b")]),
        ("0a0101610a01016207000a0101630a010164", [(DATA, 1, b"ab"), (7, 0, None), (DATA, 1, b"cd")]),
        ("0a0101610a0101620b010163", [(DATA, 1, b"ab"), (DATA, 1, b"c"), (RST, 1, None)]),
        ("0e0101610a010162", [(OPEN, 1, None), (DATA, 1, b"a"), (DATA, 1, b"b")]),
        # An empty frame is idle, and counts alone.
        ("0a0101610a01000a010162", [(DATA, 1, b"a"), (DATA, 1, b""), (DATA, 1, b"b")]),
        ("0a01000a010162", [(DATA, 1, b""), (DATA, 1, b"b")]),
        # Incomplete ones.
        ("0a0101610a0103626364", [(DATA, 1, b"abcd")]),
        ("0a0101610a01036263", [(DATA, 1, b"abc")]),
        ("0a0101610a0103", [(DATA, 1, b"a"), (DATA, 1, b"")]),
        ("0a0101610a0180", [(DATA, 1, b"a")]),
        ("0a0101610a01", [(DATA, 1, b"a")]),
        ("0a0101610a", [(DATA, 1, b"a")]),
    ],
)
def test_data_of_one_stream_that_arrives_together_is_joined(data: str, reports: list[Report]) -> None:
    assert list(FrameDecoder(join_data=True).decode(bytes.fromhex(data))) == reports
    # After the rest of a payload.
    decoder = FrameDecoder(join_data=True)
    assert list(decoder.decode(b"\x0a\x01\x03xy")) == [(DATA, 1, b"xy")]
    after = list(decoder.decode(b"z" + bytes.fromhex(data)))
    assert joined(after) == joined([(DATA, 1, b"z"), *reports])
    if data.startswith("0a01") and reports[0][2]:
        assert len(after) == len(reports)


@pytest.mark.parametrize("payload", [b"x", b"xyz"])
def test_no_more_than_1024_frames_are_joined(payload: bytes) -> None:
    data = memoryview(frame(DATA, 1, payload) * 65536)
    decoder = FrameDecoder(join_data=True)
    tracemalloc.start()
    try:
        sizes = [len(report[2]) for report in decoder.decode(data) if isinstance(report[2], bytes)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert sizes == [1024 * len(payload)] * 64
    assert peak < 512 * 1024
    assert decoder.frames[DATA] == 65536
    assert decoder.payload_bytes[DATA] == 65536 * len(payload)


def test_the_rest_of_joined_data_follows() -> None:
    decoder = FrameDecoder(join_data=True)
    pieces = [b"\x0a\x01\x01a\x0a\x01\x03b", b"c", b"d\x0a\x01\x02e", b"f\x0a\x01\x01g", b"\x07\x00"]
    assert [list(decoder.decode(piece)) for piece in pieces] == [
        [(DATA, 1, b"ab")],
        [(DATA, 1, b"c")],
        [(DATA, 1, b"de")],
        [(DATA, 1, b"fg")],
        [(7, 0, None)],
    ]
    assert (decoder.frames[DATA], decoder.payload_bytes[DATA]) == (4, 7)


def test_the_unconsumed_bytes_begin_at_the_first_of_joined_frames() -> None:
    """Data on a stream that was never opened is a violation at its first frame."""
    decoder = FrameDecoder(join_data=True)
    data = bytes.fromhex("0700 0a0101610a010162 0700")
    reports = decoder.decode(data)
    assert [next(reports), next(reports)] == [(7, 0, None), (DATA, 1, b"ab")]
    assert decoder.unconsumed == data[2:]


def test_the_reset_of_a_frame_with_data_follows_its_last_byte() -> None:
    decoder = FrameDecoder()
    assert list(decoder.decode(b"\x0f\x01\x04ab")) == [(OPEN, 1, None), (DATA, 1, b"ab")]
    assert list(decoder.decode(b"c")) == [(DATA, 1, b"c")]
    assert list(decoder.decode(b"d")) == [(DATA, 1, b"d"), (RST, 1, None)]


@pytest.mark.parametrize("kind", [0x05, 0x0A, 0x0B, 0x0E, 0x0F])
def test_a_frame_of_the_largest_length_passes_in_pieces(kind: int) -> None:
    decoder = FrameDecoder()
    list(decoder.decode(number(kind) + b"\x00" if kind == 5 else number(kind) + b"\x01"))
    list(decoder.decode(b"\xff" * 8))
    piece = bytes(1 << 20)
    tracemalloc.start()
    try:
        for _ in range(64):
            assert joined(decoder.decode(piece)) == [(5, 0, None) if kind == 5 else (DATA, 1, piece)]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert decoder.payload_bytes[kind] == 64 << 20
    # One piece at a time, not all of them joined.
    assert peak < 4 << 20
    assert decoder.frames[kind] == 1


def test_padding_is_reported_whenever_more_of_it_comes() -> None:
    decoder = FrameDecoder()
    assert [list(decoder.decode(piece)) for piece in (b"\x05\x00\x04", b"ab", b"cd", b"\x07\x00")] == [
        [(5, 0, None)],
        [(5, 0, None)],
        [(5, 0, None)],
        [(7, 0, None)],
    ]


# Limits

LIMITED = [(0x01, 0), (0x03, 0), (0x04, 0), (0x04, 6), (0x06, 0)]


@pytest.mark.parametrize(("kind", "stream_id"), LIMITED)
def test_a_control_payload_of_64_kib_is_collected(kind: int, stream_id: int) -> None:
    payload = bytes(range(256)) * 256
    data = frame(kind, stream_id, payload)
    assert decoded([data]) == [(kind, stream_id, payload)]
    assert decoded([data + b"\x07\x00"]) == [(kind, stream_id, payload), (7, 0, None)]
    assert decoded([data[:3], data[3:40_000], data[40_000:-1], data[-1:]]) == [(kind, stream_id, payload)]


@pytest.mark.parametrize("length", [number(LIMIT + 1), number(LIMIT + 1, 8), number(2**30), number(2**62 - 1)])
@pytest.mark.parametrize(("kind", "stream_id"), LIMITED)
def test_a_longer_one_is_a_violation_as_soon_as_its_length_is_read(kind: int, stream_id: int, length: bytes) -> None:
    """Protocol: 2. It is rejected before its payload arrives."""
    data = number(kind) + number(stream_id) + length
    for pieces in ([data], byte_by_byte(data), [data + b"payload"]):
        decoder = FrameDecoder()
        with pytest.raises(ProtocolViolation, match="exceeds the limit of 65536"):
            for piece in pieces:
                assert list(decoder.decode(piece)) == []
    decoder = FrameDecoder()
    assert list(decoder.decode(data[:-1])) == []


@pytest.mark.parametrize("size", [LIMIT // 2, LIMIT])
def test_a_control_payload_byte_by_byte_costs_no_more_than_its_length(size: int) -> None:
    decoder: Any = FrameDecoder()
    decoder._kept = kept = CountingBytearray()
    data = frame(0x06, 0, bytes(size))
    reports = [report for byte in byte_by_byte(data) for report in decoder.decode(byte)]
    assert reports == [(6, 0, bytes(size))]
    # Once when it is complete, and a few bytes for the header. Otherwise the cost would be quadratic.
    assert size <= kept.copied < size + 100


# Violations


@pytest.mark.parametrize(
    "kind", [0x11, 0x12, 0x13, 0x14, 0x15, 0x18, 0x3F, 0x40, 0x41, 0x3FFF, 0x4000, 2**30, 2**62 - 1]
)
def test_an_unknown_frame_type_is_a_violation(kind: int) -> None:
    """Protocol: 2. Nothing can be skipped."""
    for length in (1, 2, 4, 8):
        if kind < 1 << (8 * length - 2):
            data = number(kind, length)
            for pieces in ([data], byte_by_byte(data), [data + bytes(20)]):
                with pytest.raises(ProtocolViolation, match=f"unknown frame type {kind:#x}"):
                    decoded(pieces)
                if kind not in EXTENSION_FRAMES:
                    with pytest.raises(ProtocolViolation, match=f"unknown frame type {kind:#x}"):
                        decoded(pieces, EXTENSION_FRAMES)


@pytest.mark.parametrize(("encoding", "reports"), EXTENDED.values(), ids=EXTENDED.keys())
def test_a_frame_of_an_extension_is_unknown_unless_it_is_in_force(encoding: str, reports: list[Report]) -> None:
    """extensions: 1. Each extension can be in force without the others."""
    kind = reports[0][0]
    data = bytes.fromhex(encoding)
    assert decoded([data], {kind}) == reports
    for pieces in ways(data) if len(data) < 20 else [[data], byte_by_byte(data)]:
        with pytest.raises(ProtocolViolation, match=f"unknown frame type {kind:#x}"):
            decoded(pieces, {*EXTENSION_FRAMES} - {kind})


@pytest.mark.parametrize("size", [513, 514, 16384, LARGEST])
def test_a_reason_of_more_than_512_bytes_is_a_violation_as_soon_as_its_length_is_read(size: int) -> None:
    """extensions: 1."""
    data = b"\x13\x01\x03" + number(size)
    for pieces in ([data], byte_by_byte(data), [data + b"x" * 513]):
        with pytest.raises(ProtocolViolation, match=f"on stream 1: text of {size} bytes exceeds the limit of 512"):
            decoded(pieces, EXTENSION_FRAMES)
    assert decoded([data[:-1]], EXTENSION_FRAMES) == []


@pytest.mark.parametrize("stream_id", [1, 6, 64, LARGEST])
def test_goaway_on_another_stream_is_a_violation(stream_id: int) -> None:
    """extensions: 1."""
    data = b"\x14" + number(stream_id)
    for pieces in ([data], byte_by_byte(data), [data + bytes(20)]):
        with pytest.raises(ProtocolViolation, match=f"GOAWAY on stream {stream_id}: must be sent on the control"):
            decoded(pieces, EXTENSION_FRAMES)


@pytest.mark.parametrize("stream_id", [1, 5, 6, 7, 64, 2**62 - 1])
@pytest.mark.parametrize("kind", range(8))
def test_a_control_frame_on_another_stream_is_a_violation(kind: int, stream_id: int) -> None:
    if (kind, stream_id) == (0x04, 6):
        return
    data = number(kind) + number(stream_id)
    for pieces in ([data], byte_by_byte(data), [data + bytes(50)]):
        with pytest.raises(ProtocolViolation, match=f"stream {stream_id}: must be sent on the control stream"):
            decoded(pieces)


@pytest.mark.parametrize("kind", range(0x08, 0x14))
@pytest.mark.parametrize("stream_id", ["00", "4000", "80000000", "c000000000000000"])
def test_a_stream_frame_on_the_control_stream_is_a_violation(kind: int, stream_id: str) -> None:
    data = bytes([kind]) + bytes.fromhex(stream_id)
    for pieces in ([data], byte_by_byte(data), [data + bytes(50)]):
        with pytest.raises(ProtocolViolation, match="on stream 0: must not be sent on the control stream"):
            decoded(pieces, EXTENSION_FRAMES)


@pytest.mark.parametrize("offending", ["11", "0900", "0701", "010080010001"])
def test_the_unconsumed_bytes_begin_at_the_offending_frame(offending: str) -> None:
    before = bytes.fromhex("0c010b01026869050003010203040604763d310a4007c000000000000000")
    data = before + bytes.fromhex(offending) + b"and what follows"
    for pieces in ways(data):
        decoder = FrameDecoder()
        fed = b""
        with pytest.raises(ProtocolViolation):
            for piece in pieces:
                fed += piece
                list(decoder.decode(piece))
        assert decoder.unconsumed == fed[len(before) :]


def test_the_frames_before_the_offending_one_are_reported() -> None:
    decoder = FrameDecoder()
    reports: list[Report] = []
    with pytest.raises(ProtocolViolation):
        reports.extend(decoder.decode(bytes.fromhex("0c01 0a0101ff 0700 11 0700")))
    # `extend` keeps the frames from before the error.
    assert reports == [(OPEN, 1, None), (DATA, 1, b"\xff"), (7, 0, None)]


# Random frames, random cuts


@st.composite
def numbers(draw: st.DrawFn, value: int) -> bytes:
    """Encode the value in any form that fits, most often the shortest one."""
    forms = [length for length in (1, 2, 4, 8) if value < 1 << (8 * length - 2)]
    return number(value, forms[0] if draw(st.booleans()) else draw(st.sampled_from(forms)))


STREAM_IDS = st.integers(1, 70) | st.integers(1, 2**62 - 1)
PAYLOADS = st.binary(max_size=6) | st.binary(min_size=60, max_size=70)


@st.composite
def frames(draw: st.DrawFn) -> tuple[bytes, list[Report]]:
    """Draw an encoded frame and the tuples that the decoder must yield for it."""
    kind = draw(st.sampled_from([*range(1, 21)]))
    stream_id = draw(STREAM_IDS) if 0x08 <= kind < GOAWAY else draw(st.sampled_from([0, 6])) if kind == 4 else 0
    data = draw(numbers(kind)) + draw(numbers(stream_id))
    if kind == 0x07:
        return data, [(kind, 0, None)]
    if kind == 0x02:
        code = draw(st.integers(0, 2**62 - 1))
        return data + draw(numbers(code)), [(kind, 0, code)]
    if kind in (0x08, 0x10, FIN):
        return data, [(kind, stream_id, None)]
    if kind in (WINDOW, GOAWAY):
        value = draw(st.integers(0, 70) | st.integers(0, LARGEST))
        return data + draw(numbers(value)), [(kind, stream_id, value)]
    if kind == RESET:
        code, text = draw(st.integers(0, 70) | st.integers(0, LARGEST)), draw(PAYLOADS)
        return data + draw(numbers(code)) + draw(numbers(len(text))) + text, [(kind, stream_id, (code, text))]
    payload = None
    if kind < 0x08 or kind & 0b010:
        payload = draw(PAYLOADS)
        data += draw(numbers(len(payload))) + payload
    if kind == 0x05:
        return data, [(kind, 0, None)]
    if kind < 0x08:
        return data, [(kind, stream_id, payload)]
    reports: list[Report] = []
    if kind & 0b100:
        reports.append((OPEN, stream_id, None))
    if payload is not None:
        reports.append((DATA, stream_id, payload))
    if kind & 0b001:
        reports.append((RST, stream_id, None))
    return data, reports


@st.composite
def sequences(draw: st.DrawFn) -> tuple[Pieces, list[Report]]:
    parts = draw(st.lists(frames(), max_size=8))
    data = b"".join(data for data, _ in parts)
    return draw(cuts(data)), joined(report for _, reports in parts for report in reports)


@given(sequences())
def test_any_sequence_of_frames_in_any_pieces_is_reported_the_same(sequence: tuple[Pieces, list[Report]]) -> None:
    pieces, reports = sequence
    assert decoded(pieces, EXTENSION_FRAMES) == reports
    assert decoded([b"".join(pieces)], EXTENSION_FRAMES) == reports
    assert decoded(byte_by_byte(b"".join(pieces)), EXTENSION_FRAMES) == reports


@st.composite
def data_frames(draw: st.DrawFn) -> tuple[bytes, Report]:
    """Draw a frame of DATA on one of few streams, with its event."""
    stream_id, payload = draw(st.sampled_from([1, 2, 300, 556])), draw(PAYLOADS)
    return number(DATA) + draw(numbers(stream_id)) + draw(numbers(len(payload))) + payload, (DATA, stream_id, payload)


@given(st.data(), st.lists(data_frames(), max_size=8))
def test_any_data_in_any_pieces_is_joined_to_the_same(data: st.DataObject, parts: list[tuple[bytes, Report]]) -> None:
    encoded = b"".join(part for part, _ in parts)
    for pieces in ([encoded], byte_by_byte(encoded), data.draw(cuts(encoded))):
        assert decoded(pieces) == joined(report for _, report in parts)


@given(st.data())
def test_random_bytes_raise_nothing_but_violations_and_always_the_same(data: st.DataObject) -> None:
    beginning = data.draw(st.lists(frames(), max_size=2))
    soup = b"".join(part for part, _ in beginning) + data.draw(st.binary(max_size=60))
    extensions = data.draw(st.frozensets(st.sampled_from(EXTENSION_FRAMES)))
    outcomes = []
    ways_to_decode = itertools.product(([soup], byte_by_byte(soup), data.draw(cuts(soup))), (False, True))
    for pieces, join_data in ways_to_decode:
        decoder = FrameDecoder(join_data=join_data)
        decoder.extension_frames = extensions
        reports: list[Report] = []
        violation = left = None
        for index, piece in enumerate(pieces):
            try:
                reports.extend(decoder.decode(piece))
            except ProtocolViolation as error:
                violation = str(error)
                # The fallback loses nothing: it gets the unconsumed bytes and those that were not fed.
                left = decoder.unconsumed + b"".join(pieces[index + 1 :])
                break
        outcomes.append((joined(reports), violation, left, decoder.frames))
    assert all(outcome == outcomes[0] for outcome in outcomes)
