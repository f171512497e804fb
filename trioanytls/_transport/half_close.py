"""Ending one direction of a transport, if it can: a `Stream` of ANYTLS can only if its peer has the extension `fin`."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import trio

from trioanytls._protocol.exceptions import NotSupported


@runtime_checkable
class _SendsEOF(Protocol):
    async def send_eof(self) -> None: ...


async def send_eof(stream: trio.abc.Stream) -> bool:
    """End the sending direction of a stream. Return False if the stream cannot end one direction alone.

    Raises:
      trio.BrokenResourceError, trio.ClosedResourceError, trio.BusyResourceError: from the stream.
    """
    if not isinstance(stream, _SendsEOF):
        return False
    try:
        await stream.send_eof()
    except NotSupported:
        return False
    return True
