"""The shaper (spec: Legacy Traffic Shaping Scheme v0; protocol: 6)."""

from __future__ import annotations

import inspect
import secrets
import tracemalloc
from collections.abc import Callable, Generator, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trioanytls._protocol.anytls1.frame_decoder import FrameDecoder
from trioanytls._protocol.anytls1.padding import PADDING_FRAMES
from trioanytls._protocol.padding_scheme import Mark, PaddingScheme
from trioanytls._protocol.traffic_shaper import Delivery, Shaper

from ..helpers.wire_bytes import joined, number

C = Mark.CHECK
Sizes = Sequence[int | str]


def shaper_for(*sizes: int | str, stop: int = 2) -> Shaper:
    """Create a shaper whose next deliver is number 1, with exactly these sizes."""
    line = f"1={','.join(size if isinstance(size, str) else f'{size}-{size}' for size in sizes)}\n" if sizes else ""
    shaper = Shaper(PaddingScheme.parse(f"stop={stop}\n{line}".encode()), PADDING_FRAMES)
    deliver(shaper, b"first")
    return shaper


def deliver(shaper: Shaper, data: bytes) -> list[bytes]:
    """Return all Writes of a deliver, as if each had been sent."""
    return list(shaper.shape(data))


def lengths(writes: list[bytes]) -> list[int]:
    return [len(write) for write in writes]


def model(length: int, sizes: Sizes) -> list[tuple[int, int]]:
    """Implement the rules again (protocol: 6). Return the bytes of data and of PADDING of each Write."""
    writes: list[tuple[int, int]] = []
    left = length
    for size in sizes:
        if size == "c":
            if not left:  # "if nothing is left, this deliver ends here"
                return writes
            continue
        assert isinstance(size, int)
        if left > size:  # "more than l bytes left: Write exactly l"
            if size:  # (of none there is no Write)
                writes.append((size, 0))
            left -= size
        elif left >= 1:  # "at least one byte left: append a PADDING frame so that the Write is exactly l bytes"
            room = size - left
            writes.append((left, room if room >= 3 else 0))  # "too small for a PADDING frame's own header"
            left = 0
        else:  # "nothing left: one PADDING frame whose payload is l bytes (header on top)"
            writes.append((0, 2 + len(number(size)) + size))
    if left:  # "after the last size, what is left goes out in one Write, unshaped"
        writes.append((left, 0))
    return writes


# Deliver 0


def test_deliver_0_goes_out_in_one_write_as_it_is() -> None:
    data = bytes(range(200))
    shaper = Shaper(PaddingScheme.parse(b"stop=8\n0=30-30,10-10,c,500-500\n1=5-5\n"), PADDING_FRAMES)
    assert shaper.draw_auth_padding() == 30
    assert deliver(shaper, data) == [data]
    assert shaper.padding_frames == 0


@pytest.mark.parametrize(
    ("line", "length"),
    [
        ("0=30-30\n", 30),
        ("0=12-12,c,99-99\n", 12),
        ("", 0),
        ("0=c,30-30\n", 0),
        ("0=0-0\n", 0),
        ("0=65535-65535\n", 65535),
    ],
)
def test_line_0_gives_the_length_of_the_padding_in_auth(line: str, length: int) -> None:
    assert Shaper(PaddingScheme.parse(f"stop=8\n{line}".encode()), PADDING_FRAMES).draw_auth_padding() == length


def test_the_padding_in_auth_is_drawn_from_its_range() -> None:
    scheme = PaddingScheme.parse(b"stop=8\n0=30-40\n")
    assert Shaper(scheme, PADDING_FRAMES, randbelow=lambda bound: bound - 1).draw_auth_padding() == 39
    assert Shaper(scheme, PADDING_FRAMES, randbelow=lambda _bound: 0).draw_auth_padding() == 30


# Deliver n


def test_more_than_the_size_is_cut() -> None:
    data = bytes(range(100))
    assert deliver(shaper_for(30, 50), data) == [data[:30], data[30:80], data[80:]]


