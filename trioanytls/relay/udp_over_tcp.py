"""UDP over a stream as sing-box has it, which the reference's relays speak ("UDP over TCP", version 2); without I/O.

The destination of the stream is a name that stands for it. Behind that the client sends one request, and then both ends
send datagrams:

    request             1 byte: whether all datagrams are for one address; a destination: that address, or a dummy
    a datagram, if so   2 bytes: its length; the data
    otherwise           an address; 2 bytes: the length; the data

The destination in the request is a SOCKS address (RFC 1928, section 5), as at the start of any stream. The address of a
datagram is one as well, but for its first byte: there, the types are 0, 1 and 2 where SOCKS has 1, 4 and 3.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from trioanytls import AnyTLSError
from trioanytls.destination import MAX_ENCODED, Destination, DestinationDecoder, DestinationError, encode

#: The name, and the destination with which a client asks for it. A relay does not look at the port.
HOST: Final = "sp.v2.udp-over-tcp.arpa"
DESTINATION: Final = Destination(HOST, 0)
#: The most that one datagram can carry here, in bytes. UDP itself has room for less.
MAX_DATA: Final = 0xFFFF

_LENGTH_SIZE: Final = 2
# The type of an address: SOCKS has the former, datagrams have the latter. IPv4, IPv6, a name.
_TO_DATAGRAM: Final = {1: 0, 4: 1, 3: 2}
_TO_SOCKS: Final = {kind: socks for socks, kind in _TO_DATAGRAM.items()}


class UOTError(AnyTLSError, ValueError):
    """What came is no request, or no datagram. The text is printable ASCII."""


@frozen
class UOTRequest:
    """What a client begins with.

    Attributes:
      connected: whether all datagrams are for one address.
      destination: that address; otherwise a dummy.
    """

    connected: bool
    destination: Destination


@frozen
class Datagram:
    """One datagram.

    Attributes:
      address: where it is to go, or where it came from.
      data: what is in it; it can be empty.
    """

    address: Destination
    data: bytes


def encode_request(request: UOTRequest) -> bytes:
    """The request as it goes behind the stream's destination.

    Raises:
      ValueError: its destination cannot be encoded.
    """
    return bytes([request.connected]) + encode(request.destination)


def encode_datagram(datagram: Datagram, *, connected: bool = False) -> bytes:
    """A datagram as it goes over the stream; where all are for one address, without it.

    Raises:
      ValueError: it is too long, or its address cannot be encoded.
    """
    if len(datagram.data) > MAX_DATA:
        raise ValueError(f"a datagram has at most {MAX_DATA} bytes, not {len(datagram.data)}")
    address = b""
    if not connected:
        address = encode(datagram.address)
        address = bytes([_TO_DATAGRAM[address[0]]]) + address[1:]
    return address + len(datagram.data).to_bytes(_LENGTH_SIZE, "big") + datagram.data


class UOTRequestDecoder:
    """Bytes in any pieces -> the request, and what follows it.

    It fails at the first byte with which the bytes can no longer become a request, and is of no use then.

    Attributes:
      request: as soon as its last byte is there; None until then.
      rest: what follows it, once it is there.
    """

    def __init__(self) -> None:
        self.request: UOTRequest | None = None
        self._connected: bool | None = None
        self._decoder = DestinationDecoder()

    @property
    def rest(self) -> bytes:
        """What follows the request."""
        return self._decoder.rest

    def feed(self, data: bytes | bytearray) -> None:
        """Take the next bytes. Those behind the request are added to `rest`.

        Raises:
          UOTError: the bytes are not the beginning of a request.
        """
        if self._connected is None:
            if not data:
                return
            if data[0] > 1:
                raise UOTError(f"no request for UDP begins with {data[0]:#04x}: 0 is for any address, 1 for one")
            self._connected = data[0] == 1
            data = data[1:]
        try:
            self._decoder.feed(data)
        except DestinationError as error:
            raise UOTError(str(error)) from error
        if self.request is None and self._decoder.destination is not None:
            self.request = UOTRequest(self._connected, self._decoder.destination)


class DatagramDecoder:
    """Bytes in any pieces -> datagrams.

    It holds what it was fed, and not more than one incomplete datagram once all complete ones were taken. It fails at
    the first byte with which the bytes can no longer become a datagram, and is of no use then.

    Args:
      connected: the address of all datagrams, where they come without.
    """

    def __init__(self, connected: Destination | None = None) -> None:
        self._connected = connected
        self._received = bytearray()
        # Where the next datagram begins: what was taken is removed once for many.
        self._start = 0

    def feed(self, data: bytes | bytearray) -> None:
        """Take the next bytes."""
        del self._received[: self._start]
        self._start = 0
        self._received += data

    def take(self) -> Datagram | None:
        """The next datagram; None where it is not complete yet.

        Raises:
          UOTError: what came is none.
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
        """The address that begins there, and where it ends."""
        head = self._received[start : start + MAX_ENCODED]
        if not head:
            return None
        if head[0] not in _TO_SOCKS:
            raise UOTError(f"no address of a datagram begins with {head[0]:#04x}: 0 is IPv4, 1 IPv6, 2 a name")
        size = len(head)
        head[0] = _TO_SOCKS[head[0]]
        decoder = DestinationDecoder()
        try:
            decoder.feed(head)
        except DestinationError as error:
            raise UOTError(f"a datagram: {error}") from error
        if decoder.destination is None:
            return None
        return decoder.destination, start + size - len(decoder.rest)
