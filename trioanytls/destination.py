"""The destination of a relayed stream, and its encoding at the beginning of the stream.

It is encoded as a SOCKS address (RFC 1928, section 5): the address type, the address, the port. The application's data
follows. This is not part of ANYTLS, but the convention of anytls-go between relays and their clients.
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
#: The maximum length of a name, in bytes: the length is encoded in one byte.
MAX_NAME: Final = 255
#: The minimum and maximum length of an encoded destination, in bytes. Both are those of a name.
MIN_ENCODED: Final = 1 + 1 + 1 + _PORT_SIZE
MAX_ENCODED: Final = 1 + 1 + MAX_NAME + _PORT_SIZE


class DestinationError(AnyTLSError, ValueError):
    """The data is not an encoded destination. The text is printable ASCII."""


def _check_host(_instance: object, _attribute: object, host: str) -> None:
    check_type("host", host, str)
    check_host(host)


def _check_port(_instance: object, _attribute: object, port: int) -> None:
    check_type("port", port, int)
    if not 0 <= port <= 0xFFFF:
        raise ValueError(f"invalid port {port}: expected an integer from 0 to 65535")


@frozen
class Destination:
    """A host and a port.

    Attributes:
      host: a name, or an IP address without brackets.
      port: the port. TCP cannot connect to port 0, but conventions between programs use it.

    Raises:
      TypeError: `host` or `port` has the wrong type.
      ValueError: the host is empty or has an invalid character, or the port is not from 0 to 65535.
    """

    host: str = field(validator=_check_host)
    port: int = field(validator=_check_port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str, *, least_port: int = 1) -> Destination:
        """Parse `HOST:PORT`, with an IPv6 address in brackets.

        Raises:
          ValueError: the text is invalid. The error names the fault.
        """
        host, colon, port = text.rpartition(":")
        if not colon or text.endswith("]"):
            raise ValueError(f"missing port in {text!a}: expected HOST:PORT")
        if host.startswith("["):
            if not host.endswith("]") or not _is_ipv6(host[1:-1]):
                raise ValueError(f"invalid IPv6 address in brackets: {host!a}")
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"more than one colon in {text!a}: write an IPv6 address as [ADDRESS]:PORT")
        elif not host:
            raise ValueError(f"missing host in {text!a}: expected HOST:PORT")
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and least_port <= int(port) <= 0xFFFF):
            raise ValueError(f"invalid port {port!a}: expected an integer from {least_port} to 65535")
        destination = cls(host, int(port))
        if not is_address(host):
            # Reject a name that cannot be encoded here, and not when it is used.
            encode_host(host)
        return destination


def encode(destination: Destination) -> bytes:
    """Encode a destination for the beginning of a stream. Names with non-ASCII characters are encoded by IDNA.

    Raises:
      ValueError: the name is too long or invalid, or the address has a zone.
    """
    port = destination.port.to_bytes(_PORT_SIZE, "big")
    # An encoded name can be an address, for example if it has full-width digits.
    is_encoded = destination.host.isascii() or is_address(destination.host)
    host = destination.host if is_encoded else encode_host(destination.host)
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("ascii")
        if len(name) > MAX_NAME:
            raise ValueError(f"destination name of {len(name)} bytes exceeds the limit of {MAX_NAME}") from None
        return bytes([_NAME, len(name)]) + name + port
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id is not None:
        raise ValueError(f"invalid destination {destination.host!a}: a zone has no meaning on another machine")
    return bytes([_IPV4 if address.version == 4 else _IPV6]) + address.packed + port


class DestinationDecoder:
    """The incremental decoder of a destination.

    It fails at the first byte that cannot belong to a destination.

    Attributes:
      destination: the destination; None until it is complete.
      rest: the bytes after the destination, once it is complete.
      needed: the minimum number of bytes missing. A caller that never reads more than that gets no `rest`.
    """

    def __init__(self) -> None:
        self.destination: Destination | None = None
        self.rest: bytes = b""
        self.needed: int = MIN_ENCODED
        self._received = bytearray()
        self._failure: str | None = None

    def feed(self, data: bytes | bytearray) -> None:
        """Decode the next bytes. Bytes after the destination are added to `rest`.

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
    """Return the offset and length of the address. If the length is unknown yet, return the minimum."""
    shortest = MIN_ENCODED - _PORT_SIZE
    if not received:
        return 0, shortest
    kind = received[0]
    if kind in _IP_SIZES:
        return 1, _IP_SIZES[kind]
    if kind != _NAME:
        raise DestinationError(f"unknown address type {kind:#04x} (expected 1 = IPv4, 3 = name, 4 = IPv6)")
    if len(received) == 1:
        return 0, shortest
    size = received[1]
    if not size:
        raise DestinationError("the destination name is empty")
    _check_name(received[2 : 2 + size])
    return 2, size


def _check_name(name: bytes | bytearray) -> None:
    """Check that a name is printable ASCII without spaces. Some programs would stop reading it at a NUL."""
    bad = next((byte for byte in name if not 0x21 <= byte <= 0x7E), None)
    if bad is not None:
        raise DestinationError(f"invalid byte {bad:#04x} in the destination name")


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True
