"""SOCKS5 for local applications (RFC 1928; user and password: RFC 1929), without I/O: CONNECT and UDP ASSOCIATE.

The libraries for SOCKS implement the client's side, or answer every failure with the same code. A server needs little
more than the address, which `trioanytls.destination` decodes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from trioanytls.destination import Destination, DestinationDecoder, DestinationError, encode

from .proxy_users import ProxyUsers
from .reply_codes import ReplyCode

#: The first byte of a connection.
VERSION: Final = 5

_NO_AUTHENTICATION: Final = 0
_PASSWORD: Final = 2
_NO_METHOD: Final = 0xFF
_PASSWORD_VERSION: Final = 1
_CONNECT: Final = 1
_UDP_ASSOCIATE: Final = 3
_NOWHERE: Final = encode(Destination("0.0.0.0", 0))  # noqa: S104 - a dummy, nothing listens there
# The start of a datagram to an application: two reserved bytes, and the number of a fragment.
_DATAGRAM: Final = bytes(3)


class SOCKSError(Exception):
    """The application's data is invalid or unsupported. `answer` must be sent before the connection is closed."""

    def __init__(self, text: str, answer: bytes = b"") -> None:
        super().__init__(text)
        self.answer = answer


class SOCKS5Negotiation:
    """The negotiation at the start of one connection. Feed the received bytes and send the answers until it is done.

    Attributes:
      destination: the destination, once the application has sent it. If `associates`, the address from which the
        application will send, as far as it knows: host and port may be zero.
      associates: whether the application requests UDP.
      rest: the bytes received after the request.
    """

    def __init__(self, users: ProxyUsers | None = None) -> None:
        self.destination: Destination | None = None
        self.associates: bool = False
        self.rest: bytes = b""
        self._users = users
        self._received = b""
        # Reads the next message. Returns the answer, None if more bytes are needed.
        self._step: Callable[[], bytes | None] = self._read_methods

    def feed(self, data: bytes | bytearray) -> bytes:
        """Process received bytes. Return the bytes to send.

        Raises:
          SOCKSError: the connection must be closed.
        """
        self._received += data
        answers = b""
        try:
            while (answer := self._step()) is not None:
                answers += answer
        except SOCKSError as error:
            # Include replies already produced for a client that pipelines.
            error.answer = answers + error.answer
            raise
        return answers

    def reply(self, reply: ReplyCode, bound: Destination | None = None) -> bytes:
        """Encode the reply to the request.

        The address in it is a dummy, since the relay's own address is private. For UDP, it is the address to send to.
        """
        return bytes([VERSION, reply, 0]) + (_NOWHERE if bound is None else encode(bound))

    def _read_methods(self) -> bytes | None:
        received = self._received
        if received and received[0] != VERSION:
            other = "HTTP; use the port of --http or --mixed for that" if received[:1].isalpha() else "no SOCKS5"
            what = {4: "SOCKS4", 0x16: "TLS"}.get(received[0], other)
            raise SOCKSError(f"the application speaks {what}")
        if len(received) < 2 or len(received) < 2 + received[1]:
            return None
        methods, self._received = received[2 : 2 + received[1]], received[2 + received[1] :]
        wanted = _NO_AUTHENTICATION if self._users is None else _PASSWORD
        if wanted not in methods:
            text = "no acceptable SOCKS authentication method"
            if self._users is not None:
                text = f"{text}: user and password are required"
            raise SOCKSError(text, bytes([VERSION, _NO_METHOD]))
        self._step = self._read_request if self._users is None else self._read_password
        return bytes([VERSION, wanted])

    def _read_password(self) -> bytes | None:
        received = self._received
        if received and received[0] != _PASSWORD_VERSION:
            raise SOCKSError("invalid message instead of user and password", bytes([_PASSWORD_VERSION, 1]))
        if len(received) < 2 or len(received) < 3 + received[1]:
            return None
        end_of_user = 2 + received[1]
        end = end_of_user + 1 + received[end_of_user]
        if len(received) < end:
            return None
        user, password = received[2:end_of_user], received[end_of_user + 1 : end]
        self._received = received[end:]
        if self._users is None or not self._users.accept(user, password):
            raise SOCKSError("wrong user or password", bytes([_PASSWORD_VERSION, 1]))
        self._step = self._read_request
        return bytes([_PASSWORD_VERSION, 0])

    def _read_request(self) -> bytes | None:
        received = self._received
        if received and received[0] != VERSION:
            raise SOCKSError("invalid request", self.reply(ReplyCode.GENERAL_FAILURE))
        if len(received) < 4:
            return None
        if received[1] not in (_CONNECT, _UDP_ASSOCIATE):
            raise SOCKSError(ReplyCode.COMMAND_NOT_SUPPORTED.text, self.reply(ReplyCode.COMMAND_NOT_SUPPORTED))
        decoder = DestinationDecoder()
        try:
            decoder.feed(received[3:])
        except DestinationError as error:
            kind = received[3] in (1, 3, 4)
            reply = ReplyCode.GENERAL_FAILURE if kind else ReplyCode.ADDRESS_TYPE_NOT_SUPPORTED
            raise SOCKSError(str(error), self.reply(reply)) from error
        if decoder.destination is None:
            return None
        self.destination, self.rest = decoder.destination, decoder.rest
        self.associates = received[1] == _UDP_ASSOCIATE
        self._received = b""
        self._step = self._read_rest
        return b""

    def _read_rest(self) -> bytes | None:
        self.rest += self._received
        self._received = b""
        return None


def decode_datagram(data: bytes | bytearray) -> tuple[Destination, bytes]:
    """Decode a datagram from an application (RFC 1928, section 7). Return its destination and its data.

    Raises:
      SOCKSError: it is a fragment, or invalid.
    """
    # The reserved bytes are ignored.
    if len(data) < 4:
        raise SOCKSError("datagram too short")
    if data[2]:
        raise SOCKSError("fragments are not supported")
    decoder = DestinationDecoder()
    try:
        decoder.feed(data[3:])
    except DestinationError as error:
        raise SOCKSError(str(error)) from error
    if decoder.destination is None:
        raise SOCKSError("datagram ends within its destination")
    return decoder.destination, decoder.rest


def encode_datagram(source: Destination, data: bytes) -> bytes:
    """Encode a datagram to an application.

    Raises:
      ValueError: the source cannot be encoded.
    """
    return _DATAGRAM + encode(source) + data
