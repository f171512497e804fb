"""Why and how a connection ends: one object for each way, made where the reason is known, carried out in one place."""

from __future__ import annotations

from attrs import field, frozen

from trioanytls._exceptions import ConnectionClosed
from trioanytls._protocol import data_blocks
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.exceptions import AuthenticationFailed, LimitExceeded, ProtocolViolation

# Where an ALERT text is cut, in characters.
_MAX_ALERT = 512


@frozen
class CloseReason:
    """Why and how a connection ends.

    Attributes:
      code, reason: see `ConnectionClosed`.
      cause: the first cause.
      last_frame: what the peer is told, if anything.
      drain: whether what was accepted for sending goes out first.
      abort: whether the transport is of no use any more.
      local: whether the application closed the connection.
      unconsumed: for the fallback, which takes the transport over: what came and was not consumed. None where there is
        nothing to take over.
    """

    code: CloseCode | None
    reason: str
    cause: BaseException | None = None
    last_frame: bytes | None = None
    drain: bool = False
    abort: bool = False
    local: bool = False
    # What a client sent instead of a valid AUTH can be a password's hash.
    unconsumed: bytes | None = field(default=None, repr=False)

    @property
    def label(self) -> str:
        """The kind of end, for the counters of a server."""
        if self.unconsumed is not None:
            return "FALLBACK"
        if isinstance(self.cause, AuthenticationFailed):
            return "UNAUTHENTICATED"
        return "LOST" if self.code is None else self.code.name

    def error(self) -> ConnectionClosed:
        """A new error for whoever meets the end."""
        error = ConnectionClosed(self.code, self.reason)
        error.__cause__ = self.cause
        return error


def closed_locally() -> CloseReason:
    """The application closes the connection: what it has sent goes out, then CLOSE 0 (protocol: 4)."""
    last_frame = frames.encode_close(CloseCode.NO_ERROR)
    return CloseReason(
        CloseCode.NO_ERROR, "the connection was closed on this side", last_frame=last_frame, drain=True, local=True
    )


def close_with(code: CloseCode, reason: str, cause: BaseException | None = None) -> CloseReason:
    """This end leaves, with a CLOSE frame."""
    return CloseReason(code, reason, cause, last_frame=frames.encode_close(code))


def violated(error: ProtocolViolation) -> CloseReason:
    """The peer broke the protocol: ALERT as the last frame, or the CLOSE code that says it (protocol: 4)."""
    text = str(error)
    if error.code is CloseCode.PROTOCOL_ERROR:
        last_frame = frames.encode_alert(data_blocks.format_text(text[:_MAX_ALERT]))
    else:
        last_frame = frames.encode_close(error.code)
    # A peer that goes beyond a limit has not read what waits for it.
    return CloseReason(error.code, text, error, last_frame, drain=not isinstance(error, LimitExceeded))


def not_authenticated(error: AuthenticationFailed) -> CloseReason:
    """The client is not one of ours: TLS is closed without a byte of ANYTLS (protocol: 4)."""
    return CloseReason(None, str(error), error)


def handed_over(error: AuthenticationFailed | ProtocolViolation, unconsumed: bytes) -> CloseReason:
    """The peer's bytes are somebody else's from the first one on that was not consumed; ANYTLS says no word more."""
    return CloseReason(None, str(error), error, unconsumed=unconsumed)


def drained() -> CloseReason:
    """The server stops, and the connection has nothing left to do: what was sent goes out first."""
    code = CloseCode.SHUTTING_DOWN
    return CloseReason(code, "the server is shutting down", last_frame=frames.encode_close(code), drain=True)


def peer_closed(code: CloseCode) -> CloseReason:
    """The peer sent CLOSE."""
    return CloseReason(code, "the peer closed the connection")


def peer_alerted(text: str) -> CloseReason:
    """The peer sent ALERT."""
    # Each handler of a server may meet it, and log it.
    return CloseReason(CloseCode.PROTOCOL_ERROR, f"the peer sent an ALERT: {text[:_MAX_ALERT]}")


def transport_lost(reason: str, cause: BaseException | None = None) -> CloseReason:
    """The transport has ended without CLOSE, which no stream may take for an ordinary end (protocol: 4)."""
    return CloseReason(None, reason, cause, abort=True)
