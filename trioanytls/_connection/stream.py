"""A stream of a connection, as a `trio.abc.Stream` (spec: Streams; protocol: 5)."""

from __future__ import annotations

import enum
import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING

import trio

from trioanytls._exceptions import StreamRefused, StreamTimeout
from trioanytls._protocol.anytls1 import frames
from trioanytls._protocol.anytls1.frames import encode_length

from .receive_buffer import ReceiveBuffer
from .send_queue import MAX_DATA

if TYPE_CHECKING:
    from .connection import Connection


class StreamEnd(enum.Enum):
    """Why a stream carries nothing any more, other than that it was closed here."""

    #: The peer closed it.
    PEER = "the peer has closed the stream"
    REFUSED = "the server refused the stream"
    IDLE = "the stream was idle for longer than stream_idle_timeout"
    STALLED = "the stream was not read for longer than stall_timeout while others waited"
    UNACKNOWLEDGED = "the server did not accept the stream within acknowledge_timeout"
    CONNECTION = "the connection has ended"


_ERRORS: dict[StreamEnd, type[Exception]] = {
    StreamEnd.PEER: trio.BrokenResourceError,
    StreamEnd.REFUSED: StreamRefused,
    StreamEnd.IDLE: StreamTimeout,
    StreamEnd.STALLED: StreamTimeout,
    StreamEnd.UNACKNOWLEDGED: StreamTimeout,
}


