"""A stream of a connection, as a `trio.abc.Stream` (spec: Streams; protocol: 5)."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from typing import TYPE_CHECKING

import trio

from trioanytls._exceptions import StreamRefused, StreamTimeout

from .multiplexer import Multiplexer
from .stream_core import StreamCore, StreamEnd

if TYPE_CHECKING:
    from .connection import Connection

_ERRORS: dict[StreamEnd, type[Exception]] = {
    StreamEnd.PEER: trio.BrokenResourceError,
    StreamEnd.REFUSED: StreamRefused,
    StreamEnd.IDLE: StreamTimeout,
    StreamEnd.STALLED: StreamTimeout,
    StreamEnd.UNACKNOWLEDGED: StreamTimeout,
}


class Stream(trio.abc.Stream):
    """An ordered stream of bytes in each direction, one of many on its connection.

    Created by `Connection.open_stream`, or passed to a server's handler. One task may send while another receives. The
    protocol has no half-close: closing ends both directions, and the peer receives the data sent before, then the end.

    Attributes:
      stream_id: the stream's number on its connection, from 1.
      connection: the `Connection`.
    """

    __slots__ = (
        "__weakref__",
        "_core",
        "_encode_length",
        "_max_data",
        "_multiplexer",
        "_prefix",
        "_receiving",
        "_send_queue",
        "_sending",
        "_writer",
        "connection",
        "stream_id",
    )

    def __init__(self, connection: Connection, multiplexer: Multiplexer, core: StreamCore) -> None:
        self.connection: Connection = connection
        self.stream_id: int = core.stream_id
        self._core = core
        self._multiplexer = multiplexer
        self._send_queue = multiplexer.send_queue
        self._writer = multiplexer.writer
        protocol = multiplexer.protocol
        self._prefix = protocol.data_prefix(core.stream_id)
        self._encode_length = protocol.encode_length
        self._max_data = protocol.max_data
        self._receiving = False
        self._sending = False

    def __repr__(self) -> str:
        core = self._core
        state = "closed" if core.closed_locally else f"ended: {core.ended.value}" if core.ended else "open"
        return f"<trioanytls.Stream {self.stream_id} {state}>"

    @property
    def closed(self) -> bool:
        """Whether the stream has ended in both directions. Data that was received before can still be read."""
        return self._core.closed

    @property
    def is_acknowledged(self) -> bool:
        """Whether the server's application has accepted the stream, as far as this side knows."""
        return self._core.acknowledged

    # Receiving

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive at least one byte, at most `max_bytes` (default: all that has arrived).

        Returns:
          the bytes; `b""` if the peer has closed the stream and all data before that was received.

        Raises:
          trio.ClosedResourceError: the stream, or its connection, was closed on this side.
          trio.BusyResourceError: another task receives from the stream.
          ConnectionClosed: the connection ended before the stream did. Raised once all data received before was read.
          StreamRefused: the server closed the stream without accepting it. Raised likewise.
          StreamTimeout: a timer closed the stream on this side. Raised likewise.

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
        core = self._core
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if core.received.size or core.closed:
                await trio.lowlevel.cancel_shielded_checkpoint()
            else:
                core.receiver = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort_receive)
            self._check_not_closed()
            return self._take(max_bytes)
        finally:
            self._receiving = False

    async def __anext__(self) -> bytes:
        # As in Trio's base class, but known to be `bytes`.
        data = await self.receive_some()
        if not data:
            raise StopAsyncIteration
        return data

    def _abort_receive(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._core.receiver = None
        return trio.lowlevel.Abort.SUCCEEDED

    def _take(self, max_bytes: int | None) -> bytes:
        core = self._core
        received = core.received
        if not received.size:
            if core.ended is StreamEnd.PEER:
                return b""
            raise self._broken()
        data = received.take(max_bytes)
        if core.read_waiter is not None:
            core.data_read()
        return data

    # Sending

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`. Return when all of it was accepted for sending, which is before it has been sent.

        Raises:
          trio.ClosedResourceError: the stream, or its connection, was closed on this side.
          trio.BusyResourceError: another task sends, or waits to send, on the stream.
          trio.BrokenResourceError: the peer has closed the stream; or one of its subclasses:
          ConnectionClosed, StreamRefused, StreamTimeout: see `receive_some`.

        Cancellation: a part of the data may have been accepted. The stream remains usable.
        """
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        core, send_queue = self._core, self._send_queue
        if core.closed or send_queue.broken:
            self._check_sendable()
        self._sending = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if (
                type(data) is bytes
                and 0 < len(data) <= self._max_data
                and send_queue.offer(core, self._prefix + self._encode_length(len(data)), data)
            ):
                # The path of nearly every call: one frame, which is not copied, and no wait.
                core.queued += 1
                self._writer.notify()
                await trio.lowlevel.cancel_shielded_checkpoint()
                return
            blocked = False
            for piece in _pieces(data, self._max_data):
                if not send_queue.has_room:
                    blocked = True
                    await self._wait_room()
                core.queued += 1
                send_queue.put(core, self._prefix + self._encode_length(len(piece)), piece)
            if not blocked:
                await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            self._sending = False

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until `send_all` might accept data at once.

        Raises and cancellation: as for `send_all`; nothing is sent.
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
        self._core.sender = trio.lowlevel.current_task()
        try:
            await self._send_queue.wait_room()
        finally:
            self._core.sender = None
        try:
            self._check_sendable()
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            # This stream does not need the room any more, but the next one may.
            self._send_queue.give_back()
            raise

    # Acceptance

    async def wait_acknowledged(self) -> None:
        """Wait until the server's application has accepted the stream (spec: STREAM_ACK).

        Not needed before sending: the client need not wait for anything.

        Raises:
          StreamRefused: it did not; and all other errors of `receive_some`.
        """
        core = self._core
        await trio.lowlevel.checkpoint_if_cancelled()
        if core.acknowledged or core.closed:
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await core.park_waiter()
        if not core.acknowledged:
            self._check_not_closed()
            raise self._broken()

    async def wait_closed(self) -> None:
        """Wait until the stream was closed, by either side, or has ended otherwise. Data that was received before that
        can still be read.
        """
        core = self._core
        await trio.lowlevel.checkpoint_if_cancelled()
        if core.closed:
            await trio.lowlevel.cancel_shielded_checkpoint()
        while not core.closed:
            await core.park_waiter()

    async def acknowledge(self) -> None:
        """(server) Accept the stream: the client's `wait_acknowledged` returns. A second call does nothing.

        Raises:
          RuntimeError: this is the client's end.
          trio.ClosedResourceError: the stream was closed on this side.
          trio.BrokenResourceError: the stream has ended.
        """
        self._check_sendable()
        self._multiplexer.acknowledge(self._core)
        await trio.lowlevel.checkpoint()

    async def refuse(self, text: str = "") -> None:
        """(server) Close the stream without having accepted it: the client gets `StreamRefused`.

        Args:
          text: the reason. Only the format "legacy" has a place for it: in that of `anytls1`, it is not sent.

        Raises:
          RuntimeError: this is the client's end, or the stream was accepted before.
        """
        if not self.connection.is_server:
            raise RuntimeError("only a server refuses streams")
        if self._core.acknowledged:
            raise RuntimeError("the stream was accepted before")
        self._multiplexer.close_stream(self._core, drop=True, refusal=text)
        await trio.lowlevel.checkpoint()

    # Closing

    async def aclose(self) -> None:
        """Close the stream in both directions. Data that was accepted for sending is sent first, in the background.

        Tasks that wait on the stream on this side get `trio.ClosedResourceError`. Closing again does nothing.

        Cancellation: the stream is closed anyway, and data that has not been sent is dropped.
        """
        self._multiplexer.close_stream(self._core, drop=False)
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            self._multiplexer.close_stream(self._core, drop=True)
            raise

    # Errors

    def _check_not_closed(self) -> None:
        core = self._core
        if core.closed_locally:
            raise trio.ClosedResourceError("this stream is closed")
        if core.ended is StreamEnd.CONNECTION and self._multiplexer.is_closed_locally:
            raise trio.ClosedResourceError("the connection of this stream is closed")

    def _check_sendable(self) -> None:
        self._check_not_closed()
        if self._core.closed or self._send_queue.broken:
            raise self._broken()

    def _broken(self) -> Exception:
        ended, refusal = self._core.ended, self._core.refusal
        if ended is None or ended is StreamEnd.CONNECTION:
            return self._multiplexer.closed_error()
        if refusal is not None:
            return StreamRefused(f"{ended.value}: {refusal}", refusal)
        return _ERRORS[ended](ended.value)


def core_of(stream: Stream) -> StreamCore:
    """Return the core of a stream, for other packages: the names of `Stream` without an underscore are public API."""
    return stream._core  # noqa: SLF001 - the only access from outside of the class


def _pieces(data: bytes | bytearray | memoryview, size: int) -> Iterator[bytes]:
    """Split `data` into the payloads of frames. They are copied unless immutable, as the caller may change `data`."""
    if isinstance(data, bytes) and len(data) <= size:
        if data:
            yield data
        return
    with memoryview(data).cast("B") as view:
        for start in range(0, len(view), size):
            yield bytes(view[start : start + size])
