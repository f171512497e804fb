"""Packets padded with Waste: the examples of what real programs send (legacy: 4)."""

from __future__ import annotations

import pytest

from trioanytls._protocol.legacy import frames
from trioanytls._protocol.legacy.frames import Command
from trioanytls._protocol.legacy.padding import PADDING_FRAMES
from trioanytls._protocol.legacy.scheme import parse_scheme
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._protocol.traffic_shaper import Shaper

SYN = frames.encode(Command.SYN, 1)


def packets(text: bytes, *data: bytes) -> list[list[bytes]]:
    """Return the Writes of each packet, from packet 1 on, with the smallest size of each."""
    shaper = Shaper(parse_scheme(text), PADDING_FRAMES, randbelow=lambda _bound: 0)
    assert list(shaper.shape(b"preamble")) == [b"preamble"]
    return [list(shaper.shape(one)) for one in data]


def sizes(writes: list[bytes]) -> list[int]:
    return [len(write) for write in writes]


def test_fin_as_packet_3_of_the_default_scheme() -> None:
    fin = frames.encode(Command.FIN, 1)
    writes = packets(PaddingScheme.DEFAULT.text, b"1" * 200, b"2" * 500, fin)[2]
    # 9 is only 2 more than FIN: there is no room for a header, so it is written short.
    assert sizes(writes) == [7, 507]
    assert writes == [fin, frames.encode_waste(500)]


def test_107_bytes_as_packet_3_of_the_default_scheme() -> None:
    writes = packets(PaddingScheme.DEFAULT.text, b"1" * 200, b"2" * 500, b"x" * 107)[2]
    assert sizes(writes) == [9, 500]
    assert writes[1] == b"x" * 98 + frames.encode_waste(500 - 98 - 7)


def test_3007_bytes_as_packet_2_of_the_default_scheme() -> None:
    writes = packets(PaddingScheme.DEFAULT.text, b"1" * 200, b"x" * 3007)[1]
    assert sizes(writes) == [400, 500, 500, 500, 500, 607]
    assert b"".join(writes) == b"x" * 3007


def test_syn_with_two_sizes() -> None:
    writes = packets(b"stop=2\n1=40-40,120-120", SYN)[0]
    assert sizes(writes) == [40, 127]
    assert writes == [SYN + frames.encode_waste(26), frames.encode_waste(120)]


@pytest.mark.parametrize(("size", "written"), [(7, 7), (8, 7), (14, 7), (15, 15), (16, 16), (100, 100)])
def test_a_packet_that_is_short_by_a_header_is_written_short(size: int, written: int) -> None:
    [writes] = packets(f"stop=2\n1={size}-{size}".encode(), SYN)
    assert sizes(writes) == [written]
    assert writes[0] == SYN + (frames.encode_waste(size - 14) if written > 7 else b"")


def test_a_check_mark_ends_a_packet_that_has_nothing_left() -> None:
    text = b"stop=3\n1=50-50,c,60-60\n2=5-5,c,60-60"
    first, second = packets(text, SYN, SYN)
    assert sizes(first) == [50]
    assert sizes(second) == [5, 60]


def test_a_line_that_is_lacking_is_one_plain_write_and_so_is_what_comes_after_stop() -> None:
    data = SYN * 3
    assert packets(b"stop=3\n1=9-9", data, data, data) == [[data[:9], data[9:]], [data], [data]]


def test_a_new_scheme_shapes_the_next_packet() -> None:
    shaper = Shaper(parse_scheme(b"stop=2\n1=20-20"), PADDING_FRAMES, randbelow=lambda _bound: 0)
    list(shaper.shape(b"preamble"))
    assert sizes(list(shaper.shape(SYN))) == [20]
    assert not shaper.active
    shaper.scheme = parse_scheme(b"stop=4\n2=30-30\n3=c")
    assert shaper.active
    assert sizes(list(shaper.shape(SYN))) == [30]


def test_counters() -> None:
    shaper = Shaper(parse_scheme(b"stop=2\n1=20-20,30-30"), PADDING_FRAMES)
    list(shaper.shape(b"preamble"))
    list(shaper.shape(SYN))
    assert (shaper.padding_frames, shaper.padding_bytes) == (2, 13 + 37)
