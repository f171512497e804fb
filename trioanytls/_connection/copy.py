"""Copying between two streams, in both directions, until both directions have ended.

A TCP connection can end in one direction only. A stream of ANYTLS can, if its peer has the extension `fin`. Without it,
its end is the end of both directions. The meaning of an end therefore depends on the two streams:

    the source supports half-close
        the sink does, too     the end is passed on, and the other direction continues
        the sink does not      from near: withheld, so that the whole answer can still arrive
                               from far: the answer is complete, and near is closed after it
    the source does not        the peer is gone: the end is passed on, and copying stops

A sink that accepts no more data may still have data to send: a server may answer a request before it has read all of
it, and close. The result of the other direction then decides whether the copy has failed.

`TwoWayCopy` copies and leaves the closing to its caller. `copy_both_ways` also closes or resets both streams.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Final, Literal

import trio
from attrs import define, field

from trioanytls._exceptions import SideBroken
from trioanytls._protocol.stream_codes import StreamCode, StreamReason
from trioanytls._transport.direct_socket import DirectSocket, direct_socket
from trioanytls._transport.half_close import send_eof

from .reset import reason_of, reset_with_reason
from .stream import Stream, forwarding, frame_size_of

Side = Literal["near", "far"]

#: Takes two numbers of bytes: from near to far, and from far to near.
OnBytes = Callable[[int, int], object]

# The largest piece that is copied at once, in bytes. Each piece costs a turn of a task at least.
_PIECE: Final = 256 * 1024
# The same of a stream that may allocate memory before data has arrived, until there is so much data.
_FIRST_PIECE: Final = 64 * 1024
# After an orderly end: how long, in seconds, the last piece may take, and then the peer's remaining data; and how many
# bytes of that data are discarded. Closing a TCP connection with unread bytes resets it, and the peer may lose data
# sent before. A peer that keeps sending must be stopped, though.
_LINGER_TIME: Final = 5.0
_LINGER_SIZE: Final = 64 * 1024

# Why both streams are reset after `half_closed_timeout`.
_TIMED_OUT: Final = StreamReason(
    StreamCode.TIMED_OUT, "one direction was silent for too long after the other one ended"
)

# The errors of a stream that can do no more.
_BROKEN: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


@define(eq=False)
class CopyDirection:
    """One direction of a copy, and its result.

    Attributes:
      source_side, sink_side: their names in a `SideBroken`.
      on_received, on_sent: called with the size of each piece once it was received, and once it was sent.
      is_end: whether an error of the source counts as its end.
      complete: whether the source ended, and all its data was sent.
      broken: whether the source broke.
      unsent: the error of the sink if it accepted no more data.
      was_abandoned: whether `abandon` was called.
      failure: the error of a callback that was called in the task of the stream's reader.
      scope: cancels the copying.
      is_over: whether nothing is copied any more.
      watch: cancels the wait for the source to leave, which has ended its direction. None before that wait.
    """

    source_side: Side
    source: trio.abc.Stream
    sink_side: Side
    sink: trio.abc.Stream
    on_received: Callable[[int], object] | None
    on_sent: Callable[[int], object] | None
    is_end: Callable[[trio.BrokenResourceError], bool]
    complete: bool = field(init=False, default=False)
    broken: bool = field(init=False, default=False)
    unsent: SideBroken | None = field(init=False, default=None)
    was_abandoned: bool = field(init=False, default=False)
    failure: Exception | None = field(init=False, default=None)
    scope: trio.CancelScope = field(init=False, factory=trio.CancelScope)
    is_over: bool = field(init=False, default=False)
    watch: trio.CancelScope | None = field(init=False, default=None)
    _receiving: bool = field(init=False, default=False)
    _stopped: bool = field(init=False, default=False)
    _timeout: float = field(init=False, default=math.inf)
    _last_progress: float = field(init=False, factory=trio.current_time)

    async def copy(self) -> None:
        """Copy until the source ends, the sink accepts no more data, or `stop` is called.

        Raises:
          SideBroken: the source broke.
        """
        source, sink = direct_socket(self.source), direct_socket(self.sink)
        receive = self.source.receive_some if source is None else source.receive_some
        # Whole frames: with the legacy format, 256 KiB would be four and one of four bytes.
        piece = _PIECE - _PIECE % frame_size_of(self.sink) if isinstance(self.sink, Stream) else _PIECE
        size = first = _FIRST_PIECE if source is None and not isinstance(self.source, Stream) else piece
        with self._forwarding(sink):
            while not self._stopped:
                self._receiving = True
                try:
                    data = await receive(size)
                except _BROKEN as error:
                    if isinstance(error, trio.ClosedResourceError) or not self.is_end(error):
                        self.broken = True
                        raise SideBroken(self.source_side, error) from error
                    data = b""
                self._receiving = False
                if not data:
                    self.complete = True
                    return
                received = len(data)
                size = first if received < first else piece
                if self.on_received is not None:
                    self.on_received(received)
                if self._timeout < math.inf:
                    self.set_timeout(self._timeout)
                try:
                    if sink is None:
                        await self.sink.send_all(data)
                    elif (sent := sink.send_nowait(data)) < received:
                        await sink.send_rest(memoryview(data)[sent:])
                except _BROKEN as error:
                    self._break_sink(error)
                    return
                # Nothing is held while waiting, and the next piece gets memory that is in the processor's cache.
                del data
                if self.on_sent is not None:
                    self.on_sent(received)
                if self._timeout < math.inf:
                    self.set_timeout(self._timeout)

    def _forwarding(self, sink: DirectSocket | None) -> contextlib.AbstractContextManager[None]:
        """Return the context in which data that arrives while the copy waits is sent without a turn of its task."""
        if sink is None or not isinstance(self.source, Stream):
            return contextlib.nullcontext()
        return forwarding(self.source, sink.send_nowait, self._count_forwarded)

    def _count_forwarded(self, size: int) -> None:
        try:
            if self.on_received is not None:
                self.on_received(size)
            if self.on_sent is not None:
                self.on_sent(size)
        except Exception as error:  # noqa: BLE001 - raised in the task of the copy
            # It ends this copy, and not the reader, which serves the other streams of the connection, too.
            self.failure = error
            self.scope.cancel()
            return
        if self._timeout < math.inf:
            self.set_timeout(self._timeout)

    def _break_sink(self, error: Exception) -> None:
        self.unsent = SideBroken(self.sink_side, error)
        self.unsent.__cause__ = error

    async def pass_end_on(self) -> bool:
        """Send the end of the source to the sink. Return False if the sink cannot end one direction alone.

        A sink that has broken counts as one that accepts no more data.
        """
        try:
            return await send_eof(self.sink)
        except _BROKEN as error:
            self._break_sink(error)
            return True

    def stop(self, linger_timeout: float) -> None:
        """Receive no more data. A piece that was received is still sent, within `linger_timeout` seconds."""
        self._stopped = True
        if self._receiving:
            self.scope.cancel()
        else:
            self.set_timeout(linger_timeout)

    def set_timeout(self, timeout: float) -> None:
        """Stop copying after `timeout` seconds without progress. Each piece received or sent restarts the time."""
        self._timeout = timeout
        self._last_progress = trio.current_time()
        self.scope.deadline = self._last_progress + timeout

    def silent_for(self) -> float:
        """Return the seconds since the last progress, counted from the first `set_timeout` at the earliest."""
        return trio.current_time() - self._last_progress

    def was_silent_too_long(self) -> bool:
        """Return whether the timeout has ended the copying just now, although the source may have more data."""
        is_overdue = self.scope.cancelled_caught and trio.current_time() >= self.scope.deadline
        return is_overdue and not (self.complete or self._stopped)

    def abandon(self) -> None:
        """Stop copying at once, and count the sink as broken."""
        self._break_sink(trio.BrokenResourceError("the near side had ended, and the stream was needed"))
        self.was_abandoned = True
        self.scope.cancel()


class HalfClosedCopies:
    """The copies that wait for the far side only, because the end of the near side could not be passed on.

    An application that has closed its TCP connection looks the same as one that has only ended its sending and waits
    for the answer. A stream of ANYTLS can pass on neither. A destination that waits for the end keeps the stream open.
    Pass one instance to several `copy_both_ways`, and call `end_longest_silent` when their streams are needed.
    """

    def __init__(self) -> None:
        self._directions: dict[CopyDirection, None] = {}

    def __len__(self) -> int:
        return len(self._directions)

    def end_longest_silent(self, min_silence: float) -> bool:
        """End the copy whose far side has been silent for longest, if for at least `min_silence` seconds.

        Both its streams are reset. Return whether a copy was ended.
        """
        longest = max(self._directions, key=CopyDirection.silent_for, default=None)
        if longest is None or longest.silent_for() < min_silence:
            return False
        longest.abandon()
        return True

    def add(self, direction: CopyDirection) -> None:
        """Add a copy by its direction from far to near, until `discard`."""
        self._directions[direction] = None

    def discard(self, direction: CopyDirection) -> None:
        """Remove a copy, if it was added."""
        self._directions.pop(direction, None)


class TwoWayCopy:
    """Copies in both directions, and closes neither stream.

    No more than 256 KiB are held of each direction. Between sockets and streams, the end that comes last is not passed
    on: the caller closes both.

    Args:
      near, far: see `copy_both_ways`.
      on_received: called as `on_received(up, down)` for each piece received, before it is sent.
      on_sent: called as `on_sent(up, down)` for each piece sent.
      is_end: whether an error of the near stream counts as its end.
      half_closed_timeout: how long one direction may be silent once the other one has ended, in seconds.
      linger_timeout: the same once the other direction cannot be sent, in seconds.
      half_closed: see `copy_both_ways`.

    Attributes:
      up, down: the directions from near to far, and from far to near.
      scope: cancels the copy. `run` then returns.
      gone: the direction whose source is gone, although its sink may send more data. None if there is none.
      timed_out: whether one direction was silent for `half_closed_timeout` after the other one had ended. Its data may
        be incomplete.
    """

    def __init__(
        self,
        near: trio.abc.Stream,
        far: trio.abc.Stream,
        *,
        on_received: OnBytes | None = None,
        on_sent: OnBytes | None = None,
        is_end: Callable[[trio.BrokenResourceError], bool] = lambda _error: False,
        half_closed_timeout: float = math.inf,
        linger_timeout: float = _LINGER_TIME,
        half_closed: HalfClosedCopies | None = None,
    ) -> None:
        def upwards(callback: OnBytes | None) -> Callable[[int], object] | None:
            return None if callback is None else lambda size: callback(size, 0)

        def downwards(callback: OnBytes | None) -> Callable[[int], object] | None:
            return None if callback is None else functools.partial(callback, 0)

        self.up = CopyDirection("near", near, "far", far, upwards(on_received), upwards(on_sent), is_end)
        self.down = CopyDirection(
            "far", far, "near", near, downwards(on_received), downwards(on_sent), lambda _error: False
        )
        self.scope = trio.CancelScope()
        self.gone: CopyDirection | None = None
        self.timed_out: bool = False
        self._half_closed_timeout = half_closed_timeout
        self._linger_timeout = linger_timeout
        self._half_closed = HalfClosedCopies() if half_closed is None else half_closed
        self._source_error: SideBroken | None = None
        # Whether closing neither stream has to wait for its peer.
        self._close_at_once = all(isinstance(stream, (Stream, trio.SocketStream)) for stream in (near, far))

    @property
    def error(self) -> SideBroken | None:
        """The error of the side that broke first, None after an orderly end."""
        if self._source_error is not None:
            return self._source_error
        for one, other in ((self.up, self.down), (self.down, self.up)):
            if one.unsent is not None and (not other.complete or one.was_abandoned):
                return one.unsent
        return None

    async def run(self) -> None:
        """Copy until both directions have ended, a source breaks, or `scope` is cancelled. See `error`."""
        try:
            with self.scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._copy, self.down, self.up)
                    # This direction needs no task of its own.
                    await self._copy(self.up, self.down)
        finally:
            self._half_closed.discard(self.down)

    async def _copy(self, this: CopyDirection, other: CopyDirection) -> None:
        with this.scope:
            try:
                await this.copy()
            except SideBroken as error:
                self._source_error = self._source_error or error
                self.scope.cancel()
                return
            if this.complete:
                await self._handle_end(this, other)
        if this.failure is not None:
            raise this.failure
        if this.was_silent_too_long():
            self.timed_out = True
            # The other direction has ended. It may be waiting for room to pass its end on.
            self.scope.cancel()
        if this.unsent is not None:
            other.set_timeout(self._linger_timeout)
        this.is_over = True
        if other.watch is not None:
            other.watch.cancel()

    async def _handle_end(self, this: CopyDirection, other: CopyDirection) -> None:
        if _has_left(this.source):
            if not other.complete:
                self.gone = this
            other.scope.cancel()
            return
        if other.complete and self._close_at_once:
            # The end is passed on by closing the streams, which is next.
            if not other.is_over and other.watch is None:
                # So is the other one, which waits for room.
                other.scope.cancel()
            return
        other.set_timeout(self._half_closed_timeout)
        if await this.pass_end_on():
            await self._watch(this, other)
            return
        if this is self.up:
            self._half_closed.add(other)
        else:
            other.stop(self._linger_timeout)

    async def _watch(self, this: CopyDirection, other: CopyDirection) -> None:
        """Stop the other direction as soon as the source, which has ended its direction, has left altogether."""
        if isinstance(this.source, Stream) and not other.is_over:
            with trio.CancelScope() as this.watch:
                await this.source.wait_closed()
                if not other.complete:
                    self.gone = this
                    other.scope.cancel()


async def copy_both_ways(
    near: trio.abc.Stream,
    far: trio.abc.Stream,
    *,
    on_bytes: OnBytes | None = None,
    half_closed_timeout: float = math.inf,
    half_closed: HalfClosedCopies | None = None,
) -> None:
    """Copy all data from `near` to `far`, and from `far` to `near`, until both directions have ended.

    Both streams are closed on return and on error. No more than 256 KiB are held of each direction.

    A `Stream` whose peer does not have the extension `fin` cannot end in one direction only. If `near` ends its sending
    and `far` is such a stream, the end is withheld and the answer still copied.

    Args:
      near: the stream of the requesting side. It may end its sending first, and still receives the whole answer.
      far: the stream of the answering side.
      on_bytes: called as `on_bytes(up, down)` for each piece sent, with the number of bytes from near to far, and from
        far to near. One of them is 0.
      half_closed_timeout: how long one direction may be silent once the other one has ended, in seconds. Both streams
        are then reset if possible, since data may be missing.
      half_closed: holds the copy while `near` has ended and `far` could not be told.

    Raises:
      SideBroken: one of the streams broke. The other one was reset if possible, so that its peer sees an error instead
        of an orderly end.

    Cancellation: both streams are reset.
    """
    copying = TwoWayCopy(near, far, on_sent=on_bytes, half_closed_timeout=half_closed_timeout, half_closed=half_closed)
    try:
        await copying.run()
        if copying.error is not None:
            raise copying.error
        if copying.gone is not None:
            await _close_gracefully(copying.gone.sink)
        elif copying.timed_out:
            await reset_with_reason(near, _TIMED_OUT)
            await reset_with_reason(far, _TIMED_OUT)
    except BaseException as error:
        # The handler of a stream that a timer closes is cancelled as well.
        why = reason_of(copying.error or error)
        await reset_with_reason(near, why)
        await reset_with_reason(far, why)
        raise
    # Closing while the last data is still being sent may fail. That is no longer an error.
    for stream in (near, far):
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.aclose()


async def _close_gracefully(stream: trio.abc.Stream) -> None:
    """End a stream whose other side is gone, so that its peer receives all data sent. Discard the peer's data."""
    if isinstance(stream, Stream):
        # Closing it loses nothing.
        return
    with trio.move_on_after(_LINGER_TIME), contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        if not await send_eof(stream):
            return
        left = _LINGER_SIZE
        while left > 0 and (data := await stream.receive_some(_LINGER_SIZE)):
            left -= len(data)


def _has_left(stream: trio.abc.Stream) -> bool:
    """Return whether a stream whose end was received has ended in the other direction, too."""
    if isinstance(stream, Stream):
        return stream.closed or not stream.can_half_close
    return not isinstance(stream, trio.abc.HalfCloseableStream)
