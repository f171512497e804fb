"""The PROXY protocol, versions 1 and 2, as its receiver (HAProxy's proxy-protocol.txt, sections 2.1 and 2.2).

A load balancer that passes TCP on puts one header in front of the client's first byte, and says in it who the client
is. Nothing protects that header: whoever may connect can claim any address. It is to be read on connections from
`TrustedProxies` only, and has to be there on all of those, for guessing whether there is one would leave the choice
to the client (section 5).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Generator, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, NamedTuple

from attrs import field, frozen

from trioanytls._protocol.exceptions import AnyTLSError

#: The longest line of version 1, in bytes, CRLF included. Only one with UNKNOWN can come to that.
MAX_LINE = 107
#: The longest part of a version 2 header behind its first 16 bytes, in bytes. The format has room for 65535; what
#: load balancers send is a few hundred.
MAX_V2_LENGTH = 4096

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_UNKNOWN: Final = b"PROXY UNKNOWN "
_UNKNOWN_ALONE: Final = b"PROXY UNKNOWN\r\n"
_TCP4: Final = b"PROXY TCP4 "
_TCP6: Final = b"PROXY TCP6 "
# None of them begins another: as soon as one is there in full, it is clear what follows.
_BEGINNINGS: Final = (_TCP4, _TCP6, _UNKNOWN, _UNKNOWN_ALONE, _SIGNATURE)

_CR: Final = 0x0D
_LF: Final = 0x0A
_SPACE: Final = 0x20

# Version 2: command, transport and family as they stand on the wire; a family's name, and the size of what it says of
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

# The type of a TLV with a checksum, the size of the checksum, and of the type and length in front of it.
_CRC32C: Final = 0x03
_CRC32C_SIZE: Final = 4
_TLV_HEADER: Final = 3


class ProxyProtocolError(AnyTLSError):
    """What came is no header of the PROXY protocol, or one that a TCP server cannot use.

    The text says what is wrong with it, in printable ASCII; it quotes no more than a short piece.
    """


@frozen
class ProxiedAddress:
    """What the proxy says of the connection.

    Attributes:
      source: the client's address and port, the address in its shortest form; an IPv4 address that comes as an IPv6
        one is `::ffff:10.0.0.1`. None where the proxy names none (UNKNOWN, UNSPEC), speaks for itself, as in a health
        check (LOCAL), or serves a Unix socket (AF_UNIX): the peer's own address is all that is known then.
      destination: the address and port that the client connected to. None where `source` is.
    """

    source: tuple[str, int] | None
    destination: tuple[str, int] | None


_UNSAID: Final = ProxiedAddress(None, None)

#: Reads a header out of a buffer that grows. It yields how many bytes must be in there before it can go on.
_Reading = Generator[int, None, tuple[ProxiedAddress, int]]


class ProxyHeaderDecoder:
    """Bytes in any pieces -> what the PROXY header says, and what follows it.

    It fails at the first byte with which the bytes can no longer become a header, in whatever pieces they come, and
    with the same text. The checksum of version 2 is the exception: it is verified with the header's last byte.

    No more is kept than one header, at most 16 + `MAX_V2_LENGTH` bytes; what is longer is refused when its length is
    read.

    Attributes:
      address: what the header says, as soon as its last byte is there.
      rest: what follows the header, once the header is complete.
    """

    def __init__(self) -> None:
        self.address: ProxiedAddress | None = None
        self.rest = b""
        self._received = bytearray()
        self._reading = _read(self._received)
        self._needed = next(self._reading)
        self._failure: str | None = None

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Those that come after the header are added to `rest`.

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
            raise ProxyProtocolError(f"no PROXY header begins with {bytes(received[:position])!r}")
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
    """How a field of the line is written.

    `may_begin` says whether the field can begin with a text; `parse` reads the whole, and raises ValueError where
    there should have been more of it.
    """

    name: str
    may_begin: Callable[[str], bool]
    parse: Callable[[str], object]


def _read_line(received: bytearray, position: int, addresses: _Syntax) -> _Reading:
    """The line from its first address on."""
    source, position = yield from _read_field(received, position, _SPACE, "source", addresses)
    destination, position = yield from _read_field(received, position, _SPACE, "destination", addresses)
    source_port, position = yield from _read_field(received, position, _SPACE, "source", _PORT)
    destination_port, position = yield from _read_field(received, position, _CR, "destination", _PORT)
    yield position + 1
    if received[position] != _LF:
        raise ProxyProtocolError("a CR without its LF behind the destination port")
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
    """A field that ends with the byte `terminator`: its text, and the offset behind that byte."""
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
            raise ProxyProtocolError(f"no {whose} {syntax.name} begins with {text!a}")
    try:
        syntax.parse(text)
    except ValueError:
        raise ProxyProtocolError(f"the {whose} {syntax.name} ends too early: {text!a}") from None
    return text, position


def _skip_line(received: bytearray, end: int) -> Generator[int, None, int]:
    """What follows UNKNOWN means nothing up to the CRLF. Gives the offset behind that."""
    while received[end - 2 : end] != b"\r\n":
        # The last but one byte is already one too many, unless it is the CR.
        if end == MAX_LINE or (end == MAX_LINE - 1 and received[end - 1] != _CR):
            raise ProxyProtocolError(f"the line is longer than {MAX_LINE} bytes")
        end += 1
        yield end
    return end


# One number has one spelling: no sign, no leading zero, no digit of another script.
_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_GROUP = "(?:[0-9A-Fa-f]{1,4})"
_IPV4_BEGINNING = re.compile(rf"(?:{_OCTET}\.){{0,3}}{_OCTET}?")
_IPV6_BEGINNING = re.compile(
    rf":|(?:{_GROUP}:){{0,7}}{_GROUP}?|(?:{_GROUP}(?::{_GROUP}){{0,6}})?::(?:{_GROUP}:){{0,6}}{_GROUP}?"
)
# The specification has only hexadecimal groups, but HAProxy writes with inet_ntop(), and that gives an IPv4 address
# among IPv6 ones, as where a proxy takes one and connects with the other, a dotted end: in these two cases alone.
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
    # The gap stands for one group at least.
    return not gap or _count_groups(head) + _count_groups(tail) < 8


def _count_groups(part: str) -> int:
    """How many groups are in this part of an address, together with the one that a colon at its end asks for."""
    return part.count(":") + 1 if part else 0


def _may_begin_port(text: str) -> bool:
    return _PORT_BEGINNING.fullmatch(text) is not None and int(text) <= 0xFFFF


_IPV4: Final = _Syntax("IPv4 address", _may_begin_ipv4, IPv4Address)
_IPV6: Final = _Syntax("IPv6 address", _may_begin_ipv6, IPv6Address)
_PORT: Final = _Syntax("port", _may_begin_port, int)


def _written(address: IPv4Address | IPv6Address) -> str:
    if isinstance(address, IPv6Address) and (mapped := address.ipv4_mapped):
        # As sockets give it. str() does the same since Python 3.13 only.
        return f"::ffff:{mapped}"
    return str(address)


# Version 2


def _read_version_2(received: bytearray) -> _Reading:
    """The header from the byte behind its signature on."""
    yield 13
    version, command = divmod(received[12], 16)
    if version != 2:
        raise ProxyProtocolError(f"version {version} behind the signature of version 2")
    if command not in (_LOCAL, _PROXY):
        raise ProxyProtocolError(f"unknown command {command:#x}")
    yield 14
    family, transport = divmod(received[13], 16)
    # What follows LOCAL is to be skipped, whatever it is (section 2.2). That has to be taken at its word: AWS's load
    # balancers announce AF_INET and send no addresses. UNSPEC has none that anything could be said of.
    skipped = command == _LOCAL
    if not skipped:
        if family != _UNSPEC and family not in _FAMILIES:
            raise ProxyProtocolError(f"unknown address family {family:#x}")
        if transport == _DGRAM:
            raise ProxyProtocolError("the transport is DGRAM: only STREAM is served")
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
        raise ProxyProtocolError(f"{name} takes {size} bytes, and {length} are announced")
    checksum = yield from _walk_tlvs(received, 16 + size, end)
    yield end
    if checksum is not None:
        _verify(received[:end], checksum)
    if family == _UNIX:
        return _UNSAID, end
    # Either is an address of 4 or 16 bytes; the ports stand behind both.
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
        raise ProxyProtocolError(f"more than {MAX_V2_LENGTH} bytes behind the first 16")


def _walk_tlvs(received: bytearray, position: int, end: int) -> Generator[int, None, int | None]:
    """Go through the TLVs, which fill everything from `position` to `end`. Gives the offset of the checksum."""
    checksum = None
    _check_left(end - position)
    while position < end:
        room = end - position - _TLV_HEADER
        yield position + 1
        kind = received[position]
        if kind == _CRC32C:
            if checksum is not None:
                raise ProxyProtocolError("a second checksum")
            checksum = position + _TLV_HEADER
            _check_fits(kind, _CRC32C_SIZE, room)
            _check_left(room - _CRC32C_SIZE)
        yield position + 2
        shortest = received[position + 1] << 8
        if kind == _CRC32C and shortest:
            raise ProxyProtocolError(f"a checksum has {_CRC32C_SIZE} bytes")
        _check_fits(kind, shortest, room)
        yield position + 3
        size = shortest + received[position + 2]
        if kind == _CRC32C and size != _CRC32C_SIZE:
            raise ProxyProtocolError(f"a checksum has {_CRC32C_SIZE} bytes")
        _check_fits(kind, size, room)
        _check_left(room - size)
        position += _TLV_HEADER + size
    return checksum


def _check_fits(kind: int, size: int, room: int) -> None:
    if size > room:
        raise ProxyProtocolError(f"a TLV of type {kind:#x} is longer than the {room} bytes that are left for it")


def _check_left(left: int) -> None:
    """Whether TLVs can fill `left` bytes."""
    if 0 < left < _TLV_HEADER:
        raise ProxyProtocolError(f"no TLV fits in the last {left} of the header's bytes")


def _verify(header: bytearray, position: int) -> None:
    """Compare the header with its checksum at `position`, which was zero while that was computed."""
    checksum = int.from_bytes(header[position : position + _CRC32C_SIZE])
    header[position : position + _CRC32C_SIZE] = bytes(_CRC32C_SIZE)
    if crc32c(header) != checksum:
        raise ProxyProtocolError("the checksum is wrong")


def _make_table() -> tuple[int, ...]:
    table = []
    for entry in range(256):
        for _ in range(8):
            # Castagnoli's polynomial, lowest bit first.
            entry = (entry >> 1) ^ (0x82F63B78 if entry & 1 else 0)
        table.append(entry)
    return tuple(table)


_TABLE: Final = _make_table()


def crc32c(data: bytes | bytearray) -> int:
    """The CRC32c of RFC 4960, Appendix B, as a number: the PROXY protocol writes it in network byte order."""
    remainder = 0xFFFFFFFF
    for byte in data:
        remainder = (remainder >> 8) ^ _TABLE[(remainder ^ byte) & 0xFF]
    return remainder ^ 0xFFFFFFFF


# Whom to believe


def _parse_networks(
    networks: Iterable[str | IPv4Address | IPv6Address | IPv4Network | IPv6Network],
) -> tuple[IPv4Network | IPv6Network, ...]:
    if isinstance(networks, str):
        raise TypeError(f"trusted_proxies must be a sequence of addresses and networks, not the str {networks!r}")
    return tuple(_parse_network(network) for network in networks)


def _parse_network(
    network: str | IPv4Address | IPv6Address | IPv4Network | IPv6Network,
) -> IPv4Network | IPv6Network:
    # ip_network() would read numbers and bytes as addresses, too.
    if not isinstance(network, str | IPv4Address | IPv6Address | IPv4Network | IPv6Network):
        raise TypeError(f"each of trusted_proxies must be str, not {type(network).__name__}")
    try:
        parsed = ipaddress.ip_network(str(network))
    except ValueError as error:
        raise ValueError(f"{str(network)!r} is no address or network: {error}") from None
    # Peers are compared as IPv4 addresses where they are, and so are the networks.
    if isinstance(parsed, IPv6Network) and parsed.prefixlen >= 96 and (mapped := parsed.network_address.ipv4_mapped):
        return IPv4Network((int(mapped), parsed.prefixlen - 96))
    return parsed


@frozen
class TrustedProxies:
    """Which peers may speak the PROXY protocol. False where there are none.

    `"10.0.0.1" in trusted` takes addresses as a socket gives them. An IPv4 address that a dual-stack socket gives as
    `::ffff:10.0.0.1` is in the same networks as `10.0.0.1`. A scope, as in `fe80::1%eth0`, makes a difference only
    where the network has one as well. What is no address, such as the name of a Unix socket, is in no network.

    Attributes:
      networks: addresses and networks, as text or as objects of `ipaddress`; a network's address has no bits set
        behind its prefix.

    Raises:
      ValueError: one of them is neither; the text names it.
    """

    networks: tuple[IPv4Network | IPv6Network, ...] = field(converter=_parse_networks)

    def __bool__(self) -> bool:
        return bool(self.networks)

    def __contains__(self, address: str) -> bool:
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