def test_less_than_the_size_is_padded_to_it() -> None:
    shaper = shaper_for(30)
    assert deliver(shaper, b"0123456789") == [b"0123456789" + bytes.fromhex("050011") + bytes(17)]
    assert (shaper.padding_frames, shaper.padding_bytes) == (1, 20)


def test_exactly_the_size_is_left_alone() -> None:
    shaper = shaper_for(10)
    assert deliver(shaper, b"0123456789") == [b"0123456789"]
    assert shaper.padding_frames == 0


@pytest.mark.parametrize(("room", "written"), [(1, 10), (2, 10), (3, 13), (4, 14)])
def test_there_is_no_padding_if_its_header_does_not_fit(room: int, written: int) -> None:
    assert lengths(deliver(shaper_for(10 + room), b"0123456789")) == [written]


def test_nothing_left_makes_a_padding_frame_with_a_payload_of_the_size() -> None:
    # Like anytls-go: the header is not part of the size.
    shaper = shaper_for(10, 20, 500)
    writes = deliver(shaper, b"0123456789")
    assert writes == [b"0123456789", bytes.fromhex("050014") + bytes(20), bytes.fromhex("050041f4") + bytes(500)]
    assert (shaper.padding_frames, shaper.padding_bytes) == (2, 23 + 504)


def test_nothing_left_and_a_size_of_nothing_makes_a_padding_frame_without_payload() -> None:
    assert deliver(shaper_for(10, 0), b"0123456789") == [b"0123456789", bytes.fromhex("050000")]


def test_a_size_of_nothing_makes_no_write_of_nothing() -> None:
    assert deliver(shaper_for(0, 4, 0), b"0123456789") == [b"0123", b"456789"]


def test_a_check_mark_ends_the_deliver_if_nothing_is_left() -> None:
    assert deliver(shaper_for(10, "c", 20), b"0123456789") == [b"0123456789"]


def test_a_check_mark_has_no_effect_if_data_is_left() -> None:
    assert deliver(shaper_for("c", 4, "c", 4, "c", 4, "c", 100), b"0123456789") == [
        b"0123",
        b"4567",
        b"89",
    ]


def test_after_the_last_size_what_is_left_goes_out_in_one_write() -> None:
    """Spec: Phase 3, Residual Handling."""
    data = bytes(100_000)
    assert lengths(deliver(shaper_for(10, "c", 20), data)) == [10, 20, 99_970]


def test_a_line_that_the_scheme_lacks_is_one_write() -> None:
    shaper = shaper_for()
    assert shaper.active
    data = bytes(100_000)
    assert deliver(shaper, data) == [data]
    assert not shaper.active


# Counting


def test_as_many_delivers_are_shaped_as_stop_says() -> None:
    """Spec: ShapingQuota."""
    scheme = PaddingScheme.parse(b"stop=3\n0=9-9\n1=50-50\n2=60-60\n3=70-70\n4=80-80\n")
    shaper = Shaper(scheme, PADDING_FRAMES)
    active, sizes = [], []
    for _ in range(5):
        active.append(shaper.active)
        sizes.append(lengths(deliver(shaper, b"x" * 10)))
    assert active == [True, True, True, False, False]
    assert sizes == [[10], [50], [60], [10], [10]]


@pytest.mark.parametrize("stop", [0, 1])
def test_with_nothing_to_shape_nothing_is(stop: int) -> None:
    shaper = Shaper(PaddingScheme.parse(f"stop={stop}\n0=9-9\n1=50-50\n".encode()), PADDING_FRAMES)
    assert shaper.active is bool(stop)
    assert [deliver(shaper, b"data") for _ in range(3)] == [[b"data"]] * 3
    assert not shaper.active


def test_past_stop_the_data_is_passed_on_uncopied() -> None:
    shaper = shaper_for(stop=1)
    data = bytes(100)
    assert deliver(shaper, data)[0] is data


