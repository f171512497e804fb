"""Copying between two streams until both have nothing more to say.

A TCP connection can end in one direction only, a stream of ANYTLS cannot: its end is that of both directions. So what
an end means depends on where it is met:

    the source could end in one direction only
        the sink can, too      it is passed on, and the other direction goes on
        the sink cannot        near's: kept back, so that the whole answer still comes
                               far's: the answer is complete, and near is closed behind it
    the source could not       it has gone: passed on, and that is all

A side that takes nothing more may still have something to say: a server that closes behind its answer to half a
request. So what counts is how the other direction ends.
"""

from __future__ import annotations

import contextlib
import math
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Final, Literal

import trio
from attrs import define, field

from trioanytls import Stream

from .errors import Restorable

Side = Literal["near", "far"]

#: Takes how many further bytes went from near to far, and how many from far to near.
OnBytes = Callable[[int, int], object]

# How much is held of each direction, in bytes.
_PIECE: Final = 64 * 1024
# For an end in good order: how long, in seconds, the last piece may take, and then what the other side still says; and
# how many bytes of that are thrown away. A TCP connection that is closed with unread bytes is reset, and its peer may
# lose what it was sent before; but one that only goes on sending is to be stopped.
_LINGER_TIME: Final = 5.0
_LINGER_SIZE: Final = 64 * 1024


class SideBroken(Restorable, trio.BrokenResourceError):
    """One of the two streams broke; the `__cause__` says how.

    Attributes:
      side: "near" or "far".
    """

    def __init__(self, side: Side, cause: BaseException) -> None:
        super().__init__(f"the {side} side broke: {cause}")
        self.side: Side = side


class HalfClosed:
    """The copies whose near side has ended, to be ended when their streams are needed.

    An application that has closed its connection cannot be told from one that has ended its sending and waits for the
    answer. A stream cannot pass either on, so a destination that waits for the end keeps the stream.
    """

    def __init__(self) -> None:
        self._directions: dict[_Direction, None] = {}

    def __len__(self) -> int:
        return len(self._directions)

    def end_the_most_silent(self, least: float) -> bool:
        """End the copy whose far side has been silent for longest, if that is `least` seconds or more.

        Both of its sides are reset. Return whether there was one.
        """
        longest = max(self._directions, key=_Direction.silent_for, default=None)
        if longest is None or longest.silent_for() < least:
            return False
        longest.give_up_place()
        return True

    @contextlib.contextmanager
    def holding(self, direction: _Direction) -> Iterator[None]:
        """Forget the direction at the end of the block."""
        try:
            yield
        finally:
            self._directions.pop(direction, None)

    def add(self, direction: _Direction) -> None:
        """Remember a copy by the direction that goes on."""
        self._directions[direction] = None


async def copy_both_ways(
    near: trio.abc.Stream,
    far: trio.abc.Stream,
    *,
    on_bytes: OnBytes | None = None,
    silence: float = math.inf,
    half_closed: HalfClosed | None = None,
) -> None:
    """Copy everything that comes from `near` to `far`, and the other way round, until both have ended.

    Both are closed when it returns or raises. No more than 64 KiB are held of each direction.

    Args:
      near: the side that asks: it may end its sending first, and still gets the whole answer.
      far: the side that answers.
      on_bytes: called as `on_bytes(up, down)` whenever something was copied, with the number of bytes from near to far,
        and from far to near.
      silence: how long one direction may be silent once the other one has ended, in seconds; then both end.
      half_closed: learns of the copy when near has ended and far could not be told.

    Raises:
      SideBroken: one of them broke. The other one was reset where that is possible, so that it does not look like an
        end in good order.

    Cancellation: both are reset.
    """
    try:
        told = HalfClosed() if half_closed is None else half_closed
        await _Copying(near, far, on_bytes or (lambda _up, _down: None), silence, told).run()
    except BaseException:
        await reset(near)
        await reset(far)
        raise
    # A peer that is closed with what was sent to it still under way is no error any more.
    for stream in (near, far):
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.aclose()


async def reset(stream: trio.abc.Stream) -> None:
    """Close a stream at once, without waiting; over TCP so that its peer sees an error, and no end.

    Cancellation: it is closed all the same.
    """
    with trio.CancelScope(shield=True):
        if isinstance(stream, Stream):
            # Its end looks the same in either case: what was sent on it may as well arrive.
            await stream.aclose()
            return
        if isinstance(stream, trio.SocketStream):
            with contextlib.suppress(OSError, trio.ClosedResourceError):
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        await trio.aclose_forcefully(stream)


_RESET: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)


