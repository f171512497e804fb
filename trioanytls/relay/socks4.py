"""SOCKS4 and SOCKS4a for local applications, without I/O: CONNECT.

A request is `04`, a command, the port, an IPv4 address, and a user id that ends with a zero byte. In SOCKS4a, an
address of 0.0.0.1 to 0.0.0.255 means that a name follows, which also ends with a zero byte.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from trioanytls.destination import MAX_NAME, Destination, DestinationDecoder, DestinationError

from .reply_codes import ReplyCode
from .socks5 import SOCKSError

#: The first byte of a request.
VERSION: Final = 4

_CONNECT: Final = 1
_HEADER: Final = 8
# The longest user id: the name of the application's user, as in identd.
_MAX_USER: Final = 255
# The codes of an answer, whose first byte is 0.
_GRANTED: Final = 0x5A
_REJECTED: Final = 0x5B
_WRONG_USER: Final = 0x5D
_NAME: Final = 3


class SOCKS4Negotiation:
    """The request of one connection. Feed the received bytes until it has the destination.

    SOCKS4 has no password, and a user id is not a secret. If applications need a password, all requests are refused.
    See `SOCKS5Negotiation` for the attributes.

    Args:
      needs_password: whether applications need a password.
    """

    associates: Final = False

    def __init__(self, *, needs_password: bool = False) -> None:
        self.destination: Destination | None = None
        self.rest: bytes = b""
        self._needs_password = needs_password
        self._received = b""

    def feed(self, data: bytes | bytearray) -> bytes:
        """Process received bytes. Return the bytes to send: none before `reply`.

        Raises:
          SOCKSError: the connection must be closed.
        """
        self._received += data
        if self.destination is not None:
            self.rest += data
        elif (found := _read(self._received, needs_password=self._needs_password)) is not None:
            self.destination, self.rest = found
        if self.destination is not None:
            self._received = b""
        return b""

    def reply(self, reply: ReplyCode) -> bytes:
        """Encode the answer to the request."""
        return _answer(_GRANTED if reply is ReplyCode.SUCCEEDED else _REJECTED)


def _read(received: bytes, *, needs_password: bool) -> tuple[Destination, bytes] | None:
    """Read a request. Return its destination and the bytes after it, or None if more bytes are needed."""
    if received and received[0] != VERSION:
        raise SOCKSError("the request is not SOCKS4")
    if received and needs_password:
        raise SOCKSError("SOCKS4 has no password; set the application to SOCKS5", _answer(_WRONG_USER))
    if len(received) > 1 and received[1] != _CONNECT:
        raise SOCKSError(f"SOCKS4: {ReplyCode.COMMAND_NOT_SUPPORTED.text}", _answer(_REJECTED))
    if len(received) < _HEADER:
        return None
    end_of_user = _find_end(received, _HEADER, _MAX_USER, "user id")
    if end_of_user is None:
        return None
    port, address = received[2:4], received[4:_HEADER]
    if any(address[:3]) or not address[3]:
        destination = Destination(str(ipaddress.IPv4Address(address)), int.from_bytes(port, "big"))
        return destination, received[end_of_user:]
    end = _find_end(received, end_of_user, MAX_NAME, "name of the destination")
    if end is None:
        return None
    return _read_name(received[end_of_user : end - 1], port), received[end:]


def _find_end(received: bytes, start: int, most: int, what: str) -> int | None:
    """Return the position after the zero byte of a string, or None if more bytes are needed."""
    zero = received.find(0, start, start + most + 1)
    if zero >= 0:
        return zero + 1
    if len(received) > start + most:
        raise SOCKSError(f"SOCKS4: the {what} is longer than {most} bytes", _answer(_REJECTED))
    return None


def _read_name(name: bytes, port: bytes) -> Destination:
    decoder = DestinationDecoder()
    try:
        decoder.feed(bytes([_NAME, len(name)]) + name + port)
    except DestinationError as error:
        raise SOCKSError(f"SOCKS4a: {error}", _answer(_REJECTED)) from error
    if decoder.destination is None:
        raise SOCKSError("SOCKS4a: the name of the destination is not complete", _answer(_REJECTED))
    return decoder.destination


def _answer(code: int) -> bytes:
    # Its address is meaningful for BIND only.
    return bytes([0, code]) + bytes(6)
