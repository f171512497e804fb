"""What raw peers of all wire formats do the same: they send bytes, and receive frames."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import trio
import trio.testing

Frame = TypeVar("Frame")


class FramePeer(Generic[Frame]):
    """The other end of a connection, on a transport in memory or any other."""

    def __init__(self, transport: trio.abc.Stream) -> None:
        # Tests look into streams of any kind.
        self.transport: Any = transport

    async def send(self, *pieces: bytes) -> None:
        await self.transport.send_all(b"".join(pieces))

    async def receive(self) -> Frame | None:
        """Receive the next frame other than padding. Return None at the end of the transport."""
        raise NotImplementedError

    async def receive_all(self) -> list[Frame]:
        """Receive all frames up to the end of the transport."""
        received = []
        while (frame := await self.receive()) is not None:
            received.append(frame)
        return received

    async def pending(self) -> list[Frame]:
        """Receive frames until all tasks are blocked."""
        received = []
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def collect() -> None:
                    while (frame := await self.receive()) is not None:
                        received.append(frame)

                nursery.start_soon(collect)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        return received
