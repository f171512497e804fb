"""Data blocks (spec: Appendix A and B; protocol: 3)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioanytls._protocol import data_blocks
from trioanytls._protocol.exceptions import AnyTLSError, DataBlockError

# Appendix A

EXAMPLE = b"proto=anytls\nversion=1,2,3\nframing=stream,obfs\ncipher=chacha20-poly1305\n"
EXAMPLE_PARSED = {
    "proto": ("anytls",),
    "version": ("1", "2", "3"),
    "framing": ("stream", "obfs"),
    "cipher": ("chacha20-poly1305",),
}


def test_the_example_of_appendix_a() -> None:
    parsed = data_blocks.parse_key_values(EXAMPLE)
    assert parsed == EXAMPLE_PARSED
    assert list(parsed) == list(EXAMPLE_PARSED)


def test_the_last_line_feed_may_be_missing_and_is_always_written() -> None:
    # The only exception to the strictness (protocol: 3).
    assert data_blocks.parse_key_values(EXAMPLE.removesuffix(b"\n")) == EXAMPLE_PARSED
    assert data_blocks.format_key_values(EXAMPLE_PARSED) == EXAMPLE


@pytest.mark.parametrize(
    ("block", "parsed"),
    [
        (b"v=1\n", {"v": ("1",)}),
        (b"a==\n", {"a": ("=",)}),
        (b"a=b=c,d=\n", {"a": ("b=c", "d=")}),
        (b"key=1\nKEY=1\nKey=1\n", {"key": ("1",), "KEY": ("1",), "Key": ("1",)}),
        (b"!=~\n~=!\n", {"!": ("~",), "~": ("!",)}),
        (b"a=1,1,1", {"a": ("1", "1", "1")}),
    ],
    ids=["one line", "equals sign as value", "equals signs in values", "case", "ends of the range", "same values"],
)
def test_what_appendix_a_allows(block: bytes, parsed: dict[str, tuple[str, ...]]) -> None:
    assert data_blocks.parse_key_values(block) == parsed


@pytest.mark.parametrize(
    ("block", "line", "rule"),
    [
        # Line Structure: one or more lines.
        (b"", 0, "block is empty"),
        # Rule 1: no equals sign.
        (b"a\n", 1, "no equals sign"),
        (b"a=1\nb\n", 2, "no equals sign"),
        (b"\n", 1, "no equals sign"),
        (b"a=1\n\n", 2, "no equals sign"),
        (b"a=1\n\nb=1\n", 2, "no equals sign"),
        (b"\na=1\n", 1, "no equals sign"),
        # Rule 2: a duplicate key.
        (b"a=1\na=1\n", 2, "duplicate key"),
        (b"a=1\nb=2\nc=3\nb=4", 4, "duplicate key"),
        # Rule 3: empty keys and values.
        (b"=1\n", 1, "key is empty"),
        (b"==\n", 1, "key is empty"),
        (b"a=\n", 1, "empty value"),
        (b"a=", 1, "empty value"),
        (b"a=,\n", 1, "empty value"),
        (b"a=1,\n", 1, "empty value"),
        (b"a=,1\n", 1, "empty value"),
        (b"a=1,,2\n", 1, "empty value"),
        # Rule 4: forbidden characters.
        (b"a,b=1\n", 1, "comma"),
        (b",=1\n", 1, "comma"),
        # Rule 5: outside the range. The appendix lists CR and the BOM separately.
        (b"a=1\r\n", 1, "0x0d"),
        (b"a=1\rb=2\n", 1, "0x0d"),
        (b"a=1\nb=\t\n", 2, "0x09"),
        (b"a=1\nb=\x00\n", 2, "0x00"),
        (b"a=\x7f\n", 1, "0x7f"),
        (b"a=\x80\n", 1, "0x80"),
        (b"a=\xff\n", 1, "0xff"),
        ("a=ä\n".encode(), 1, "0xc3"),
        (b"\xef\xbb\xbfa=1\n", 1, "byte order mark"),
        (b"a=1\n\xef\xbb\xbfb=1\n", 2, "0xef"),
        # Rule 6: spaces.
        (b"a =1\n", 1, "0x20"),
        (b"a= 1\n", 1, "0x20"),
        (b"a=1 \n", 1, "0x20"),
        (b" a=1\n", 1, "0x20"),
        (b"a=1\n \n", 2, "0x20"),
        (b"a=1\nb=1,2\nc=1, 2", 3, "0x20"),
    ],
)
def test_what_appendix_a_says_must_be_rejected_is(block: bytes, line: int, rule: str) -> None:
    """Spec: Appendix A / Validation Rules. The error names the line and the rule (protocol: 3)."""
    with pytest.raises(DataBlockError, match=re.escape(rule)) as caught:
        data_blocks.parse_key_values(block)
    assert caught.value.line == line
    assert rule in caught.value.rule
    assert str(caught.value) == (f"line {line}: {caught.value.rule}" if line else caught.value.rule)


def test_data_block_errors_are_value_errors_too() -> None:
    assert issubclass(DataBlockError, ValueError)
    assert issubclass(DataBlockError, AnyTLSError)


def test_error_texts_can_be_sent_in_an_alert() -> None:
    for block in (b"a=\xff", b"\xef\xbb\xbf", b"a\x00=1", b"~'\"=1\n~'\"=1\n", b"~'\"="):
        with pytest.raises(DataBlockError) as caught:
            data_blocks.parse_key_values(block)
        assert data_blocks.format_text(str(caught.value)) == str(caught.value).encode()


# The grammar again, as one pattern.
_GRAMMAR = re.compile(rb"[!-+\--<>-~]+=[!-+\--~]+(,[!-+\--~]+)*")


def is_allowed(block: bytes) -> bool:
    lines = block.removesuffix(b"\n").split(b"\n")
    keys = [line.partition(b"=")[0] for line in lines]
    return all(_GRAMMAR.fullmatch(line) for line in lines) and len(set(keys)) == len(keys)


@given(st.binary(max_size=40) | st.lists(st.sampled_from(list(b"aab==,\n\n \r~\x7f\xc3\xa4")), max_size=14).map(bytes))
def test_key_value_blocks_are_accepted_exactly_if_the_grammar_allows_them(block: bytes) -> None:
    try:
        parsed = data_blocks.parse_key_values(block)
    except DataBlockError:
        assert not is_allowed(block)
    else:
        assert is_allowed(block)
        assert data_blocks.format_key_values(parsed) == block.removesuffix(b"\n") + b"\n"


KEYS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="=,"), min_size=1, max_size=8)
VALUES = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=","), min_size=1, max_size=8)


@given(st.dictionaries(KEYS, st.lists(VALUES, min_size=1, max_size=4).map(tuple), min_size=1, max_size=5))
def test_key_values_round_trip(pairs: dict[str, tuple[str, ...]]) -> None:
    block = data_blocks.format_key_values(pairs)
    assert block.endswith(b"\n")
    parsed = data_blocks.parse_key_values(block)
    assert parsed == pairs
    assert list(parsed) == list(pairs)


ANY_TEXT = st.text(max_size=5) | st.text("ab=, \n", max_size=5) | st.just("\ud800")


@given(st.dictionaries(ANY_TEXT, st.lists(ANY_TEXT, max_size=3), max_size=3))
def test_pairs_are_written_so_that_they_are_read_back_or_not_at_all(pairs: dict[str, list[str]]) -> None:
    try:
        block = data_blocks.format_key_values(pairs)
    except DataBlockError:
        return
    assert data_blocks.parse_key_values(block) == {key: tuple(values) for key, values in pairs.items()}


@pytest.mark.parametrize(
    "pairs",
    [
        {},
        {"a": []},
        {"": ["1"]},
        {"a": [""]},
        {"a=b": ["1"]},
        {"a,b": ["1"]},
        {"a\nb": ["1"]},
        {"a": ["1,2"]},
        {"a": ["1\nb=2"]},
        {"a": ["1 2"]},
        {"a": ["ä"]},
        {"a": ["\ud800"]},
    ],
)
def test_pairs_that_cannot_be_written_are_refused(pairs: dict[str, list[str]]) -> None:
    with pytest.raises(DataBlockError):
        data_blocks.format_key_values(pairs)


def test_values_may_come_from_an_iterator() -> None:
    assert data_blocks.format_key_values({"a": iter(["1", "2"])}) == b"a=1,2\n"


# Appendix B

TEXT_EXAMPLE = b"Hello AnyTLS\nthisis a raw text block\nno structure here\n"


def test_the_example_of_appendix_b() -> None:
    assert data_blocks.parse_text(TEXT_EXAMPLE) == TEXT_EXAMPLE.decode()
    assert data_blocks.format_text(TEXT_EXAMPLE.decode()) == TEXT_EXAMPLE


@pytest.mark.parametrize("block", [b"", b" ", b"\n", b"\n\n", b"a=b,c", bytes(range(0x20, 0x7F))])
def test_what_appendix_b_allows(block: bytes) -> None:
    assert data_blocks.parse_text(block) == block.decode("ascii")


@pytest.mark.parametrize(
    ("block", "line", "rule"),
    [
        # Rule 1: not UTF-8.
        (b"\xff", 1, "not valid UTF-8"),
        (b"ok\nnot \xc3", 2, "not valid UTF-8"),
        (b"\x80", 1, "not valid UTF-8"),
        # Rule 2: a BOM, at any position.
        (b"\xef\xbb\xbfok", 1, "byte order mark"),
        (b"ok\nok\n\xef\xbb\xbfok", 3, "byte order mark"),
        # Rule 3: control characters, including CR.
        (b"\x00", 1, "0x00"),
        (b"ok\r\n", 1, "0x0d"),
        (b"ok\nok\tok", 2, "0x09"),
        (b"\x1b[31m", 1, "0x1b"),
        (b"ok\n\x7f", 2, "0x7f"),
        # Encoding: no multi-byte characters.
        ("ä".encode(), 1, "multi-byte"),
        ("ok\n€".encode(), 2, "multi-byte"),
        ("ok\n😀".encode(), 2, "multi-byte"),
        # The error names the first violation.
        ("ä\n".encode() + b"\xff", 1, "multi-byte"),
        (b"\x00\xff", 1, "0x00"),
    ],
)
def test_what_appendix_b_says_must_be_rejected_is(block: bytes, line: int, rule: str) -> None:
    """Spec: Appendix B / Validation Rules. The error names the line and the rule (protocol: 3)."""
    with pytest.raises(DataBlockError, match=re.escape(rule)) as caught:
        data_blocks.parse_text(block)
    assert caught.value.line == line
    assert rule in caught.value.rule


@given(st.binary(max_size=40) | st.text(max_size=10).map(str.encode))
def test_text_blocks_are_accepted_if_every_byte_is_allowed(block: bytes) -> None:
    allowed = all(byte == 0x0A or 0x20 <= byte <= 0x7E for byte in block)
    try:
        assert data_blocks.parse_text(block).encode() == block
    except DataBlockError:
        assert not allowed
    else:
        assert allowed


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E) | st.just("\n"), max_size=40))
def test_text_round_trips(text: str) -> None:
    assert data_blocks.parse_text(data_blocks.format_text(text)) == text


@pytest.mark.parametrize("text", ["\r", "\x00", "ä", "\ufeff", "\ud800"])
def test_text_that_is_not_allowed_is_not_written(text: str) -> None:
    with pytest.raises(DataBlockError):
        data_blocks.format_text(text)
