"""Resetting any stream of Trio, and the reason if the other side of a copy has broken (extensions: 4)."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys
from typing import Final

import trio

from trioanytls._exceptions import SideBroken, StreamRefused, StreamReset, StreamTimeout
from trioanytls._protocol.stream_codes import StreamCode, StreamReason

from .stream import Stream, abort_stream

_GENERAL_FAILURE: Final = StreamReason(StreamCode.GENERAL_FAILURE)
_TIMED_OUT: Final = StreamReason(StreamCode.TIMED_OUT, "the connection timed out")
# The errors of a socket that tell more than that its connection is broken.
_REASONS: Final = {
    errno.ETIMEDOUT: _TIMED_OUT,
    errno.EHOSTUNREACH: StreamReason(StreamCode.HOST_UNREACHABLE, "the host is unreachable"),
    errno.ENETUNREACH: StreamReason(StreamCode.NETWORK_UNREACHABLE, "the network is unreachable"),
}

_NO_LINGER: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


async def reset_stream(stream: trio.abc.Stream) -> None:
    """Close a stream at once, without waiting. The peer sees a reset instead of an orderly end.

    A `Stream` whose peer has neither of the extensions `fin` and `reset` is closed as by `aclose`.

    Cancellation: the stream is closed anyway.
    """
    await reset_with_reason(stream, _GENERAL_FAILURE)


async def reset_with_reason(stream: trio.abc.Stream, why: StreamReason) -> None:
    """Close a stream like `reset_stream`, for this reason."""
    with trio.CancelScope(shield=True):
        if isinstance(stream, Stream):
            if not await abort_stream(stream, why):
                await stream.aclose()
            return
        if isinstance(stream, trio.SocketStream):
            with contextlib.suppress(OSError, trio.ClosedResourceError):
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        await trio.aclose_forcefully(stream)


def reason_of(error: BaseException) -> StreamReason:
    """Return the reason for the peer of one side of a copy, which has ended by this error.

    It says no more than the code about the network behind this end: the text of another peer is not passed on.
    """
    cause = error.__cause__ if isinstance(error, SideBroken) else None
    if isinstance(cause, StreamReset | StreamRefused) and cause.code:
        return StreamReason(cause.code)
    if isinstance(cause, StreamTimeout):
        return _TIMED_OUT
    if cause is not None and isinstance(cause.__cause__, OSError):
        return _REASONS.get(cause.__cause__.errno or 0, _GENERAL_FAILURE)
    return _GENERAL_FAILURE
