"""The stream that a fallback receives: a connection that is not ANYTLS, from its first byte on
(spec: Connections / Authentication; protocol: 4).
"""

from __future__ import annotations

import operator
from collections.abc import Awaitable, Callable

import trio

from trioanytls._transport.half_close import send_eof

from .admission import AdmissionSlot


class FallbackStream(trio.abc.HalfCloseableStream):
    """A connection handed to a fallback: the bytes that ANYTLS did not consume, and then all further ones.

    Attributes:
      transport: the connection itself.
      peer_address: the peer's address and port, None if they are unknown.
    """

    def __init__(
        self,
        transport: trio.abc.Stream,
        received: bytes,
        peer_address: tuple[str, int] | None = None,
        *,
        slot: AdmissionSlot | None = None,
    ) -> None:
        self.transport = transport
        self.peer_address = peer_address
        self._received = bytearray(received)
        # Notified of all traffic: the connection that has been idle for longest makes room for new ones.
        self._slot = slot

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive the peer's data, from the first byte that was not consumed."""
        if max_bytes is not None:
            max_bytes = operator.index(max_bytes)
            if max_bytes < 1:
                raise ValueError("max_bytes must be at least 1")
        if self._received:
            await trio.lowlevel.checkpoint()
        if not self._received:
            received = await self.transport.receive_some(max_bytes)
            self._touch()
            return received
        data = bytes(self._received[:max_bytes])
        del self._received[:max_bytes]
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream`."""
        await self.transport.send_all(data)
        self._touch()

    def _touch(self) -> None:
        if self._slot is not None:
            self._slot.touch(trio.current_time())

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        await self.transport.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """End sending. Receiving continues, unless the transport does not support half-close: it is then closed."""
        if not await send_eof(self.transport):
            await self.transport.aclose()

    async def aclose(self) -> None:
        """See `trio.abc.AsyncResource`."""
        self._received.clear()
        await self.transport.aclose()


#: Takes over a connection that is not ANYTLS.
Fallback = Callable[[FallbackStream], Awaitable[object]]