@define(eq=False)
class _Direction:
    """One direction, and how it ended.

    Attributes:
      complete: whether everything was copied that the source had to say.
      unsent: why the sink took nothing more, if so.
      gave_up_place: whether it was ended because its stream was needed.
    """

    source_side: Side
    source: trio.abc.Stream
    sink_side: Side
    sink: trio.abc.Stream
    complete: bool = field(init=False, default=False)
    unsent: SideBroken | None = field(init=False, default=None)
    gave_up_place: bool = field(init=False, default=False)
    scope: trio.CancelScope = field(init=False, factory=trio.CancelScope)
    _receiving: bool = field(init=False, default=False)
    _stopped: bool = field(init=False, default=False)
    _silence: float = field(init=False, default=math.inf)
    _last: float = field(init=False, factory=trio.current_time)

    async def copy(self, count: Callable[[int], object]) -> None:
        """Copy until the source ends, the sink takes nothing more, or it is told to stop.

        Raises:
          SideBroken: the source broke.
        """
        with self.scope:
            while not self._stopped:
                self._receiving = True
                with _breaking(self.source_side):
                    data = await self.source.receive_some(_PIECE)
                self._receiving = False
                if not data:
                    self.complete = True
                    return
                try:
                    with _breaking(self.sink_side):
                        await self.sink.send_all(data)
                except SideBroken as error:
                    self.unsent = error
                    return
                count(len(data))
                if self._silence < math.inf:
                    self.limit_silence(self._silence)

    def stop(self) -> None:
        """Receive nothing more. What was received is still sent, if that does not take long."""
        self._stopped = True
        if self._receiving:
            self.scope.cancel()
        else:
            self.limit_silence(_LINGER_TIME)

    def limit_silence(self, silence: float) -> None:
        """Go on for this many seconds, and again after each piece."""
        self._silence = silence
        self._last = trio.current_time()
        self.scope.deadline = self._last + silence

    def silent_for(self) -> float:
        """Return how long nothing has been copied, in seconds, since its silence is limited."""
        return trio.current_time() - self._last

    def give_up_place(self) -> None:
        """End it at once, as broken."""
        error = trio.BrokenResourceError("the near side had ended, and the stream was needed")
        self.unsent, self.gave_up_place = SideBroken(self.sink_side, error), True
        self.scope.cancel()


class _Copying:
    def __init__(
        self, near: trio.abc.Stream, far: trio.abc.Stream, on_bytes: OnBytes, silence: float, half_closed: HalfClosed
    ) -> None:
        self._up = _Direction("near", near, "far", far)
        self._down = _Direction("far", far, "near", near)
        self._on_bytes = on_bytes
        self._silence = silence
        self._half_closed = half_closed
        self._error: SideBroken | None = None
        # The direction whose source has gone.
        self._gone: _Direction | None = None

    async def run(self) -> None:
        with self._half_closed.holding(self._down):
            await self._copy_both()
        for one, other in ((self._up, self._down), (self._down, self._up)):
            if one.unsent is not None and (not other.complete or one.gave_up_place):
                self._error = self._error or one.unsent
        if self._error is not None:
            raise self._error
        if self._gone is not None:
            await _see_off(self._gone.sink)

    async def _copy_both(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._copy, self._up, lambda size: self._on_bytes(size, 0), nursery.cancel_scope)
            nursery.start_soon(self._copy, self._down, lambda size: self._on_bytes(0, size), nursery.cancel_scope)

    async def _copy(self, this: _Direction, count: Callable[[int], object], both: trio.CancelScope) -> None:
        try:
            await this.copy(count)
            if this.complete:
                await self._pass_on(this)
        except SideBroken as error:
            self._error = self._error or error
            both.cancel()
        if this.unsent is not None:
            self._opposite(this).limit_silence(_LINGER_TIME)

    async def _pass_on(self, this: _Direction) -> None:
        """The end of a source."""
        if not isinstance(this.source, trio.abc.HalfCloseableStream):
            self._gone = this
            self._opposite(this).scope.cancel()
        elif isinstance(this.sink, trio.abc.HalfCloseableStream):
            with _breaking(this.sink_side):
                await this.sink.send_eof()
            self._opposite(this).limit_silence(self._silence)
        elif this is self._up:
            self._down.limit_silence(self._silence)
            self._half_closed.add(self._down)
        else:
            self._up.stop()

    def _opposite(self, direction: _Direction) -> _Direction:
        return self._down if direction is self._up else self._up


async def _see_off(stream: trio.abc.Stream) -> None:
    """End a stream whose other side has gone: it is to get all that it was sent, whatever it still has to say."""
    if not isinstance(stream, trio.abc.HalfCloseableStream):
        return
    with trio.move_on_after(_LINGER_TIME), contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await stream.send_eof()
        left = _LINGER_SIZE
        while left > 0 and (data := await stream.receive_some(_PIECE)):
            left -= len(data)


@contextlib.contextmanager
def _breaking(side: Side) -> Iterator[None]:
    """What breaks in here is this side."""
    try:
        yield
    except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
        raise SideBroken(side, error) from error
