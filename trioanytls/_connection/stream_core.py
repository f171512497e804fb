"""The connection's half of a stream: the data that has arrived, the frames that are queued, and how it ended.

`Stream` is the application's half, and has a core. So its public names are those for applications alone.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Final

import trio

from trioanytls._config import Config
from trioanytls._protocol.stream_codes import NO_REASON, StreamReason

from .receive_buffer import ReceiveBudget, ReceiveBuffer
from .send_queue import SendQueue
from .windows import ReceiveWindow, ReceiveWindows

#: The credit of a stream without flow control: more bytes than are ever sent.
NO_FLOW_CONTROL: Final = 2**62
# The cost of the pieces in the buffer of a stream with flow control, in addition to its bytes.
_WINDOW_OVERHEAD: Final = 64 * 1024
# The least number of bytes that a grant of the peer answers. A peer may grant each small message as it is read.
_MIN_ANSWERED: Final = 64


class StreamEnd(enum.Enum):
    """Why a stream ended, unless the application closed it."""

    #: The peer closed it.
    PEER = "the peer has closed the stream"
    REFUSED = "the server refused the stream"
    IDLE = "the stream was idle for longer than stream_idle_timeout"
    STALLED = "the stream was not read for longer than stall_timeout while others waited"
    UNACKNOWLEDGED = "the server did not accept the stream within acknowledge_timeout"
    CONNECTION = "the connection has ended"
    #: Each side has said that it sends no more data.
    FINISHED = "both sides have ended the stream"
    RESET = "the peer has reset the stream"
    UNSERVED = "the server is shutting down and has not seen the stream"


class StreamCore:
    """The state of a stream, and the operations of its connection on it.

    Attributes:
      stream_id: the stream's number on its connection, from 1.
      closed: whether the stream has ended in both directions.
      closed_locally: whether the application closed it.
      send_ended: whether nothing more can be sent: it has ended, or the application has ended its direction.
      end_received: whether the peer has ended its direction: the data received is complete.
      ended: how it ended otherwise, None if it has not.
      acknowledged: whether the server's application has accepted it, as far as this side knows.
      received: the bytes that were received and that the application has not read.
      last_frame: the time of the stream's last frame in either direction, on Trio's clock, for the idle timer.
      dropped: whether the queued frames of the stream must not be sent any more.
      opened_by_peer: whether the peer opened it: then the peer has caused the frame that closes it.
      on_wire: whether the peer may know of the stream. On the client, it does once OPEN was taken for sending.
      queued: the number of frames in the send queue.
      reason: the peer's reason for refusing or resetting the stream.
      last_frames: the frames to send after the last queued frame.
      credit: the number of bytes that the peer still accepts. Without flow control, more than are ever sent.
      answered: exceeds `credit` by the number of bytes that were sent and that no grant has answered.
      windows: the credit that the peer has on all streams, None without flow control, or if it sends no more data.
      window: the credit that it has on this stream, None until enough was read that it gets more.
      until_check: the number of bytes that the application may read before it gets more.
      receive_limit: the memory cost of the buffer above which the reader waits, in bytes.
      opened: when the stream was opened, or flow control began, on Trio's clock.
      handler_scope: (server) the cancel scope of the stream's handler while that runs.
      forward: while `receiver` waits, passes data on without waking it, and returns the number of bytes that it has
        passed on.
      receiver, sender: the tasks that wait to receive, and for room to send.
      creditor: the task that waits for credit to send.
      read_waiter: the connection's reader, while it waits for the buffer to be read.
    """

    __slots__ = (
        "__weakref__",
        "_config",
        "_send_queue",
        "_waiters",
        "acknowledged",
        "answered",
        "closed",
        "closed_locally",
        "credit",
        "creditor",
        "dropped",
        "end_received",
        "ended",
        "forward",
        "handler_scope",
        "last_frame",
        "last_frames",
        "on_wire",
        "opened",
        "opened_by_peer",
        "queued",
        "read_waiter",
        "reason",
        "receive_limit",
        "received",
        "receiver",
        "send_ended",
        "sender",
        "stream_id",
        "until_check",
        "window",
        "windows",
    )

    def __init__(
        self, stream_id: int, send_queue: SendQueue, budget: ReceiveBudget, config: Config, now: float, *, by_peer: bool
    ) -> None:
        self.stream_id: int = stream_id
        self.received: ReceiveBuffer = ReceiveBuffer(budget)
        self.last_frame: float = now
        self.dropped: bool = False
        self.opened_by_peer: bool = by_peer
        self.on_wire: bool = by_peer
        self.queued: int = 0
        self.last_frames: tuple[bytes, ...] = ()
        self.reason: StreamReason = NO_REASON
        self.credit: int = NO_FLOW_CONTROL
        self.answered: int = NO_FLOW_CONTROL
        self.windows: ReceiveWindows | None = None
        self.window: ReceiveWindow | None = None
        self.until_check: int = NO_FLOW_CONTROL
        self.receive_limit: int = config.receive_buffer_size
        self.opened: float = now
        self.handler_scope: trio.CancelScope | None = None
        self._config = config
        self._send_queue = send_queue
        self.acknowledged: bool = False
        self.closed: bool = False
        self.closed_locally: bool = False
        self.send_ended: bool = False
        self.end_received: bool = False
        self.ended: StreamEnd | None = None
        self.receiver: trio.lowlevel.Task | None = None
        self.forward: Callable[[bytes], int] | None = None
        self.sender: trio.lowlevel.Task | None = None
        self.creditor: trio.lowlevel.Task | None = None
        self.read_waiter: trio.lowlevel.Task | None = None
        # The tasks that wait for the stream to be accepted or closed.
        self._waiters: set[trio.lowlevel.Task] | None = None

    # Receiving

    def receive_data(self, data: bytes, now: float) -> int:
        """Buffer the payload of a DATA frame. Return the memory cost of the whole buffer."""
        self.last_frame = now
        received = self.received
        if data:
            if self.forward is not None and self.receiver is not None and not received.size:
                data = data[self.forward(data) :]
                if not data:
                    return received.cost
            received.put(data)
            if self.receiver is not None:
                # The body of `_wake_receiver`, without a call.
                task, self.receiver = self.receiver, None
                trio.lowlevel.reschedule(task)
        return received.cost

    @property
    def is_full(self) -> bool:
        """Whether the reader has to wait until the application reads the stream."""
        return not self.closed and self.received.cost > self.receive_limit

    def exceeds_limit(self) -> bool:
        """Return whether the buffer is above its limit, also once its pieces are joined."""
        if self.windows is None:
            return True
        if self.received.cost > self.receive_limit:
            # A peer that keeps to its credit may send it in tiny frames.
            self.received.compact()
        return self.received.cost > self.receive_limit

    def data_read(self) -> None:
        """Wake the reader if the buffer is within its limit again."""
        if self.read_waiter is not None and self.received.cost <= self.receive_limit:
            self._wake_reader()

    async def wait_read(self) -> None:
        """Wait until the buffer is within its limit again, or the stream has ended. For one task, the reader."""

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self.read_waiter = None
            return trio.lowlevel.Abort.SUCCEEDED

        self.read_waiter = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    # Sending

    def queue_open(self, header: bytes) -> None:
        """(client) Queue the OPEN frame. The caller must wake the writer."""
        self._send_queue.queue(self, header, b"")

    async def wait_on_wire(self) -> None:
        """(client) Wait until the OPEN frame is taken for sending, or the stream has ended."""
        while not self.on_wire and not self.closed:
            await self.park_waiter()

    def first_frame_taken(self) -> None:
        """(client) Note that the OPEN frame is taken for sending, and wake the task in `wait_on_wire`. See `Sender`."""
        self.on_wire = True
        self.wake_waiters()

    def drop_queued(self) -> None:
        """Have the queued frames of the stream discarded instead of sent."""
        self.dropped = True
        self.queued = 0

    def begin_flow_control(self, credit: int, windows: ReceiveWindows, now: float) -> None:
        """Begin with this credit to send, and a window. Data that was sent before counts (extensions: 2)."""
        self.credit += credit - NO_FLOW_CONTROL
        self.answered = credit
        self.opened = now
        self.windows = windows
        windows.reserve()
        self.until_check = windows.first_check
        self.receive_limit = max(self._config.receive_buffer_size, windows.initial + _WINDOW_OVERHEAD)

    def take_window(self) -> ReceiveWindow | None:
        """Return the window, made if need be, with the bytes read so far. None without flow control."""
        if self.window is None and self.windows is not None:
            self.window = self.windows.materialize(self.opened)
        if self.window is not None:
            self.window.until_check = self.until_check
        return self.window

    def window_checked(self, window: ReceiveWindow) -> None:
        """Note what the window allows after it was checked."""
        self.until_check = window.until_check
        self.receive_limit = max(self._config.receive_buffer_size, window.charge + _WINDOW_OVERHEAD)

    def end_flow_control(self) -> None:
        """Give the window back: the peer sends no more data."""
        if self.windows is not None:
            if self.window is not None:
                self.window.close()
                self.window = None
                self._send_queue.drop_grant(self.stream_id)
            else:
                self.windows.release()
            self.windows = None
            self.until_check = NO_FLOW_CONTROL
            self.receive_limit = self._config.receive_buffer_size

    def grant(self, increment: int) -> bool | None:
        """Take credit from the peer. Return whether it answers data that was sent, None if it is small for that.

        Each grant answers at least `_MIN_ANSWERED` bytes: a peer that grants single bytes soon has none left to answer.
        """
        unanswered = self.answered - self.credit
        answered = min(unanswered, max(increment, _MIN_ANSWERED))
        self.credit += increment
        self.answered = self.credit + unanswered - answered
        self._wake_creditor()
        if not answered:
            return False
        return True if increment >= _MIN_ANSWERED else None

    async def wait_credit(self) -> None:
        """Wait until the peer grants credit, or nothing more can be sent. For one task, the sender."""

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self.creditor = None
            return trio.lowlevel.Abort.SUCCEEDED

        self.creditor = trio.lowlevel.current_task()
        await trio.lowlevel.wait_task_rescheduled(abort)

    # State

    def touch(self, now: float) -> None:
        """Restart the idle timer: a frame of the stream has passed."""
        self.last_frame = now

    def confirm(self) -> None:
        """Note that the stream was accepted, by this side or by the peer."""
        self.acknowledged = True
        self.wake_waiters()

    def end_received_data(self) -> None:
        """Note that the peer sends no more data."""
        self.end_received = True
        self.end_flow_control()
        self._wake_receiver()

    def close_locally(self) -> None:
        """Note that the application closed the stream, and discard the received data."""
        self.closed = self.closed_locally = self.send_ended = True
        self.end_flow_control()
        if self.received.cost:
            self.received.clear()

    def terminate(self, reason: StreamEnd) -> None:
        """End the stream for another reason than that the application closed it. The first reason counts."""
        if not self.closed:
            self.closed = self.send_ended = True
            self.ended = reason
            self.end_flow_control()
            if reason not in (StreamEnd.CONNECTION, StreamEnd.FINISHED):
                # The peer does not want the data any more. At the end of a connection, the send queue decides.
                self.drop_queued()
            self.wake_all()

    def discard_received(self) -> None:
        """Discard the received data of a stream that has ended, so that reading it raises `StreamTimeout`."""
        if not self.closed_locally:
            # Reading on must not look like the peer's end of the stream.
            self.ended = StreamEnd.STALLED
            self.end_received = False
        self.received.clear()

    def limit_handler(self) -> None:
        """Let the handler of a stream that has ended run for `stream_idle_timeout` at most."""
        if self.handler_scope is not None:
            self.handler_scope.deadline = trio.current_time() + self._config.stream_idle_timeout

    def wake_all(self) -> None:
        """Wake all tasks that wait on the stream, and limit the time of its handler."""
        self._wake_receiver()
        self._wake_reader()
        self.wake_waiters()
        self._wake_creditor()
        if self.sender is not None:
            self._send_queue.wake(self.sender)
        self.limit_handler()

    async def wait_closed_locally(self) -> None:
        """Wait until the application has closed the stream. For `trioanytls.testing`."""
        while not self.closed_locally:
            await self.park_waiter()

    async def park_waiter(self) -> None:
        """Wait until the stream is accepted or has ended, or its connection has been negotiated."""
        task = trio.lowlevel.current_task()
        waiters = self._waiters = self._waiters or set()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            waiters.discard(task)
            return trio.lowlevel.Abort.SUCCEEDED

        waiters.add(task)
        await trio.lowlevel.wait_task_rescheduled(abort)

    def _wake_receiver(self) -> None:
        if self.receiver is not None:
            task, self.receiver = self.receiver, None
            trio.lowlevel.reschedule(task)

    def _wake_reader(self) -> None:
        if self.read_waiter is not None:
            task, self.read_waiter = self.read_waiter, None
            trio.lowlevel.reschedule(task)

    def _wake_creditor(self) -> None:
        if self.creditor is not None:
            task, self.creditor = self.creditor, None
            trio.lowlevel.reschedule(task)

    def wake_waiters(self) -> None:
        """Wake the tasks in `park_waiter`."""
        if self._waiters:
            for task in self._waiters:
                trio.lowlevel.reschedule(task)
            self._waiters = None
