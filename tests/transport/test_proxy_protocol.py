"""The PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trioanytls._protocol.exceptions import AnyTLSError
from trioanytls._transport.proxy_protocol import (
    MAX_LINE,
    MAX_V2_LENGTH,
    ProxiedAddress,
    ProxyHeaderDecoder,
    ProxyProtocolError,
    TrustedProxies,
    crc32c,
)

from ..helpers.wire_bytes import Pieces, byte_by_byte, cuts, ways

UNSAID = ProxiedAddress(None, None)
SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
START4, START6 = SIGNATURE + b"\x21\x11", SIGNATURE + b"\x21\x21"
# 192.0.2.1:54321 to 198.51.100.7:443, and 2001:db8::1 to 2001:db8::2 with the same ports.
INET = "c0000201 c6336407 d431 01bb"
INET6 = "20010db8000000000000000000000001 20010db8000000000000000000000002 d431 01bb"
UNIX = "2f72756e2f61" + "00" * 102 + "2f72756e2f62" + "00" * 102
CLIENT4 = ProxiedAddress(("192.0.2.1", 54321), ("198.51.100.7", 443))
CLIENT6 = ProxiedAddress(("2001:db8::1", 54321), ("2001:db8::2", 443))

ONES = ":".join(["ffff"] * 8)


def said(source: str, destination: str, source_port: int = 1, destination_port: int = 2) -> ProxiedAddress:
    return ProxiedAddress((source, source_port), (destination, destination_port))


LINES: dict[str, tuple[bytes, ProxiedAddress]] = {
    "TCP4": (
        b"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n",
        said("192.168.0.1", "192.168.0.11", 56324, 443),
    ),
    "longest TCP4": (
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        said("255.255.255.255", "255.255.255.255", 65535, 65535),
    ),
    "shortest TCP4": (b"PROXY TCP4 0.0.0.0 1.2.3.4 0 0\r\n", said("0.0.0.0", "1.2.3.4", 0, 0)),
    "TCP6": (b"PROXY TCP6 2001:db8::1 2001:db8::2 54321 443\r\n", CLIENT6),
    "longest TCP6": (f"PROXY TCP6 {ONES} {ONES} 65535 65535\r\n".encode(), said(ONES, ONES, 65535, 65535)),
    "shortest TCP6": (b"PROXY TCP6 :: ::1 0 9\r\n", said("::", "::1", 0, 9)),
    "TCP6 in capitals, with zeros": (
        b"PROXY TCP6 2001:0DB8:0000:0000:0000:0000:0000:00AB ABCD:: 1 2\r\n",
        said("2001:db8::ab", "abcd::"),
    ),
    "TCP6, a gap for one group": (
        b"PROXY TCP6 1:2:3:4:5:6:7:: ::2:3:4:5:6:7:8 1 2\r\n",
        said("1:2:3:4:5:6:7:0", "0:2:3:4:5:6:7:8"),
    ),
    "TCP6, a gap in the middle": (
        b"PROXY TCP6 1:2:3::5:6:7:8 1::3:4:5:6:7:8 1 2\r\n",
        said("1:2:3:0:5:6:7:8", "1:0:3:4:5:6:7:8"),
    ),
    # The results of inet_ntop().
    "TCP6 with a dotted end": (
        b"PROXY TCP6 ::ffff:192.0.2.1 ::192.0.2.1 1 2\r\n",
        said("::ffff:192.0.2.1", "::c000:201"),
    ),
    "TCP6 with the same in hexadecimal": (
        b"PROXY TCP6 ::ffff:c000:201 0:0:0:0:0:FFFF:c000:0201 1 2\r\n",
        said("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
    ),
    "UNKNOWN": (b"PROXY UNKNOWN\r\n", UNSAID),
    "UNKNOWN with a space": (b"PROXY UNKNOWN \r\n", UNSAID),
    "UNKNOWN with addresses": (f"PROXY UNKNOWN {ONES} {ONES} 65535 65535\r\n".encode(), UNSAID),
    "UNKNOWN with anything": (b"PROXY UNKNOWN TCP4\0\xff\r \n\r\r\n", UNSAID),
    "the longest UNKNOWN": (b"PROXY UNKNOWN " + b"\r" * (MAX_LINE - 15) + b"\n", UNSAID),
}

HEADERS: dict[str, tuple[str, ProxiedAddress]] = {
    "INET": ("21 11 000c" + INET, CLIENT4),
    "INET6": ("21 21 0024" + INET6, CLIENT6),
    "INET6 with an IPv4 address": (
        "21 21 0024 00000000000000000000ffffc0000201 00000000000000000000000000000001 0001 0002",
        said("::ffff:192.0.2.1", "::1"),
    ),
    "UNIX": ("21 31 00d8" + UNIX, UNSAID),
    "UNIX with a TLV": ("21 31 00db" + UNIX + "040000", UNSAID),
    # ALPN, a unique id, a custom type, a future type. One of them is empty, one of them occurs twice.
    "TLVs": ("21 11 0023" + INET + "01 0002 6832  05 0003 616263  e0 0000  ff 0001 00  01 0002 6832", CLIENT4),
    "a TLV of 256 bytes": ("21 21 0127" + INET6 + "04 0100" + "00" * 256, CLIENT6),
    "a checksum": ("21 11 0013" + INET + "03 0004 036d7682", CLIENT4),
    "a checksum among TLVs": ("21 21 0031" + INET6 + "04 0000  03 0004 1cf6fc57  04 0000", CLIENT6),
    "a checksum for a Unix socket": ("21 31 00df" + UNIX + "03 0004 8b0b8083", UNSAID),
    "LOCAL": ("20 00 0000", UNSAID),
    "LOCAL with addresses": ("20 11 000c" + INET, UNSAID),
    # A health check by AWS's load balancers: a family, no addresses, a checksum.
    "LOCAL with TLVs in place of addresses": ("20 11 0054 03 0004 bce5951f  04 004a" + "00" * 74, UNSAID),
    "LOCAL with anything": ("20 ff 0002 0300", UNSAID),
    "UNSPEC": ("21 00 0000", UNSAID),
    "UNSPEC with anything": ("21 00 0005 0300040000", UNSAID),
    "UNSPEC for the family": ("21 01 0001 ff", UNSAID),
    "UNSPEC for the transport": ("21 10 000c" + INET, UNSAID),
    "UNSPEC for a transport too short for its family": ("21 20 0001 ff", UNSAID),
}

VALID = {
    **LINES,
    **{name: (SIGNATURE + bytes.fromhex(text), address) for name, (text, address) in HEADERS.items()},
}
VECTORS = pytest.mark.parametrize(("header", "address"), VALID.values(), ids=VALID.keys())


def fed(pieces: Pieces) -> ProxyHeaderDecoder:
    decoder = ProxyHeaderDecoder()
    for piece in pieces:
        decoder.feed(piece)
    return decoder


@VECTORS
def test_each_header_whole_byte_by_byte_and_in_two(header: bytes, address: ProxiedAddress) -> None:
    for pieces in ways(header):
        decoder = fed(pieces)
        assert decoder.address == address
        assert decoder.rest == b""


@pytest.mark.parametrize("trailing", [b"\x16", bytes.fromhex("1603010200"), b"\r\n", b"PROXY TCP4 ", b"\xff" * 9])
@VECTORS
def test_each_header_with_trailing_data(header: bytes, address: ProxiedAddress, trailing: bytes) -> None:
    for pieces in ways(header + trailing):
        decoder = fed(pieces)
        assert decoder.address == address
        assert decoder.rest == trailing


@VECTORS
def test_the_address_is_there_with_the_last_byte_and_not_before(header: bytes, address: ProxiedAddress) -> None:
    decoder = ProxyHeaderDecoder()
    for byte in byte_by_byte(header):
        assert decoder.address is None
        assert decoder.rest == b""
        decoder.feed(byte)
    assert decoder.address == address


def test_what_follows_much_later_is_added() -> None:
    decoder = fed([b"PROXY UNKNOWN\r\na", b"", b"bc"])
    decoder.feed(b"d")
    assert decoder.rest == b"abcd"


# Malformed headers


def line(text: str) -> bytes:
    return f"PROXY {text}".encode("latin-1")


def v2(text: str) -> bytes:
    return SIGNATURE + bytes.fromhex(text)


# The bytes up to the one that cannot belong to a header, and the error. Any bytes may follow.
MALFORMED: dict[str, tuple[bytes, str]] = {
    # Not a header of either version.
    "TLS": (b"\x16", r"invalid beginning of a PROXY header: b'\x16'"),
    "HTTP": (b"G", "invalid beginning of a PROXY header: b'G'"),
    "SSH": (b"S", "invalid beginning of a PROXY header: b'S'"),
    "a null byte": (b"\0", r"invalid beginning of a PROXY header: b'\x00'"),
    "small letters": (b"p", "invalid beginning of a PROXY header: b'p'"),
    "an HTTP method with P": (b"PO", "invalid beginning of a PROXY header: b'PO'"),
    "an empty line": (b"\r\nG", r"invalid beginning of a PROXY header: b'\r\nG'"),
    "a bad signature": (SIGNATURE[:-1] + b"\r", r"invalid beginning of a PROXY header: b'\r\n\r\n\x00\r\nQUIT\r'"),
    # Version 1: the beginning of the line.
    "PROXY alone": (b"PROXY\r", r"invalid beginning of a PROXY header: b'PROXY\r'"),
    "two spaces after PROXY": (b"PROXY  ", "invalid beginning of a PROXY header: b'PROXY  '"),
    "a tab": (b"PROXY\t", r"invalid beginning of a PROXY header: b'PROXY\t'"),
    "TCP": (b"PROXY TCP ", "invalid beginning of a PROXY header: b'PROXY TCP '"),
    "TCP5": (b"PROXY TCP5", "invalid beginning of a PROXY header: b'PROXY TCP5'"),
    "TCP46": (b"PROXY TCP46", "invalid beginning of a PROXY header: b'PROXY TCP46'"),
    "UDP4": (b"PROXY UD", "invalid beginning of a PROXY header: b'PROXY UD'"),
    "tcp4": (b"PROXY t", "invalid beginning of a PROXY header: b'PROXY t'"),
    "TCP4 alone": (b"PROXY TCP4\r", r"invalid beginning of a PROXY header: b'PROXY TCP4\r'"),
    "UNKNOWN and more": (b"PROXY UNKNOWNS", "invalid beginning of a PROXY header: b'PROXY UNKNOWNS'"),
    "UNKNOWN, LF": (b"PROXY UNKNOWN\n", r"invalid beginning of a PROXY header: b'PROXY UNKNOWN\n'"),
    "UNKNOWN, CR": (b"PROXY UNKNOWN\r\r", r"invalid beginning of a PROXY header: b'PROXY UNKNOWN\r\r'"),
    # IPv4 addresses.
    "two spaces": (line("TCP4  "), "incomplete source IPv4 address: ''"),
    "two spaces after the source": (line("TCP4 1.2.3.4  "), "incomplete destination IPv4 address: ''"),
    "an octet of 256": (line("TCP4 256"), "invalid beginning of the source IPv4 address: '256'"),
    "an octet of 300": (line("TCP4 1.300"), "invalid beginning of the source IPv4 address: '1.300'"),
    "an octet of four digits": (line("TCP4 1.2.1000"), "invalid beginning of the source IPv4 address: '1.2.1000'"),
    "a leading zero": (line("TCP4 1.2.3.4 10.01"), "invalid beginning of the destination IPv4 address: '10.01'"),
    "two zeros": (line("TCP4 00"), "invalid beginning of the source IPv4 address: '00'"),
    "an empty octet": (line("TCP4 1.."), "invalid beginning of the source IPv4 address: '1..'"),
    "no first octet": (line("TCP4 ."), "invalid beginning of the source IPv4 address: '.'"),
    "three octets": (line("TCP4 1.2.3 "), "incomplete source IPv4 address: '1.2.3'"),
    "a dot at the end": (line("TCP4 1.2.3. "), "incomplete source IPv4 address: '1.2.3.'"),
    "five octets": (line("TCP4 1.2.3.4."), "invalid beginning of the source IPv4 address: '1.2.3.4.'"),
    "a sign": (line("TCP4 -"), "invalid beginning of the source IPv4 address: '-'"),
    "a prefix": (line("TCP4 1.2.3.4/"), "invalid beginning of the source IPv4 address: '1.2.3.4/'"),
    "a hexadecimal octet": (line("TCP4 0x"), "invalid beginning of the source IPv4 address: '0x'"),
    "a superscript": (line("TCP4 1\xb2"), r"invalid beginning of the source IPv4 address: '1\xb2'"),
    "IPv6 in a TCP4 line": (line("TCP4 :"), "invalid beginning of the source IPv4 address: ':'"),
    "the line ends after the source": (
        line("TCP4 1.2.3.4\r"),
        r"invalid beginning of the source IPv4 address: '1.2.3.4\r'",
    ),
    "the line ends after the destination": (
        line("TCP4 1.2.3.4 5.6.7.8\r"),
        r"invalid beginning of the destination IPv4 address: '5.6.7.8\r'",
    ),
    # IPv6 addresses.
    "IPv4 in a TCP6 line": (line("TCP6 1."), "invalid beginning of the source IPv6 address: '1.'"),
    "no address": (line("TCP6  "), "incomplete source IPv6 address: ''"),
    "one colon": (line("TCP6 : "), "incomplete source IPv6 address: ':'"),
    "a digit after the first colon": (line("TCP6 :1"), "invalid beginning of the source IPv6 address: ':1'"),
    "three colons": (line("TCP6 1:::"), "invalid beginning of the source IPv6 address: '1:::'"),
    "two gaps": (line("TCP6 1::2::"), "invalid beginning of the source IPv6 address: '1::2::'"),
    "five digits": (line("TCP6 12345"), "invalid beginning of the source IPv6 address: '12345'"),
    "not hexadecimal": (line("TCP6 fg"), "invalid beginning of the source IPv6 address: 'fg'"),
    "seven groups": (line("TCP6 1:2:3:4:5:6:7 "), "incomplete source IPv6 address: '1:2:3:4:5:6:7'"),
    "a colon at the end": (line("TCP6 1:2:3:4:5:6:7: "), "incomplete source IPv6 address: '1:2:3:4:5:6:7:'"),
    "nine groups": (line("TCP6 1:2:3:4:5:6:7:8:"), "invalid beginning of the source IPv6 address: '1:2:3:4:5:6:7:8:'"),
    "a gap for no group": (
        line("TCP6 1:2::3:4:5:6:7:"),
        "invalid beginning of the source IPv6 address: '1:2::3:4:5:6:7:'",
    ),
    "a gap after eight": (
        line("TCP6 ::1:2:3:4:5:6:7:"),
        "invalid beginning of the source IPv6 address: '::1:2:3:4:5:6:7:'",
    ),
    "a scope": (line("TCP6 fe80::1%"), "invalid beginning of the source IPv6 address: 'fe80::1%'"),
    "brackets": (line("TCP6 ["), "invalid beginning of the source IPv6 address: '['"),
    "a dotted end after a number": (line("TCP6 1::1."), "invalid beginning of the source IPv6 address: '1::1.'"),
    "a dotted end after a long zero": (
        line("TCP6 0:0:0:0:0:ffff:1."),
        "invalid beginning of the source IPv6 address: '0:0:0:0:",
    ),
    "a dotted end that is too large": (line("TCP6 ::256."), "invalid beginning of the source IPv6 address: '::256.'"),
    "a dotted end with a zero": (
        line("TCP6 ::ffff:1.02"),
        "invalid beginning of the source IPv6 address: '::ffff:1.02'",
    ),
    "a short dotted end": (line("TCP6 ::ffff:1.2.3 "), "incomplete source IPv6 address: '::ffff:1.2.3'"),
    "a dot at the dotted end": (line("TCP6 ::1.2.3. "), "incomplete source IPv6 address: '::1.2.3.'"),
    "a dotted end of five": (line("TCP6 ::1.2.3.4."), "invalid beginning of the source IPv6 address: '::1.2.3.4.'"),
    "a group after a dotted end": (
        line("TCP6 ::1.2.3.4:"),
        "invalid beginning of the source IPv6 address: '::1.2.3.4:'",
    ),
    # Ports.
    "no port": (line("TCP4 1.2.3.4 5.6.7.8  "), "incomplete source port: ''"),
    "no destination port": (line("TCP4 1.2.3.4 5.6.7.8 1 \r"), "incomplete destination port: ''"),
    "one port": (line("TCP4 1.2.3.4 5.6.7.8 1\r"), r"invalid beginning of the source port: '1\r'"),
    "a leading zero in a port": (line("TCP4 1.2.3.4 5.6.7.8 01"), "invalid beginning of the source port: '01'"),
    "a sign in a port": (line("TCP4 1.2.3.4 5.6.7.8 +"), "invalid beginning of the source port: '+'"),
    "a hexadecimal port": (line("TCP4 1.2.3.4 5.6.7.8 1 a"), "invalid beginning of the destination port: 'a'"),
    "an underscore": (line("TCP4 1.2.3.4 5.6.7.8 1_"), "invalid beginning of the source port: '1_'"),
    "port 65536": (line("TCP4 1.2.3.4 5.6.7.8 1 65536"), "invalid beginning of the destination port: '65536'"),
    "port 99999": (line("TCP6 :: :: 99999"), "invalid beginning of the source port: '99999'"),
    "a port of six digits": (line("TCP6 :: :: 100000"), "invalid beginning of the source port: '100000'"),
    "a superscript port": (line("TCP6 :: :: 1\xb2"), r"invalid beginning of the source port: '1\xb2'"),
    "a space at the end": (line("TCP4 1.2.3.4 5.6.7.8 1 2 "), "invalid beginning of the destination port: '2 '"),
    # The end of the line.
    "LF alone": (line("TCP4 1.2.3.4 5.6.7.8 1 2\n"), r"invalid beginning of the destination port: '2\n'"),
    "CR alone": (line("TCP4 1.2.3.4 5.6.7.8 1 2\rG"), "expected LF after the CR"),
    "two CRs": (line("TCP4 1.2.3.4 5.6.7.8 1 2\r\r"), "expected LF after the CR"),
    "no room for a CRLF": (b"PROXY UNKNOWN ".ljust(MAX_LINE - 1), "exceeds the limit of 107 bytes"),
    "no room for a LF": (b"PROXY UNKNOWN ".ljust(MAX_LINE - 2) + b"\r\r", "exceeds the limit of 107 bytes"),
    "a late LF": (b"PROXY UNKNOWN ".ljust(MAX_LINE - 2) + b"\n", "exceeds the limit of 107 bytes"),
    # Version 2: its fixed part.
    "version 0": (v2("01"), "unknown version 0 after the signature of version 2"),
    "version 1": (v2("11"), "unknown version 1 after the signature of version 2"),
    "version 3": (v2("31"), "unknown version 3 after the signature of version 2"),
    "command 2": (v2("22"), "unknown command 0x2"),
    "command 15": (v2("2f"), "unknown command 0xf"),
    "family 4": (v2("21 41"), "unknown address family 0x4"),
    "family 15": (v2("21 f1"), "unknown address family 0xf"),
    "UDP over IPv4": (v2("21 12"), "unsupported transport DGRAM: expected STREAM"),
    "UDP over IPv6": (v2("21 22"), "unsupported transport DGRAM: expected STREAM"),
    "datagrams of a Unix socket": (v2("21 32"), "unsupported transport DGRAM: expected STREAM"),
    "datagrams of no family": (v2("21 02"), "unsupported transport DGRAM: expected STREAM"),
    "transport 3": (v2("21 13"), "unknown transport 0x3"),
    "transport 15": (v2("21 0f"), "unknown transport 0xf"),
    "a length of 65535": (v2("21 11 ff"), "the length after the first 16 bytes exceeds the limit of 4096"),
    "a length of 4352": (v2("21 11 11"), "the length after the first 16 bytes exceeds the limit of 4096"),
    "a length of 4097": (v2("21 11 1001"), "the length after the first 16 bytes exceeds the limit of 4096"),
    "a length of 4097 with LOCAL": (v2("20 00 1001"), "the length after the first 16 bytes exceeds the limit of 4096"),
    "a length of 4097 with UNSPEC": (v2("21 00 1001"), "the length after the first 16 bytes exceeds the limit of 4096"),
    "no addresses": (v2("21 11 0000"), "length 0 is too short for AF_INET, which takes 12 bytes"),
    "short addresses": (v2("21 11 000b"), "length 11 is too short for AF_INET, which takes 12 bytes"),
    "short IPv6 addresses": (v2("21 21 0023"), "length 35 is too short for AF_INET6, which takes 36 bytes"),
    "IPv4 addresses for IPv6": (v2("21 21 000c"), "length 12 is too short for AF_INET6, which takes 36 bytes"),
    "short Unix addresses": (v2("21 31 00d7"), "length 215 is too short for AF_UNIX, which takes 216 bytes"),
    # TLVs.
    "one byte for TLVs": (v2("21 11 000d"), "incomplete TLV in the last 1 bytes"),
    "two bytes for TLVs": (v2("21 21 0026"), "incomplete TLV in the last 2 bytes"),
    "a TLV that is too long": (v2("21 11 0010" + INET + "04 0002"), "TLV of type 0x4 exceeds the 1 bytes left"),
    "a TLV that is much too long": (v2("21 11 0010" + INET + "ea 01"), "TLV of type 0xea exceeds the 1 bytes left"),
    "a second TLV that is too long": (
        v2("21 11 0013" + INET + "04 0001 00 05 0001"),
        "TLV of type 0x5 exceeds the 0 bytes left",
    ),
    "one byte after a TLV": (v2("21 11 0010" + INET + "04 0000"), "incomplete TLV in the last 1 bytes"),
    "two bytes after a TLV": (v2("21 11 0014" + INET + "04 0003"), "incomplete TLV in the last 2 bytes"),
    "no room for a checksum": (v2("21 11 0012" + INET + "03"), "TLV of type 0x3 exceeds the 3 bytes left"),
    "one byte after a checksum": (v2("21 11 0014" + INET + "03"), "incomplete TLV in the last 1 bytes"),
    "a checksum of three bytes": (
        v2("21 11 0019" + INET + "03 0003"),
        "invalid length of the checksum: expected 4 bytes",
    ),
    "a checksum of five bytes": (
        v2("21 11 0019" + INET + "03 0005"),
        "invalid length of the checksum: expected 4 bytes",
    ),
    "a checksum of no bytes": (v2("21 11 0013" + INET + "03 0000"), "invalid length of the checksum: expected 4 bytes"),
    "a checksum of 260 bytes": (v2("21 11 0200" + INET + "03 01"), "invalid length of the checksum: expected 4 bytes"),
    "a second checksum": (v2("21 11 001a" + INET + "03 0004 00000000 03"), "duplicate checksum"),
    "a wrong checksum": (v2("21 11 0013" + INET + "03 0004 036d7683"), "wrong checksum"),
    "a checksum the wrong way round": (v2("21 11 0013" + INET + "03 0004 82766d03"), "wrong checksum"),
    "no checksum": (v2("21 11 0013" + INET + "03 0004 00000000"), "wrong checksum"),
    "a checksum of another address": (
        v2("21 11 0013" + INET.replace("c0000201", "c0000202") + "03 0004 036d7682"),
        "wrong checksum",
    ),
    "a checksum of other TLVs": (v2("21 31 00e2" + UNIX + "03 0004 8b0b8083 04 0000"), "wrong checksum"),
}
REFUSED = pytest.mark.parametrize(("bad", "text"), MALFORMED.values(), ids=MALFORMED.keys())


def failure(pieces: Iterable[bytes]) -> tuple[int, str] | None:
    """Return the index of the piece at which the decoder fails, and the error."""
    decoder = ProxyHeaderDecoder()
    for index, piece in enumerate(pieces):
        try:
            decoder.feed(piece)
        except ProxyProtocolError as error:
            assert decoder.address is None
            assert decoder.rest == b""
            return index, str(error)
    return None


@REFUSED
def test_a_malformed_header_fails_at_its_first_impossible_byte(bad: bytes, text: str) -> None:
    failed = failure(byte_by_byte(bad))
    assert failed is not None
    assert failed[0] == len(bad) - 1
    assert text in failed[1]


@REFUSED
def test_a_malformed_header_fails_alike_in_any_pieces_and_with_any_data_after_it(bad: bytes, text: str) -> None:
    failed = failure(byte_by_byte(bad))
    assert failed is not None
    for trailing in (b"", b"\n", b"\r\n", b"\r\n\x16\x03\x01", b" 1 2\r\n", bytes(5000)):
        assert failure([bad + trailing]) == (0, failed[1])
        assert failure([bad[:-1], bad[-1:] + trailing]) == (1, failed[1])
        assert failure([b"", bad[:1], b"", bad[1:] + trailing]) == (3 if len(bad) > 1 else 1, failed[1])


@REFUSED
def test_a_malformed_header_stays_malformed(bad: bytes, text: str) -> None:
    decoder = ProxyHeaderDecoder()
    with pytest.raises(ProxyProtocolError):
        decoder.feed(bad)
    for more in (b"", b"PROXY UNKNOWN\r\n", bad):
        with pytest.raises(ProxyProtocolError, match=re.escape(text)):
            decoder.feed(more)
    assert decoder.address is None
    assert decoder.rest == b""
    # None of it is kept.
    assert not decoder._received


def test_a_client_hello_fails_at_its_first_byte() -> None:
    hello = bytes.fromhex("16030102000100 01fc0303") + bytes(500)
    assert failure(byte_by_byte(hello)) == (0, r"invalid beginning of a PROXY header: b'\x16'")
    assert failure([hello]) == (0, r"invalid beginning of a PROXY header: b'\x16'")


def test_the_error_belongs_to_the_library() -> None:
    assert issubclass(ProxyProtocolError, AnyTLSError)


# The first impossible byte


def possible(prefix: bytes) -> set[int]:
    """Return the bytes that are accepted after these."""
    return {byte for byte in range(256) if failure([prefix + bytes([byte])]) is None}


def test_which_bytes_a_header_begins_with() -> None:
    assert possible(b"") == set(b"P\r")
    for start in (SIGNATURE, b"PROXY "):
        for position in range(1, len(start)):
            assert possible(start[:position]) == {start[position]}
    assert possible(b"PROXY ") == set(b"TU")
    assert possible(b"PROXY TCP") == set(b"46")
    assert possible(b"PROXY TCP4") == possible(b"PROXY TCP6") == set(b" ")
    assert possible(b"PROXY UNKNOW") == set(b"N")
    assert possible(b"PROXY UNKNOWN") == set(b" \r")
    assert possible(b"PROXY UNKNOWN\r") == set(b"\n")
    for rest in (b"", b"\r", b"\n", b"x"):
        assert possible(b"PROXY UNKNOWN " + rest) == set(range(256))


def test_the_valid_bytes_of_the_fixed_part_of_version_2() -> None:
    assert possible(SIGNATURE) == {0x20, 0x21}
    assert possible(SIGNATURE + b"\x20") == set(range(256))
    assert possible(SIGNATURE + b"\x21") == {0x00, 0x01, 0x10, 0x11, 0x20, 0x21, 0x30, 0x31}
    for start in (SIGNATURE + b"\x20\x11", SIGNATURE + b"\x21\x00", START4, START6, SIGNATURE + b"\x21\x31"):
        assert possible(start) == set(range(0x11))
        assert possible(start + b"\x10") == {0}
        for high in (1, 0x0F):
            assert possible(start + bytes([high])) == set(range(256))
    for start in (SIGNATURE + b"\x20\x11", SIGNATURE + b"\x21\x00", SIGNATURE + b"\x21\x10"):
        assert possible(start + b"\0") == set(range(256))
    assert possible(START4 + b"\0") == {12, *range(15, 256)}
    assert possible(START6 + b"\0") == {36, *range(39, 256)}
    assert possible(SIGNATURE + b"\x21\x31\0") == {216, *range(219, 256)}


@pytest.mark.parametrize("left", [3, 4, 5, 6, 7, 8, 9, 10, 11, 258, 259, 260, 261, 262, 263, 600])
def test_which_bytes_a_tlv_begins_with(left: int) -> None:
    """Return the first bytes of all fields that can fill the `left` bytes."""
    start = START4 + (12 + left).to_bytes(2, "big") + bytes.fromhex(INET)
    sizes = {left - 3, *range(left - 5)}
    every = set(range(256))
    assert possible(start) == (every if 4 in sizes else every - {3})
    assert possible(start + b"\x04") == {size >> 8 for size in sizes}
    for high in {size >> 8 for size in sizes}:
        assert possible(start + bytes([4, high])) == {size & 255 for size in sizes if size >> 8 == high}
    if 4 in sizes:
        assert possible(start + b"\x03") == {0}
        assert possible(start + b"\x03\0") == {4}


# An oracle for version 1: a prefix is possible if one of these endings makes it a line.

ADDRESS_ENDS = [
    "",
    "0",
    ":",
    "::",
    *(f"{digit}{'.0' * octets}" for digit in ("", "0") for octets in (1, 2, 3)),
]


def is_address(text: str, version: int) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    dotted = "." in text and version == 6
    return (
        address.version == version
        and "%" not in text
        and (not dotted or text.lower().rpartition(":")[0] in (":", "::ffff"))
    )


def is_port(text: str) -> bool:
    return text == "0" or (text.isascii() and text.isdigit() and text[0] != "0" and int(text) < 65536)


def is_line(text: str) -> bool:
    match text.split(" "):
        case ["PROXY", "TCP4" | "TCP6" as family, source, destination, source_port, end] if end.endswith("\r\n"):
            return (
                is_address(source, int(family[3]))
                and is_address(destination, int(family[3]))
                and is_port(source_port)
                and is_port(end[:-2])
            )
    return False


def endings(prefix: str) -> Iterator[str]:
    fields = prefix.split(" ")
    address = "::" if fields[1] == "TCP6" else "0.0.0.0"
    match len(fields):
        case 3:
            yield from (f"{end} {address} 0 0\r\n" for end in ADDRESS_ENDS)
        case 4:
            yield from (f"{end} 0 0\r\n" for end in ADDRESS_ENDS)
        case 5:
            yield from (f"{end} 0\r\n" for end in ("", "0"))
        case 6:
            yield from ("0\r\n", "\r\n", "\n", "")


def first_impossible(text: str) -> int | None:
    """Return the index of the first byte after which no ending makes a line. The text itself contains no line."""
    for size in range(len("PROXY TCP4 "), len(text) + 1):
        if not any(is_line(text[:size] + ending) for ending in endings(text[:size])):
            return size - 1
    return None


IPV4 = st.ip_addresses(v=4).map(str)
IPV6 = st.one_of(
    st.ip_addresses(v=6).map(str),
    st.ip_addresses(v=6).map(lambda address: address.exploded),
    st.integers(0, 2**32 - 1).map(lambda value: f"::ffff:{ipaddress.IPv4Address(value)}"),
    st.integers(2**16, 2**32 - 1).map(lambda value: f"::{ipaddress.IPv4Address(value)}"),
    st.lists(st.sampled_from(["", "0", "1", "00ab", "ffff"]), min_size=2, max_size=9).map(":".join),
)
FIELDS = st.text("0123456789afF:.", max_size=12)


@st.composite
def nearly_lines(draw: st.DrawFn) -> str:
    """Draw lines of TCP4 and TCP6 with at most a few mistakes."""
    addresses = draw(st.sampled_from([IPV4, IPV6]))
    family = draw(st.sampled_from(["TCP4", "TCP6"])) if draw(st.booleans()) else "TCP4" if addresses is IPV4 else "TCP6"
    addresses |= FIELDS
    ports = st.integers(0, 70000).map(str) | st.sampled_from(["", "00", "65535", "65536"])
    fields = [draw(addresses), draw(addresses), draw(ports), draw(ports)]
    text = f"PROXY {family} {' '.join(fields)}\r\n"
    for _ in range(draw(st.integers(0, 2))):
        position = draw(st.integers(11, len(text)))
        inserted = draw(st.sampled_from(["", " ", ".", ":", "0", "1", "a", "\r", "\n", "%", "\xb2", "\0"]))
        text = text[:position] + inserted + text[position + draw(st.integers(0, 1)) :]
    return text


@given(nearly_lines())
def test_a_line_fails_as_soon_as_no_ending_can_make_it_one(text: str) -> None:
    whole = text[: text.find("\r\n") + 2] if "\r\n" in text else text
    decoder = ProxyHeaderDecoder()
    expected = None if is_line(whole) else first_impossible(whole)
    failed = failure(byte_by_byte(text.encode("latin-1")))
    assert (failed[0] if failed else None) == expected
    if is_line(whole):
        decoder.feed(text.encode("latin-1"))
        assert decoder.rest == text[len(whole) :].encode("latin-1")
        assert decoder.address is not None
        _, _, source, destination, source_port, destination_port = whole.split()
        for got, address, port in (
            (decoder.address.source, source, source_port),
            (decoder.address.destination, destination, destination_port),
        ):
            assert got is not None
            assert (ipaddress.ip_address(got[0]), got[1]) == (ipaddress.ip_address(address), int(port))


# Limits


@pytest.mark.parametrize("start", ["20 00", "21 00", "21 11", "21 21", "21 31"])
def test_a_header_of_the_largest_length_is_read(start: str) -> None:
    size = {"21 11": 12, "21 21": 36, "21 31": 216}.get(start, 0)
    room = MAX_V2_LENGTH - size - 3
    header = v2(start + "1000" + "00" * size + "04") + room.to_bytes(2, "big") + bytes(room)
    assert len(header) == 16 + MAX_V2_LENGTH
    for pieces in (
        [header + b"more"],
        [*byte_by_byte(header), b"more"],
        [header[:20], header[20:-1], header[-1:], b"more"],
    ):
        decoder = fed(pieces)
        assert decoder.address is not None
        assert decoder.rest == b"more"


@pytest.mark.parametrize("start", [b"PROXY UNKNOWN ", v2("20 00 1000"), v2("21 11 1000") + bytes(12) + b"\x04\x0f\xf1"])
def test_no_more_than_a_header_is_kept(start: bytes) -> None:
    decoder = ProxyHeaderDecoder()
    decoder.feed(start)
    most = 0
    for _ in range(5000):
        try:
            decoder.feed(b"\0")
        except ProxyProtocolError:
            break
        most = max(most, len(decoder._received))
    assert most == (MAX_LINE - 2 if start[:1] == b"P" else 16 + MAX_V2_LENGTH - 1)
    assert not decoder._received


# Random headers, random cuts


def checksum(data: bytes | bytearray) -> int:
    """Compute the CRC bit by bit from the polynomial."""
    remainder = 0xFFFFFFFF
    for byte in data:
        for bit in range(8):
            odd = (remainder ^ (byte >> bit)) & 1
            remainder >>= 1
            if odd:
                remainder ^= int(f"{0x1EDC6F41:032b}"[::-1], 2)
    return remainder ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        # RFC 3720, B.4.
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_checksums(data: bytes, value: int) -> None:
    assert crc32c(data) == checksum(data) == value


@given(st.binary(max_size=100))
def test_any_checksum(data: bytes) -> None:
    assert crc32c(data) == crc32c(bytearray(data)) == checksum(data)


PORTS = st.integers(0, 65535)
TLVS = st.lists(st.tuples(st.integers(0, 255).filter(lambda kind: kind != 3), st.binary(max_size=300)), max_size=4)


@st.composite
def headers(draw: st.DrawFn) -> tuple[bytes, ProxiedAddress]:
    """Draw a header of either version and its content."""
    version = draw(st.sampled_from([4, 6]))
    addresses = st.ip_addresses(v=4) if version == 4 else st.ip_addresses(v=6)
    source, destination = draw(addresses), draw(addresses)
    ports = draw(PORTS), draw(PORTS)
    texts = [
        f"::ffff:{address.ipv4_mapped}"
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped
        else str(address)
        for address in (source, destination)
    ]
    address = ProxiedAddress((texts[0], ports[0]), (texts[1], ports[1]))
    if draw(st.booleans()):
        return f"PROXY TCP{version} {source} {destination} {ports[0]} {ports[1]}\r\n".encode(), address
    block = source.packed + destination.packed + b"".join(port.to_bytes(2, "big") for port in ports)
    family = 1 if version == 4 else 2
    if draw(st.integers(0, 3)) == 0:
        family, block, address = 3, draw(st.binary(min_size=216, max_size=216)), UNSAID
    tlvs = [bytes([kind]) + len(value).to_bytes(2, "big") + value for kind, value in draw(TLVS)]
    if draw(st.booleans()):
        tlvs.insert(draw(st.integers(0, len(tlvs))), b"\x03\0\4" + bytes(4))
        offset = 16 + len(block) + len(b"".join(tlvs[: tlvs.index(b"\x03\0\4" + bytes(4))])) + 3
    else:
        offset = 0
    length = len(block + b"".join(tlvs)).to_bytes(2, "big")
    header = SIGNATURE + bytes([0x21, family << 4 | 1]) + length + block + b"".join(tlvs)
    if offset:
        header = header[:offset] + checksum(header).to_bytes(4, "big") + header[offset + 4 :]
    return header, address


@given(headers(), st.binary(max_size=20), st.data())
def test_any_header_in_any_pieces(header: tuple[bytes, ProxiedAddress], trailing: bytes, data: st.DataObject) -> None:
    encoded, address = header
    for pieces in ([encoded + trailing], byte_by_byte(encoded + trailing), data.draw(cuts(encoded + trailing))):
        decoder = fed(pieces)
        assert decoder.address == address
        assert decoder.rest == trailing


STARTS = st.sampled_from(
    [
        b"",
        b"PROXY ",
        b"PROXY TCP4 ",
        b"PROXY TCP6 ",
        b"PROXY TCP4 1.2.3.4 5.6.7.8 ",
        b"PROXY UNKNOWN",
        SIGNATURE,
        START4,
        START6 + b"\0",
        START4 + b"\0\x13" + bytes(12),
        START4 + b"\0\x20" + bytes(12) + b"\3\0\4",
        SIGNATURE + b"\x21\x31\0",
        SIGNATURE + b"\x20",
    ]
)
SOUP = st.binary(max_size=60) | st.text("0123456789abcdef:. \r\n", max_size=100).map(str.encode)


@given(STARTS, SOUP, st.data())
def test_random_bytes_raise_nothing_but_proxy_protocol_errors_and_always_the_same(
    start: bytes, soup: bytes, data: st.DataObject
) -> None:
    stream = start + soup
    outcomes = []
    for pieces in ([stream], byte_by_byte(stream), data.draw(cuts(stream))):
        decoder = ProxyHeaderDecoder()
        text = None
        try:
            for piece in pieces:
                decoder.feed(piece)
        except ProxyProtocolError as error:
            text = str(error)
            assert text.isascii()
            assert text.isprintable()
            assert len(text) < 120
        outcomes.append((decoder.address, decoder.rest, text))
    assert outcomes[0] == outcomes[1] == outcomes[2]


@given(headers(), st.data())
def test_a_header_with_a_mistake_is_read_or_refused(header: tuple[bytes, ProxiedAddress], data: st.DataObject) -> None:
    encoded = bytearray(header[0])
    for _ in range(data.draw(st.integers(1, 3))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    failed = failure(byte_by_byte(bytes(encoded)))
    at_once = failure([bytes(encoded)])
    assert (at_once and at_once[1]) == (failed and failed[1])


@given(st.binary(min_size=3, max_size=40), st.data())
def test_a_checksum_covers_every_byte(tlv: bytes, data: st.DataObject) -> None:
    block = bytes.fromhex(INET) + b"\x03\0\4" + bytes(4) + b"\xee" + len(tlv).to_bytes(2, "big") + tlv
    header = bytearray(START4 + len(block).to_bytes(2, "big") + block)
    header[31:35] = checksum(header).to_bytes(4, "big")
    assert failure([bytes(header)]) is None
    # In an address, a port, the checksum, or the other TLV's type or value: bytes that do not change the structure.
    position = data.draw(st.sampled_from([*range(16, 28), *range(31, 35), *range(38, len(header))]))
    header[position] ^= 1 << data.draw(st.integers(0, 7))
    assert failure([bytes(header)]) == (0, "wrong checksum")


# Trusted proxies

NETWORKS = ["127.0.0.1", "10.0.0.0/8", "192.0.2.0/255.255.255.0", "::1", "2001:db8::/32"]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.0",
        "10.255.255.255",
        "192.0.2.77",
        "::1",
        "0:0:0:0:0:0:0:1",
        "2001:db8::",
        "2001:DB8:ffff::1",
        # As returned by a dual-stack socket.
        "::ffff:10.0.0.1",
        "::ffff:7f00:1",
        "::ffff:127.0.0.1%eth0",
        "2001:db8::1%eth0",
    ],
)
def test_peers_that_are_trusted(address: str) -> None:
    assert address in TrustedProxies(NETWORKS)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.2",
        "9.255.255.255",
        "11.0.0.0",
        "192.0.3.0",
        "::",
        "::2",
        "2001:db9::",
        "::ffff:11.0.0.1",
        # Not an IPv4 address, although the bits are the same.
        "::10.0.0.1",
        "::a00:1",
        # Not addresses.
        "",
        "localhost",
        "10.0.0.1:80",
        "10.0.0.1/32",
        " 10.0.0.1",
        "10.0.0.01",
        "10.1",
        "::1%",
        "/run/proxy.sock",
        "\0",
    ],
)
def test_peers_that_are_not(address: str) -> None:
    assert address not in TrustedProxies(NETWORKS)


def test_networks_as_objects() -> None:
    trusted = TrustedProxies(
        [
            ipaddress.ip_address("10.0.0.1"),
            ipaddress.ip_network("192.0.2.0/24"),
            ipaddress.ip_address("2001:db8::1"),
            ipaddress.ip_network("fd00::/8"),
        ]
    )
    for address in ("10.0.0.1", "192.0.2.255", "2001:db8::1", "fdff::"):
        assert address in trusted
    for address in ("10.0.0.2", "192.0.3.0", "2001:db8::2", "fe00::"):
        assert address not in trusted
    assert trusted == TrustedProxies(iter(["10.0.0.1", "192.0.2.0/24", "2001:db8::1", "fd00::/8"]))


@pytest.mark.parametrize("network", ["::ffff:10.0.0.0/104", ipaddress.ip_network("::ffff:a00:0/104")])
def test_a_network_of_ipv4_addresses_written_as_ipv6_ones(network: str | ipaddress.IPv6Network) -> None:
    trusted = TrustedProxies([network])
    for address in ("10.1.2.3", "::ffff:10.1.2.3"):
        assert address in trusted
    for address in ("11.0.0.0", "::ffff:11.0.0.0", "::10.1.2.3"):
        assert address not in trusted


def test_everything() -> None:
    assert "192.0.2.1" in TrustedProxies(["::ffff:0:0/96"])
    assert "192.0.2.1" in TrustedProxies(["0.0.0.0/0"])
    assert "::ffff:192.0.2.1" in TrustedProxies(["0.0.0.0/0"])
    assert "2001:db8::1" not in TrustedProxies(["0.0.0.0/0"])
    assert "2001:db8::1" in TrustedProxies(["::/0"])
    assert "::ffff:192.0.2.1" in TrustedProxies(["::/0"])
    assert "192.0.2.1" not in TrustedProxies(["::/0"])


@pytest.mark.parametrize(
    ("network", "inside", "outside"),
    [
        # Without a scope, the network applies to every link.
        ("fe80::/10", ["fe80::1", "fe80::1%eth0", "fe80::1%2"], ["2001:db8::1%eth0"]),
        ("fe80::1", ["fe80::1", "fe80::1%eth0"], ["fe80::2%eth0"]),
        # With a scope, it applies to that link only.
        ("fe80::1%eth0", ["fe80::1%eth0"], ["fe80::1", "fe80::1%eth1", "fe80::2%eth0"]),
        ("fe80::%eth0/64", ["fe80::1%eth0"], ["fe80::1", "fe80::1%eth1"]),
    ],
)
def test_scopes(network: str, inside: list[str], outside: list[str]) -> None:
    trusted = TrustedProxies([network])
    for address in inside:
        assert address in trusted
    for address in outside:
        assert address not in trusted


def test_trusted_proxies_are_false_if_there_are_none() -> None:
    assert not TrustedProxies([])
    assert "127.0.0.1" not in TrustedProxies([])
    assert TrustedProxies(["127.0.0.1"])


@pytest.mark.parametrize(
    "network",
    [
        "",
        "localhost",
        "10.0.0.1/8",
        "10.0.0.0/33",
        "10.0.0",
        "10.0.0.01",
        "::1/129",
        "10.0.0.0-10.0.0.9",
        "[::1]",
        "\n",
    ],
)
def test_a_malformed_network_is_a_value_error_that_names_it(network: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"invalid address or network {network!r}")):
        TrustedProxies(["127.0.0.1", network])


@pytest.mark.parametrize("network", [1, b"\x0a\0\0\1", None, ("10.0.0.0", 8)])
def test_a_network_of_another_type_is_a_type_error(network: object) -> None:
    with pytest.raises(TypeError, match=f"^each of trusted_proxies must be str, not {type(network).__name__}$"):
        TrustedProxies([network])  # type: ignore[list-item]


def test_one_text_is_not_taken_apart() -> None:
    with pytest.raises(TypeError, match=r"must be a sequence of addresses and networks, not the str '10\.0\.0\.0/8'"):
        TrustedProxies("10.0.0.0/8")
