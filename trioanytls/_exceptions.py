"""The errors of connections and streams, most of which are also errors of Trio."""

from __future__ import annotations

from typing import Literal

import trio

from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.exceptions import AnyTLSError
from trioanytls._protocol.stream_codes import StreamCode
from trioanytls._protocol.text import one_line

# The maximum length of a reason, in characters. The text of an ALERT in it is cut before.
_MAX_REASON = 768


class ConnectionClosed(AnyTLSError, trio.BrokenResourceError):
    """The connection is closed, and with it all its streams. The `__cause__` is the first cause, if there is one.

    Attributes:
      code: the error code of the CLOSE frame that ended the connection, sent or received, or the error code of the
        violation. None if the transport ended without CLOSE.
      reason: the reason as text, including the peer's ALERT if there was one. One line of printable characters.
    """

    def __init__(self, code: CloseCode | None, reason: str) -> None:
        super().__init__(reason if code is None else f"{reason} (code {code.value}, {code.name})")
        self.code = code
        self.reason: str = one_line(reason, _MAX_REASON)


class ConnectFailed(AnyTLSError, OSError):
    """A client could not connect in time, or no connection had room. The `__cause__` is the last attempt's error."""


class TLSError(AnyTLSError, trio.BrokenResourceError):
    """The TLS handshake failed, or negotiated a version below TLS 1.3. The `__cause__` is the TLS library's error."""


class CertificateError(TLSError):
    """The server could not be verified: its certificate is not trusted, or its key does not match a pin."""


class StreamRefused(AnyTLSError, trio.BrokenResourceError):
    """The server closed the stream without accepting it (protocol: 5).

    Attributes:
      code: the server's reason, `StreamCode.NOT_GIVEN` if it gave none. Requires the extension `reset` (extensions: 4).
      reason: the same as text, as one line of printable characters. None if it gave none. Requires the extension
        `reset`, or the wire format "legacy".
      retryable: whether nothing that was sent on the stream has had an effect. The server was shutting down, and no
        application has seen the stream (extensions: 5): it can be opened again on another connection.
    """

    def __init__(
        self,
        text: str,
        reason: str | None = None,
        *,
        code: StreamCode = StreamCode.NOT_GIVEN,
        retryable: bool = False,
    ) -> None:
        super().__init__(text)
        self.code = code
        self.reason = reason
        self.retryable = retryable


class StreamReset(AnyTLSError, trio.BrokenResourceError):
    """The peer aborted the stream: the data received before may be incomplete (extensions: 3 and 4).

    Attributes:
      code: the peer's reason, `StreamCode.NOT_GIVEN` if it gave none.
      reason: the same as text, as one line of printable characters. None if it gave none.
    """

    def __init__(self, text: str, reason: str | None = None, *, code: StreamCode = StreamCode.NOT_GIVEN) -> None:
        super().__init__(text)
        self.code = code
        self.reason = reason


class StreamTimeout(AnyTLSError, trio.BrokenResourceError):
    """This end closed the stream because one of its timers expired (spec: Streams / Stream Timeout)."""


class SideBroken(AnyTLSError, trio.BrokenResourceError):
    """One of the two streams of `copy_both_ways` broke. The `__cause__` is the error of that stream.

    Attributes:
      side: "near" or "far".
    """

    def __init__(self, side: Literal["near", "far"], cause: BaseException) -> None:
        super().__init__(f"the {side} side broke: {cause}")
        self.side = side


def without_broken(error: BaseException) -> BaseException | None:
    """Return `error` without `BrokenResourceError`, which only means a disconnected peer. None if nothing is left.

    A nursery raises a group even for a single error, so only the leaves of a group count, no matter how nested.
    """
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.BrokenResourceError)[1]
    return None if isinstance(error, trio.BrokenResourceError) else error


def to_log(group: ExceptionGroup[Exception]) -> tuple[BaseException, bool]:
    """Return the error to log for a handler or fallback that raised `group`, and whether it was the handler's fault.

    A disconnected peer is not the handler's fault. A single error is returned without its groups.
    """
    mistake = without_broken(group)
    error: BaseException = mistake or group
    while isinstance(error, BaseExceptionGroup) and (mistake is None or len(error.exceptions) == 1):
        error = error.exceptions[0]
    return error, mistake is not None


def has_cancelled(error: BaseException) -> bool:
    """Return whether `error` is a cancellation, or a group that contains one."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(trio.Cancelled) is not None
    return isinstance(error, trio.Cancelled)
