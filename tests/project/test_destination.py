"""Destinations: as text, and encoded at the beginning of a stream (RFC 1928, section 5)."""

import itertools
import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioanytls.destination import MAX_ENCODED, Destination, DestinationDecoder, DestinationError, encode

ENCODED = [
    (Destination("192.0.2.7", 80), b"\x01\xc0\x00\x02\x07\x00\x50"),
    (Destination("2001:db8::1", 443), b"\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x01\x01\xbb"),
    (Destination("example.com", 8443), b"\x03\x0bexample.com\x20\xfb"),
    (Destination("a", 0), b"\x03\x01a\x00\x00"),
    (Destination("x" * 255, 65535), b"\x03\xff" + b"x" * 255 + b"\xff\xff"),
    # A name with an underscore is unusual, but in use: it is passed on.
    (Destination("sp.v2.udp-over-tcp.arpa", 0), b"\x03\x17sp.v2.udp-over-tcp.arpa\x00\x00"),
]
# "1.2.3.4" would be an address, but Hypothesis is unlikely to draw one.
NAME_CHARACTERS = st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters=":[]%")


def decode(data: bytes, pieces: Sequence[bytes | bytearray] | None = None) -> DestinationDecoder:
    decoder = DestinationDecoder()
    for piece in pieces or [data]:
        decoder.feed(piece)
    return decoder


# As text


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("example.com:80", "example.com", 80),
        ("192.0.2.7:65535", "192.0.2.7", 65535),
        ("[2001:db8::1]:443", "2001:db8::1", 443),
        ("[::]:1", "::", 1),
        ("bücher.example:443", "bücher.example", 443),
        ("x:00080", "x", 80),
    ],
)
def test_parse(text: str, host: str, port: int) -> None:
    destination = Destination.parse(text)
    assert (destination.host, destination.port) == (host, port)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "missing port in '': expected HOST:PORT"),
        ("example.com", "missing port in 'example.com'"),
        ("[::1]", "missing port in '[::1]'"),
        (":80", "missing host in ':80'"),
        ("::1:80", "write an IPv6 address as [ADDRESS]:PORT"),
        ("a:b:80", "more than one colon"),
        ("[::1:80", "invalid IPv6 address in brackets"),
        ("[example.com]:80", "invalid IPv6 address in brackets"),
        ("[]:80", "invalid IPv6 address in brackets"),
        ("x:", "invalid port '': expected an integer from 1 to 65535"),
        ("x:0", "invalid port '0': expected an integer from 1 to 65535"),
        ("x:65536", "invalid port '65536'"),
        ("x:-1", "invalid port '-1'"),
        ("x:+1", "invalid port '+1'"),
        ("x: 80", "invalid port ' 80'"),
        ("x:٨٠", "invalid port"),
        ("x:" + "9" * 10_000, "invalid port"),
        ("exa mple:80", "invalid character ' ' in the host"),
        ("exa\nmple:80", "invalid character '\\n' in the host"),
        ("exa\0mple:80", "invalid character '\\x00' in the host"),
        ("exa\N{RIGHT-TO-LEFT OVERRIDE}mple:80", "invalid character '\\u202e' in the host"),
    ],
)
def test_parse_of_something_else(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=re.escape(complaint)) as info:
        Destination.parse(text)
    assert str(info.value).isascii()
    assert str(info.value).isprintable()


def test_a_port_of_the_systems_choice() -> None:
    assert Destination.parse("127.0.0.1:0", least_port=0) == Destination("127.0.0.1", 0)


@pytest.mark.parametrize(
    ("destination", "text"),
    [
        (Destination("example.com", 80), "example.com:80"),
        (Destination("192.0.2.7", 80), "192.0.2.7:80"),
        (Destination("::1", 80), "[::1]:80"),
    ],
)
def test_as_text(destination: Destination, text: str) -> None:
    assert str(destination) == text
    assert Destination.parse(text) == destination


@pytest.mark.parametrize(("host", "port"), [("", 80), ("a b", 80), ("a\0", 80), ("a", -1), ("a", 65536)])
def test_an_invalid_host_or_port(host: str, port: int) -> None:
    with pytest.raises(ValueError, match=r"host|port"):
        Destination(host, port)


# As bytes


@pytest.mark.parametrize(("destination", "encoded"), ENCODED)
def test_encode(destination: Destination, encoded: bytes) -> None:
    assert encode(destination) == encoded
    assert len(encoded) <= MAX_ENCODED


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("bücher.example", b"xn--bcher-kva.example"),
        # Not "fass.de", which is a different site.
        ("faß.de", b"xn--fa-hia.de"),
        ("EXAMPLE.com", b"EXAMPLE.com"),
        ("under_score.example", b"under_score.example"),
    ],
)
def test_encode_of_names(host: str, name: bytes) -> None:
    assert encode(Destination(host, 1)) == bytes([3, len(name)]) + name + b"\x00\x01"


