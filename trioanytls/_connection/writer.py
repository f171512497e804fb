"""The shaped writer: the only one who sends on the transport.

A cancelled `send_all` leaves a TLS stream unusable, so no cancel scope of an application may reach the transport: what
is to be sent goes through the send queue, and the writer's task, which only the connection itself cancels, writes it.

An answer need not wait for that task to have its turn. Where the task is idle, the connection is not shaped (any more),
and something has just arrived, `notify` writes what little there is from within the call that has put it, without a
checkpoint; what the socket does not take at once is the task's to send. Each arrival allows that only a few times: who
goes on sending is served by the task, which collects many frames for a write.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import trio

from trioanytls._protocol.interface import ClientWireProtocol
from trioanytls._protocol.traffic_shaper import Shaper

from . import close_reason
from .close_reason import CloseReason
from .send_queue import SendQueue
from .timers import Check

# One write of about this many bytes: larger ones fall out of the processor's cache between the copies.
_BATCH = 64 * 1024


class Writer:
    """Takes frames out of the send queue, in the order of the wire, and writes them.

    Attributes:
      shaper: what cuts and pads the first delivers; None where this direction is not shaped.
      writes: how many Writes were made.
      bytes_written: how many bytes they had.
      last_write: when the last one ended, on Trio's clock.
      writing_since: when the one began that is under way, None between two.
      inline_writes_left: how many times what has arrived may still be answered at once; set by the reader.
    """

    def __init__(
        self,
        transport: trio.abc.Stream,
        send_queue: SendQueue,
        shaper: Shaper | None,
        send_nowait: Callable[[bytes], bool] | None = None,
    ) -> None:
        self.shaper = shaper
        self.writes = 0
        self.bytes_written = 0
        self.last_write = -math.inf
        self.writing_since: float | None = None
        self.inline_writes_left = 0
        self._transport = transport
        self._send_queue = send_queue
        # What sends without waiting, if the transport can, from `run` on: nothing may overtake AUTH and NEGO (spec:
        # Connections / Authentication). Then whether it has left something for the task, or failed.
        self._transport_send_nowait = send_nowait
        self._send_nowait: Callable[[bytes], bool] | None = None
        self._unsent = False
        self._error: Exception | None = None

    async def send_first(self, protocol: ClientWireProtocol, delay: float) -> None:
        """Deliver 0 of a client: AUTH, NEGO and the first stream's OPEN, in one Write (protocol: 6).

        It waits for that stream for `delay` seconds, or until anything else is to be sent.
        """
        send_queue = self._send_queue
        with trio.move_on_after(delay):
            await send_queue.wait()
        opening = send_queue.take_of_stream(trio.current_time()) or b""
        padding_length = self.shaper.draw_auth_padding() if self.shaper is not None else 0
        await self._write_shaped(b"".join(protocol.first_frames(padding_length)) + opening)

    async def run(self) -> None:
        """Write until the send queue is finished.

        Raises:
          trio.BrokenResourceError, trio.ClosedResourceError: from the transport.
        """
        send_queue = self._send_queue
        self._send_nowait = self._transport_send_nowait
        while True:
            waited = await send_queue.wait()
            if waited and self.inline_writes_left and self._send_nowait is not None:
                # What has just arrived may be answered soon: STREAM_ACK then goes with the first data.
                await send_queue.wait_for_piggyback()
            if self._error is not None:
                raise self._error
            if self._unsent:
                self._unsent = False
                await self._send(b"")
            if self.shaper is not None and self.shaper.active:
                # Each frame is one deliver while shaping is on (spec: Phase 2).
                frame = send_queue.take(trio.current_time())
                if frame is not None:
                    await self._write_shaped(frame)
                    continue
            else:
                if not waited:
                    # Frames have come while the last ones were written: the senders are busy, and each write costs
                    # more than many small frames. The first frame after a pause goes out at once.
                    await send_queue.coalesce(_BATCH)
                if batch := send_queue.take_batch(trio.current_time(), _BATCH):
                    await self._write(b"".join(batch))
                    continue
            if send_queue.finishing:
                break
        if send_queue.last_frame is not None:
            await self._write_shaped(send_queue.last_frame)

    async def _write_shaped(self, data: bytes) -> None:
        for write in self.shaper.shape(data) if self.shaper is not None else (data,):
            # Each to the transport alone: a TLS record of its own, with the size that the scheme asked for.
            await self._write(write)

    def notify(self) -> None:
        """See to it that what was just queued is written: at once if it is an answer and can be, or by the task."""
        if not (self.inline_writes_left and self.write_now()):
            self._send_queue.wake_writer()

    def write_now(self) -> bool:
        """Write what waits, if that can be done at once; whether the task has nothing to do."""
        send_queue = self._send_queue
        if self._send_nowait is None or not send_queue.writer_idle or not send_queue.is_small:
            return False
        if self.shaper is not None and self.shaper.active:
            return False
        self.inline_writes_left -= 1
        now = trio.current_time()
        data = b"".join(send_queue.take_batch(now, _BATCH))
        if not data:
            return False
        try:
            self._unsent = not self._send_nowait(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            # The connection's to know, not the caller's.
            self._error = error
        self._count(len(data), now)
        return not self._unsent and self._error is None

    async def _write(self, data: bytes) -> None:
        await self._send(data)
        self._count(len(data), trio.current_time())

    def _count(self, size: int, now: float) -> None:
        self.last_write = now
        self.writes += 1
        self.bytes_written += size

    async def _send(self, data: bytes) -> None:
        self.writing_since = trio.current_time()
        try:
            await self._transport.send_all(data)
        finally:
            self.writing_since = None


class WriteCheck(Check):
    """Closes the connection if the peer has not accepted any data for `Config.write_timeout`."""

    __slots__ = ("_close", "_timeout", "_writer")

    def __init__(self, writer: Writer, timeout: float, close: Callable[[CloseReason], None]) -> None:
        self._writer = writer
        self._timeout = timeout
        self._close = close

    def deadline(self, now: float) -> float:
        """Return when the write in progress will have taken too long."""
        since = self._writer.writing_since
        return (now if since is None else since) + self._timeout

    def expired(self, _now: float) -> None:
        """Close the connection."""
        self._close(close_reason.transport_lost("the peer has taken nothing for longer than write_timeout"))
