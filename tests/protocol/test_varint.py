"""Variable-length integers (spec: Appendix C; protocol: 1)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioanytls._protocol.anytls1 import varint

from ..helpers.wire_bytes import byte_by_byte, number

# The examples of RFC 9000, and the limits of each form.
VECTORS = [
    (0, "00"),
    (37, "25"),
    (63, "3f"),
    (64, "4040"),
    (15293, "7bbd"),
    (16383, "7fff"),
    (16384, "80004000"),
    (494878333, "9d7f3e7d"),
    (1073741823, "bfffffff"),
    (1073741824, "c000000040000000"),
    (151288809941952652, "c2197c5eff14e88c"),
    (4611686018427387903, "ffffffffffffffff"),
]

VALUES = st.integers(0, 2**62 - 1) | st.integers(0, 70) | st.integers(16380, 16390)


@pytest.mark.parametrize(("value", "encoding"), VECTORS)
def test_vectors_are_written_in_the_shortest_form(value: int, encoding: str) -> None:
    assert varint.encode(value).hex() == encoding


@pytest.mark.parametrize(("value", "encoding"), VECTORS)
def test_vectors_are_read(value: int, encoding: str) -> None:
    data = bytes.fromhex(encoding)
    assert varint.decode(data) == (value, len(data))


def test_a_longer_form_than_needed_is_read() -> None:
    assert varint.decode(bytes.fromhex("4025")) == (37, 2)


@pytest.mark.parametrize("length", [1, 2, 4, 8])
@pytest.mark.parametrize("value", [0, 37, 63])
def test_every_form_of_one_value_is_written_and_read(value: int, length: int) -> None:
    data = varint.encode(value, length)
    assert len(data) == length
    assert data[0] >> 6 == {1: 0, 2: 1, 4: 2, 8: 3}[length]
    assert varint.decode(data) == (value, length)


@pytest.mark.parametrize(("value", "length"), [(63, 1), (2**14 - 1, 2), (2**30 - 1, 4), (2**62 - 1, 8)])
def test_each_form_holds_as_many_bits_as_the_table_says(value: int, length: int) -> None:
    assert len(varint.encode(value)) == length
    assert varint.encode(value, length) == varint.encode(value)
    with pytest.raises(ValueError, match="does not fit"):
        varint.encode(value + 1, length)


@pytest.mark.parametrize("value", [2**62, 2**64, 10**30, -1, -(2**62)])
@pytest.mark.parametrize("length", [None, 1, 2, 4, 8])
def test_what_no_form_holds_is_a_value_error(value: int, length: int | None) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        varint.encode(value, length)


@pytest.mark.parametrize("length", [-1, 0, 3, 5, 7, 9, 16])
def test_there_are_no_other_lengths(length: int) -> None:
    with pytest.raises(ValueError, match="1, 2, 4 or 8 bytes"):
        varint.encode(0, length)


@given(VALUES)
def test_round_trip(value: int) -> None:
    data = varint.encode(value)
    assert data == number(value)
    assert varint.decode(data) == (value, len(data))


@given(VALUES, st.sampled_from([1, 2, 4, 8]), st.binary(max_size=9), st.binary(max_size=9))
def test_round_trip_in_the_midst_of_other_bytes(value: int, length: int, before: bytes, after: bytes) -> None:
    if value >= 1 << (8 * length - 2):
        length = 8
    data = varint.encode(value, length)
    for kind in (bytes, bytearray, memoryview):
        assert varint.decode(kind(before + data + after), len(before)) == (value, len(before) + length)


@given(VALUES, st.sampled_from([1, 2, 4, 8]))
def test_byte_by_byte_it_is_read_with_its_last_byte(value: int, length: int) -> None:
    if value >= 1 << (8 * length - 2):
        length = 8
    fed = b""
    for byte in byte_by_byte(number(value, length)):
        assert varint.decode(fed) is None
        fed += byte
    assert varint.decode(fed) == (value, length)


def test_there_is_nothing_to_read_at_the_end() -> None:
    assert varint.decode(b"") is None
    assert varint.decode(b"\x25", 1) is None
    assert varint.decode(b"\x25", 7) is None


@given(VALUES, st.sampled_from([1, 2, 4, 8]), st.binary(max_size=4))
def test_the_lower_bound_rises_to_the_value(value: int, length: int, before: bytes) -> None:
    if value >= 1 << (8 * length - 2):
        length = 8
    data = number(value, length)
    bounds = [varint.lower_bound(before + data[:known], len(before)) for known in range(length + 1)]
    assert bounds == sorted(bounds)
    assert bounds[0] == 0
    assert bounds[-1] == value
    assert varint.lower_bound(before + data + b"\xff", len(before)) == value


@given(st.binary(min_size=1, max_size=8))
def test_the_lower_bound_is_what_zeros_would_complete(prefix: bytes) -> None:
    smallest = varint.decode(prefix + bytes(8))
    assert smallest is not None
    assert varint.lower_bound(prefix) == smallest[0]
