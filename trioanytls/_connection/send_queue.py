"""What waits to be sent on a connection: a bounded memory channel of streams' frames, and a queue of control frames.

Streams wait for room, in the order in which they came, and each is let in for one frame at a time: a stream with much
to send does not hold up one with little. Control frames never wait, since the reader queues them and must not be held
up by the writer: if it could be, two peers whose readers both wait for their writers would stand still for ever. What
bounds them is that the reader counts them (`pending_control`) and closes the connection of a peer that asks for answers
without reading them.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Protocol

import trio

from trioanytls._protocol.anytls1.frames import FrameType

#: The most payload that one DATA frame carries, in bytes.
MAX_DATA = 64 * 1024
# How long the writer looks on while frames are put: passes of the event loop, and then seconds.
_COALESCE_PASSES = 8
_COALESCE_TIME = 0.001
# How many passes of the event loop control frames wait for data: what an application needs that closes a stream and
# opens the next one.
_PIGGYBACK_PASSES = 1
# What a frame costs beside its payload, in bytes, so that many small ones are bounded as well.
_OVERHEAD = 64
# What is written without the writer's task, at most, in bytes: a TLS record's worth.
_SMALL = 16 * 1024


class Sender(Protocol):
    """What the send queue asks of the stream that a frame belongs to."""

    #: Set where what is queued for the stream is not to be sent any more.
    dropped: bool

    def frame_taken(self, now: float) -> bytes | None:
        """One of the stream's frames leaves the queue; the frame that is to go directly behind it, if any."""


# A frame: its stream, its header, its payload.
_Item = tuple[Sender, bytes, bytes]


