"""The frames queued on a connection: a bounded memory channel of streams' frames, and a queue of control frames.

Streams wait for room in order of arrival, and each is admitted for one frame at a time: a stream with much to send does
not hold up one with little. A sender with more than one frame leaves its data in the line: whenever its turn comes, the
next frame is queued, and its task is woken once, after the last one. Control frames never wait, since the reader queues
them and must not wait for the writer. Otherwise two peers whose readers both wait for their writers would deadlock.
Those that the peer causes are bounded by the reader, which counts them (`pending_control`) and closes the connection of
a peer that asks for answers without reading them. A grant of credit is caused by the application that has read: it does
not count, and joins the one of the same stream that is still queued.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import trio

#: The most payload of one DATA frame, in bytes.
MAX_DATA = 64 * 1024
# How long the writer lets frames accumulate: passes of the event loop, and then seconds.
_COALESCE_PASSES = 8
_COALESCE_TIME = 0.001
# How many passes of the event loop control frames wait for data: as many as an application needs to close a stream and
# open the next one.
_PIGGYBACK_PASSES = 1
# The most bytes to send in one pass of the event loop to open the line: somewhat more than the default bound.
_MAX_OPENING = 512 * 1024
# The charge for a frame in addition to its payload, in bytes, so that many small frames are bounded as well.
_OVERHEAD = 64
# Frame types are one byte long, and below this in all wire formats.
_FRAME_TYPES = 32
#: The most bytes to write without the writer's task: one TLS record.
MAX_INLINE = 16 * 1024


class Sender(Protocol):
    """The stream that a frame belongs to, as the send queue uses it. It has no method for a frame that is taken: each
    call is 2 % of a small message.

    Attributes:
      dropped: whether the queued frames of the stream must not be sent any more.
      queued: the number of frames in the queue. The queue counts them, except those of a stream that is dropped.
      on_wire: whether a frame of the stream was taken before.
      last_frame: the time at which the last frame was taken. The queue sets it.
      last_frames: the frames to send directly after the last queued frame. The queue takes them.
    """

    dropped: bool
    queued: int
    on_wire: bool
    last_frame: float
    last_frames: tuple[bytes, ...]

    def first_frame_taken(self) -> None:
        """Note that a frame of the stream has left the queue for the first time."""


class _NoStream:
    """The sender of a control frame that is queued in order."""

    dropped = False
    on_wire = True

    def __init__(self) -> None:
        self.queued = 0
        self.last_frame = -math.inf
        self.last_frames: tuple[bytes, ...] = ()

    def first_frame_taken(self) -> None:
        """Do nothing: there is no stream."""


class PendingData(Protocol):
    """The data of one call of a sender, of which some frames are not queued yet."""

    @property
    def size(self) -> int:
        """The size of the data of the whole call, in bytes."""

    @property
    def is_empty(self) -> bool:
        """Whether all frames have been taken."""

    def next_frame(self) -> _Item | None:
        """Take the next frame. Return None if none can be queued now: the sender's task has to act."""


#: Encodes a grant, from the id of its stream and the increment.
EncodeGrant = Callable[[int, int], bytes]
# A frame: its stream, its header, its payload.
_Item = tuple[Sender, bytes, bytes | memoryview]


