"""Why and how a connection closes: one function for each reason. The connection acts on the result in one place."""

from __future__ import annotations

from typing import Literal

from attrs import field, frozen

from trioanytls._exceptions import ConnectionClosed
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.exceptions import AuthenticationFailed, LimitExceeded, ProtocolViolation
from trioanytls._protocol.interface import WireProtocol

# The most characters of an ALERT text, sent or received.
_MAX_ALERT = 512


@frozen
class CloseReason:
    """Why and how a connection closes.

    Attributes:
      code, reason: see `ConnectionClosed`.
      cause: the first cause.
      announcement: the kind of frame that tells the peer, if the wire format has it; None if it is told nothing.
      drain: whether data that was accepted for sending is sent first.
      abort: whether the transport is unusable.
      local: whether the application closed the connection.
      orderly: whether the peer ended the transport of a wire format that has no frame to announce it.
      unconsumed: the received bytes that were not consumed, for the fallback, which takes over the transport. None if
        there is no hand-over.
    """

    code: CloseCode | None
    reason: str
    cause: BaseException | None = None
    announcement: Literal["CLOSE", "ALERT"] | None = None
    drain: bool = False
    abort: bool = False
    local: bool = False
    orderly: bool = False
    # The bytes that a client sent instead of a valid AUTH may contain the hash of a password.
    unconsumed: bytes | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        """The key under which `ServerStats.connections_closed` counts it."""
        if self.unconsumed is not None:
            return "FALLBACK"
        if isinstance(self.cause, AuthenticationFailed):
            return "UNAUTHENTICATED"
        if self.orderly:
            return CloseCode.NO_ERROR.name
        return "LOST" if self.code is None else self.code.name

    def last_frame(self, protocol: WireProtocol) -> bytes | None:
        """Return the frame that tells the peer, None if it is told nothing."""
        if self.announcement is None:
            return None
        if self.announcement == "ALERT":
            return protocol.encode_alert(self.reason[:_MAX_ALERT])
        return None if self.code is None else protocol.encode_close(self.code)

    def error(self) -> ConnectionClosed:
        """Make an error to raise in the application. Each caller gets its own."""
        error = ConnectionClosed(self.code, self.reason)
        error.__cause__ = self.cause
        return error


def closed_locally() -> CloseReason:
    """Close for the application: send the data that was accepted, then CLOSE 0 (protocol: 4)."""
    text = "the connection was closed on this side"
    return CloseReason(CloseCode.NO_ERROR, text, announcement="CLOSE", drain=True, local=True)


def close_with(code: CloseCode, reason: str, cause: BaseException | None = None) -> CloseReason:
    """Close with a CLOSE frame, without sending queued data."""
    return CloseReason(code, reason, cause, announcement="CLOSE")


def violated(error: ProtocolViolation) -> CloseReason:
    """Close because the peer broke the protocol, with ALERT or the CLOSE code of the violation (protocol: 4)."""
    announcement: Literal["CLOSE", "ALERT"] = "ALERT" if error.code is CloseCode.PROTOCOL_ERROR else "CLOSE"
    # A peer that exceeds a limit has not read the data that is queued for it.
    return CloseReason(error.code, str(error), error, announcement, drain=not isinstance(error, LimitExceeded))


def not_authenticated(error: AuthenticationFailed) -> CloseReason:
    """Close because the client did not authenticate: close TLS without any ANYTLS frame (protocol: 4)."""
    return CloseReason(None, str(error), error)


def handed_over(error: AuthenticationFailed | ProtocolViolation, unconsumed: bytes) -> CloseReason:
    """Hand the transport over to the fallback, from the first unconsumed byte on. Send no more ANYTLS frames."""
    return CloseReason(None, str(error), error, unconsumed=unconsumed)


def drained() -> CloseReason:
    """Close because the server stops and the last handler has returned. Queued data is sent first."""
    return CloseReason(CloseCode.SHUTTING_DOWN, "the server is shutting down", announcement="CLOSE", drain=True)


def peer_closed(code: CloseCode) -> CloseReason:
    """Close because the peer sent CLOSE."""
    return CloseReason(code, "the peer closed the connection")


def peer_ended() -> CloseReason:
    """Close because the peer ended the transport, which says that it closes the connection."""
    return CloseReason(None, "the peer closed the connection", orderly=True)


def peer_alerted(text: str) -> CloseReason:
    """Close because the peer sent ALERT."""
    # The text is cut, since each handler of a server may log the error.
    return CloseReason(CloseCode.PROTOCOL_ERROR, f"the peer sent an ALERT: {text[:_MAX_ALERT]}")


def transport_lost(reason: str, cause: BaseException | None = None) -> CloseReason:
    """Close because the transport ended without CLOSE. No stream may take that for a regular end (protocol: 4)."""
    return CloseReason(None, reason, cause, abort=True)
