"""The server's side of SOCKS4 and SOCKS4a: whole, byte by byte, and with trailing data."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioanytls.destination import Destination
from trioanytls.relay.reply_codes import ReplyCode
from trioanytls.relay.socks4 import SOCKS4Negotiation
from trioanytls.relay.socks5 import SOCKSError

from ..helpers.wire_bytes import Pieces, cuts, ways

CONNECT = bytes.fromhex("0401 01bb c0000201")
CONNECT_NAME = bytes.fromhex("0401 01bb 000000ff")
NAME = Destination("example.com", 443)
ADDRESS = Destination("192.0.2.1", 443)
REJECTED = bytes.fromhex("005b 0000 00000000")
NEEDS_PASSWORD = bytes.fromhex("005d 0000 00000000")

REQUESTS = {
    CONNECT + b"\0": ADDRESS,
    CONNECT + b"alice\0": ADDRESS,
    CONNECT + b"u" * 255 + b"\0": ADDRESS,
    CONNECT + b"\xff\x01 :\0": ADDRESS,
    CONNECT_NAME + b"\0example.com\0": NAME,
    CONNECT_NAME + b"alice\0example.com\0": NAME,
    CONNECT_NAME + b"\0" + b"n" * 255 + b"\0": Destination("n" * 255, 443),
    CONNECT_NAME + b"\x00192.0.2.1\0": ADDRESS,
    # The address 0.0.0.0 does not mean a name.
    bytes.fromhex("0401 0050 00000000 00"): Destination("0.0.0.0", 80),
    bytes.fromhex("0401 0000 7f000001 00"): Destination("127.0.0.1", 0),
}


@pytest.mark.parametrize(("request_", "destination"), REQUESTS.items())
@pytest.mark.parametrize("trailing", [b"", b"\0", b"GET / HTTP/1.1\r\n"])
def test_requests_in_all_pieces(request_: bytes, destination: Destination, trailing: bytes) -> None:
    for pieces in ways(request_ + trailing):
        server = SOCKS4Negotiation()
        assert b"".join(server.feed(piece) for piece in pieces) == b""
        assert server.destination == destination
        assert server.rest == trailing
        assert not server.associates


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_is_there_with_its_last_byte(request_: bytes) -> None:
    server = SOCKS4Negotiation()
    server.feed(request_[:-1])
    assert server.destination is None
    server.feed(request_[-1:])
    assert server.destination is not None


@pytest.mark.parametrize(
    ("request_", "why", "answer"),
    [
        (b"\x05\x01", "not SOCKS4", b""),
        (b"\x04\x02", "unsupported command", REJECTED),
        (b"\x04\x03", "unsupported command", REJECTED),
        (CONNECT + b"u" * 256, "the user id is longer than 255", REJECTED),
        (CONNECT_NAME + b"\0" + b"n" * 256, "name of the destination is longer than 255", REJECTED),
        (CONNECT_NAME + b"\0\0", "is empty", REJECTED),
        (CONNECT_NAME + b"\0exa mple.com\0", "0x20", REJECTED),
        (CONNECT_NAME + b"\0\xc3\xa4.example\0", "0xc3", REJECTED),
        (CONNECT_NAME + b"\0evil\r\nX: y\0", "0x0d", REJECTED),
    ],
)
def test_unsupported_requests(request_: bytes, why: str, answer: bytes) -> None:
    for pieces in ([request_], [bytes([byte]) for byte in request_]):
        server = SOCKS4Negotiation()
        with pytest.raises(SOCKSError, match=why) as caught:
            for piece in pieces:
                server.feed(piece)
        assert caught.value.answer == answer
        assert server.destination is None


def test_long_strings_are_refused_before_their_end() -> None:
    # Refused at the first byte too many.
    server = SOCKS4Negotiation()
    server.feed(CONNECT + b"u" * 255)
    with pytest.raises(SOCKSError, match="user id"):
        server.feed(b"u")
    server = SOCKS4Negotiation()
    server.feed(CONNECT_NAME + b"\0" + b"n" * 255)
    with pytest.raises(SOCKSError, match="name"):
        server.feed(b"n")


@pytest.mark.parametrize("request_", [b"\x04", CONNECT + b"alice\0", CONNECT_NAME + b"alice\0example.com\0"])
def test_it_has_no_password(request_: bytes) -> None:
    with pytest.raises(SOCKSError, match="no password") as caught:
        SOCKS4Negotiation(needs_password=True).feed(request_)
    assert caught.value.answer == NEEDS_PASSWORD


def test_replies() -> None:
    server = SOCKS4Negotiation()
    for reply in ReplyCode:
        granted = reply is ReplyCode.SUCCEEDED
        assert server.reply(reply) == (bytes.fromhex("005a 0000 00000000") if granted else REJECTED)


@given(st.binary(max_size=600).flatmap(lambda data: cuts(b"\x04\x01" + data)))
def test_pieces_change_nothing(pieces: Pieces) -> None:
    def read(pieces: Pieces) -> object:
        server = SOCKS4Negotiation()
        try:
            for piece in pieces:
                server.feed(piece)
        except SOCKSError as error:
            return str(error), error.answer
        return server.destination, server.rest

    assert read(pieces) == read([b"".join(pieces)])