def test_deliveries_are_kept_as_asked_for_and_as_written() -> None:
    shaper = Shaper(PaddingScheme.parse(b"stop=3\n0=30-30\n1=10-10,c,20-20\n2=4-4,c,9-9,50-50\n"), PADDING_FRAMES)
    shaper.draw_auth_padding()
    deliver(shaper, bytes(100))
    deliver(shaper, bytes(5))
    deliver(shaper, bytes(12))
    deliver(shaper, bytes(12))
    assert shaper.deliveries == [
        Delivery(0, (30,), (100,)),
        Delivery(1, (10, C, 20), (10,)),
        Delivery(2, (4, C, 9, 50), (4, 8, 53)),
    ]


def test_only_the_first_deliveries_are_kept() -> None:
    shaper = Shaper(PaddingScheme.parse(b"stop=1000000\n"), PADDING_FRAMES)
    for _ in range(1000):
        deliver(shaper, b"x")
    assert [delivery.index for delivery in shaper.deliveries] == list(range(32))


# Memory

#: A legal scheme: 64 KiB of text that ask for 341 MiB.
LARGE = b"stop=2\n1=" + b",".join([b"65535-65535"] * 5458) + b"\n"


def test_one_write_is_made_at_a_time() -> None:
    shaper = Shaper(PaddingScheme.parse(LARGE), PADDING_FRAMES)
    deliver(shaper, b"first")
    tracemalloc.start()
    try:
        writes = shaper.shape(bytes(100_000))
        total = sum(len(write) for write in writes)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Two Writes of data, the second of them padded, and PADDING frames whose headers are not part of the size.
    assert total == 2 * 65535 + 5456 * (65535 + 6)
    # The sizes, one Write while the next one is created, and the data.
    assert most < 1_000_000


def test_a_write_that_failed_is_in_no_counter() -> None:
    shaper = shaper_for(10, 20, 30, 40)
    writes = shaper.shape(b"0123456789x")
    assert [len(next(writes)) for _ in range(2)] == [10, 20]
    # The second one fails.
    assert isinstance(writes, Generator)
    writes.close()
    assert (shaper.padding_frames, shaper.padding_bytes) == (0, 0)
    assert shaper.deliveries[1] == Delivery(1, (10, 20, 30, 40), (10,))
    assert not shaper.active


def test_counters_say_what_has_gone_out_up_to_now() -> None:
    shaper = shaper_for(10, 20, 30)
    seen = [
        (shaper.padding_frames, shaper.padding_bytes, shaper.deliveries[1].written) for _ in shaper.shape(b"0123456789")
    ]
    assert seen == [(0, 0, ()), (0, 0, (10,)), (1, 23, (10, 23))]
    assert (shaper.padding_frames, shaper.padding_bytes) == (2, 23 + 33)
    assert shaper.deliveries[1].written == (10, 23, 33)


def test_delivers_of_many_sizes_are_not_kept() -> None:
    for many, kept in ((1019, [0, 1, 2, 3, 4]), (1020, [0, 1, 2, 3]), (1021, [0, 1, 2, 3]), (1022, [0, 1, 2])):
        line = ",".join(["1-1"] * many)
        scheme = PaddingScheme.parse(f"stop=5\n0=1-1\n1=1-1\n2=1-1\n3={line}\n4=1-1,1-1\n".encode())
        shaper = Shaper(scheme, PADDING_FRAMES)
        shaper.draw_auth_padding()
        for _ in range(5):
            deliver(shaper, b"x")
        # One each for the first three, and the rest of 1,024. No deliver is kept after a gap.
        assert [delivery.index for delivery in shaper.deliveries] == kept


# The built-in scheme


@pytest.mark.parametrize("draw", [lambda _bound: 0, lambda bound: bound - 1, secrets.randbelow])
def test_the_built_in_scheme_gives_small_frames_the_sizes_it_asks_for(draw: Callable[[int], int]) -> None:
    shaper = Shaper(PaddingScheme.DEFAULT, PADDING_FRAMES, randbelow=draw)
    assert shaper.draw_auth_padding() == 30
    first = bytes(150)
    assert deliver(shaper, first) == [first]
    expected = [[(100, 400)], [(400, 500)], [(9, 10), (504, 1004)], *[[(500, 1000)]] * 4]
    for ranges in expected:
        writes = lengths(deliver(shaper, b"\x09\x01" if len(ranges) == 1 else bytes(9)))
        assert len(writes) == len(ranges)
        for size, (low, high) in zip(writes, ranges, strict=True):
            assert low <= size < high
    assert not shaper.active


