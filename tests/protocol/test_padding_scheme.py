"""Padding schemes (spec: Legacy Traffic Shaping Scheme v0; protocol: 3 and 6)."""

from __future__ import annotations

import hashlib
import inspect
import re
import secrets
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.exceptions import AnyTLSError, SchemeError
from trioanytls._protocol.padding_scheme import Mark, PaddingScheme, SizeRange

from ..helpers.wire_bytes import DEFAULT_DIGEST

# The built-in scheme of all implementations (protocol: 6).
BUILT_IN = b"""\
stop=8
0=30-30
1=100-400
2=400-500,c,500-1000,c,500-1000,c,500-1000,c,500-1000
3=9-9,500-1000
4=500-1000
5=500-1000
6=500-1000
7=500-1000
"""


def test_the_built_in_scheme_is_the_one_that_is_built_in_everywhere() -> None:
    scheme = PaddingScheme.DEFAULT
    assert scheme.digest == DEFAULT_DIGEST
    assert scheme.to_bytes() == BUILT_IN
    assert scheme.stop == 8
    big = SizeRange(500, 1000)
    check = Mark.CHECK
    assert scheme.lines == {
        0: (SizeRange(30, 30),),
        1: (SizeRange(100, 400),),
        2: (SizeRange(400, 500), check, big, check, big, check, big, check, big),
        3: (SizeRange(9, 9), big),
        4: (big,),
        5: (big,),
        6: (big,),
        7: (big,),
    }


@pytest.mark.parametrize("text", [BUILT_IN, BUILT_IN.removesuffix(b"\n")], ids=["with", "without"])
def test_the_digest_is_the_same_with_and_without_the_last_line_feed(text: bytes) -> None:
    scheme = PaddingScheme.parse(text)
    assert scheme.digest == DEFAULT_DIGEST == hashlib.md5(BUILT_IN[:-1], usedforsecurity=False).hexdigest()
    assert scheme == PaddingScheme.DEFAULT
    assert hash(scheme) == hash(PaddingScheme.DEFAULT)
    assert scheme.to_bytes() == BUILT_IN


def test_the_digest_is_that_of_the_text_as_it_was_read() -> None:
    # The same sizes in another spelling are a different text, with a different digest.
    one, other = PaddingScheme.parse(b"stop=2\n1=5-9\n"), PaddingScheme.parse(b"stop=2\n1=9-5\n")
    assert one.lines == other.lines
    assert one != other
    assert one.digest != other.digest
    assert other.to_bytes() == b"stop=2\n1=9-5\n"


def test_a_scheme_equals_nothing_but_schemes() -> None:
    assert PaddingScheme.DEFAULT != BUILT_IN
    assert repr(PaddingScheme.DEFAULT) == f"<PaddingScheme {DEFAULT_DIGEST} stop=8>"


def test_a_scheme_cannot_be_changed() -> None:
    scheme: Any = PaddingScheme.parse(b"stop=2\n1=5-9\n")
    with pytest.raises(AttributeError):
        scheme.stop = 3
    with pytest.raises(TypeError):
        scheme.lines[1] = ()


