"""The error codes of closed connections, the same for every wire format (protocol: 4)."""

from __future__ import annotations

import enum


class CloseCode(enum.IntEnum):
    """The error code of a CLOSE frame, or of the equivalent end of a connection (protocol: 4)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    VERSION_NOT_SUPPORTED = 2
    IDLE_TIMEOUT = 3
    INTERNAL_ERROR = 4
    LIMIT_EXCEEDED = 5
    SHUTTING_DOWN = 6

    @classmethod
    def from_wire(cls, value: int) -> CloseCode:
        """Return the code of a received value. An unknown value counts as a protocol error (protocol: 4)."""
        try:
            return cls(value)
        except ValueError:
            return cls.PROTOCOL_ERROR
