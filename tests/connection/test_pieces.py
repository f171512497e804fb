"""The frames that the data of one send is cut into."""

from __future__ import annotations

from typing import cast

import pytest

from trioanytls._connection.pieces import MIN_CREDIT, Pieces
from trioanytls._connection.stream_core import NO_FLOW_CONTROL, StreamCore
from trioanytls._connection.writer import Writer

from .test_stream_core import new_core

MAX_DATA = 1000
PREFIX = b"data:"


def encode_length(size: int) -> bytes:
    return size.to_bytes(2)


def cut(data: bytes | bytearray | memoryview, credit: int = NO_FLOW_CONTROL) -> tuple[StreamCore, Pieces]:
    core = new_core()
    core.credit = credit
    return core, Pieces(core, data, PREFIX, encode_length, MAX_DATA)


async def test_frames_have_the_maximum_size_and_the_last_one_the_rest() -> None:
    data = bytes(range(250)) * 9
    core, pieces = cut(data)
    frames = []
    while not pieces.is_empty:
        frame = pieces.next_frame()
        assert frame is not None
        frames.append(frame)
    assert [len(payload) for _, _, payload in frames] == [1000, 1000, 250]
    assert b"".join(payload for _, _, payload in frames) == data
    assert [header for _, header, _ in frames] == [PREFIX + encode_length(size) for size in (1000, 1000, 250)]
    assert all(sender is core for sender, _, _ in frames)
    assert core.credit == NO_FLOW_CONTROL - len(data)


async def test_no_data_is_no_frame() -> None:
    _, pieces = cut(b"")
    assert pieces.is_empty


async def test_immutable_data_of_one_frame_is_not_copied() -> None:
    data = bytes(MAX_DATA)
    _, pieces = cut(data)
    frame = pieces.next_frame()
    assert frame is not None
    assert frame[2] is data


def payloads_of(pieces: Pieces) -> list[bytes | memoryview]:
    payloads = []
    while not pieces.is_empty:
        frame = pieces.next_frame()
        assert frame is not None
        payloads.append(frame[2])
    return payloads


async def test_the_full_frames_of_immutable_data_are_not_copied_until_the_last() -> None:
    data = bytes(range(250)) * 4 * 4
    _, pieces = cut(data)
    payloads = payloads_of(pieces)
    assert [isinstance(payload, memoryview) and payload.obj is data for payload in payloads] == [True] * 3 + [False]
    assert b"".join(payloads) == data


@pytest.mark.parametrize("data", [bytes(4 * MAX_DATA + 1), bytearray(2 * MAX_DATA)], ids=["much", "mutable"])
async def test_frames_do_not_keep_much_data_or_that_of_the_caller(data: bytes | bytearray) -> None:
    _, pieces = cut(data)
    assert {type(payload) for payload in payloads_of(pieces)} == {bytes}


async def test_a_small_frame_keeps_no_large_data() -> None:
    _, pieces = cut(bytes(3 * MAX_DATA), MIN_CREDIT)
    frame = pieces.next_frame()
    assert frame is not None
    assert type(frame[2]) is bytes
    assert len(frame[2]) == MIN_CREDIT


@pytest.mark.parametrize("view", [False, True])
async def test_a_frame_does_not_change_with_the_data_of_the_caller(*, view: bool) -> None:
    data = bytearray(b"before")
    _, pieces = cut(memoryview(data) if view else data)
    frame = pieces.next_frame()
    data[:] = b"after!"
    assert frame is not None
    assert frame[2] == b"before"


async def test_a_view_of_larger_elements_is_sent_as_bytes() -> None:
    _, pieces = cut(memoryview(bytes(16)).cast("I"))
    frame = pieces.next_frame()
    assert frame is not None
    assert frame[2] == bytes(16)
    assert pieces.is_empty


@pytest.mark.parametrize(
    ("size", "credit", "expected"),
    [
        (2000, 300, 300),
        (2000, MIN_CREDIT, MIN_CREDIT),
        (2000, MIN_CREDIT - 1, None),
        (2000, 0, None),
        # The rest of the data needs no more credit than its size.
        (10, 10, 10),
        (10, 9, None),
    ],
)
async def test_a_frame_uses_the_credit_unless_that_is_too_little(size: int, credit: int, expected: int | None) -> None:
    core, pieces = cut(bytes(size), credit)
    assert pieces.needed_credit == min(size, MIN_CREDIT)
    frame = pieces.next_frame()
    assert (frame and len(frame[2])) == expected
    assert core.credit == credit - (expected or 0)


async def test_at_most_one_frame_is_left_once_the_rest_fits() -> None:
    _, pieces = cut(bytes(MAX_DATA + 1))
    assert not pieces.is_one_frame
    pieces.next_frame()
    assert pieces.is_one_frame


class Writes:
    """The inline writes of a writer.

    Attributes:
      accepts: the number of frames that it writes before it refuses one.
    """

    def __init__(self, accepts: int) -> None:
        self.accepts = accepts
        self.frames: list[tuple[object, bytes, bytes]] = []

    def write_now(self, sender: object, header: bytes, payload: memoryview) -> bool:
        if len(self.frames) == self.accepts:
            return False
        self.frames.append((sender, header, bytes(payload)))
        return True


async def test_frames_are_written_until_one_is_refused_which_is_still_there() -> None:
    data = bytes(range(250)) * 9
    core, pieces = cut(data, credit=5000)
    writes = Writes(2)
    assert [pieces.write(cast("Writer", writes)) for _ in range(3)] == [1000, 1000, 0]
    assert writes.frames == [(core, PREFIX + encode_length(1000), data[at : at + 1000]) for at in (0, 1000)]
    assert core.credit == 3000
    assert not pieces.is_empty
    assert pieces.next_frame() == (core, PREFIX + encode_length(250), data[2000:])
    assert pieces.is_empty


async def test_no_frame_is_written_without_credit() -> None:
    core, pieces = cut(bytes(1000), credit=MIN_CREDIT - 1)
    writes = Writes(9)
    assert pieces.write(cast("Writer", writes)) == 0
    core.credit = MIN_CREDIT
    assert pieces.write(cast("Writer", writes)) == MIN_CREDIT
    assert core.credit == 0
    core.credit = NO_FLOW_CONTROL
    assert pieces.write(cast("Writer", writes)) == 1000 - MIN_CREDIT
    assert pieces.is_empty