class SendQueue:
    """What one connection has to send; `size` is the bound in bytes (`Config.send_buffer_size`).

    Attributes:
      broken: the transport takes no more; what is put here goes nowhere.
      finishing: the end was asked for, see `finish`.
      last_frame: what ends the connection, if anything is to be said.
      writer_idle: the writer's task is in `wait`, also where it was woken and has not run since.
      frames: how many frames of each type were taken, indexed by type.
      payload_bytes: how many bytes of payload of DATA were taken, indexed the same way.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        # Every queued frame is charged at least its overhead, so the charge reaches `size` before the channel is full;
        # the place more is for the frame that goes beyond.
        self._channel, self._items = trio.open_memory_channel[_Item](size // _OVERHEAD + 1)
        self._control: deque[bytes] = deque()
        self._charged = 0
        self._queued = 0
        # The writer's task, until it is woken. It does not wait for the channel itself: frames stay in there for
        # whoever takes them first.
        self._writer: trio.lowlevel.Task | None = None
        self.writer_idle = False
        # While the writer lingers: how much ends that, and what tells it.
        self._wake_at = math.inf
        self._enough = trio.Event()
        # Tasks that wait for room, in order, and how many have been let in but have not run yet.
        self._waiting: dict[trio.lowlevel.Task, None] = {}
        self._let_in = 0
        self.broken = False
        self.finishing = False
        self.last_frame: bytes | None = None
        self.frames = [0] * (FrameType.STREAM_ACK + 1)
        self.payload_bytes = [0] * (FrameType.STREAM_ACK + 1)

    # For whoever sends

    @property
    def has_room(self) -> bool:
        """Whether a frame can be put now, without a wait and without overtaking anybody."""
        return not self._waiting and self._has_room_for_one()

    def _has_room_for_one(self) -> bool:
        return self._charged + self._let_in * (MAX_DATA + _OVERHEAD) < self._size

    async def wait_room(self) -> None:
        """Wait until one frame can be put; put it without another checkpoint, or `give_back` the room.

        Cancellation: nothing has happened.
        """
        task = trio.lowlevel.current_task()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            del self._waiting[task]
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiting[task] = None
        await trio.lowlevel.wait_task_rescheduled(abort)
        self._let_in -= 1

    def give_back(self) -> None:
        """Let the next one in, instead of putting the frame that `wait_room` was for."""
        while self._waiting and self._has_room_for_one():
            self.wake(next(iter(self._waiting)))

    def wake(self, task: trio.lowlevel.Task) -> None:
        """Let a task go on that waits for room, if it does; whether there is any is not looked at."""
        if task in self._waiting:
            del self._waiting[task]
            self._let_in += 1
            trio.lowlevel.reschedule(task)

    def put(self, sender: Sender, header: bytes, payload: bytes) -> None:
        """Queue a frame of at most `MAX_DATA` bytes of payload. There is room, see `has_room` and `wait_room`."""
        self.queue(sender, header, payload)
        self.wake_writer()

    def offer(self, sender: Sender, header: bytes, payload: bytes) -> bool:
        """Queue a frame if there is room for it, for who sees to it that the writer knows; whether there is."""
        # What `has_room` says. Each call in here is 1 % of a small message.
        if self._waiting or self._charged + self._let_in * (MAX_DATA + _OVERHEAD) >= self._size:
            return False
        self.queue(sender, header, payload)
        return True

    def queue(self, sender: Sender, header: bytes, payload: bytes) -> None:
        """Like `put`, for who sees to it that the writer knows."""
        if not self.broken and not self.finishing:
            self._charged += len(payload) + _OVERHEAD
            self._queued += 1
            self._channel.send_nowait((sender, header, payload))
            if self._charged >= self._wake_at:
                self._wake_at = math.inf
                self._enough.set()
            if self._waiting:
                # Room is kept for the largest frame of whoever was let in; a small one leaves the most of it.
                self.give_back()

    def put_control(self, frame: bytes) -> None:
        """Queue a control frame, in front of all streams' frames."""
        self.queue_control(frame)
        self.wake_writer()

    def queue_control(self, frame: bytes) -> None:
        """Like `put_control`, for who sees to it that the writer knows."""
        if not self.broken and not self.finishing:
            self._control.append(frame)
            if self._wake_at != math.inf:
                self._wake_at = math.inf
                self._enough.set()

    def wake_writer(self) -> None:
        """End the writer's wait, though there may be nothing to take."""
        if self._writer is not None:
            task, self._writer = self._writer, None
            trio.lowlevel.reschedule(task)

    @property
    def is_small(self) -> bool:
        """Whether what waits is little enough to be written by whoever has put the last of it."""
        return self._charged <= _SMALL

    @property
    def pending_control(self) -> int:
        """How many control frames wait."""
        return len(self._control)

    def finish(self, last_frame: bytes | None, *, drain: bool) -> None:
        """Let the writer send what is queued, where `drain` says so, then `last_frame`, and nothing after it."""
        self.finishing = True
        self.last_frame = last_frame
        if not drain:
            self._discard()
        self._wake_all()
        self.wake_writer()
        self._enough.set()

    def break_down(self) -> None:
        """The transport takes no more: let everybody who waits find out."""
        self.broken = True
        self._discard()
        self._wake_all()
        self._enough.set()

    def _discard(self) -> None:
        self._control.clear()
        while self._queued:
            self._next_item()

    def _wake_all(self) -> None:
        for task in list(self._waiting):
            self.wake(task)

    # For the writer

    async def wait_for_piggyback(self) -> None:
        """Let control frames wait for a few passes of the event loop, for data that they could go out with.

        The writer counts as idle meanwhile.
        """
        self.writer_idle = True
        for _ in range(_PIGGYBACK_PASSES):
            if self._queued or not self._control or self.finishing:
                break
            await trio.lowlevel.cancel_shielded_checkpoint()
        self.writer_idle = False

    async def wait(self) -> bool:
        """Wait until there may be something to take, or the end was asked for; whether it had to wait.

        Cancellation loses nothing.
        """
        if self._control or self._queued or self.finishing:
            return False

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            self._writer = None
            return trio.lowlevel.Abort.SUCCEEDED

        self._writer = trio.lowlevel.current_task()
        self.writer_idle = True
        try:
            await trio.lowlevel.wait_task_rescheduled(abort)
        finally:
            self.writer_idle = False
        return True

    async def coalesce(self, size: int) -> None:
        """Let senders that are busy putting frames go on, until `size` bytes wait or they pause.

        While every pass of the event loop brings another frame, the writer looks on: first pass by pass, then, so as
        not to cost those who send, for up to a millisecond without looking.
        """
        for _ in range(_COALESCE_PASSES):
            before = self._charged
            # Two passes: tasks run in random order, so that in one of them whoever sends may have had no turn.
            for _ in range(2):
                if self._charged >= size or self._control or self.finishing:
                    return
                await trio.lowlevel.cancel_shielded_checkpoint()
                if self._charged != before:
                    break
            else:
                return
        if self._charged < size and not self._control and not self.finishing:
            self._enough = trio.Event()
            self._wake_at = size
            with trio.move_on_after(_COALESCE_TIME):
                await self._enough.wait()
            self._wake_at = math.inf

    def take(self, now: float) -> bytes | None:
        """The next frame: control frames first, then the streams'. None where nothing waits."""
        if self._control:
            return self._take_control()
        return self.take_of_stream(now)

    def take_of_stream(self, now: float) -> bytes | None:
        """The next frame of a stream, ahead of control frames. None where none waits."""
        while self._queued:
            parts: list[bytes] = []
            self._take_item(parts, now)
            if parts:
                return b"".join(parts)
        return None

    def take_batch(self, now: float, size: int) -> list[bytes]:
        """The parts of all frames that wait, in their order, until they have `size` bytes or a little more."""
        parts: list[bytes] = []
        taken = 0
        while taken < size:
            if self._control:
                frame = self._take_control()
                parts.append(frame)
                taken += len(frame)
            elif self._queued:
                taken += self._take_item(parts, now)
            else:
                break
        return parts

    def _take_control(self) -> bytes:
        frame = self._control.popleft()
        # Types are one byte: ours are all below 64.
        self.frames[frame[0]] += 1
        return frame

    def _take_item(self, parts: list[bytes], now: float) -> int:
        sender, header, payload = self._next_item()
        if sender.dropped:
            return 0
        kind, size = header[0], len(payload)
        self.frames[kind] += 1
        self.payload_bytes[kind] += size
        parts += (header, payload)
        behind = sender.frame_taken(now)
        if behind is not None:
            # Control frames are taken first, so it goes directly behind.
            self._control.append(behind)
        return len(header) + size

    def _next_item(self) -> tuple[Sender, bytes, bytes]:
        """Take a frame out of the queue, and let in whoever waits for its room."""
        item = self._items.receive_nowait()
        self._queued -= 1
        self._charged -= len(item[2]) + _OVERHEAD
        if self._waiting:
            self.give_back()
        return item
