"""UDP over a stream, without I/O: "UDP over TCP", version 2, of sing-box, which the relays of anytls-go speak.

The destination of the stream is a reserved name. The client then sends one request, and both ends send datagrams:

    request                    1 byte: whether all datagrams are for one address; that address, or a dummy
    datagram, one address      2 bytes: its length; the data
    datagram, any address      an address; 2 bytes: the length of the data; the data

The destination in the request is a SOCKS address (RFC 1928, section 5), as at the start of any stream. The address of a
datagram differs in its first byte, the type: 0, 1 and 2 instead of 1, 4 and 3.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from trioanytls import AnyTLSError
from trioanytls.destination import MAX_ENCODED, Destination, DestinationDecoder, DestinationError, encode

#: The reserved name, and the destination of such a stream. A relay ignores the port.
HOST: Final = "sp.v2.udp-over-tcp.arpa"
DESTINATION: Final = Destination(HOST, 0)
#: The longest data of a datagram, in bytes. UDP itself allows less.
MAX_DATA: Final = 0xFFFF

_LENGTH_SIZE: Final = 2
# Address types of SOCKS to those of datagrams: IPv4, IPv6, a name.
_TO_DATAGRAM: Final = {1: 0, 4: 1, 3: 2}
_TO_SOCKS: Final = {kind: socks for socks, kind in _TO_DATAGRAM.items()}


class UOTError(AnyTLSError, ValueError):
    """An invalid request or datagram. The text is printable ASCII."""


@frozen
class UOTRequest:
    """The request at the start of a stream.

    Attributes:
      connected: whether all datagrams are for one address.
      destination: that address, or a dummy.
    """

    connected: bool
    destination: Destination


@frozen
class Datagram:
    """One datagram.

    Attributes:
      address: its destination, or its source.
      data: its content, which may be empty.
    """

    address: Destination
    data: bytes


def encode_request(request: UOTRequest) -> bytes:
    """Encode a request.

    Raises:
      ValueError: the destination cannot be encoded.
    """
    return bytes([request.connected]) + encode(request.destination)


def encode_datagram(datagram: Datagram, *, connected: bool = False) -> bytes:
    """Encode a datagram, without its address if `connected`.

    Raises:
      ValueError: it is too long, or its address cannot be encoded.
    """
    if len(datagram.data) > MAX_DATA:
        raise ValueError(f"datagram of {len(datagram.data)} bytes is too long: the limit is {MAX_DATA}")
    address = b""
    if not connected:
        address = encode(datagram.address)
        address = bytes([_TO_DATAGRAM[address[0]]]) + address[1:]
    return address + len(datagram.data).to_bytes(_LENGTH_SIZE, "big") + datagram.data


class UOTRequestDecoder:
    """Decodes the request from bytes in any pieces.

    It raises at the first byte that makes the request invalid, and cannot be used after that.

    Attributes:
      request: the request, None until it is complete.
      rest: the bytes received after the request.
    """

    def __init__(self) -> None:
        self.request: UOTRequest | None = None
        self._connected: bool | None = None
        self._decoder = DestinationDecoder()

    @property
    def rest(self) -> bytes:
        """The bytes received after the request."""
        return self._decoder.rest

    def feed(self, data: bytes | bytearray) -> None:
        """Process received bytes. Bytes after the request are added to `rest`.

        Raises:
          UOTError: the request is invalid.
        """
        if self._connected is None:
            if not data:
                return
            if data[0] > 1:
                raise UOTError(f"invalid UDP request type {data[0]:#04x} (expected 0 = any address, 1 = one address)")
            self._connected = data[0] == 1
            data = data[1:]
        try:
            self._decoder.feed(data)
        except DestinationError as error:
            raise UOTError(str(error)) from error
        if self.request is None and self._decoder.destination is not None:
            self.request = UOTRequest(self._connected, self._decoder.destination)


class DatagramDecoder:
    """Decodes datagrams from bytes in any pieces.

    It holds the bytes fed, and at most one incomplete datagram once all complete ones were taken. It raises at the
    first byte that makes a datagram invalid, and cannot be used after that.

    Args:
      connected: the address of all datagrams if they come without addresses.
    """

    def __init__(self, connected: Destination | None = None) -> None:
        self._connected = connected
        self._received = bytearray()
        # The start of the next datagram. Datagrams that were taken are removed in one step.
        self._start = 0

    def feed(self, data: bytes | bytearray) -> None:
        """Add received bytes."""
        del self._received[: self._start]
        self._start = 0
        self._received += data

    def take(self) -> Datagram | None:
        """Return the next datagram, None if it is incomplete.

        Raises:
          UOTError: the datagram is invalid.
        """
        received, start = self._received, self._start
        address = self._connected
        if address is None:
            found = self._read_address(start)
            if found is None:
                return None
            address, start = found
        data = start + _LENGTH_SIZE
        end = data + int.from_bytes(received[start:data], "big")
        if len(received) < data or len(received) < end:
            return None
        self._start = end
        return Datagram(address, bytes(received[data:end]))

    def _read_address(self, start: int) -> tuple[Destination, int] | None:
        """Return the address at `start` and the position after it, None if it is incomplete."""
        head = self._received[start : start + MAX_ENCODED]
        if not head:
            return None
        if head[0] not in _TO_SOCKS:
            raise UOTError(f"unknown address type {head[0]:#04x} in a datagram (expected 0 = IPv4, 1 = IPv6, 2 = name)")
        size = len(head)
        head[0] = _TO_SOCKS[head[0]]
        decoder = DestinationDecoder()
        try:
            decoder.feed(head)
        except DestinationError as error:
            raise UOTError(f"invalid address in a datagram: {error}") from error
        if decoder.destination is None:
            return None
        return decoder.destination, start + size - len(decoder.rest)
