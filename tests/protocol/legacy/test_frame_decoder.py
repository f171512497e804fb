"""The decoder of legacy frames: whole, byte by byte, with trailing data (legacy: 3)."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioanytls._protocol.exceptions import LimitExceeded
from trioanytls._protocol.legacy import frames
from trioanytls._protocol.legacy.frame_decoder import Frame, FrameDecoder
from trioanytls._protocol.legacy.frames import Command

PSH = Command.PSH


def decode(decoder: FrameDecoder, *pieces: bytes) -> list[Frame]:
    return [frame for piece in pieces for frame in decoder.decode(piece)]


def joined(decoded: list[Frame]) -> list[Frame]:
    """Consecutive pieces of one stream's PSH as one, and reports of Waste without their number."""
    result: list[Frame] = []
    for key, group in itertools.groupby(decoded, key=lambda frame: frame[:2]):
        pieces = list(group)
        if key[0] == PSH:
            result.append((PSH, key[1], b"".join(data for *_, data in pieces if data is not None)))
        elif key[0] == Command.WASTE:
            result.append(pieces[0])
        else:
            result += pieces
    return result


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    ends = sorted(cut % (len(data) + 1) for cut in cuts)
    return [data[start:end] for start, end in itertools.pairwise([0, *ends, len(data)])]


EXCHANGE = b"".join(
    (
        frames.encode(Command.SETTINGS, data=b"v=2\nclient=x/1\npadding-md5=75cff2ad89aadf5e257059ee571ebe11"),
        frames.encode(Command.SYN, 1),
        frames.encode(PSH, 1, bytes.fromhex("017f0000010050")),
        frames.encode_waste(300),
        frames.encode(PSH, 1, b"GET / HTTP/1.0\r\n\r\n"),
        frames.encode(Command.SYNACK, 1, b"refused"),
        frames.encode(Command.HEART_REQUEST, 9),
        frames.encode(Command.FIN, 1),
        frames.encode(200, 3),
    )
)
EXPECTED: list[Frame] = [
    (Command.SETTINGS, 0, b"v=2\nclient=x/1\npadding-md5=75cff2ad89aadf5e257059ee571ebe11"),
    (Command.SYN, 1, None),
    (PSH, 1, bytes.fromhex("017f0000010050")),
    (Command.WASTE, 0, None),
    (PSH, 1, b"GET / HTTP/1.0\r\n\r\n"),
    (Command.SYNACK, 1, b"refused"),
    (Command.HEART_REQUEST, 9, None),
    (Command.FIN, 1, None),
    (200, 3, None),
]


def test_an_exchange_whole() -> None:
    decoder = FrameDecoder()
    assert joined(decode(decoder, EXCHANGE)) == EXPECTED
    assert decoder.incomplete == b""
    assert decoder.frames[PSH] == 2
    assert decoder.frames[frames.UNKNOWN] == 1
    assert decoder.payload_bytes[Command.WASTE] == 300
    assert decoder.payload_bytes[PSH] == 7 + 18


def test_an_exchange_byte_by_byte() -> None:
    decoder = FrameDecoder()
    assert joined(decode(decoder, *(bytes((byte,)) for byte in EXCHANGE))) == EXPECTED
    assert decoder.frames[PSH] == 2
    assert decoder.payload_bytes[Command.WASTE] == 300


@given(st.lists(st.integers(0, 1000), max_size=8))
def test_an_exchange_in_any_pieces(cuts: list[int]) -> None:
    assert joined(decode(FrameDecoder(), *split(EXCHANGE, cuts))) == EXPECTED


@pytest.mark.parametrize("size", [1, 6])
def test_the_beginning_of_a_frame_is_kept(size: int) -> None:
    decoder = FrameDecoder()
    trailing = frames.encode(Command.FIN, 4)[:size]
    assert joined(decode(decoder, EXCHANGE + trailing)) == EXPECTED
    assert decoder.incomplete == trailing


@pytest.mark.parametrize("length", [0, 1, 2, 127, 255, 256, 1000, 4095, 16384, 32768, 65534, 65535])
def test_every_length(length: int) -> None:
    data = bytes(index % 251 for index in range(length))
    frame = frames.encode(PSH, 5, data)
    follows = frames.encode(Command.FIN, 5)
    for pieces in ([frame + follows], [frame, follows], [frame[:3], frame[3:] + follows[:2], follows[2:]]):
        assert joined(decode(FrameDecoder(), *pieces)) == [(PSH, 5, data), (Command.FIN, 5, None)]


@given(st.integers(0, 65535), st.integers(0, 0xFFFFFFFF), st.lists(st.integers(0, 70000), max_size=4))
def test_any_length_in_any_pieces(length: int, stream_id: int, cuts: list[int]) -> None:
    data = frames.encode(PSH, stream_id, bytes(length)) + frames.encode(Command.SYN, stream_id)
    decoded = joined(decode(FrameDecoder(), *split(data, cuts)))
    assert decoded == [(PSH, stream_id, bytes(length)), (Command.SYN, stream_id, None)]


