"""A nursery for background tasks that raise nothing."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import trio


@contextlib.asynccontextmanager
async def background_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery that does not wrap an exception of its block in an `ExceptionGroup`.

    The block must end the tasks itself: its exception does not cancel them.
    """
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except BaseException as raised:  # noqa: BLE001 - raised again below, outside of the nursery
            error = raised
    if error is not None:
        raise error
