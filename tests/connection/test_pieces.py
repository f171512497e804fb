"""The frames that the data of one send is cut into."""

from __future__ import annotations

import pytest

from trioanytls._connection.pieces import MIN_CREDIT, Pieces
from trioanytls._connection.stream_core import NO_FLOW_CONTROL, StreamCore

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
    assert core.queued == 3
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
    assert core.queued == (expected is not None)


async def test_at_most_one_frame_is_left_once_the_rest_fits() -> None:
    _, pieces = cut(bytes(MAX_DATA + 1))
    assert not pieces.is_one_frame
    pieces.next_frame()
    assert pieces.is_one_frame
