"""The error codes with which a connection ends, the same for every wire format (protocol: 4)."""

from __future__ import annotations

import enum


class CloseCode(enum.IntEnum):
    """Error codes of the CLOSE frame (protocol: 4)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    VERSION_NOT_SUPPORTED = 2
    IDLE_TIMEOUT = 3
    INTERNAL_ERROR = 4
    LIMIT_EXCEEDED = 5
    SHUTTING_DOWN = 6

    @classmethod
    def from_wire(cls, value: int) -> CloseCode:
        """The code for a received value; one that we do not know counts as a protocol error (protocol: 4)."""
        try:
            return cls(value)
        except ValueError:
            return cls.PROTOCOL_ERROR
