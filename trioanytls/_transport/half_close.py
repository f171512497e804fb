"""Ending one direction of a transport, if it can: a `Stream` of ANYTLS can only if its peer has the extension `fin`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from trioanytls._protocol.exceptions import NotSupported


async def send_eof(stream: trio.abc.Stream) -> bool:
    """End the sending direction of a stream. Return False if the stream cannot end one direction alone.

    Raises:
      trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError: from the stream.
    """
    send: Callable[[], Awaitable[object]] | None = getattr(stream, "send_eof", None)
    if send is None:
        return False
    try:
        await send()
    except NotSupported:
        return False
    return True
