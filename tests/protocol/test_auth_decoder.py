"""The incremental decoder of AUTH (spec: AUTH Frame; protocol: 2 and 4)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioanytls._protocol.anytls1.auth_decoder import AuthDecoder
from trioanytls._protocol.exceptions import AuthenticationFailed

from ..helpers.wire_bytes import AUTH, CountingBytearray, Pieces, byte_by_byte, cuts, number, ways

LIMIT = 65536

HASH = AUTH[2:34]


def auth_of(data: Pieces) -> AuthDecoder:
    decoder = AuthDecoder()
    for piece in data:
        assert decoder.rest is None
        decoder.feed(piece)
    return decoder


def test_the_auth_vector_whole_byte_by_byte_and_in_two() -> None:
    for pieces in ways(AUTH):
        decoder = auth_of([piece for piece in pieces if piece])
        assert decoder.password_hash == HASH
        assert decoder.rest == b""
        assert bytes(decoder.received) == AUTH


@pytest.mark.parametrize("trailing", [b"\x03", bytes.fromhex("030004763d310a"), AUTH, b"\xff" * 100])
def test_auth_with_trailing_data(trailing: bytes) -> None:
    decoder = auth_of([AUTH + trailing])
    assert decoder.password_hash == HASH
    assert decoder.rest == trailing
    for position in range(1, len(AUTH)):
        assert auth_of([AUTH[:position], AUTH[position:] + trailing]).rest == trailing


def test_the_hash_is_known_with_its_last_byte_and_the_rest_with_the_paddings() -> None:
    decoder = AuthDecoder()
    for index, byte in enumerate(byte_by_byte(AUTH)):
        decoder.feed(byte)
        assert decoder.password_hash == (HASH if index >= 33 else None)
        assert decoder.rest == (b"" if index == len(AUTH) - 1 else None)


@pytest.mark.parametrize("padding", [0, 1, 63, 64, 16384, LIMIT - 1, LIMIT])
@pytest.mark.parametrize("form", [1, 2, 4, 8])
def test_auth_with_any_padding_up_to_the_limit(padding: int, form: int) -> None:
    if padding >= 1 << (8 * form - 2):
        return
    data = b"\x00\x00" + HASH + number(padding, form) + bytes(padding)
    for pieces in ([data], [data[:30], data[30:]], [data[:-1], data[-1:]]):
        assert auth_of(pieces).rest == b""
    assert auth_of([data + b"more"]).rest == b"more"


ZEROS = ["00", "4000", "80000000", "c000000000000000"]


def fails_at(prefix: bytes) -> bool:
    """Return whether these bytes are rejected at the last one. None of the others may be rejected."""
    decoder = AuthDecoder()
    decoder.feed(prefix[:-1])
    try:
        decoder.feed(prefix[-1:])
    except AuthenticationFailed:
        # The same holds if all bytes arrive at once.
        with pytest.raises(AuthenticationFailed):
            AuthDecoder().feed(prefix)
        with pytest.raises(AuthenticationFailed):
            AuthDecoder().feed(prefix + bytes(100))
        return True
    return False


@pytest.mark.parametrize("kind", ZEROS)
@pytest.mark.parametrize("stream_id", ZEROS)
def test_auth_fails_at_the_first_byte_that_cannot_belong_to_one(kind: str, stream_id: str) -> None:
    """Protocol: 4. Type and stream id are 0, in any form of the integer."""
    header = bytes.fromhex(kind + stream_id)
    beginnings = {
        bytes.fromhex(one + other)[:length] for one in ZEROS for other in ZEROS for length in range(1, len(header) + 1)
    }
    for position in range(len(header)):
        for byte in range(256):
            prefix = header[:position] + bytes([byte])
            assert fails_at(prefix) == (prefix not in beginnings), prefix.hex()


@pytest.mark.parametrize("form", [1, 2, 4, 8])
def test_auth_fails_at_the_first_byte_that_makes_its_padding_too_long(form: int) -> None:
    """Protocol: 2 and 4. Padding longer than 64 KiB fails the authentication."""
    start = b"\x00\x00" + HASH
    length = number(min(LIMIT, (1 << (8 * form - 2)) - 1), form)
    for position in range(form):
        for byte in range(256):
            prefix = length[:position] + bytes([byte])
            whole = 1 << (prefix[0] >> 6)
            smallest = int.from_bytes(prefix.ljust(whole, b"\0"), "big") & ((1 << (8 * whole - 2)) - 1)
            assert fails_at(start + prefix) == (smallest > LIMIT), prefix.hex()


@given(st.binary(max_size=80) | st.binary(max_size=60).map(lambda end: AUTH[:34] + end), st.data())
def test_random_bytes_fail_as_auth_or_do_not_in_any_pieces_alike(soup: bytes, data: st.DataObject) -> None:
    def outcome(pieces: Pieces) -> object:
        decoder = AuthDecoder()
        for index, piece in enumerate(pieces):
            try:
                decoder.feed(piece)
            except AuthenticationFailed:
                # All bytes are kept for the fallback.
                assert bytes(decoder.received) == b"".join(pieces[: index + 1])
                return "failed"
            if decoder.rest is not None:
                return decoder.password_hash, decoder.rest + b"".join(pieces[index + 1 :])
        return decoder.password_hash, None

    assert outcome([soup]) == outcome(byte_by_byte(soup)) == outcome(data.draw(cuts(soup)))


@pytest.mark.parametrize("size", [LIMIT // 2, LIMIT])
def test_auth_byte_by_byte_costs_a_few_bytes_for_each(size: int) -> None:
    decoder: Any = AuthDecoder()
    decoder.received = received = CountingBytearray()
    data = AUTH[:34] + number(size) + bytes(size)
    for byte in byte_by_byte(data):
        decoder.feed(byte)
    assert decoder.rest == b""
    assert received.copied < 100 * len(data)
