"""The reasons for which a stream is refused or reset (extensions: 4)."""

from __future__ import annotations

import enum
from typing import Final

from attrs import frozen

#: The most bytes of the text in a STREAM_RESET frame.
MAX_REASON: Final = 512


class StreamCode(enum.IntEnum):
    """The reason for which a stream was refused or reset (extensions: 4)."""

    #: There is no reason.
    NOT_GIVEN = 0
    #: None of the other codes applies.
    GENERAL_FAILURE = 1
    #: A policy forbids the stream.
    NOT_ALLOWED = 2
    #: The destination refused the connection.
    CONNECTION_REFUSED = 3
    #: The host of the destination is unreachable.
    HOST_UNREACHABLE = 4
    #: The network of the destination is unreachable.
    NETWORK_UNREACHABLE = 5
    #: The destination, or the acceptance of the stream, took too long.
    TIMED_OUT = 6
    #: The sender does not support the request.
    NOT_SUPPORTED = 7
    #: The stream was idle for too long.
    IDLE = 8
    #: The stream was not read for too long, while others waited.
    STALLED = 9
    #: A limit of the sender was reached.
    LIMIT = 10
    #: The sender is shutting down.
    SHUTTING_DOWN = 11
    #: The sender's application failed.
    INTERNAL_ERROR = 12

    @classmethod
    def from_wire(cls, value: int) -> StreamCode:
        """Return the code of a received value. An unknown value counts as a general failure (extensions: 4)."""
        try:
            return cls(value)
        except ValueError:
            return cls.GENERAL_FAILURE


@frozen
class StreamReason:
    """Why a stream ends.

    Attributes:
      code: the reason for programs.
      text: the reason for people, "" if there is none.
    """

    code: StreamCode = StreamCode.NOT_GIVEN
    text: str = ""

    def __bool__(self) -> bool:
        return bool(self.code or self.text)


#: No reason was given.
NO_REASON: Final = StreamReason()
