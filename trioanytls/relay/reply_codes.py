"""How an attempt to reach a destination has ended, in the codes of SOCKS (RFC 1928, section 6)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class ReplyCode(IntEnum):
    """The code, and `text`, what it means for people."""

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
        """In words."""
        return _TEXTS[self]

    @property
    def http_status(self) -> int:
        """What an HTTP proxy answers (RFC 9110, section 15.6)."""
        return _STATUS.get(self, 502)


_TEXTS: Final = {
    ReplyCode.SUCCEEDED: "connected",
    ReplyCode.GENERAL_FAILURE: "the relay cannot be used",
    ReplyCode.NOT_ALLOWED: "the relay does not connect to there",
    ReplyCode.NETWORK_UNREACHABLE: "the network cannot be reached",
    ReplyCode.HOST_UNREACHABLE: "the host cannot be reached, or has no address",
    ReplyCode.CONNECTION_REFUSED: "the destination refused the connection",
    ReplyCode.TIMED_OUT: "the destination has not answered in time",
    ReplyCode.COMMAND_NOT_SUPPORTED: "there is no such command, or the relay does not carry UDP",
    ReplyCode.ADDRESS_TYPE_NOT_SUPPORTED: "there is no such type of address",
}
_STATUS: Final = {ReplyCode.NOT_ALLOWED: 403, ReplyCode.TIMED_OUT: 504}


def parse_reply(data: bytes) -> ReplyCode | None:
    """The code that a relay has sent, None where it is none."""
    try:
        reply = ReplyCode(data[0]) if len(data) == 1 else None
    except ValueError:
        return None
    return None if reply is ReplyCode.SUCCEEDED else reply
