"""SOCKS5 for local applications (RFC 1928; user and password: RFC 1929), without I/O: CONNECT and UDP ASSOCIATE.

The libraries for SOCKS are for its other side, or answer every failure with the same code; and what a server needs is
little beside the address, which is that of `trioanytls.destination`.
"""

from __future__ import annotations

import enum
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
_NOWHERE: Final = Destination("0.0.0.0", 0)  # noqa: S104 - nothing listens there
# What an application's datagram begins with: two reserved bytes, and the number of a fragment.
_DATAGRAM: Final = bytes(3)


class SOCKSError(Exception):
    """What came is no SOCKS5, or not what can be served; `answer` is what is to be sent before the end."""

    def __init__(self, text: str, answer: bytes = b"") -> None:
        super().__init__(text)
        self.answer = answer


class _State(enum.Enum):
    METHODS = enum.auto()
    PASSWORD = enum.auto()
    REQUEST = enum.auto()
    DONE = enum.auto()


class SOCKS5Negotiation:
    """One connection's beginning: feed it what comes, send what it answers, until it has the destination.

    Attributes:
      destination: where the application wants to go, once it has said so; with `associates`, from where it will send,
        as far as it knows that: host and port may be zero.
      associates: whether it asks for UDP.
      rest: what came behind that.
    """

    def __init__(self, users: ProxyUsers | None = None) -> None:
        self.destination: Destination | None = None
        self.associates = False
        self.rest = b""
        self._users = users
        self._state = _State.METHODS
        self._received = b""

    def feed(self, data: bytes | bytearray) -> bytes:
        """Take the next bytes; what is to be answered.

        Raises:
          SOCKSError: the connection is to be closed.
        """
        self._received += data
        answers = b""
        try:
            while (answer := _STEPS[self._state](self)) is not None:
                answers += answer
        except SOCKSError as error:
            # Of who does not wait for them.
            error.answer = answers + error.answer
            raise
        return answers

    def reply(self, reply: ReplyCode, bound: Destination = _NOWHERE) -> bytes:
        """The answer to the request. The address in it is a dummy, as the relay's own is nobody's business; but for UDP
        it is where to send.
        """
        return bytes([VERSION, reply, 0]) + encode(bound)

    # Each step takes what it needs, and answers; None where more has to come.

    def _methods(self) -> bytes | None:
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
            text = "it offers no method of ours"
            if self._users is not None:
                text = "the application has to offer user and password"
            raise SOCKSError(text, bytes([VERSION, _NO_METHOD]))
        self._state = _State.REQUEST if self._users is None else _State.PASSWORD
        return bytes([VERSION, wanted])

    def _password(self) -> bytes | None:
        received = self._received
        if received and received[0] != _PASSWORD_VERSION:
            raise SOCKSError("what came is not user and password", bytes([_PASSWORD_VERSION, 1]))
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
        self._state = _State.REQUEST
        return bytes([_PASSWORD_VERSION, 0])

    def _request(self) -> bytes | None:
        received = self._received
        if received and received[0] != VERSION:
            raise SOCKSError("what came is no request", self.reply(ReplyCode.GENERAL_FAILURE))
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
        self._state = _State.DONE
        return b""

    def _done(self) -> bytes | None:
        self.rest += self._received
        self._received = b""
        return None


def decode_datagram(data: bytes | bytearray) -> tuple[Destination, bytes]:
    """What an application has sent by UDP: where it is to go, and what (RFC 1928, section 7).

    Raises:
      SOCKSError: it is a fragment, or something else.
    """
    # What is reserved is nobody's to look at.
    if len(data) < 4:
        raise SOCKSError("it is too short")
    if data[2]:
        raise SOCKSError("it is a fragment")
    decoder = DestinationDecoder()
    try:
        decoder.feed(data[3:])
    except DestinationError as error:
        raise SOCKSError(str(error)) from error
    if decoder.destination is None:
        raise SOCKSError("it ends within its destination")
    return decoder.destination, decoder.rest


def encode_datagram(source: Destination, data: bytes) -> bytes:
    """What an application is sent by UDP.

    Raises:
      ValueError: the source cannot be encoded.
    """
    return _DATAGRAM + encode(source) + data


_STEPS: Final = {
    _State.METHODS: SOCKS5Negotiation._methods,
    _State.PASSWORD: SOCKS5Negotiation._password,
    _State.REQUEST: SOCKS5Negotiation._request,
    _State.DONE: SOCKS5Negotiation._done,
}
