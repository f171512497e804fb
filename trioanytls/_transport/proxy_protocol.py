"""The receiving side of the PROXY protocol, versions 1 and 2 (HAProxy's proxy-protocol.txt, sections 2.1 and 2.2).

A load balancer that forwards TCP sends one header before the client's first byte. It contains the client's address.
Nothing protects the header: everyone who can connect can claim any address. It must only be read on connections from
`TrustedProxies`, and is required on all of those: if its presence were guessed, the client could choose (section 5).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Generator, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, NamedTuple

from attrs import field, frozen

from trioanytls._protocol.exceptions import AnyTLSError

#: The maximum length of a line of version 1, in bytes, including CRLF. Only a line with UNKNOWN can be that long.
MAX_LINE = 107
#: The maximum length of a version 2 header after its first 16 bytes, in bytes. The format allows 65535. Load balancers
#: send a few hundred.
MAX_V2_LENGTH = 4096

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_UNKNOWN: Final = b"PROXY UNKNOWN "
_UNKNOWN_ALONE: Final = b"PROXY UNKNOWN\r\n"
_TCP4: Final = b"PROXY TCP4 "
_TCP6: Final = b"PROXY TCP6 "
# None of them is a prefix of another: a complete one determines what follows.
_BEGINNINGS: Final = (_TCP4, _TCP6, _UNKNOWN, _UNKNOWN_ALONE, _SIGNATURE)

_CR: Final = 0x0D
_LF: Final = 0x0A
_SPACE: Final = 0x20

# Version 2: the values of command, transport and family on the wire. A family's name, and the size of the addresses of
# both ends, in bytes.
_LOCAL: Final = 0
_PROXY: Final = 1
_UNSPEC: Final = 0
_STREAM: Final = 1
_DGRAM: Final = 2
_INET: Final = 1
_INET6: Final = 2
_UNIX: Final = 3
_FAMILIES: Final = {_INET: ("AF_INET", 12), _INET6: ("AF_INET6", 36), _UNIX: ("AF_UNIX", 216)}

# The type of the TLV with a checksum, the size of the checksum, and the size of a TLV's type and length.
_CRC32C: Final = 0x03
_CRC32C_SIZE: Final = 4
_TLV_HEADER: Final = 3


class ProxyProtocolError(AnyTLSError):
    """The data is not a header of the PROXY protocol, or not one that a TCP server supports.

    The text names the fault. It is printable ASCII, and quotes at most a short part of the data.
    """


@frozen
class ProxiedAddress:
    """The addresses of a connection according to the proxy.

    Attributes:
      source: the client's address and port, the address in its shortest form. An IPv4-mapped IPv6 address is written as
        `::ffff:10.0.0.1`. None if the proxy gives no address (UNKNOWN, UNSPEC), connects for itself, for example for a
        health check (LOCAL), or serves a Unix socket (AF_UNIX). Only the proxy's own address is known then.
      destination: the address and port that the client connected to. None if `source` is None.
    """

    source: tuple[str, int] | None
    destination: tuple[str, int] | None


_UNSAID: Final = ProxiedAddress(None, None)

#: Reads a header from a growing buffer. Yields the number of bytes that the buffer needs to continue.
_Reading = Generator[int, None, tuple[ProxiedAddress, int]]


class ProxyHeaderDecoder:
    """The incremental decoder of the PROXY header.

    It fails at the first byte that cannot belong to a header, and with the same text no matter how the bytes are split.
    The checksum of version 2 is the exception: it is verified with the header's last byte.

    It keeps at most one header, which is at most 16 + `MAX_V2_LENGTH` bytes. It rejects a longer one when it reads
    its length.

    Attributes:
      address: the addresses in the header; None until the header is complete.
      rest: the bytes after the header, once the header is complete.
    """

    def __init__(self) -> None:
        self.address: ProxiedAddress | None = None
        self.rest = b""
        self._received = bytearray()
        self._reading = _read(self._received)
        self._needed = next(self._reading)
        self._failure: str | None = None

    def feed(self, data: bytes) -> None:
        """Decode the next bytes. Bytes after the header are added to `rest`.

        Raises:
          ProxyProtocolError: the bytes are not the beginning of a header, now or in an earlier call.
        """
        if self._failure is not None:
            raise ProxyProtocolError(self._failure)
        if self.address is not None:
            self.rest += data
            return
        self._received += data
        try:
            while len(self._received) >= self._needed:
                self._needed = next(self._reading)
        except StopIteration as done:
            self.address, end = done.value
            self.rest = bytes(self._received[end:])
            self._received.clear()
        except ProxyProtocolError as error:
            self._failure = str(error)
            self._received.clear()
            raise


def _read(received: bytearray) -> _Reading:
    position = 0
    while (beginning := bytes(received[:position])) not in _BEGINNINGS:
        position += 1
        yield position
        if not any(known.startswith(received[:position]) for known in _BEGINNINGS):
            raise ProxyProtocolError(f"invalid beginning of a PROXY header: {bytes(received[:position])!r}")
    if beginning == _SIGNATURE:
        return (yield from _read_version_2(received))
    if beginning == _TCP4:
        return (yield from _read_line(received, position, _IPV4))
    if beginning == _TCP6:
        return (yield from _read_line(received, position, _IPV6))
    if beginning == _UNKNOWN:
        position = yield from _skip_line(received, position)
    return _UNSAID, position


# Version 1


class _Syntax(NamedTuple):
    """The syntax of a field of the line.

    `may_begin` returns whether a text is the beginning of a valid field. `parse` parses the complete field, and raises
    ValueError if it is incomplete.
    """

    name: str
    may_begin: Callable[[str], bool]
    parse: Callable[[str], object]


def _read_line(received: bytearray, position: int, addresses: _Syntax) -> _Reading:
    """Read the line from its first address on."""
    source, position = yield from _read_field(received, position, _SPACE, "source", addresses)
    destination, position = yield from _read_field(received, position, _SPACE, "destination", addresses)
    source_port, position = yield from _read_field(received, position, _SPACE, "source", _PORT)
    destination_port, position = yield from _read_field(received, position, _CR, "destination", _PORT)
    yield position + 1
    if received[position] != _LF:
        raise ProxyProtocolError("expected LF after the CR that follows the destination port")
    return (
        ProxiedAddress(
            (_written(ipaddress.ip_address(source)), int(source_port)),
            (_written(ipaddress.ip_address(destination)), int(destination_port)),
        ),
        position + 1,
    )


def _read_field(
    received: bytearray, start: int, terminator: int, whose: str, syntax: _Syntax
) -> Generator[int, None, tuple[str, int]]:
    """Read a field up to the byte `terminator`. Return its text and the offset after that byte."""
    position = start
    text = ""
    while True:
        yield position + 1
        byte = received[position]
        position += 1
        if byte == terminator:
            break
        text += chr(byte)
        if not syntax.may_begin(text):
            raise ProxyProtocolError(f"invalid beginning of the {whose} {syntax.name}: {text!a}")
    try:
        syntax.parse(text)
    except ValueError:
        raise ProxyProtocolError(f"incomplete {whose} {syntax.name}: {text!a}") from None
    return text, position


def _skip_line(received: bytearray, end: int) -> Generator[int, None, int]:
    """Skip the rest of the line after UNKNOWN, which has no meaning. Return the offset after the CRLF."""
    while received[end - 2 : end] != b"\r\n":
        # The last but one byte must be the CR, or the line is too long.
        if end == MAX_LINE or (end == MAX_LINE - 1 and received[end - 1] != _CR):
            raise ProxyProtocolError(f"the line exceeds the limit of {MAX_LINE} bytes")
        end += 1
        yield end
    return end


# Each number has exactly one spelling: no sign, no leading zero, no digit of another script.
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_GROUP = "(?:[0-9A-Fa-f]{1,4})"
_IPV4_BEGINNING = re.compile(rf"(?:{_OCTET}\.){{0,3}}{_OCTET}?")
_IPV6_BEGINNING = re.compile(
    rf":|(?:{_GROUP}:){{0,7}}{_GROUP}?|(?:{_GROUP}(?::{_GROUP}){{0,6}})?::(?:{_GROUP}:){{0,6}}{_GROUP}?"
)
# The specification has only hexadecimal groups, but HAProxy formats addresses with inet_ntop(). It writes the end of an
# IPv4-mapped or IPv4-compatible address in dotted form, and no other. Proxies that accept one family and connect with
# the other send such addresses.
_DOTTED_BEGINNING = re.compile(rf"::(?:[Ff]{{4}}:)?(?:{_OCTET}\.){{1,3}}{_OCTET}?")
_PORT_BEGINNING = re.compile(r"0|[1-9][0-9]{0,4}")


def _may_begin_ipv4(text: str) -> bool:
    return _IPV4_BEGINNING.fullmatch(text) is not None


def _may_begin_ipv6(text: str) -> bool:
    if _DOTTED_BEGINNING.fullmatch(text):
        return True
    if not _IPV6_BEGINNING.fullmatch(text):
        return False
    head, gap, tail = text.partition("::")
    # The gap replaces at least one group.
    return not gap or _count_groups(head) + _count_groups(tail) < 8


def _count_groups(part: str) -> int:
    """Return the number of groups in `part`, counting an incomplete last one."""
    return part.count(":") + 1 if part else 0


def _may_begin_port(text: str) -> bool:
    return _PORT_BEGINNING.fullmatch(text) is not None and int(text) <= 0xFFFF


_IPV4: Final = _Syntax("IPv4 address", _may_begin_ipv4, IPv4Address)
_IPV6: Final = _Syntax("IPv6 address", _may_begin_ipv6, IPv6Address)
_PORT: Final = _Syntax("port", _may_begin_port, int)


def _written(address: IPv4Address | IPv6Address) -> str:
    if isinstance(address, IPv6Address) and (mapped := address.ipv4_mapped):
        # Like the addresses of sockets. str() does the same only since Python 3.13.
        return f"::ffff:{mapped}"
    return str(address)


# Version 2


def _read_version_2(received: bytearray) -> _Reading:
    """Read the header after its signature."""
    yield 13
    version, command = divmod(received[12], 16)
    if version != 2:
        raise ProxyProtocolError(f"unknown version {version} after the signature of version 2")
    if command not in (_LOCAL, _PROXY):
        raise ProxyProtocolError(f"unknown command {command:#x}")
    yield 14
    family, transport = divmod(received[13], 16)
    # Everything after LOCAL must be skipped (section 2.2), even inconsistent data: AWS's load balancers announce
    # AF_INET and send no addresses. UNSPEC has no addresses in a known format.
    skipped = command == _LOCAL
    if not skipped:
        if family != _UNSPEC and family not in _FAMILIES:
            raise ProxyProtocolError(f"unknown address family {family:#x}")
        if transport == _DGRAM:
            raise ProxyProtocolError("unsupported transport DGRAM: expected STREAM")
        if transport not in (_UNSPEC, _STREAM):
            raise ProxyProtocolError(f"unknown transport {transport:#x}")
        skipped = _UNSPEC in (family, transport)
    yield 15
    _check_length(received[14] << 8)
    yield 16
    length = int.from_bytes(received[14:16])
    _check_length(length)
    end = 16 + length
    if skipped:
        yield end
        return _UNSAID, end
    name, size = _FAMILIES[family]
    if length < size:
        raise ProxyProtocolError(f"length {length} is too short for {name}, which takes {size} bytes")
    checksum = yield from _walk_tlvs(received, 16 + size, end)
    yield end
    if checksum is not None:
        _verify(received[:end], checksum)
    if family == _UNIX:
        return _UNSAID, end
    # Both addresses have 4 or 16 bytes. Both ports follow the addresses.
    size = 4 if family == _INET else 16
    source, destination = (
        (
            _written(ipaddress.ip_address(bytes(received[address : address + size]))),
            int.from_bytes(received[port : port + 2]),
        )
        for address, port in ((16, 16 + 2 * size), (16 + size, 18 + 2 * size))
    )
    return ProxiedAddress(source, destination), end


def _check_length(length: int) -> None:
    if length > MAX_V2_LENGTH:
        raise ProxyProtocolError(f"the length after the first 16 bytes exceeds the limit of {MAX_V2_LENGTH}")


def _walk_tlvs(received: bytearray, position: int, end: int) -> Generator[int, None, int | None]:
    """Check the TLVs, which must fill the bytes from `position` to `end`. Return the offset of the checksum, if any."""
    checksum = None
    _check_left(end - position)
    while position < end:
        room = end - position - _TLV_HEADER
        yield position + 1
        kind = received[position]
        if kind == _CRC32C:
            if checksum is not None:
                raise ProxyProtocolError("duplicate checksum")
            checksum = position + _TLV_HEADER
            _check_fits(kind, _CRC32C_SIZE, room)
            _check_left(room - _CRC32C_SIZE)
        yield position + 2
        shortest = received[position + 1] << 8
        if kind == _CRC32C and shortest:
            raise ProxyProtocolError(f"invalid length of the checksum: expected {_CRC32C_SIZE} bytes")
        _check_fits(kind, shortest, room)
        yield position + 3
        size = shortest + received[position + 2]
        if kind == _CRC32C and size != _CRC32C_SIZE:
            raise ProxyProtocolError(f"invalid length of the checksum: expected {_CRC32C_SIZE} bytes")
        _check_fits(kind, size, room)
        _check_left(room - size)
        position += _TLV_HEADER + size
    return checksum


def _check_fits(kind: int, size: int, room: int) -> None:
    if size > room:
        raise ProxyProtocolError(f"TLV of type {kind:#x} exceeds the {room} bytes left for it")


def _check_left(left: int) -> None:
    """Check that TLVs can fill `left` bytes."""
    if 0 < left < _TLV_HEADER:
        raise ProxyProtocolError(f"incomplete TLV in the last {left} bytes of the header")


def _verify(header: bytearray, position: int) -> None:
    """Compare the header with its checksum at `position`. Those bytes count as zero in the computation."""
    checksum = int.from_bytes(header[position : position + _CRC32C_SIZE])
    header[position : position + _CRC32C_SIZE] = bytes(_CRC32C_SIZE)
    if crc32c(header) != checksum:
        raise ProxyProtocolError("wrong checksum")


def _make_table() -> tuple[int, ...]:
    table = []
    for entry in range(256):
        for _ in range(8):
            # Castagnoli's polynomial, least significant bit first.
            entry = (entry >> 1) ^ (0x82F63B78 if entry & 1 else 0)
        table.append(entry)
    return tuple(table)


_TABLE: Final = _make_table()


def crc32c(data: bytes | bytearray) -> int:
    """Return the CRC32c of RFC 4960, Appendix B, as an integer. The PROXY protocol sends it in network byte order."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder = (remainder >> 8) ^ _TABLE[(remainder ^ byte) & 0xFF]
    return remainder ^ 0xFFFFFFFF