@pytest.mark.parametrize("command", [Command.SYN, Command.FIN, Command.HEART_REQUEST, Command.HEART_RESPONSE, 11, 255])
def test_data_of_a_command_that_has_none_is_skipped(command: int) -> None:
    data = frames.encode(command, 3, frames.encode(PSH, 3, b"not a frame")) + frames.encode(PSH, 3, b"a frame")
    expected: list[Frame] = [(command, 3, None), (PSH, 3, b"a frame")]
    assert decode(FrameDecoder(), data) == expected
    assert joined(decode(FrameDecoder(), *(bytes((byte,)) for byte in data))) == expected


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([(1, b"a"), (1, b"bc"), (1, b"d")], [(PSH, 1, b"abcd")]),
        ([(1, b"a"), (2, b"b"), (2, b"c")], [(PSH, 1, b"a"), (PSH, 2, b"bc")]),
        ([(1, b"a"), (257, b"b")], [(PSH, 1, b"a"), (PSH, 257, b"b")]),
        # An empty frame is idle, and counts alone.
        ([(1, b"a"), (1, b""), (1, b"b")], [(PSH, 1, b"a"), (PSH, 1, b""), (PSH, 1, b"b")]),
    ],
)
def test_data_of_one_stream_that_arrives_together_is_joined(
    parts: list[tuple[int, bytes]], expected: list[Frame]
) -> None:
    data = b"".join(frames.encode(PSH, stream_id, part) for stream_id, part in parts)
    assert decode(FrameDecoder(join_data=True), data) == expected
    # After the rest of a frame, and before a frame without its last byte.
    decoder = FrameDecoder(join_data=True)
    assert decode(decoder, frames.encode(PSH, 1, b"xy")[:-1]) == [(PSH, 1, b"x")]
    last = parts[-1][0]
    decoded = decode(decoder, b"y" + data + frames.encode(PSH, last, b"zz")[:-1])
    assert joined(decoded) == joined([(PSH, 1, b"y"), *expected, (PSH, last, b"z")])
    assert len(decoded) == len(expected)
    assert decode(decoder, b"z") == [(PSH, last, b"z")]
    assert decoder.frames[PSH] == len(parts) + 2


def test_no_more_than_1024_frames_are_joined() -> None:
    decoder = FrameDecoder(join_data=True)
    assert decode(decoder, frames.encode(PSH, 1, b"x") * 2500) == [(PSH, 1, b"x" * size) for size in (1024, 1024, 452)]
    assert decoder.frames[PSH] == decoder.payload_bytes[PSH] == 2500


@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 257]), st.binary(max_size=3))), st.lists(st.integers(0, 200), max_size=6)
)
def test_any_data_in_any_pieces_is_joined_to_the_same(parts: list[tuple[int, bytes]], cuts: list[int]) -> None:
    pieces = split(b"".join(frames.encode(PSH, stream_id, part) for stream_id, part in parts), cuts)
    joining, plain = FrameDecoder(join_data=True), FrameDecoder()
    assert joined(decode(joining, *pieces)) == joined(decode(plain, *pieces))
    assert (joining.frames, joining.payload_bytes) == (plain.frames, plain.payload_bytes)


def test_an_empty_psh_is_yielded() -> None:
    assert decode(FrameDecoder(), frames.encode(PSH, 3)) == [(PSH, 3, b"")]


def test_data_is_passed_on_as_it_arrives() -> None:
    decoder = FrameDecoder()
    frame = frames.encode(PSH, 3, b"hello")
    assert decode(decoder, frame[:9]) == [(PSH, 3, b"he")]
    assert decoder.progressed
    assert decode(decoder, frame[9:]) == [(PSH, 3, b"llo")]


def test_bytes_of_an_incomplete_text_are_no_progress() -> None:
    decoder = FrameDecoder()
    frame = frames.encode(Command.SETTINGS, data=b"v=2")
    assert decode(decoder, frame[:8]) == []
    assert not decoder.progressed
    assert decode(decoder, frame[8:]) == [(Command.SETTINGS, 0, b"v=2")]
    assert decoder.progressed


@pytest.mark.parametrize(
    "command",
    [Command.SETTINGS, Command.ALERT, Command.UPDATE_PADDING_SCHEME, Command.SYNACK, Command.SERVER_SETTINGS],
)
def test_a_text_has_a_limit(command: Command) -> None:
    decoder = FrameDecoder(max_text=10)
    assert decode(decoder, frames.encode(command, 0, bytes(10))) == [(command, 0, bytes(10))]
    before = frames.encode(PSH, 1, b"before")
    # The header alone is refused: nothing of the text is collected.
    header = frames.encode(command, 0, bytes(11))[: frames.HEADER_SIZE]
    decoded = []
    with pytest.raises(LimitExceeded, match="text of 11 bytes exceeds the limit of 10"):
        decoded += list(decoder.decode(before + header))
    assert decoder.unconsumed == header
