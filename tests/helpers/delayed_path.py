"""A path with a delay and a rate: between two ends in memory, or in front of a server on loopback.

The clock is Trio's. With a `MockClock`, the times of the path are exact.
"""

from __future__ import annotations

import contextlib
import operator
from collections import deque
from collections.abc import AsyncIterator, Iterator
from functools import partial

import trio
from attrs import define, field, frozen

HOST = "127.0.0.1"
#: The largest piece that travels as one, in bytes.
_PIECE = 64 * 1024


@frozen
class Path:
    """The properties of a path, the same in both directions.

    Attributes:
      delay: the delay of one direction, in seconds: half of the round-trip time.
      rate: the rate of one direction, in bytes per second.
      capacity: the maximum number of bytes of one direction that the sender does not know to be read: those in the
        buffers of both ends, and those on the way. Default: twice the bandwidth-delay product.
    """

    delay: float = 0.05
    rate: float = 10e6
    capacity: int = field()

    @capacity.default
    def _default_capacity(self) -> int:
        return round(2 * self.rate * 2 * self.delay)


@define(eq=False)
class Direction:
    """One direction of a path."""

    path: Path
    # The pieces, each with the time of its arrival. An empty one is the end.
    _pieces: deque[tuple[float, bytes]] = field(init=False, factory=deque)
    # The sizes of the data that was read, each with the time at which the sender knows it.
    _read: deque[tuple[float, int]] = field(init=False, factory=deque)
    # The bytes that the sender does not know to be read.
    _held: int = field(init=False, default=0)
    # The time at which the last byte leaves the sender.
    _idle_at: float = field(init=False, default=0.0)
    _sender_closed: bool = field(init=False, default=False)
    _receiver_closed: bool = field(init=False, default=False)
    _changed: trio.Event = field(init=False, factory=trio.Event)
    _busy: set[str] = field(init=False, factory=set)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See `trio.abc.SendStream`."""
        with self._one_task("sending"):
            await trio.lowlevel.checkpoint()
            self._check_sender()
            left = memoryview(data)
            while left:
                size = min(len(left), _PIECE, self.path.capacity)
                # Not less, as many small pieces would cost much time.
                await self._wait_for_room(size)
                self._put(bytes(left[:size]))
                left = left[size:]

    async def wait_send_all_might_not_block(self) -> None:
        """See `trio.abc.SendStream`."""
        with self._one_task("sending"):
            await trio.lowlevel.checkpoint()
            self._check_sender()
            with contextlib.suppress(trio.BrokenResourceError):
                await self._wait_for_room(1)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """See `trio.abc.ReceiveStream`."""
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._one_task("receiving"):
            await trio.lowlevel.checkpoint()
            while True:
                if self._receiver_closed:
                    raise trio.ClosedResourceError
                if self._pieces and self._pieces[0][0] <= trio.current_time():
                    return self._take(max_bytes or _PIECE)
                await self._wait_until(self._pieces[0][0] if self._pieces else None)

    def close_sender(self) -> None:
        """Send the end."""
        if not self._sender_closed:
            self._sender_closed = True
            self._put(b"")
            self._change()

    def close_receiver(self) -> None:
        """Receive no more: the sender gets an error."""
        self._receiver_closed = True
        self._change()

    def _check_sender(self) -> None:
        if self._sender_closed:
            raise trio.ClosedResourceError
        if self._receiver_closed:
            raise trio.BrokenResourceError

    async def _wait_for_room(self, size: int) -> None:
        """Wait until the sender may send this many bytes."""
        while True:
            now = trio.current_time()
            while self._read and self._read[0][0] <= now:
                self._held -= self._read.popleft()[1]
            if self._held + size <= self.path.capacity:
                return
            await self._wait_until(self._read[0][0] if self._read else None)
            self._check_sender()

    def _put(self, piece: bytes) -> None:
        self._held += len(piece)
        self._idle_at = max(self._idle_at, trio.current_time()) + len(piece) / self.path.rate
        self._pieces.append((self._idle_at + self.path.delay, piece))
        # With others before it, it changes nothing for the receiver, which waits for the first one.
        if len(self._pieces) == 1:
            self._change()

    def _take(self, max_bytes: int) -> bytes:
        _, piece = self._pieces[0]
        if not piece:
            return b""
        self._pieces.popleft()
        if len(piece) > max_bytes:
            self._pieces.appendleft((0.0, piece[max_bytes:]))
            piece = piece[:max_bytes]
        self._read.append((trio.current_time() + self.path.delay, len(piece)))
        # Likewise for the sender.
        if len(self._read) == 1:
            self._change()
        return piece

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    async def _wait_until(self, time: float | None) -> None:
        """Wait for a change, but not longer than until this time."""
        if time is None:
            await self._changed.wait()
            return
        with trio.move_on_at(time):
            await self._changed.wait()

    @contextlib.contextmanager
    def _one_task(self, name: str) -> Iterator[None]:
        if name in self._busy:
            raise trio.BusyResourceError
        self._busy.add(name)
        try:
            yield
        finally:
            self._busy.remove(name)


@frozen(eq=False)
class DelayedStream(trio.abc.Stream):
    """One end of a path in memory."""

    _outgoing: Direction
    _incoming: Direction

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._outgoing.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._outgoing.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return await self._incoming.receive_some(max_bytes)

    async def aclose(self) -> None:
        self._outgoing.close_sender()
        self._incoming.close_receiver()
        await trio.lowlevel.checkpoint()


def delayed_stream_pair(path: Path | None = None) -> tuple[DelayedStream, DelayedStream]:
    """Return the two ends of a path in memory."""
    path = path or Path()
    there, back = Direction(path), Direction(path)
    return DelayedStream(there, back), DelayedStream(back, there)


@contextlib.asynccontextmanager
async def delaying_proxy(port: int, path: Path, host: str = HOST) -> AsyncIterator[int]:
    """Run a TCP proxy in front of a server, with a path of its own for each connection. Yield its port."""

    async def serve(near: trio.SocketStream) -> None:
        async with near, await trio.open_tcp_stream(host, port) as far, trio.open_nursery() as nursery:
            for source, target in ((near, far), (far, near)):
                direction = Direction(path)
                nursery.start_soon(_fill, source, direction)
                nursery.start_soon(_drain, direction, target, nursery.cancel_scope)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host=HOST))
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def _fill(source: trio.SocketStream, direction: Direction) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        async for data in source:
            await direction.send_all(data)
    direction.close_sender()


async def _drain(direction: Direction, target: trio.SocketStream, scope: trio.CancelScope) -> None:
    try:
        while data := await direction.receive_some():
            await target.send_all(data)
        await target.send_eof()
    except trio.BrokenResourceError:
        # The receiver is gone. End both directions, after the data that the other one has on the way.
        scope.cancel()
