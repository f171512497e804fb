"""The result of connecting to a destination, as reply codes of SOCKS (RFC 1928, section 6).

With the extension `reset`, a refusal has a `StreamCode`, from which a client makes the reply (extensions: 4).
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

from trioanytls import StreamCode


class ReplyCode(IntEnum):
    """A reply code of SOCKS5."""

    SUCCEEDED = 0
    GENERAL_FAILURE = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    CONNECTION_REFUSED = 5
    TIMED_OUT = 6
    COMMAND_NOT_SUPPORTED = 7
    ADDRESS_TYPE_NOT_SUPPORTED = 8

    @property
    def text(self) -> str:
        """A description for people."""
        return _TEXTS[self]

    @property
    def http_status(self) -> int:
        """The status code of an HTTP proxy's answer (RFC 9110, section 15.6)."""
        return _STATUS.get(self, 502)

    @property
    def stream_code(self) -> StreamCode:
        """The code for refusing a stream for this reason."""
        return _STREAM_CODES[self]


_TEXTS: Final = {
    ReplyCode.SUCCEEDED: "connected",
    ReplyCode.GENERAL_FAILURE: "the relay is unavailable",
    ReplyCode.NOT_ALLOWED: "the relay's policy forbids this destination",
    ReplyCode.NETWORK_UNREACHABLE: "the network is unreachable",
    ReplyCode.HOST_UNREACHABLE: "the host is unreachable, or has no address",
    ReplyCode.CONNECTION_REFUSED: "the destination refused the connection",
    ReplyCode.TIMED_OUT: "the destination did not answer in time",
    ReplyCode.COMMAND_NOT_SUPPORTED: "unsupported command, or the relay does not carry UDP",
    ReplyCode.ADDRESS_TYPE_NOT_SUPPORTED: "unsupported address type",
}
_STATUS: Final = {ReplyCode.NOT_ALLOWED: 403, ReplyCode.TIMED_OUT: 504}
_STREAM_CODES: Final = {
    ReplyCode.SUCCEEDED: StreamCode.NOT_GIVEN,
    ReplyCode.GENERAL_FAILURE: StreamCode.GENERAL_FAILURE,
    ReplyCode.NOT_ALLOWED: StreamCode.NOT_ALLOWED,
    ReplyCode.NETWORK_UNREACHABLE: StreamCode.NETWORK_UNREACHABLE,
    ReplyCode.HOST_UNREACHABLE: StreamCode.HOST_UNREACHABLE,
    ReplyCode.CONNECTION_REFUSED: StreamCode.CONNECTION_REFUSED,
    ReplyCode.TIMED_OUT: StreamCode.TIMED_OUT,
    ReplyCode.COMMAND_NOT_SUPPORTED: StreamCode.NOT_SUPPORTED,
    ReplyCode.ADDRESS_TYPE_NOT_SUPPORTED: StreamCode.NOT_SUPPORTED,
}
# The codes that mean the same as a reply. All others are general failures.
_OF_CODE: Final = {
    # The usual reason.
    StreamCode.NOT_GIVEN: ReplyCode.CONNECTION_REFUSED,
    StreamCode.NOT_ALLOWED: ReplyCode.NOT_ALLOWED,
    StreamCode.CONNECTION_REFUSED: ReplyCode.CONNECTION_REFUSED,
    StreamCode.HOST_UNREACHABLE: ReplyCode.HOST_UNREACHABLE,
    StreamCode.NETWORK_UNREACHABLE: ReplyCode.NETWORK_UNREACHABLE,
    StreamCode.TIMED_OUT: ReplyCode.TIMED_OUT,
    StreamCode.NOT_SUPPORTED: ReplyCode.COMMAND_NOT_SUPPORTED,
}
# The texts of refusals for which SOCKS has no code.
_TEXTS_OF_CODES: Final = {
    StreamCode.LIMIT: "a limit of the relay was reached",
    StreamCode.SHUTTING_DOWN: "the relay is shutting down",
}
_OF_TEXT: Final = {text: reply for reply, text in _TEXTS.items() if reply is not ReplyCode.SUCCEEDED}


def find_reply(text: str) -> ReplyCode | None:
    """Return the code that has this text, None if there is none."""
    return _OF_TEXT.get(text)


def reply_of_code(code: StreamCode) -> ReplyCode:
    """Return the reply that says the same as the code of a refused stream."""
    return _OF_CODE.get(code, ReplyCode.GENERAL_FAILURE)


def text_of_code(code: StreamCode) -> str:
    """Return the description of a code for people. It says no more than the code."""
    return _TEXTS_OF_CODES.get(code) or reply_of_code(code).text


def parse_reply(data: bytes) -> ReplyCode | None:
    """Decode the code that a relay has sent. Return None if it is invalid."""
    try:
        reply = ReplyCode(data[0]) if len(data) == 1 else None
    except ValueError:
        return None
    return None if reply is ReplyCode.SUCCEEDED else reply