class SendQueue:
    """The frames queued on one connection.

    Args:
      size: the bound in bytes (`Config.send_buffer_size`).

    Attributes:
      charged: the size of all queued frames of streams, with their overhead, in bytes.
      pending_control: the number of queued control frames that the peer has caused.
      broken: whether the transport is broken. Frames queued from then on are discarded.
      finishing: whether `finish` was called.
      last_frame: the frame that closes the connection, if there is one.
      writer_idle: whether the writer's task is in `wait`, even if it was woken and has not run since.
      frames: the number of frames taken, indexed by type.
      data_bytes: the number of payload bytes of the DATA frames taken.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        # Every queued frame is charged at least its overhead, so the charge reaches `size` before the channel is full.
        # The extra slots are for the frame that exceeds `size`, one that follows OPEN, and the one of `queue_in_order`.
        # Without `[_Item]`, which takes six calls.
        self._channel: trio.MemorySendChannel[_Item]
        self._items: trio.MemoryReceiveChannel[_Item]
        self._channel, self._items = trio.open_memory_channel(size // _OVERHEAD + 3)
        # Each control frame with the number that it adds to `pending_control`. Mostly none: an empty list is small. For
        # a grant, the function that encodes it and the id of its stream.
        self._control: list[tuple[bytes | EncodeGrant, int]] = []
        # The queued grants: the increment for each stream.
        self._grants: dict[int, int] = {}
        self.charged: int = 0
        self._queued = 0
        # The writer's task, until it is woken. It does not wait on the channel itself: frames stay there until the
        # task or an inline write takes them.
        self._writer: trio.lowlevel.Task | None = None
        self.writer_idle: bool = False
        # Only while the writer lets frames accumulate: the charge that ends that, and the event that wakes it.
        self._wake_at = math.inf
        self._enough: trio.Event | None = None
        # The tasks that wait for room, in order, with the data whose frames are queued meanwhile, if there is any. The
        # number of tasks that were admitted and have not run yet.
        self._waiting: dict[trio.lowlevel.Task, PendingData | None] = {}
        self._let_in = 0
        self.pending_control: int = 0
        self.broken: bool = False
        self.finishing: bool = False
        self.last_frame: bytes | None = None
        self.frames: list[int] = [0] * _FRAME_TYPES
        self.data_bytes: int = 0

    # For senders

    @property
    def has_room(self) -> bool:
        """Whether a frame can be queued now, without waiting and without overtaking another sender."""
        return not self._waiting and self.charged + self._let_in * (MAX_DATA + _OVERHEAD) < self._size

    async def wait_room(self) -> None:
        """Wait until one frame can be queued. Queue it without another checkpoint, or `give_back` the room.

        Cancellation: no room was taken.
        """
        await self.wait_queued(None)
        self._let_in -= 1

    async def wait_queued(self, data: PendingData | None) -> None:
        """Wait until all frames of `data` are queued, or until none can be queued any more. `data` is for `wait_room`
        if it is None.

        Cancellation: the frames that were taken are sent.
        """
        task = trio.lowlevel.current_task()

        def abort(_raise_cancel: object) -> trio.lowlevel.Abort:
            del self._waiting[task]
            return trio.lowlevel.Abort.SUCCEEDED

        self._waiting[task] = data
        await trio.lowlevel.wait_task_rescheduled(abort)

    def give_back(self) -> None:
        """Admit the next sender, instead of queueing the frame that `wait_room` was for."""
        waiting = self._waiting
        # The test of `has_room`, without a call: this runs once for each frame of a large send.
        while waiting and self.charged + self._let_in * (MAX_DATA + _OVERHEAD) < self._size:
            task, data = next(iter(waiting.items()))
            frame = None if data is None or self.broken or self.finishing else data.next_frame()
            if data is None or frame is None:
                self.wake(task)
                continue
            self._append(frame)
            if data.is_empty:
                self.wake(task)
            else:
                # The next turn comes after those of all others.
                del waiting[task]
                waiting[task] = data

    def wake(self, task: trio.lowlevel.Task) -> None:
        """Wake a task if it waits for room, whether or not there is any."""
        if task in self._waiting:
            if self._waiting.pop(task) is None:
                self._let_in += 1
            trio.lowlevel.reschedule(task)

    def feed(self, data: PendingData) -> bool:
        """Queue the frames of `data` for which there is room. Return whether any was queued.

        The caller must wake the writer.
        """
        fed = False
        while not data.is_empty and self.has_room and (frame := data.next_frame()) is not None:
            fed = True
            if not self.broken and not self.finishing:
                self._append(frame)
        return fed

    def put(self, sender: Sender, header: bytes, payload: bytes | memoryview) -> None:
        """Queue a frame of at most `MAX_DATA` bytes of payload. There must be room, see `has_room` and `wait_room`."""
        self.queue(sender, header, payload)
        self.wake_writer()

    def offer(self, sender: Sender, header: bytes, payload: bytes) -> bool:
        """Queue a frame if there is room. Return whether it was queued. The caller must wake the writer."""
        charged = self.charged
        # The bodies of `has_room` and `queue`, without a call: each one is 2 % of a small message.
        if self._waiting or charged + self._let_in * (MAX_DATA + _OVERHEAD) >= self._size:
            return False
        if not self.broken and not self.finishing:
            sender.queued += 1
            self._queued += 1
            self.charged = charged = charged + len(payload) + _OVERHEAD
            self._channel.send_nowait((sender, header, payload))
            if charged >= self._wake_at:
                self._end_coalescing()
        return True

    def queue(self, sender: Sender, header: bytes, payload: bytes | memoryview) -> None:
        """Queue a frame like `put`. The caller must wake the writer."""
        if not self.broken and not self.finishing:
            self._append((sender, header, payload))
            if self._waiting:
                # Room for a frame of maximum size was reserved. A small one leaves most of it.
                self.give_back()

    def _append(self, item: _Item) -> None:
        item[0].queued += 1
        self.charged += len(item[2]) + _OVERHEAD
        self._queued += 1
        self._channel.send_nowait(item)
        if self.charged >= self._wake_at:
            self._end_coalescing()

    def put_control(self, frame: bytes, *, caused_by_peer: bool = True) -> None:
        """Queue a control frame, ahead of all streams' frames. Count it if the peer has caused it."""
        self.queue_control(frame, caused_by_peer=caused_by_peer)
        self.wake_writer()

    def queue_control(self, frame: bytes, *, caused_by_peer: bool = True) -> None:
        """Queue a control frame like `put_control`. The caller must wake the writer."""
        if not self.broken and not self.finishing:
            self._control.append((frame, caused_by_peer))
            self.pending_control += caused_by_peer
            if self._enough is not None:
                self._end_coalescing()

    def queue_grant(self, encode: EncodeGrant, stream_id: int, increment: int) -> int:
        """Queue a grant of credit on a stream like `queue_control`, or add to the one that is queued.

        Return the increment that is queued now.
        """
        queued = self._grants.get(stream_id, 0)
        if not queued:
            if self.broken or self.finishing:
                return 0
            self._control.append((encode, stream_id))
            if self._enough is not None:
                self._end_coalescing()
        self._grants[stream_id] = increment = queued + increment
        return increment

    def queued_grant(self, stream_id: int) -> int:
        """Return the increment that is queued for a stream, 0 for none."""
        return self._grants.get(stream_id, 0)

    def drop_grant(self, stream_id: int) -> None:
        """Drop the grant that is queued for a stream, if there is one: the peer sends no more data on it.

        Without this, a peer that reads nothing could leave the grant of one stream after another.
        """
        if self._grants.pop(stream_id, 0):
            self._control = [entry for entry in self._control if isinstance(entry[0], bytes) or entry[1] != stream_id]

    def queue_in_order(self, frame: bytes) -> None:
        """Queue a control frame after all queued frames. The caller must wake the writer. For one frame at a time."""
        self.queue(_NoStream(), frame, b"")

    def wake_writer(self) -> None:
        """End the writer's wait, even if the queue is empty."""
        if self._writer is not None:
            task, self._writer = self._writer, None
            trio.lowlevel.reschedule(task)

    @property
    def queued_control(self) -> int:
        """The number of queued control frames, of either cause."""
        return len(self._control)

    def pass_by(self, sender: Sender, header: bytes, payload: bytes | memoryview, now: float) -> bytes | None:
        """Take all queued frames, and after them a frame that is not queued. Return them, joined.

        Return None if the frame must be queued: others wait before it, or more than `MAX_INLINE` is queued.
        """
        if self._waiting or self.charged > MAX_INLINE or self.broken or self.finishing:
            return None
        queued = self.take_batch(now, math.inf) if self._queued or self._control else None
        self.frames[header[0]] += 1
        self.data_bytes += len(payload)
        sender.last_frame = now
        return b"".join((*queued, header, payload)) if queued else header + payload

    @property
    def is_empty(self) -> bool:
        """Whether no frame is queued."""
        return not (self._queued or self._control)

    def finish(self, last_frame: bytes | None, *, drain: bool) -> None:
        """Let the writer send the queued frames, if `drain`, then `last_frame`, and nothing after it."""
        self.finishing = True
        self.last_frame = last_frame
        if not drain:
            self._discard()
        self._wake_all()
        self.wake_writer()
        self._end_coalescing()

    def break_down(self) -> None:
        """Discard all frames and wake all waiters, since the transport is broken."""
        self.broken = True
        self._discard()
        self._wake_all()
        self._end_coalescing()

    def _discard(self) -> None:
        self._control.clear()
        self._grants.clear()
        self.pending_control = 0
        while self._queued:
            self._items.receive_nowait()
            self._queued -= 1
        self.charged = 0

    def _wake_all(self) -> None:
        for task in list(self._waiting):
            self.wake(task)

    # For the writer

    async def wait_for_piggyback(self) -> None:
        """Let control frames wait for a few passes of the event loop, for data that can go out with them.

        The writer counts as idle meanwhile.
        """
        self.writer_idle = True
        for _ in range(_PIGGYBACK_PASSES):
            if self._queued or not self._control or self.finishing:
                break
            await trio.lowlevel.cancel_shielded_checkpoint()
        self.writer_idle = False

    async def wait(self, frames: int = 1) -> bool:
        """Wait until a frame may be queued, or `finish` is called. Return whether it had to wait.

        With `frames`, wait if fewer frames of streams than that are queued.

        Cancellation: no frame is lost.
        """
        if self._control or self._queued >= frames or self.finishing:
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
        """Let busy senders queue more frames, until `size` bytes are queued or they pause.

        Wait while every pass of the event loop brings another frame: first pass by pass, then, to spare the senders the
        cost of the passes, for up to a millisecond.
        """
        for _ in range(_COALESCE_PASSES):
            before = self.charged
            # Two passes: tasks run in random order, so a sender may not have run in one of them.
            for _ in range(2):
                if self.charged >= size or self._control or self.finishing:
                    return
                await trio.lowlevel.cancel_shielded_checkpoint()
                if self.charged != before:
                    break
            else:
                return
        if self.charged < size and not self._control and not self.finishing:
            self._enough = enough = trio.Event()
            self._wake_at = size
            with trio.move_on_after(_COALESCE_TIME):
                await enough.wait()
            self._end_coalescing()

    def _end_coalescing(self) -> None:
        if self._enough is not None:
            self._enough.set()
            self._enough = None
            self._wake_at = math.inf

    def may_open_line(self, accepted: int) -> bool:
        """Return whether `open_line` may be called, after the socket has accepted so many bytes in a row.

        Each sender in the line must have had a frame among them, so that none falls behind if the socket is full soon.
        One that waits for room would exceed the bound: it queues its frame as soon as it is woken. One whose calls have
        a frame each gains nothing by it, and the socket's buffers would fill, which small messages wait for. The queue
        is sent in one pass, so a large one keeps its line.
        """
        waiting = self._waiting
        if not 1 < len(waiting) <= accepted // MAX_DATA or self.charged > _MAX_OPENING:
            return False
        return all(data is not None and data.size > MAX_DATA for data in waiting.values())

    def open_line(self) -> None:
        """Wake all senders in the line, to write by themselves. The queue must be empty."""
        self._wake_all()

    def take(self, now: float) -> bytes | None:
        """Take the next frame, control frames first. Return None if the queue is empty."""
        return b"".join(self.take_batch(now, 1)) or None

    def take_of_stream(self, now: float) -> bytes | None:
        """Take the next frame of a stream, ahead of control frames. Return None if there is none."""
        parts: list[bytes | memoryview] = []
        self._take_of_streams(parts, now, 1, admit=True)
        return b"".join(parts) or None

    def take_batch(self, now: float, size: float, *, admit: bool = True) -> list[bytes | memoryview]:
        """Take frames, in order, up to `size` bytes or a little more. Return their parts.

        With `admit`, let those in the line queue frames instead.
        """
        parts: list[bytes | memoryview] = []
        taken = 0
        while taken < size:
            if self._control:
                frame, counted = self._control.pop(0)
                if isinstance(frame, bytes):
                    self.pending_control -= counted
                else:
                    frame = frame(counted, self._grants.pop(counted))
                # Types are one byte: all types that are sent are below 64.
                self.frames[frame[0]] += 1
                parts.append(frame)
                taken += len(frame)
            elif self._queued:
                taken += self._take_of_streams(parts, now, size - taken, admit)
            else:
                break
        return parts

    def _take_of_streams(self, parts: list[bytes | memoryview], now: float, size: float, admit: bool) -> int:
        """Take frames of streams like `take_batch`, until control frames have to follow one. Return their size."""
        receive, frames = self._items.receive_nowait, self.frames
        taken = 0
        # No call for each frame but that of the channel: a batch has hundreds of small ones.
        while taken < size and self._queued:
            sender, header, payload = receive()
            length = len(payload)
            self._queued -= 1
            self.charged -= length + _OVERHEAD
            if admit and self._waiting:
                self.give_back()
            if sender.dropped:
                continue
            frames[header[0]] += 1
            self.data_bytes += length
            parts += (header, payload)
            taken += len(header) + length
            sender.last_frame = now
            sender.queued -= 1
            if not sender.on_wire:
                sender.first_frame_taken()
            if sender.last_frames and not sender.queued:
                # The frames that close the stream follow its last byte, and never precede it.
                self._control.extend((frame, 0) for frame in sender.last_frames)
                sender.last_frames = ()
                break
        return taken
