"""The shaped writer: the only caller of the transport's `send_all`.

A cancelled `send_all` leaves a TLS stream unusable, so no cancel scope of an application may reach the transport: what
is to be sent goes through the outbox, and this task, which only the connection itself cancels, writes it.
"""

from __future__ import annotations

import math

# One write of about this many bytes: larger ones fall out of the processor's cache between the copies.
import trio

from ._outbox import Outbox
from ._protocol import ClientProtocol
from ._shaper import Shaper

_BATCH = 64 * 1024


class Writer:
    """Takes frames out of the outbox, in the order of the wire, and writes them.

    Attributes:
      shaper: what cuts and pads the first delivers; None where this direction is not shaped.
      writes: how many Writes were made.
      bytes_written: how many bytes they had.
      last_write: when the last one ended, on Trio's clock.
      writing_since: when the one began that is under way, None between two.
    """

    def __init__(self, transport: trio.abc.Stream, outbox: Outbox, shaper: Shaper | None) -> None:
        self.shaper = shaper
        self.writes = 0
        self.bytes_written = 0
        self.last_write = -math.inf
        self.writing_since: float | None = None
        self._transport = transport
        self._outbox = outbox

    async def send_first(self, protocol: ClientProtocol, delay: float) -> None:
        """Deliver 0 of a client: AUTH, NEGO and the first stream's OPEN, in one Write (protocol: 6).

        It waits for that stream for `delay` seconds, or until anything else is to be sent.
        """
        outbox = self._outbox
        with trio.move_on_after(delay):
            await outbox.wait()
        opening = outbox.take_of_stream(trio.current_time()) or b""
        padding_length = self.shaper.draw_auth_padding() if self.shaper is not None else 0
        await self._deliver(b"".join(protocol.first_frames(padding_length)) + opening)

    async def run(self) -> None:
        """Write until the outbox is finished.

        Raises:
          trio.BrokenResourceError, trio.ClosedResourceError: from the transport.
        """
        outbox = self._outbox
        while True:
            waited = await outbox.wait()
            if self.shaper is not None and self.shaper.active:
                # Each frame is one deliver while shaping is on (spec: Phase 2).
                frame = outbox.take(trio.current_time())
                if frame is not None:
                    await self._deliver(frame)
                    continue
            else:
                if not waited:
                    # Frames have come while the last ones were written: the senders are busy, and each write costs
                    # more than many small frames. The first frame after a pause goes out at once.
                    await outbox.linger(_BATCH)
                if batch := outbox.take_batch(trio.current_time(), _BATCH):
                    await self._write(b"".join(batch))
                    continue
            if outbox.finishing:
                break
        if outbox.last_frame is not None:
            await self._deliver(outbox.last_frame)

    async def _deliver(self, data: bytes) -> None:
        for write in self.shaper.deliver(data) if self.shaper is not None else [data]:
            # Each to the transport alone: a TLS record of its own, with the size that the scheme asked for.
            await self._write(write)

    async def _write(self, data: bytes) -> None:
        self.writing_since = trio.current_time()
        try:
            await self._transport.send_all(data)
        finally:
            self.writing_since = None
        self.last_write = trio.current_time()
        self.writes += 1
        self.bytes_written += len(data)