# Trusted proxies


def _parse_networks(
    networks: Iterable[str | IPv4Address | IPv6Address | IPv4Network | IPv6Network],
) -> tuple[IPv4Network | IPv6Network, ...]:
    if isinstance(networks, str):
        raise TypeError(f"trusted_proxies must be a sequence of addresses and networks, not the str {networks!r}")
    return tuple(_parse_network(network) for network in networks)


def _parse_network(
    network: str | IPv4Address | IPv6Address | IPv4Network | IPv6Network,
) -> IPv4Network | IPv6Network:
    # ip_network() would accept numbers and bytes as addresses, too.
    if not isinstance(network, str | IPv4Address | IPv6Address | IPv4Network | IPv6Network):
        raise TypeError(f"each of trusted_proxies must be str, not {type(network).__name__}")
    try:
        parsed = ipaddress.ip_network(str(network))
    except ValueError as error:
        raise ValueError(f"invalid address or network {str(network)!r}: {error}") from None
    # IPv4-mapped peers are compared as IPv4 addresses, so convert IPv4-mapped networks as well.
    if isinstance(parsed, IPv6Network) and parsed.prefixlen >= 96 and (mapped := parsed.network_address.ipv4_mapped):
        return IPv4Network((int(mapped), parsed.prefixlen - 96))
    return parsed


