"""Where a stream is to be relayed to, and how that is said at its start: a SOCKS address (RFC 1928, section 5).

The type of the address, the address, the port. What follows belongs to the application. ANYTLS itself knows nothing of
it: it is a convention between relays and their clients, the reference's.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from attrs import field, frozen

from trioanytls._checks import check_type
from trioanytls._protocol.exceptions import AnyTLSError
from trioanytls._transport.hosts import check_host, encode_host, encode_tls_name, is_address

__all__ = [
    "MAX_ENCODED",
    "MAX_NAME",
    "MIN_ENCODED",
    "Destination",
    "DestinationDecoder",
    "DestinationError",
    "encode",
    "encode_host",
    "encode_tls_name",
]

_IPV4: Final = 1
_NAME: Final = 3
_IPV6: Final = 4
_IP_SIZES: Final = {_IPV4: 4, _IPV6: 16}
_PORT_SIZE: Final = 2
#: The longest name, in bytes: its length is one byte.
MAX_NAME: Final = 255
#: The shortest and the longest destination on the wire, in bytes: that of a name.
MIN_ENCODED: Final = 1 + 1 + 1 + _PORT_SIZE
MAX_ENCODED: Final = 1 + 1 + MAX_NAME + _PORT_SIZE


class DestinationError(AnyTLSError, ValueError):
    """What came cannot become a destination. The text is printable ASCII."""


def _check_host(_instance: object, _attribute: object, host: str) -> None:
    check_type("host", host, str)
    check_host(host)


def _check_port(_instance: object, _attribute: object, port: int) -> None:
    check_type("port", port, int)
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"the port is a number from 0 to 65535, not {port}")


@frozen
class Destination:
    """A host and a port.

    Attributes:
      host: a name, or an IP address without brackets.
      port: 0 is none that TCP can connect to; conventions between programs use it.

    Raises:
      TypeError: `host` or `port` has the wrong type.
      ValueError: there is no host, or a character in it that no host has; the port is not from 0 to 65535.
    """

    host: str = field(validator=_check_host)
    port: int = field(validator=_check_port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, *, least_port: int = 1) -> Destination:
        """Read `HOST:PORT`, with an IPv6 address in brackets.

        Raises:
          ValueError: it is something else; the text says what is wrong with it.
        """
        host, colon, port = text.rpartition(":")
        if not colon or text.endswith("]"):
            raise ValueError(f"{text!a} has no port: it is written HOST:PORT")
        if host.startswith("["):
            if not host.endswith("]") or not _is_ipv6(host[1:-1]):
                raise ValueError(f"{host!a} is no IPv6 address in brackets")
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!a} has more than one colon: an IPv6 address is written [ADDRESS]:PORT")
        elif not host:
            raise ValueError(f"{text!a} has no host: it is written HOST:PORT")
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and least_port <= int(port) <= 0xFFFF):
            raise ValueError(f"the port is a number from {least_port} to 65535, not {port!a}")
        destination = cls(host, int(port))
        if not is_address(host):
            # A name that cannot be encoded is refused where it is written, and not where it is used.
            encode_host(host)
        return destination


def encode(destination: Destination) -> bytes:
    """The destination as it goes at the start of a stream. A name in other than ASCII characters goes as IDNA has it.

    Raises:
      ValueError: the name is too long, or no name.
    """
    port = destination.port.to_bytes(_PORT_SIZE, "big")
    # A name can turn out to be an address: in full-width digits, say.
    host = destination.host if is_address(destination.host) else encode_host(destination.host)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("ascii")
        if len(name) > MAX_NAME:
            raise ValueError(f"the name of a destination has at most {MAX_NAME} bytes, not {len(name)}") from None
        return bytes([_NAME, len(name)]) + name + port
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise ValueError(f"{destination.host!a}: a zone means nothing to another machine")
    return bytes([_IPV4 if address.version == 4 else _IPV6]) + address.packed + port


class DestinationDecoder:
    """Bytes in any pieces -> the destination, and what follows it.

    It fails at the first byte with which the bytes can no longer become a destination.

    Attributes:
      destination: as soon as its last byte is there; None until then.
      rest: what follows it, once it is there.
      needed: how many bytes have to come at least until it is there: whoever asks for no more gets no `rest`.
    """

    def __init__(self) -> None:
        self.destination: Destination | None = None
        self.rest = b""
        self.needed = MIN_ENCODED
        self._received = bytearray()
        self._failure: str | None = None

    def feed(self, data: bytes | bytearray) -> None:
        """Take the next bytes. Those behind the destination are added to `rest`.

        Raises:
          DestinationError: the bytes are not the beginning of a destination, now or in an earlier call.
        """
        if self._failure is not None:
            raise DestinationError(self._failure)
        if self.destination is not None:
            self.rest += data
            return
        self._received += data
        try:
            self._read(self._received)
        except DestinationError as error:
            self._failure = str(error)
            self._received.clear()
            raise

    def _read(self, received: bytearray) -> None:
        start, size = _find_address(received)
        end = start + size
        self.needed = max(0, end + _PORT_SIZE - len(received))
        if self.needed:
            return
        address = bytes(received[start:end])
        host = address.decode("ascii") if received[0] == _NAME else str(ipaddress.ip_address(address))
        self.destination = Destination(host, int.from_bytes(received[end : end + _PORT_SIZE], "big"))
        self.rest = bytes(received[end + _PORT_SIZE :])
        received.clear()


def _find_address(received: bytearray) -> tuple[int, int]:
    """Where the address begins, and how long it is; the least that it can be where that is not known yet."""
    shortest = MIN_ENCODED - _PORT_SIZE
    if not received:
        return 0, shortest
    kind = received[0]
    if kind in _IP_SIZES:
        return 1, _IP_SIZES[kind]
    if kind != _NAME:
        raise DestinationError(f"no destination begins with {kind:#04x}: 1 is IPv4, 3 a name, 4 IPv6")
    if len(received) == 1:
        return 0, shortest
    size = received[1]
    if not size:
        raise DestinationError("the name of the destination is empty")
    _check_name(received[2 : 2 + size])
    return 2, size


def _check_name(name: bytes | bytearray) -> None:
    """A name is printable ASCII: no control characters, no NUL that ends it early for some, no space."""
    bad = next((byte for byte in name if not 0x21 <= byte <= 0x7E), None)
    if bad is not None:
        raise DestinationError(f"the name of the destination has the byte {bad:#04x} in it")


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
