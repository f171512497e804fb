"""The errors that an application meets on a stream or a connection that has broken; Trio's, too."""

from __future__ import annotations

import trio

from ._errors import AnyTLSError
from ._frames import CloseCode


class ConnectionClosed(AnyTLSError, trio.BrokenResourceError):
    """The connection has ended, and with it all its streams. The first cause, if any, is the `__cause__`.

    Attributes:
      code: the error code of the CLOSE frame that ended it, in either direction, or the one that belongs to the
        violation; None where the transport ended without a word.
      reason: what happened, in words; the peer's ALERT text where there was one.
    """

    def __init__(self, code: CloseCode | None, reason: str) -> None:
        super().__init__(reason if code is None else f"{reason} (code {code.value}, {code.name})")
        self.code = code
        self.reason = reason


class ConnectFailed(AnyTLSError, OSError):
    """A client could make no connection in time, or none had room; the `__cause__` is why the last attempt failed."""


class StreamRefused(AnyTLSError, trio.BrokenResourceError):
    """The server closed the stream without accepting it (protocol: 5)."""


class StreamTimeout(AnyTLSError, trio.BrokenResourceError):
    """The stream was closed here because one of its timers ran out (spec: Streams / Stream Timeout)."""