@pytest.mark.parametrize(
    ("text", "stop", "lines"),
    [
        (b"stop=0", 0, {}),
        (b"stop=1\n", 1, {}),
        (b"stop=1073741824\n1=65535-65535\n", 1 << 30, {1: (SizeRange(65535, 65535),)}),
        (b"0=30-30\nstop=8\n", 8, {0: (SizeRange(30, 30),)}),
        # Lines beyond `stop`, gaps, any order.
        (b"stop=2\n9=1-2\n4=c\n", 2, {9: (SizeRange(1, 2),), 4: (Mark.CHECK,)}),
        # Swapped bounds are put in order.
        (b"stop=2\n1=400-100,0-0\n", 2, {1: (SizeRange(100, 400), SizeRange(0, 0))}),
        (b"stop=2\n1=c,c,5-6,c\n", 2, {1: (Mark.CHECK, Mark.CHECK, SizeRange(5, 6), Mark.CHECK)}),
    ],
)
def test_what_a_scheme_can_say(text: bytes, stop: int, lines: dict[int, object]) -> None:
    scheme = PaddingScheme.parse(text)
    assert scheme.stop == stop
    assert scheme.lines == lines


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        # Not a block.
        (b"", "block is empty"),
        (b"stop=8\n\n", "line 2: the line has no equals sign"),
        (b"stop=8\n1=100-400\n1=100-400\n", "line 3: duplicate key '1'"),
        (b"stop=8\n1=100 - 400\n", "line 2: the byte 0x20"),
        (b"stop=8\r\n1=100-400\r\n", "line 1: the byte 0x0d"),
        (b"stop=8\n1=\n", "line 2: the key '1' has an empty value"),
        (b"stop=8\n1=100-400,\n", "line 2: the key '1' has an empty value"),
        # stop.
        (b"1=100-400\n", "'stop' is missing"),
        (b"stop=8,9\n", "line 1: stop must have one value, not 2"),
        (b"stop=c\n", "line 1: invalid number 'c'"),
        (b"stop=-1\n", "line 1: invalid number '-1'"),
        (b"stop=+8\n", "line 1: invalid number '+8'"),
        (b"stop=08\n", "line 1: invalid number '08'"),
        (b"stop=0x8\n", "line 1: invalid number '0x8'"),
        (b"stop=8.0\n", "line 1: invalid number '8.0'"),
        (b"stop=99999999999\n", "line 1: invalid number '99999999999'"),
        (b"stop=1073741825\n", "line 1: invalid number '1073741825': expected an integer from 0 to 1073741824"),
        # Keys.
        (b"stop=8\nSTOP=8\n", "line 2: invalid key 'STOP'"),
        (b"stop=8\nx=1-2\n", "line 2: invalid key 'x'"),
        (b"stop=8\n-1=1-2\n", "line 2: invalid key '-1'"),
        (b"stop=8\n01=1-2\n", "line 2: invalid key '01'"),
        # Sizes.
        (b"stop=8\n1=100\n", "line 2: invalid size '100'"),
        (b"stop=8\n0=1-2\n1=1-2,C\n", "line 3: invalid size 'C'"),
        (b"stop=8\n1=cc\n", "line 2: invalid size 'cc'"),
        (b"stop=8\n1=-\n", "line 2: invalid number ''"),
        (b"stop=8\n1=5-\n", "line 2: invalid number ''"),
        (b"stop=8\n1=-5\n", "line 2: invalid number ''"),
        (b"stop=8\n1=1-2-3\n", "line 2: invalid number '2-3'"),
        (b"stop=8\n1=a-b\n", "line 2: invalid number '"),
        (b"stop=8\n1=1-2,500-1e3\n", "line 2: invalid number '1e3'"),
        (b"stop=8\n1=1-65536\n", "line 2: invalid number '65536': expected an integer from 0 to 65535"),
        (b"stop=8\n1=1-99999999\n", "line 2: invalid number '99999999': expected an integer from 0 to 65535"),
        ("stop=8\n1=٣-٤\n".encode(), "line 2: the byte 0xd9"),
        # Too long for the frame that carries it.
        (b"stop=8\n1=" + b"c," * 32768 + b"c\n", "exceeds the limit of 65536"),
    ],
)
def test_what_is_not_a_scheme_is_refused_by_line_and_reason(text: bytes, reason: str) -> None:
    with pytest.raises(SchemeError, match=re.escape(reason)):
        PaddingScheme.parse(text)


def test_scheme_errors_are_value_errors_too() -> None:
    assert issubclass(SchemeError, ValueError)
    assert issubclass(SchemeError, AnyTLSError)


def test_sizes_are_drawn_from_the_lower_end_to_below_the_upper_one() -> None:
    asked: list[int] = []

    def lowest(bound: int) -> int:
        asked.append(bound)
        return 0

    scheme = PaddingScheme.parse(b"stop=2\n1=100-400,c,9-9,7-8\n")
    assert scheme.draw(1, lowest) == [100, Mark.CHECK, 9, 7]
    # Equal bounds leave nothing to draw. If they differ by one, the lower one is the only size.
    assert asked == [300, 1]
    assert scheme.draw(1, lambda bound: bound - 1) == [399, Mark.CHECK, 9, 7]


