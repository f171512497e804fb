"""The server's side of SOCKS5: whole, byte by byte, and with trailing data (RFC 1928, RFC 1929)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioanytls.destination import Destination, encode
from trioanytls.relay.proxy_users import ProxyUsers
from trioanytls.relay.reply_codes import ReplyCode, parse_reply
from trioanytls.relay.socks5 import SOCKS5Negotiation, SOCKSError, decode_datagram, encode_datagram

HELLO = bytes.fromhex("050100")
HELLO_PASSWORD = bytes.fromhex("05020002")
USERS = ProxyUsers({"alice": "pass:word", "bob": "p\u00e4ss"})
LOGIN = b"\x01\x05alice\x09pass:word"
DESTINATION = Destination("example.com", 443)
CONNECT = b"\x05\x01\x00" + encode(DESTINATION)


def feed(server: SOCKS5Negotiation, data: bytes, size: int) -> bytes:
    return b"".join(server.feed(data[start : start + size]) for start in range(0, len(data), size))


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("trailing", [b"", b"GET / HTTP/1.1\r\n"])
@pytest.mark.parametrize(
    "destination", [DESTINATION, Destination("192.0.2.1", 80), Destination("2001:db8::1", 65535)], ids=str
)
def test_an_application_that_needs_no_password(size: int, trailing: bytes, destination: Destination) -> None:
    server = SOCKS5Negotiation()
    assert feed(server, HELLO + b"\x05\x01\x00" + encode(destination) + trailing, size) == b"\x05\x00"
    assert server.destination == destination
    assert server.rest == trailing


@pytest.mark.parametrize("size", [1, 2, 1000])
@pytest.mark.parametrize("source", [Destination("0.0.0.0", 0), Destination("::1", 5000), Destination("a", 1)], ids=str)
def test_an_application_that_asks_for_udp(size: int, source: Destination) -> None:
    server = SOCKS5Negotiation()
    assert feed(server, HELLO + b"\x05\x03\x00" + encode(source), size) == b"\x05\x00"
    assert server.associates
    assert server.destination == source
    connecting = SOCKS5Negotiation()
    connecting.feed(HELLO + CONNECT)
    assert not connecting.associates


def test_the_answer_has_the_address_to_send_to() -> None:
    answer = SOCKS5Negotiation().reply(ReplyCode.SUCCEEDED, Destination("127.0.0.1", 258))
    assert answer == b"\x05\x00\x00\x01\x7f\x00\x00\x01\x01\x02"
    answer = SOCKS5Negotiation().reply(ReplyCode.SUCCEEDED, Destination("::1", 258))
    assert answer == b"\x05\x00\x00\x04" + bytes(15) + b"\x01\x01\x02"


@pytest.mark.parametrize("size", [1, 2, 1000])
@pytest.mark.parametrize("login", [LOGIN, b"\x01\x03bob\x05p\xc3\xa4ss"])
def test_user_and_password(size: int, login: bytes) -> None:
    server = SOCKS5Negotiation(USERS)
    assert feed(server, HELLO_PASSWORD + login + CONNECT, size) == b"\x05\x02\x01\x00"
    assert server.destination == DESTINATION


@pytest.mark.parametrize(
    ("login", "why"),
    [
        (b"\x01\x05alice\x09pass:wore", "wrong user or password"),
        (b"\x01\x05alicf\x09pass:word", "wrong user or password"),
        (b"\x01\x00\x00", "wrong user or password"),
        # The same bytes, split differently into user and password.
        (b"\x01\x06alicep\x08ass:word", "wrong user or password"),
        # The password of another user is wrong.
        (b"\x01\x03bob\x09pass:word", "wrong user or password"),
        (b"\x01\x05carol\x09pass:word", "wrong user or password"),
        (b"\x05\x01\x00", "instead of user and password"),
    ],
)
def test_a_wrong_login_is_refused(login: bytes, why: str) -> None:
    server = SOCKS5Negotiation(USERS)
    assert server.feed(HELLO_PASSWORD) == b"\x05\x02"
    with pytest.raises(SOCKSError, match=why) as caught:
        server.feed(login)
    assert caught.value.answer == b"\x01\x01"
    assert server.destination is None


def test_a_client_that_pipelines_gets_all_answers() -> None:
    with pytest.raises(SOCKSError) as caught:
        SOCKS5Negotiation(USERS).feed(HELLO_PASSWORD + b"\x01\x00\x00" + CONNECT)
    assert caught.value.answer == b"\x05\x02\x01\x01"
    with pytest.raises(SOCKSError) as caught:
        SOCKS5Negotiation().feed(HELLO + b"\x05\x02\x00" + encode(DESTINATION))
    assert caught.value.answer == b"\x05\x00\x05\x07\x00\x01" + bytes(6)


@pytest.mark.parametrize(("users", "hello"), [(None, b"\x05\x01\x02"), (None, b"\x05\x00"), (USERS, b"\x05\x01\x00")])
def test_no_method_in_common(users: ProxyUsers | None, hello: bytes) -> None:
    with pytest.raises(SOCKSError) as caught:
        SOCKS5Negotiation(users).feed(hello)
    assert caught.value.answer == b"\x05\xff"


@pytest.mark.parametrize(
    ("first", "what"),
    [
        (b"\x04\x01", "SOCKS4"),
        (b"\x16\x03", "TLS"),
        (b"GET / HTTP/1.1", "HTTP; use the port of --http"),
        (b"\0", "no SOCKS5"),
    ],
)
def test_other_protocols_are_named_at_their_first_byte(first: bytes, what: str) -> None:
    for data in (first, first[:1]):
        with pytest.raises(SOCKSError, match=what) as caught:
            SOCKS5Negotiation().feed(data)
        assert caught.value.answer == b""


@pytest.mark.parametrize(
    ("request_", "reply"),
    [
        (b"\x05\x02\x00" + encode(DESTINATION), ReplyCode.COMMAND_NOT_SUPPORTED),
        (b"\x05\x04\x00" + encode(DESTINATION), ReplyCode.COMMAND_NOT_SUPPORTED),
        (b"\x05\x03\x00\x00", ReplyCode.ADDRESS_TYPE_NOT_SUPPORTED),
        (b"\x05\x01\x00\x02", ReplyCode.ADDRESS_TYPE_NOT_SUPPORTED),
        (b"\x05\x01\x00\x03\x00", ReplyCode.GENERAL_FAILURE),
        (b"\x04\x01\x00\x01", ReplyCode.GENERAL_FAILURE),
    ],
)
def test_requests_that_cannot_be_served_get_their_code(request_: bytes, reply: ReplyCode) -> None:
    server = SOCKS5Negotiation()
    server.feed(HELLO)
    with pytest.raises(SOCKSError) as caught:
        server.feed(request_)
    assert caught.value.answer == bytes([5, reply, 0, 1, 0, 0, 0, 0, 0, 0])


@given(st.binary(max_size=300), st.booleans())
def test_any_data_is_an_error_or_an_answer(data: bytes, login: bool) -> None:
    server = SOCKS5Negotiation(USERS if login else None)
    try:
        server.feed(data)
    except SOCKSError:
        assert server.destination is None


@given(st.binary(max_size=3))
def test_only_one_byte_that_is_a_failure_is_a_relays_reason(data: bytes) -> None:
    reply = parse_reply(data)
    assert (reply is not None) == (len(data) == 1 and 1 <= data[0] <= 8)
    assert reply is None or (reply == data[0] and reply.text and reply.http_status in (403, 502, 504))


# Datagrams


@pytest.mark.parametrize(
    "destination", [Destination("192.0.2.1", 53), Destination("2001:db8::1", 0), DESTINATION], ids=str
)
@pytest.mark.parametrize("data", [b"", b"hello", bytes(65507)], ids=len)
def test_datagrams(destination: Destination, data: bytes) -> None:
    wire = encode_datagram(destination, data)
    assert wire == b"\x00\x00\x00" + encode(destination) + data
    assert decode_datagram(wire) == (destination, data)
    # Reserved bytes are ignored.
    assert decode_datagram(b"\x01\x02" + wire[2:]) == (destination, data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "too short"),
        (b"\x00\x00\x00", "too short"),
        (b"\x00\x00\x01" + encode(DESTINATION) + b"first", "fragments are not supported"),
        (b"\x00\x00\x80" + encode(DESTINATION) + b"last", "fragments are not supported"),
        (b"\x00\x00\x00\x02", "unknown address type 0x02"),
        (b"\x00\x00\x00" + encode(DESTINATION)[:-1], "within its destination"),
        (b"\x00\x00\x00\x03\x00\x00\x35", "empty"),
    ],
)
def test_invalid_datagrams(data: bytes, why: str) -> None:
    with pytest.raises(SOCKSError, match=why):
        decode_datagram(data)


@given(st.binary(max_size=300))
def test_any_udp_data_is_an_error_or_a_datagram(data: bytes) -> None:
    try:
        destination, content = decode_datagram(data)
    except SOCKSError:
        return
    assert encode_datagram(destination, content)[3:] == data[3:]
