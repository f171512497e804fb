"""Padding schemes as the programs in the field read them (legacy: 4)."""

from __future__ import annotations

import hashlib

import pytest

from trioanytls._protocol.exceptions import SchemeError
from trioanytls._protocol.legacy.scheme import parse_scheme
from trioanytls._protocol.padding_scheme import Mark, PaddingScheme, SizeRange

DEFAULT = PaddingScheme.DEFAULT.text


def test_the_default_is_that_of_the_field() -> None:
    assert len(DEFAULT) == 137
    assert not DEFAULT.endswith(b"\n")
    assert parse_scheme(DEFAULT).digest == PaddingScheme.DEFAULT.digest == "75cff2ad89aadf5e257059ee571ebe11"
    assert parse_scheme(DEFAULT) == PaddingScheme.DEFAULT
    assert parse_scheme(DEFAULT).lines == PaddingScheme.DEFAULT.lines


@pytest.mark.parametrize("text", [b"stop=2\n", b"stop=2", b"x\nstop=2\n1=c\n\n", b"stop=2\r\nstop=3"])
def test_the_digest_is_that_of_the_bytes_as_received(text: bytes) -> None:
    scheme = parse_scheme(text)
    assert scheme.digest == hashlib.md5(text).hexdigest()
    assert scheme.text == text


@pytest.mark.parametrize(
    ("line", "sizes"),
    [
        ("30-30", (SizeRange(30, 30),)),
        ("400-500,c,500-1000", (SizeRange(400, 500), Mark.CHECK, SizeRange(500, 1000))),
        ("500-400", (SizeRange(400, 500),)),
        # Everything that is not `min-max` or `c` is skipped.
        ("30", ()),
        ("a-b,9-9", (SizeRange(9, 9),)),
        (" 30-30,9-9 ,9-10", (SizeRange(9, 10),)),
        ("0-10,-5-10,10-0,1-1", (SizeRange(1, 1),)),
        ("", ()),
        ("c,c", (Mark.CHECK, Mark.CHECK)),
        ("1-2-3,C,1--3", ()),
    ],
)
def test_a_line(line: str, sizes: tuple[SizeRange | Mark, ...]) -> None:
    assert parse_scheme(f"stop=8\n3={line}".encode()).lines[3] == sizes


def test_only_stop_has_to_be_there() -> None:
    scheme = parse_scheme(b"junk\nstop=3\nfoo=bar\n01=5-5\n-1=5-5\n2=7-7\n2=8-8")
    assert (scheme.stop, dict(scheme.lines)) == (3, {2: (SizeRange(8, 8),)})


@pytest.mark.parametrize("stop", ["", "x", "-1", "1.5", " 3", "99999999999", "3\r"])
def test_an_invalid_stop_is_an_error(stop: str) -> None:
    with pytest.raises(SchemeError, match="invalid stop"):
        parse_scheme(f"stop={stop}\n0=30-30".encode())
    with pytest.raises(SchemeError, match="invalid stop ''"):
        parse_scheme(b"0=30-30")


def test_a_size_that_no_waste_frame_can_have_is_an_error() -> None:
    assert parse_scheme(b"stop=2\n1=65535-65535").lines[1] == (SizeRange(65535, 65535),)
    with pytest.raises(SchemeError, match="invalid size '1-65536'"):
        parse_scheme(b"stop=2\n1=1-65536")