@pytest.mark.parametrize(
    ("host", "complaint"),
    [
        ("x" * 256, "256 bytes exceeds the limit of 255"),
        ("ü" * 300, "invalid host name"),
        ("\N{LATIN SMALL LETTER U WITH DIAERESIS}..example", "invalid host name"),
        ("fe80::1%eth0", "a zone has no meaning"),
    ],
)
def test_encode_of_what_has_no_encoding(host: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        encode(Destination(host, 1))


@pytest.mark.parametrize(("destination", "encoded"), ENCODED)
@pytest.mark.parametrize("rest", [b"", b"GET / HTTP/1.1\r\n"])
def test_decode(destination: Destination, encoded: bytes, rest: bytes) -> None:
    data = encoded + rest
    for cut in range(len(data) + 1):
        decoder = decode(data, [data[:cut], data[cut:]])
        assert (decoder.destination, decoder.rest) == (destination, rest)
    decoder = DestinationDecoder()
    for position, byte in enumerate(data):
        assert (decoder.destination is not None) == (position >= len(encoded))
        decoder.feed(bytes([byte]))
    assert (decoder.destination, decoder.rest) == (destination, rest)


def test_nothing_is_fed() -> None:
    decoder = decode(b"", [b"", bytearray()])
    assert not decoder.destination
    decoder.feed(ENCODED[0][1])
    decoder.feed(b"")
    assert (decoder.destination, decoder.rest) == (ENCODED[0][0], b"")


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"\x00", "unknown address type 0x00"),
        (b"\x02", "unknown address type 0x02"),
        (b"\x05", "unknown address type 0x05"),
        (b"GET /", "unknown address type 0x47"),
        (b"\x03\x00", "the destination name is empty"),
        (b"\x03\x05exa\0", "invalid byte 0x00"),
        (b"\x03\x05exa\n", "invalid byte 0x0a"),
        (b"\x03\x05exa ", "invalid byte 0x20"),
        (b"\x03\x05exa\x7f", "invalid byte 0x7f"),
        (b"\x03\x05b\xc3", "invalid byte 0xc3"),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_the_first_impossible_byte(data: bytes, complaint: str, together: bool) -> None:
    decoder = DestinationDecoder()
    # The first byte of GET is enough.
    pieces = [data] if together else [data[i : i + 1] for i in range(1 if data[0] > 5 else len(data))]
    for piece in pieces[:-1]:
        decoder.feed(piece)
    for _ in range(2):
        with pytest.raises(DestinationError) as info:
            decoder.feed(pieces[-1])
        assert complaint in str(info.value)
        assert decoder.destination is None


@given(
    host=st.one_of(
        st.ip_addresses(v=4).map(str),
        st.ip_addresses(v=6).map(str),
        st.text(NAME_CHARACTERS, min_size=1, max_size=255),
    ),
    port=st.integers(0, 65535),
    rest=st.binary(max_size=10),
    cuts=st.lists(st.integers(0, 270), max_size=5),
)
def test_what_is_encoded_is_decoded(host: str, port: int, rest: bytes, cuts: list[int]) -> None:
    destination = Destination(host, port)
    data = encode(destination) + rest
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    decoder = decode(data, [data[start:end] for start, end in itertools.pairwise(edges)])
    assert (decoder.destination, decoder.rest) == (destination, rest)
    if port:
        assert Destination.parse(str(destination)) == destination


@pytest.mark.parametrize(("destination", "encoded"), ENCODED)
def test_what_is_needed(destination: Destination, encoded: bytes) -> None:
    decoder = DestinationDecoder()
    data = encoded + b"rest"
    pieces = []
    while decoder.destination is None:
        pieces.append(data[: decoder.needed])
        data = data[decoder.needed :]
        decoder.feed(pieces[-1])
    # The second piece, if the first one is not enough.
    assert 1 <= len(pieces) <= 2
    assert (decoder.destination, decoder.rest, decoder.needed, data) == (destination, b"", 0, b"rest")


@given(data=st.binary(max_size=300))
def test_any_bytes_in_any_pieces(data: bytes) -> None:
    outcomes: list[object] = []
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
        decoder = DestinationDecoder()
        try:
            for piece in pieces:
                decoder.feed(piece)
        except DestinationError as error:
            outcomes.append(str(error))
        else:
            outcomes.append((decoder.destination, decoder.rest))
    assert outcomes[0] == outcomes[1]
