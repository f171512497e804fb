"""The errors that an application meets on a stream or a connection that has broken; Trio's, too."""

from __future__ import annotations

from typing import Literal

import trio

from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.exceptions import AnyTLSError
from trioanytls._protocol.text import one_line

# The text of an ALERT is cut before it becomes a part of a reason.
_MAX_REASON = 768


class ConnectionClosed(AnyTLSError, trio.BrokenResourceError):
    """The connection has ended, and with it all its streams. The first cause, if any, is the `__cause__`.

    Attributes:
      code: the error code of the CLOSE frame that ended it, in either direction, or the one that belongs to the
        violation; None where the transport ended without a word.
      reason: what happened, in words, with the text of the peer's ALERT if there was one; one line of printable
        characters.
    """

    def __init__(self, code: CloseCode | None, reason: str) -> None:
        super().__init__(reason if code is None else f"{reason} (code {code.value}, {code.name})")
        self.code = code
        self.reason = one_line(reason, _MAX_REASON)


class ConnectFailed(AnyTLSError, OSError):
    """A client could make no connection in time, or none had room; the `__cause__` is why the last attempt failed."""


class TLSError(AnyTLSError, trio.BrokenResourceError):
    """The TLS handshake failed, or led to less than TLS 1.3; the `__cause__` is what the TLS library said."""


class CertificateError(TLSError):
    """The server is not the one that was meant: its certificate is not trusted, or its key is not the one expected."""


class StreamRefused(AnyTLSError, trio.BrokenResourceError):
    """The server closed the stream without accepting it (protocol: 5)."""


class StreamTimeout(AnyTLSError, trio.BrokenResourceError):
    """The stream was closed here because one of its timers ran out (spec: Streams / Stream Timeout)."""


class SideBroken(AnyTLSError, trio.BrokenResourceError):
    """One of the two streams of `copy_both_ways` broke. The `__cause__` is the error of that stream.

    Attributes:
      side: "near" or "far".
    """

    def __init__(self, side: Literal["near", "far"], cause: BaseException) -> None:
        super().__init__(f"the {side} side broke: {cause}")
        self.side = side


def without_broken(error: BaseException) -> BaseException | None:
    """Return the part of `error` that says more than that the peer went away; None if there is no such part.

    A nursery raises a group, also for one error: a group, however nested, counts as its leaves.
    """
    if isinstance(error, BaseExceptionGroup):
        return error.split(trio.BrokenResourceError)[1]
    return None if isinstance(error, trio.BrokenResourceError) else error


def to_log(group: ExceptionGroup[Exception]) -> tuple[BaseException, bool]:
    """Return the error to log of a handler, or a fallback, that raised `group`, and whether it made a mistake.

    The peer's going away is no mistake. An error that is alone in its groups is named alone.
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
