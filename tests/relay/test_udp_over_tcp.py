"""UDP over TCP: decoding whole, byte by byte, and with trailing data."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioanytls.destination import Destination, encode
from trioanytls.relay import udp_over_tcp
from trioanytls.relay.udp_over_tcp import Datagram, DatagramDecoder, UOTError, UOTRequest, UOTRequestDecoder

IPV4 = Destination("192.0.2.1", 53)
IPV6 = Destination("2001:db8::1", 5353)
NAME = Destination("example.com", 443)

# Written by hand, since the two encodings of address types are easily confused.
REQUESTS = {
    b"\x00\x01\xc0\x00\x02\x01\x00\x35": UOTRequest(False, IPV4),
    b"\x01\x01\xc0\x00\x02\x01\x00\x35": UOTRequest(True, IPV4),
    b"\x00\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x01\x14\xe9": UOTRequest(False, IPV6),
    b"\x01\x03\x0bexample.com\x01\xbb": UOTRequest(True, NAME),
    b"\x00\x01\x00\x00\x00\x00\x00\x00": UOTRequest(False, Destination("0.0.0.0", 0)),
}
DATAGRAMS = {
    b"\x00\xc0\x00\x02\x01\x00\x35\x00\x05hello": Datagram(IPV4, b"hello"),
    b"\x01\x20\x01\x0d\xb8" + bytes(11) + b"\x01\x14\xe9\x00\x01\xff": Datagram(IPV6, b"\xff"),
    b"\x02\x0bexample.com\x01\xbb\x00\x00": Datagram(NAME, b""),
    b"\x00\xc0\x00\x02\x01\x00\x35\xff\xff" + bytes(65535): Datagram(IPV4, bytes(65535)),
}


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def take_all(decoder: DatagramDecoder) -> list[Datagram]:
    taken = []
    while (datagram := decoder.take()) is not None:
        taken.append(datagram)
    return taken


def decode(data: bytes, size: int, connected: Destination | None = None) -> list[Datagram]:
    decoder = DatagramDecoder(connected)
    taken = []
    for piece in pieces(data, size):
        decoder.feed(piece)
        taken += take_all(decoder)
    return taken


# Requests


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("trailing", [b"", b"\x00", b"and so on"])
@pytest.mark.parametrize(("wire", "request_"), REQUESTS.items())
def test_requests(wire: bytes, request_: UOTRequest, trailing: bytes, size: int) -> None:
    assert udp_over_tcp.encode_request(request_) == wire
    decoder = UOTRequestDecoder()
    for piece in pieces(wire + trailing, size):
        decoder.feed(piece)
    assert decoder.request == request_
    assert decoder.rest == trailing


@pytest.mark.parametrize("wire", REQUESTS)
def test_a_request_is_there_at_its_last_byte(wire: bytes) -> None:
    decoder = UOTRequestDecoder()
    decoder.feed(b"")
    decoder.feed(wire[:-1])
    assert decoder.request is None
    decoder.feed(wire[-1:])
    assert decoder.request is not None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\x02", "invalid UDP request type 0x02"),
        (b"\xff", "invalid UDP request type 0xff"),
        # Address types of datagrams.
        (b"\x00\x00", "unknown address type 0x00"),
        (b"\x01\x02", "unknown address type 0x02"),
        (b"\x00\x03\x00", "the destination name is empty"),
        (b"\x00\x03\x05a\x00", "invalid byte 0x00"),
    ],
)
def test_an_invalid_request_raises_at_its_first_wrong_byte(data: bytes, why: str) -> None:
    decoder = UOTRequestDecoder()
    for byte in data[:-1]:
        decoder.feed(bytes([byte]))
    with pytest.raises(UOTError, match=why):
        decoder.feed(data[-1:])
    with pytest.raises(UOTError, match=why):
        UOTRequestDecoder().feed(data + bytes(300))


def test_the_vectors_of_real_programs() -> None:
    """What sing-box and anytls-go send: the destination of the stream, the request and the first datagram."""
    special = Destination("sp.v2.udp-over-tcp.arpa", 0)
    assert encode(special) == bytes.fromhex("0317 73702e76322e7564702d6f7665722d7463702e61727061 0000")
    request = UOTRequestDecoder()
    request.feed(bytes.fromhex("00 01000000000000 00 7f000001 5df5 0008 70696e672d6f6e65"))
    assert request.request == UOTRequest(False, Destination("0.0.0.0", 0))
    assert decode(request.rest, 1000) == [Datagram(Destination("127.0.0.1", 24053), b"ping-one")]


# Datagrams


@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_datagrams(size: int) -> None:
    assert [udp_over_tcp.encode_datagram(datagram) for datagram in DATAGRAMS.values()] == list(DATAGRAMS)
    assert decode(b"".join(DATAGRAMS), size) == list(DATAGRAMS.values())


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
def test_datagrams_that_are_all_for_one_address(size: int) -> None:
    wire = b"\x00\x05hello\x00\x00\x00\x02\x00\x01"
    datagrams = [Datagram(NAME, b"hello"), Datagram(NAME, b""), Datagram(NAME, b"\x00\x01")]
    assert b"".join(udp_over_tcp.encode_datagram(datagram, connected=True) for datagram in datagrams) == wire
    assert decode(wire, size, NAME) == datagrams


@pytest.mark.parametrize("wire", DATAGRAMS, ids=len)
def test_a_datagram_is_there_at_its_last_byte(wire: bytes) -> None:
    decoder = DatagramDecoder()
    assert decoder.take() is None
    decoder.feed(wire[:-1])
    assert decoder.take() is None
    assert decoder.take() is None
    decoder.feed(wire[-1:] + wire[:1])
    assert decoder.take() == DATAGRAMS[wire]
    assert decoder.take() is None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        # Address types of SOCKS.
        (b"\x03", "unknown address type 0x03 in a datagram"),
        (b"\x04", "unknown address type 0x04 in a datagram"),
        (b"\x02\x00", "the destination name is empty"),
        (b"\x02\x05a\n", "invalid byte 0x0a"),
    ],
)
@pytest.mark.parametrize("before", [b"", b"\x00\xc0\x00\x02\x01\x00\x35\x00\x05hello"])
def test_an_invalid_datagram_raises_at_its_first_wrong_byte(before: bytes, data: bytes, why: str) -> None:
    for trailing in (b"", bytes(300)):
        decoder = DatagramDecoder()
        decoder.feed(before + data + trailing)
        if before:
            assert decoder.take() == Datagram(IPV4, b"hello")
        with pytest.raises(UOTError, match=why):
            decoder.take()
    decoder = DatagramDecoder()
    decoder.feed(data[:-1])
    assert decoder.take() is None


def test_taken_datagrams_are_released() -> None:
    decoder = DatagramDecoder()
    for _ in range(100):
        decoder.feed(udp_over_tcp.encode_datagram(Datagram(IPV4, bytes(60_000))))
        assert decoder.take() is not None
    assert len(decoder._received) < 61_000


def test_datagrams_that_are_too_long() -> None:
    with pytest.raises(ValueError, match="65536 bytes is too long: the limit is 65535"):
        udp_over_tcp.encode_datagram(Datagram(IPV4, bytes(65536)))
    with pytest.raises(ValueError, match="256 bytes exceeds the limit of 255"):
        udp_over_tcp.encode_datagram(Datagram(Destination("x" * 256, 1), b""))
    with pytest.raises(ValueError, match="a zone"):
        udp_over_tcp.encode_request(UOTRequest(True, Destination("fe80::1%1", 1)))


ports = st.integers(0, 0xFFFF)
hosts = (
    st.ip_addresses(v=4).map(str)
    | st.ip_addresses(v=6).map(str)
    | st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=255)
)
destinations = st.builds(Destination, hosts, ports)


@given(st.booleans(), destinations, st.binary(max_size=20), st.integers(1, 300))
def test_any_request(connected: bool, destination: Destination, trailing: bytes, size: int) -> None:
    wire = udp_over_tcp.encode_request(UOTRequest(connected, destination))
    decoder = UOTRequestDecoder()
    for piece in pieces(wire + trailing, size):
        decoder.feed(piece)
    assert decoder.request is not None
    assert decoder.request.connected is connected
    # An address can be encoded in several ways.
    assert udp_over_tcp.encode_request(decoder.request) == wire
    assert decoder.rest == trailing


@given(
    st.lists(st.builds(Datagram, destinations, st.binary(max_size=400)), max_size=5),
    st.none() | destinations,
    st.integers(1, 500),
)
def test_any_datagrams(datagrams: list[Datagram], connected: Destination | None, size: int) -> None:
    one = connected is not None
    wire = b"".join(udp_over_tcp.encode_datagram(datagram, connected=one) for datagram in datagrams)
    decoded = decode(wire, size, connected)
    assert [datagram.data for datagram in decoded] == [datagram.data for datagram in datagrams]
    assert b"".join(udp_over_tcp.encode_datagram(datagram, connected=one) for datagram in decoded) == wire


@given(st.binary(max_size=400), st.booleans())
def test_any_data_is_an_error_or_datagrams(data: bytes, connected: bool) -> None:
    with contextlib.suppress(UOTError):
        decoded = decode(data, 7, IPV4 if connected else None)
        assert sum(len(datagram.data) for datagram in decoded) <= len(data)
