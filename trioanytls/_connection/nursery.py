"""A nursery for background tasks that raise nothing."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

import trio


@contextlib.asynccontextmanager
async def background_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery that does not wrap what its block raises in an `ExceptionGroup`.

    The block has to see to it that the tasks end: an error of its own does not cancel them.
    """
    error: BaseException | None = None
    async with trio.open_nursery() as nursery:
        try:
            yield nursery
        except BaseException as raised:  # noqa: BLE001 - raised again below, outside of the nursery
            error = raised
    if error is not None:
        raise error