def test_the_built_in_scheme_cuts_large_frames_into_the_sizes_it_asks_for() -> None:
    shaper = Shaper(PaddingScheme.DEFAULT, PADDING_FRAMES, randbelow=lambda _bound: 0)
    data = bytes(10_000)
    assert [lengths(deliver(shaper, data)) for _ in range(9)] == [
        [10_000],
        [100, 9900],
        [400, 500, 500, 500, 500, 7600],
        [9, 500, 9491],
        *[[500, 9500]] * 4,
        [10_000],
    ]


def test_sizes_are_drawn_by_a_cryptographically_secure_generator() -> None:
    assert inspect.signature(Shaper).parameters["randbelow"].default is secrets.randbelow


# Any scheme

SIZES = st.lists(st.integers(1, 1500) | st.integers(0, 70) | st.just("c"), max_size=8)
# The rest of the data at a size is small in half of the examples.
LENGTHS = st.integers(1, 3000) | st.integers(1, 80)


@given(LENGTHS, SIZES)
@example(10, [10 + 66])
@example(10, [10 + 67])
@example(10, [10 + 16387])
@example(10, [10 + 16388])
def test_writes_have_the_sizes_that_the_protocol_gives_them(length: int, sizes: Sizes) -> None:
    data = bytes(index & 0xFF for index in range(length))
    shaper = shaper_for(*sizes)
    writes = deliver(shaper, data)
    expected = model(length, sizes)
    assert lengths(writes) == [own + padding for own, padding in expected]
    assert all(writes)
    # Each Write is the next bytes of the deliver, followed by at most one PADDING frame.
    position = 0
    for write, (own, padding) in zip(writes, expected, strict=True):
        assert write[:own] == data[position : position + own]
        position += own
        if padding:
            decoder = FrameDecoder()
            assert joined(decoder.decode(write[own:])) == [(0x05, 0, None)]
            assert decoder.frames[0x05] == 1
    assert position == length
    assert shaper.padding_bytes == sum(padding for _, padding in expected)
    assert shaper.padding_frames == sum(padding > 0 for _, padding in expected)


FRAMES = st.lists(st.binary(max_size=300) | st.none(), min_size=1, max_size=8)
LINES = st.lists(SIZES, max_size=8)


@given(FRAMES, LINES, st.integers(0, 10))
def test_only_padding_is_added_to_what_is_delivered(
    payloads: list[bytes | None], lines: list[Sizes], stop: int
) -> None:
    text = f"stop={stop}\n" + "".join(
        f"{index}={','.join(size if isinstance(size, str) else f'{size}-{size}' for size in sizes)}\n"
        for index, sizes in enumerate(lines)
        if sizes
    )
    shaper = Shaper(PaddingScheme.parse(text.encode()), PADDING_FRAMES)
    decoder = FrameDecoder()
    reports: list[tuple[int, int, Any]] = []
    expected: list[tuple[int, int, bytes | None]] = []
    for stream_id, payload in enumerate(payloads, 1):
        if payload is None:
            data = b"\x0c" + number(stream_id)
            expected.append((0x0C, stream_id, None))
        else:
            data = b"\x0a" + number(stream_id) + number(len(payload)) + payload
            expected.append((0x0A, stream_id, payload))
        for write in deliver(shaper, data):
            reports += decoder.decode(write)
    assert joined(report for report in reports if report[0] != 0x05) == expected
    assert decoder.frames[0x05] == shaper.padding_frames
    assert decoder.frames[0x0C] + decoder.frames[0x0A] == len(payloads)
    assert sum(decoder.frames) == len(payloads) + shaper.padding_frames