class Stream(trio.abc.Stream):
    """An ordered stream of bytes in each direction, one of many on its connection.

    Made by `Connection.open_stream`, or handed to a server's handler. One task may send while another receives. There
    is no half-close in the protocol: closing ends both directions, and the peer receives what was sent before, then the
    end.

    Attributes:
      stream_id: the stream's number on its connection, from 1.
      connection: the `Connection`.
    """

    __slots__ = (
        "__weakref__",
        "_acknowledged",
        "_closed",
        "_dropped",
        "_ended",
        "_last_frame",
        "_on_wire",
        "_prefix",
        "_queued",
        "_read_waiter",
        "_received",
        "_receiver",
        "_receiving",
        "_rst",
        "_scope",
        "_send_queue",
        "_sender",
        "_sending",
        "_waiters",
        "_writer",
        "connection",
        "stream_id",
    )

    def __init__(self, connection: Connection, stream_id: int, now: float, *, on_wire: bool) -> None:
        self.connection = connection
        self.stream_id = stream_id
        self._send_queue = connection._send_queue
        self._writer = connection._writer
        self._prefix = frames.data_prefix(stream_id)
        self._received = ReceiveBuffer(connection._received)
        self._receiving = False
        self._receiver: trio.lowlevel.Task | None = None
        # The connection's reader, while it waits for the buffer to be read.
        self._read_waiter: trio.lowlevel.Task | None = None
        self._sending = False
        self._sender: trio.lowlevel.Task | None = None
        # Frames in the send queue, and what follows the last of them.
        self._queued = 0
        self._rst: bytes | None = None
        self._dropped = False
        # Whether the peer may know of the stream: on the client, once its OPEN has been taken for sending.
        self._on_wire = on_wire
        self._acknowledged = False
        self._waiters: set[trio.lowlevel.Task] | None = None
        self._closed = False
        self._ended: StreamEnd | None = None
        # The idle timer: the timer task looks at it.
        self._last_frame = now
        # The scope of the stream's handler on a server, while that runs.
        self._scope: trio.CancelScope | None = None

    def __repr__(self) -> str:
        state = "closed" if self._closed else f"ended: {self._ended.value}" if self._ended else "open"
        return f"<trioanytls.Stream {self.stream_id} {state}>"

    # Receiving

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive at least one byte, at most `max_bytes` (default: all that has arrived).

        Returns:
          the bytes; `b""` where the peer has closed the stream and everything before that was received.

        Raises:
          trio.ClosedResourceError: the stream, or its connection, was closed on this side.
          trio.BusyResourceError: another task receives from the stream.
          ConnectionClosed: the connection ended before the stream did; comes behind what was received until then.
          StreamRefused: the server closed the stream without accepting it; likewise.
          StreamTimeout: the stream was closed here by a timer; likewise.

        Cancellation: no byte is lost.
        """
        if max_bytes is not None:
            max_bytes = operator.index(max_bytes)
            if max_bytes < 1:
                raise ValueError("max_bytes must be at least 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        self._check_not_closed()
        self._receiving = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if self._received.size or self._ended is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
            else:
                self._receiver = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort_receive)
            self._check_not_closed()
            return self._take(max_bytes)
        finally:
            self._receiving = False

    def _abort_receive(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._receiver = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _take(self, max_bytes: int | None) -> bytes:
        received = self._received
        if not received.size:
            if self._ended is StreamEnd.PEER:
                return b""
            raise self._broken()
        data = received.take(max_bytes)
        if self._read_waiter is not None and received.cost <= self.connection.config.receive_buffer_size:
            self._wake_reader()
        return data

    # Sending

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`; returns when all of it was accepted for sending, which is before it has been sent.

        Raises:
          trio.ClosedResourceError: the stream, or its connection, was closed on this side.
          trio.BusyResourceError: another task sends, or waits to send, on the stream.
          trio.BrokenResourceError: the peer has closed the stream; or one of its subclasses:
          ConnectionClosed, StreamRefused, StreamTimeout: see `receive_some`.

        Cancellation: a part of the data may have been accepted. The stream remains usable.
        """
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        if self._closed or self._ended is not None or self._send_queue.broken:
            self._check_sendable()
        self._sending = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            send_queue = self._send_queue
            if (
                type(data) is bytes
                and 0 < len(data) <= MAX_DATA
                and send_queue.offer(self, self._prefix + encode_length(len(data)), data)
            ):
                # What nearly every call is: one frame, which is not copied, and no wait.
                self._queued += 1
                self._writer.notify()
                await trio.lowlevel.cancel_shielded_checkpoint()
                return
            blocked = False
            for piece in _pieces(data):
                if not send_queue.has_room:
                    blocked = True
                    await self._wait_room()
                self._queued += 1
                send_queue.put(self, self._prefix + encode_length(len(piece)), piece)
            if not blocked:
                await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until `send_all` might accept data at once.

        Raises and cancellation: as `send_all`; nothing is sent.
        """
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            send_queue = self._send_queue
            if send_queue.has_room:
                await trio.lowlevel.cancel_shielded_checkpoint()
            else:
                await self._wait_room()
                send_queue.give_back()
        finally:
            self._sending = False

    def _begin_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._check_sendable()
        self._sending = True

    async def _wait_room(self) -> None:
        self._sender = trio.lowlevel.current_task()
        try:
            await self._send_queue.wait_room()
        finally:
            self._sender = None
        try:
            self._check_sendable()
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            # Not for us any more, but there is room for the next one.
            self._send_queue.give_back()
            raise

    # Acceptance

    async def wait_acknowledged(self) -> None:
        """Wait until the server's application has accepted the stream (spec: STREAM_ACK).

        Not needed before sending: the client need not wait for anything.

        Raises:
          StreamRefused: it did not; and all others of `receive_some`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._acknowledged or self._closed or self._ended is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await self._park_waiter()
        if not self._acknowledged:
            self._check_not_closed()
            raise self._broken()

    async def wait_closed(self) -> None:
        """Wait until the stream was closed, by either side, or has ended otherwise. What was received before that can
        still be asked for.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._has_ended:
            await trio.lowlevel.cancel_shielded_checkpoint()
        while not self._has_ended:
            await self._park_waiter()

    async def _wait_closed_here(self) -> None:
        """Wait until the stream was closed on this side. For `trioanytls.testing`."""
        while not self._closed:
            await self._park_waiter()

    async def _park_waiter(self) -> None:
        task = trio.lowlevel.current_task()
        waiters = self._waiters = self._waiters or set()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            waiters.discard(task)
            return trio.lowlevel.Abort.SUCCEEDED

        waiters.add(task)
        await trio.lowlevel.wait_task_rescheduled(abort)

    async def acknowledge(self) -> None:
        """(server) Accept the stream: the client's `wait_acknowledged` returns. A second call does nothing.

        Raises:
          RuntimeError: this is the client's end.
          trio.ClosedResourceError: the stream was closed on this side.
          trio.BrokenResourceError: the stream has ended.
        """
        self._check_sendable()
        self.connection._acknowledge(self)
        await trio.lowlevel.checkpoint()

    async def refuse(self) -> None:
        """(server) Close the stream without having accepted it: the client meets `StreamRefused`.

        Raises:
          RuntimeError: this is the client's end, or the stream was accepted before.
        """
        if not self.connection.is_server:
            raise RuntimeError("only a server refuses streams")
        if self._acknowledged:
            raise RuntimeError("the stream was accepted before")
        self._close(drop=True)
        await trio.lowlevel.checkpoint()

    # Closing

    async def aclose(self) -> None:
        """Close the stream in both directions; what was accepted for sending goes out first, in the background.

        Whoever waits on the stream on this side meets `trio.ClosedResourceError`. Closing again does nothing.

        Cancellation: the stream is closed all the same, and what was not sent yet is dropped.
        """
        self._close(drop=False)
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            self._close(drop=True)
            raise

    def _close(self, *, drop: bool) -> None:
        """Close without a checkpoint. Not for applications, which call `aclose`."""
        if not self._closed:
            self._closed = True
            if self._received.cost:
                self._received.clear()
            # None also where the peer has closed the stream already, who is not answered.
            self._rst = self.connection._close_stream(self)
            self._release()
        if drop and self._queued:
            self._drop()
        if not self._queued and self._rst is not None:
            if self._on_wire:
                self._send_queue.queue_control(self._rst)
                self._writer.notify()
            self._rst = None

    def _drop(self) -> None:
        self._dropped = True
        self._queued = 0

    # For the connection

    @property
    def closed(self) -> bool:
        """Whether the stream carries nothing any more. What was received before that can still be asked for."""
        return self._has_ended

    @property
    def is_acknowledged(self) -> bool:
        """Whether the server's application has accepted the stream, as far as is known here."""
        return self._acknowledged

    @property
    def _has_ended(self) -> bool:
        """Whether the stream carries nothing any more."""
        return self._closed or self._ended is not None

    def _receive_data(self, data: bytes, now: float) -> int:
        """Take bytes that have arrived; what all that the stream holds costs now."""
        self._last_frame = now
        received = self._received
        if data:
            received.put(data)
            if self._receiver is not None:
                self._wake_receiver()
        return received.cost

    @property
    def _is_full(self) -> bool:
        """Whether the reader has to wait for the application."""
        return not self._has_ended and self._received.cost > self.connection.config.receive_buffer_size

    async def _wait_read(self) -> None:
        """Wait until the buffer is within its size again, or the stream has ended. For the connection's reader."""

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._read_waiter = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._read_waiter = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    async def _announce(self) -> None:
        """(client) Wake the writer for the OPEN frame, a pass of the event loop after it was queued: what the
        application has sent in the same pass goes out with it.
        """
        if self._queued:
            self._send_queue.wake_writer()

    def _confirm(self) -> None:
        """The stream was accepted, here or by the peer."""
        self._acknowledged = True
        self._wake_waiters()

    def _end(self, reason: StreamEnd) -> None:
        """The stream ends for another reason than that it was closed here."""
        if self._ended is None and not self._closed:
            self._ended = reason
            if self._received.cost:
                self.connection._unread.add(self)
            if reason is not StreamEnd.CONNECTION:
                # Nobody wants it any more; at the end of a connection, what goes out is the send queue's to know.
                self._drop()
            self._release()

    def _expire(self, reason: StreamEnd) -> None:
        """A timer closes the stream: RST to the peer, `StreamTimeout` to whoever waits here (protocol: 5)."""
        self.connection._stream_timed_out(reason)
        rst = self.connection._close_stream(self)
        on_wire = self._on_wire
        self._end(reason)
        if rst is not None and on_wire:
            self._send_queue.put_control(rst)

    def _starve(self) -> None:
        """Nobody has read the stream, and its connection needs the room: drop what it holds, and close it."""
        if not self._has_ended:
            self._expire(StreamEnd.STALLED)
        elif not self._closed:
            # Its end must not look like the peer's any more.
            self._ended = StreamEnd.STALLED
        self._received.clear()

    def _expire_idle(self) -> None:
        """Close the stream because its idle timer has run out, and cancel its handler, after it has met the error."""
        self._expire(StreamEnd.IDLE)
        if self._scope is not None:
            self._scope.cancel()

    def _touch(self, now: float) -> None:
        """Restart the idle timer: a frame of the stream has passed."""
        self._last_frame = now

    def _frame_taken(self, now: float) -> bytes | None:
        """A frame of the stream leaves the send queue: see `Sender`."""
        self._queued -= 1
        self._on_wire = True
        # What `_touch` does, without a call: this is done for each frame, as in `_receive_data`.
        self._last_frame = now
        if self._queued:
            return None
        # The frame that closes the stream goes behind its last byte, never before.
        rst, self._rst = self._rst, None
        return rst

    def _send_open(self, header: bytes) -> None:
        """(client) Queue the OPEN frame; `_announce` sees to it that the writer knows."""
        self._queued += 1
        self._send_queue.queue(self, header, b"")

    def _release(self) -> None:
        """Wake everybody who waits on the stream."""
        self._wake_receiver()
        self._wake_reader()
        self._wake_waiters()
        if self._sender is not None:
            self._send_queue.wake(self._sender)
        if self._scope is not None:
            self._bound_handler(self._scope)

    def _bound_handler(self, scope: trio.CancelScope) -> None:
        """Let the handler of a stream that has ended go on alone for stream_idle_timeout at most."""
        scope.deadline = trio.current_time() + self.connection.config.stream_idle_timeout

    def _wake_receiver(self) -> None:
        if self._receiver is not None:
            task, self._receiver = self._receiver, None
            trio.lowlevel.reschedule(task)

    def _wake_reader(self) -> None:
        if self._read_waiter is not None:
            task, self._read_waiter = self._read_waiter, None
            trio.lowlevel.reschedule(task)

    def _wake_waiters(self) -> None:
        if self._waiters:
            for task in self._waiters:
                trio.lowlevel.reschedule(task)
            self._waiters = None

    def _check_not_closed(self) -> None:
        if self._closed:
            raise trio.ClosedResourceError("this stream is closed")
        if self._ended is StreamEnd.CONNECTION and self.connection._closed_here:
            raise trio.ClosedResourceError("the connection of this stream is closed")

    def _check_sendable(self) -> None:
        self._check_not_closed()
        if self._ended is not None or self._send_queue.broken:
            raise self._broken()

    def _broken(self) -> Exception:
        if self._ended is None or self._ended is StreamEnd.CONNECTION:
            return self.connection._closed_error()
        return _ERRORS[self._ended](self._ended.value)


def _pieces(data: bytes | bytearray | memoryview) -> Iterator[bytes]:
    """The payloads of the frames that carry `data`; copied unless immutable, as the caller may go on to change it."""
    if isinstance(data, bytes) and len(data) <= MAX_DATA:
        if data:
            yield data
        return
    with memoryview(data).cast("B") as view:
        for start in range(0, len(view), MAX_DATA):
            yield bytes(view[start : start + MAX_DATA])