@frozen
class TrustedProxies:
    """The peers that must send a PROXY header. False if there are none.

    `"10.0.0.1" in trusted` accepts addresses as a socket returns them. The IPv4-mapped address `::ffff:10.0.0.1` of a
    dual-stack socket is in the same networks as `10.0.0.1`. A scope, as in `fe80::1%eth0`, is only compared if the
    network has one as well. A text that is not an address, such as the path of a Unix socket, is in no network.

    Attributes:
      networks: addresses and networks, as text or as objects of `ipaddress`. A network's address must not have bits set
        after its prefix.

    Raises:
      ValueError: one of them is not an address or network. The text names it.
    """

    networks: tuple[IPv4Network | IPv6Network, ...] = field(converter=_parse_networks)

    def __bool__(self) -> bool:
        return bool(self.networks)

    def __contains__(self, address: str) -> bool:
        if not self.networks:
            return False
        try:
            peer = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(_includes(network, peer) for network in self.networks)


def _includes(network: IPv4Network | IPv6Network, peer: IPv4Address | IPv6Address) -> bool:
    if not isinstance(peer, IPv6Address):
        return peer in network
    if not isinstance(network, IPv6Network):
        return peer.ipv4_mapped is not None and peer.ipv4_mapped in network
    return peer in network and network.network_address.scope_id in (None, peer.scope_id)
