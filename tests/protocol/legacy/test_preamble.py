"""The preamble: whole, byte by byte, with trailing data (legacy: 2)."""

from __future__ import annotations

import pytest

from trioanytls._protocol.credentials import hash_password
from trioanytls._protocol.exceptions import AuthenticationFailed
from trioanytls._protocol.legacy.preamble import MAX_SENT_PADDING, PreambleDecoder, encode_preamble

HASH = hash_password("password")
VECTOR = bytes.fromhex("5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8 001e" + "00" * 30)


def test_the_vector() -> None:
    assert encode_preamble(HASH, 30) == VECTOR
    assert len(VECTOR) == 64


def test_padding_is_cut_to_what_real_servers_read() -> None:
    preamble = encode_preamble(HASH, 65535)
    assert len(preamble) == 34 + MAX_SENT_PADDING
    assert int.from_bytes(preamble[32:34], "big") == MAX_SENT_PADDING


@pytest.mark.parametrize("padding", [0, 1, 30, 255, 256, 16000])
@pytest.mark.parametrize("trailing", [b"", b"\x04", b"trailing data"])
def test_whole_and_byte_by_byte(padding: int, trailing: bytes) -> None:
    preamble = HASH + padding.to_bytes(2, "big") + bytes(padding)
    whole, slow = PreambleDecoder(65536), PreambleDecoder(65536)
    whole.feed(preamble + trailing)
    for byte in preamble[:-1]:
        slow.feed(bytes((byte,)))
        assert slow.rest is None
    slow.feed(preamble[-1:] + trailing)
    for decoder in (whole, slow):
        assert (decoder.password_hash, decoder.rest) == (HASH, trailing)
        assert decoder.received == preamble + trailing


def test_the_content_of_the_padding_does_not_matter() -> None:
    decoder = PreambleDecoder(65536)
    decoder.feed(HASH + b"\x00\x05" + b"\xffabc\x00" + b"x")
    assert decoder.rest == b"x"


def test_the_padding_has_a_limit() -> None:
    decoder = PreambleDecoder(100)
    with pytest.raises(AuthenticationFailed, match="preamble with 101 bytes of padding exceeds the limit"):
        decoder.feed(HASH + b"\x00\x65")
    PreambleDecoder(100).feed(HASH + b"\x00\x64")
