"""The shaped writer: the only caller of the transport's `send_all`.

A cancelled `send_all` leaves a TLS stream unusable, so no cancel scope of an application may reach the transport. Data
goes through the send queue, and the writer's task, which only the connection itself cancels, writes it.

Two kinds of frames need not wait for that task, if it is idle: the sender's task writes them itself (`write_now`),
without a checkpoint, and with them the frames that are queued. A large frame is worth a write of its own. A small one
may be an answer if data has just arrived. Each arrival allows only a few such answers: a sender that goes on is served
by the task, which collects many frames for a write. The task also sends what the socket does not accept, and until that
is sent, nothing else is written.

While shaping is on, each Write of a delivery is a record and a write of its own, inline as in the task. No other task
runs between them, unless the socket is full or there are many.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator

import trio

from trioanytls._protocol.interface import ClientWireProtocol
from trioanytls._protocol.traffic_shaper import Shaper

from . import close_reason
from .close_reason import CloseReason
from .send_queue import MAX_INLINE, Sender, SendQueue
from .timers import Check

# The approximate size of a batch: larger ones fall out of the processor's cache between the copies.
_BATCH = 64 * 1024
# The most batches to write in one pass of the event loop, which takes as long as encrypting one. With more, the rates
# are the same, and small messages wait longer.
_BATCHES = 2
# How many Writes of one delivery may be made without giving way to other tasks.
_SHAPED_WRITES = 16


class Writer:
    """Takes frames out of the send queue, in the order of the wire, and writes them.

    Attributes:
      shaper: cuts and pads the first deliveries; None if this direction is not shaped.
      writes: the number of writes made.
      bytes_written: the number of bytes written.
      last_write: when the last write was made, on Trio's clock. A batch for which the socket had no room counts from
        its beginning.
      writing_since: when the current write began, None if there is none.
      first_sent: (client) when the first frames were sent, None before that.
      has_begun: (client) whether the first frames were sent. Each further frame may be a write of its own.
      inline_writes_left: how many inline writes the last arrival still allows. The reader sets it.
    """

    def __init__(
        self,
        transport: trio.abc.Stream,
        send_queue: SendQueue,
        shaper: Shaper | None,
        send_nowait: Callable[[bytes], bool] | None = None,
    ) -> None:
        self.shaper = shaper
        self.writes: int = 0
        self.bytes_written: int = 0
        self.last_write: float = -math.inf
        self.writing_since: float | None = None
        self.first_sent: float | None = None
        self.has_begun: bool = False
        self.inline_writes_left: int = 0
        self._transport = transport
        # Trio's clock: `trio.current_time` makes two more calls.
        self._now = trio.lowlevel.current_clock().current_time
        self._send_queue = send_queue
        # Sends without waiting, if the transport can. Used from `run` on: nothing may overtake AUTH and NEGO (spec:
        # Connections / Authentication).
        self._transport_send_nowait = send_nowait
        self._send_nowait: Callable[[bytes], bool] | None = None
        # Whether an inline write has left data for the task, and the error of one that failed.
        self._unsent = False
        self._error: Exception | None = None
        # The number of bytes in batches that the socket has accepted since a batch found it full.
        self._accepted = 0
        # The Writes of the current delivery that have not been made yet, None between two deliveries.
        self._writes: Iterator[bytes] | None = None

    @property
    def failed(self) -> bool:
        """Whether an inline write has failed. The task raises the error when it runs next."""
        return self._error is not None

    async def send_first(self, protocol: ClientWireProtocol, delay: float) -> None:
        """Send a client's authentication, and the first stream's first frames in one write with what precedes them
        (protocol: 6; legacy: 4).

        Wait for that stream for `delay` seconds, or until a control frame is queued.
        """
        send_queue, joining = self._send_queue, protocol.frames_in_first_write
        padding_length = self.shaper.draw_auth_padding() if self.shaper is not None else 0
        preamble, beginning = protocol.first_writes(padding_length)
        if preamble:
            await self._write_shaped(preamble)
        with trio.move_on_after(delay):
            while await send_queue.wait(joining):
                pass
        opening = [beginning]
        before = send_queue.queued_control
        # A stream that was closed already is followed by its last frame, and then by the next stream.
        while len(opening) <= joining and send_queue.queued_control == before:
            opening.append(send_queue.take_of_stream(self._now()) or b"")
        self.has_begun = True
        self.first_sent = self._now()
        await self._write_shaped(b"".join(opening))

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
                # The data that has just arrived may be answered soon: STREAM_ACK then goes with the first data.
                await send_queue.wait_for_piggyback()
            if self._error is not None:
                raise self._error
            if self._unsent:
                self._unsent = False
                await self._send(b"")
                await self._finish_delivery()
            if self.shaper is not None and self.shaper.active:
                # Each frame is one delivery while shaping is on (spec: Phase 2).
                frame = send_queue.take(self._now())
                if frame is not None:
                    await self._write_shaped(frame)
                    continue
            else:
                if not waited and send_queue.charged < _BATCH:
                    # Frames were queued during the last write: the senders are busy, and a write costs more than many
                    # small frames. The first frame after a pause is written at once.
                    await send_queue.coalesce(_BATCH)
                if self._send_nowait is not None and send_queue.charged >= _BATCH:
                    await self._write_batches(self._send_nowait)
                    continue
                if batch := send_queue.take_batch(self._now(), _BATCH):
                    await self._write(b"".join(batch))
                    continue
            if send_queue.finishing:
                break
        if send_queue.last_frame is not None:
            await self._write_shaped(send_queue.last_frame)

    async def _write_batches(self, send_nowait: Callable[[bytes], bool]) -> None:
        """Write several batches in one pass of the event loop, as long as the socket accepts all of them.

        No task runs between two batches, so that only frames of the senders in the line are queued meanwhile. If fewer
        frames are left than a batch has, waiting for more is the next thing to do.
        """
        send_queue, sent_all = self._send_queue, True
        # If the socket is faster than the senders, they can write by themselves once nothing is queued. Those in the
        # line do not add to the queue meanwhile.
        opening = send_queue.may_open_line(self._accepted)
        batches, least = (itertools.count(), 1) if opening else (range(_BATCHES), _BATCH)
        for _ in batches:
            now = self._now()
            data = b"".join(send_queue.take_batch(now, _BATCH, admit=not opening))
            sent_all = send_nowait(data)
            self._accepted = self._accepted + len(data) if sent_all else 0
            self.last_write = now
            self.writes += 1
            self.bytes_written += len(data)
            if not sent_all or send_queue.charged < least:
                break
        if opening and sent_all:
            send_queue.open_line()
            return
        if opening:
            send_queue.give_back()
        if not sent_all:
            await self._send(b"")
        elif send_queue.charged >= _BATCH:
            await trio.lowlevel.checkpoint()

    async def _write_shaped(self, data: bytes) -> None:
        writes = self.shaper.shape(data) if self.shaper is not None else iter((data,))
        if self._transport_send_nowait is not None:
            if self._deliver_now(writes, self._transport_send_nowait):
                return
            if self._error is not None:
                raise self._error
            await self._send(b"")
        self._writes = writes
        await self._finish_delivery()

    def _deliver_now(self, writes: Iterator[bytes], send_nowait: Callable[[bytes], bool]) -> bool:
        """Make Writes as far as possible without waiting. Return whether all were made and sent."""
        for count, write in enumerate(writes, 1):
            # Each alone: a TLS record of its own, with the size that the scheme asks for.
            try:
                sent = send_nowait(write)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                self._error = error
                return False
            self._count(len(write), self._now())
            if not sent or count == _SHAPED_WRITES:
                return False
        return True

    async def _finish_delivery(self) -> None:
        """Make the Writes that are left."""
        writes, self._writes = self._writes, None
        for write in writes or ():
            await self._write(write)

    def notify(self) -> None:
        """Have a frame that was just queued written: inline if it may be an answer and fits, or by the task."""
        send_queue = self._send_queue
        # A task that is not idle looks into the queue by itself.
        if send_queue.writer_idle and not (self.inline_writes_left and self.write_now()):
            send_queue.wake_writer()

    def write_now(self, sender: Sender | None = None, header: bytes = b"", payload: bytes | memoryview = b"") -> bool:
        """Write the queued frames inline, and after them a frame of a stream that is not queued, if there is one.

        Return False if the frames are left to the task, and the one that is not queued to the caller. Otherwise the
        task is woken if there is anything left to do.
        """
        send_queue, send_nowait, shaper = self._send_queue, self._send_nowait, self.shaper
        if send_nowait is None or not send_queue.writer_idle or self._unsent or self._writes is not None:
            # The rest of a write, or of a delivery, comes first.
            return False
        now = self._now()
        if shaper is not None and shaper.active:
            if sender is not None:
                # Each frame is a delivery, in the order of the queue.
                return False
            self.inline_writes_left -= 1
            return self._deliver_frame(shaper, send_nowait, now)
        if sender is not None:
            data = send_queue.pass_by(sender, header, payload, now)
        elif send_queue.charged <= MAX_INLINE:
            data = b"".join(send_queue.take_batch(now, _BATCH))
        else:
            return False
        if not data:
            return False
        if self.inline_writes_left:
            self.inline_writes_left -= 1
        try:
            self._unsent = not send_nowait(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            # The task raises it: it concerns the connection, and not the caller.
            self._error = error
        if self._unsent or self._error is not None:
            self._accepted = 0
            send_queue.wake_writer()
        self.last_write = now
        self.writes += 1
        self.bytes_written += len(data)
        return True

    def _deliver_frame(self, shaper: Shaper, send_nowait: Callable[[bytes], bool], now: float) -> bool:
        """Write the next frame inline, as a delivery of its own. Return whether that leaves nothing for the task."""
        frame = self._send_queue.take(now)
        if frame is None:
            return False
        writes = shaper.shape(frame)
        if self._deliver_now(writes, send_nowait):
            return self._send_queue.is_empty
        self._writes, self._unsent = writes, True
        return False

    async def _write(self, data: bytes) -> None:
        await self._send(data)
        self._count(len(data), self._now())

    def _count(self, size: int, now: float) -> None:
        self.last_write = now
        self.writes += 1
        self.bytes_written += size

    async def _send(self, data: bytes) -> None:
        self.writing_since = self._now()
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
        self._close(close_reason.transport_lost("the peer has not accepted any data for longer than write_timeout"))
