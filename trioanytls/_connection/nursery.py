"""A nursery for background tasks that raise nothing."""

from __future__ import annotations

import trio


class BackgroundNursery:
    """A nursery that does not wrap an exception of its block in an `ExceptionGroup`. Used in `async with`.

    The block must end the tasks itself: its exception does not cancel them.
    """

    __slots__ = ("_manager",)

    def __init__(self) -> None:
        self._manager = trio.open_nursery()

    async def __aenter__(self) -> trio.Nursery:
        return await self._manager.__aenter__()

    async def __aexit__(self, *_exception: object) -> None:
        # The exception goes on, without the nursery.
        await self._manager.__aexit__(None, None, None)