def test_every_size_of_a_range_is_drawn_and_no_other() -> None:
    scheme = PaddingScheme.parse(b"stop=2\n1=9-5\n")
    assert {scheme.draw(1)[0] for _ in range(500)} == {5, 6, 7, 8}


def test_sizes_are_drawn_by_a_cryptographically_secure_generator() -> None:
    assert inspect.signature(PaddingScheme.draw).parameters["randbelow"].default is secrets.randbelow


def test_a_line_that_the_scheme_lacks_has_no_sizes() -> None:
    assert PaddingScheme.DEFAULT.draw(8) == []
    assert PaddingScheme.DEFAULT.draw(10**9) == []


@pytest.mark.parametrize(
    ("size", "largest", "text"),
    [(SizeRange(100, 400), 399, "100-400"), (SizeRange(9, 9), 9, "9-9"), (SizeRange(0, 0), 0, "0-0")],
)
def test_a_range_knows_its_largest_size_and_its_text(size: SizeRange, largest: int, text: str) -> None:
    assert size.largest == largest
    assert str(size) == text
    assert str(Mark.CHECK) == "c"


def scheme_of_size(size: int) -> bytes:
    """Return a scheme's text of this many bytes, without a last LF."""
    start = b"stop=8\n1=" if size % 2 == 0 else b"stop=10\n1="
    text = start + b",".join([b"c"] * ((size - len(start) + 1) // 2))
    assert len(text) == size
    return text


@pytest.mark.parametrize("last", [b"", b"\n"], ids=["without its last LF", "with it"])
@pytest.mark.parametrize("size", [65534, 65535])
def test_a_scheme_as_large_as_its_frame_can_be_sent_and_read_again(size: int, last: bytes) -> None:
    scheme = PaddingScheme.parse(scheme_of_size(size) + last)
    frames.encode_padding_update_scheme(scheme.to_bytes())
    assert PaddingScheme.parse(scheme.to_bytes()) == scheme


@pytest.mark.parametrize("last", [b"", b"\n"], ids=["without its last LF", "with it"])
def test_a_scheme_too_large_for_its_frame_is_refused_when_it_is_read(last: bytes) -> None:
    # With the LF, which is always sent, it has 65537 bytes. A server must reject it before its first client connects.
    with pytest.raises(SchemeError, match="exceeds the limit of 65536"):
        PaddingScheme.parse(scheme_of_size(65536) + last)


SIZES = st.tuples(st.integers(0, 65535), st.integers(0, 65535)).map(lambda ends: f"{ends[0]}-{ends[1]}") | st.just("c")
LINES = st.dictionaries(st.integers(0, 40), st.lists(SIZES, min_size=1, max_size=6), max_size=6)


@given(st.integers(0, 1 << 20), LINES)
def test_schemes_round_trip(stop: int, lines: dict[int, list[str]]) -> None:
    text = f"stop={stop}\n" + "".join(f"{index}={','.join(sizes)}\n" for index, sizes in lines.items())
    scheme = PaddingScheme.parse(text.encode())
    assert scheme.to_bytes() == text.encode()
    assert scheme.stop == stop
    assert scheme.lines.keys() == lines.keys()
    again = PaddingScheme.parse(scheme.to_bytes())
    assert again == scheme
    assert again.digest == scheme.digest
    for index, sizes in lines.items():
        drawn = scheme.draw(index)
        assert len(drawn) == len(sizes)
        for size, text_of_size in zip(drawn, sizes, strict=True):
            if text_of_size == "c":
                assert size is Mark.CHECK
            else:
                low, high = sorted(map(int, text_of_size.split("-")))
                assert isinstance(size, int)
                assert low <= size < max(high, low + 1)


@given(st.binary(max_size=60) | st.text("stop=0123456789-c,\n", max_size=30).map(str.encode))
def test_no_bytes_raise_anything_but_a_scheme_error(text: bytes) -> None:
    try:
        scheme = PaddingScheme.parse(text)
    except SchemeError:
        return
    assert scheme.to_bytes() == text.removesuffix(b"\n") + b"\n"
