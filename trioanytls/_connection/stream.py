"""A stream of a connection, as a `trio.abc.Stream` (spec: Streams; protocol: 5)."""

from __future__ import annotations

import contextlib
import operator
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

import trio

from trioanytls._exceptions import StreamRefused, StreamReset, StreamTimeout
from trioanytls._protocol.exceptions import NotSupported
from trioanytls._protocol.stream_codes import StreamCode, StreamReason

from .multiplexer import Multiplexer
from .pieces import MIN_CREDIT, Pieces
from .send_queue import MAX_DATA
from .stream_core import StreamCore, StreamEnd

if TYPE_CHECKING:
    from .connection import Connection

# The least data that is written inline at any time. A write costs less than handing over so much to the writer's task.
_MIN_WRITTEN = 4 * 1024
# The most bytes of one `send_all` that are written inline before other tasks have a turn.
_MAX_WRITTEN = 256 * 1024

_ERRORS: dict[StreamEnd, type[Exception]] = {
    StreamEnd.PEER: trio.BrokenResourceError,
    StreamEnd.FINISHED: trio.BrokenResourceError,
    StreamEnd.IDLE: StreamTimeout,
    StreamEnd.STALLED: StreamTimeout,
    StreamEnd.UNACKNOWLEDGED: StreamTimeout,
}


class Stream(trio.abc.HalfCloseableStream):
    """An ordered stream of bytes in each direction, one of many on its connection.

    Created by `Connection.open_stream`, or passed to a server's handler. One task may send while another receives.
    Closing ends both directions, and the peer receives the data sent before, then the end. `send_eof` ends one
    direction, if the peer has the extension `fin`. With it, data that was cut off never looks complete (extensions: 3).

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
        if core.closed_locally:
            state = "closed"
        elif core.ended is not None:
            state = f"ended: {core.ended.value}"
        elif core.send_ended:
            state = "open, sending ended"
        else:
            state = "open, receiving ended" if core.end_received else "open"
        return f"<trioanytls.Stream {self.stream_id} {state}>"

    @property
    def closed(self) -> bool:
        """Whether the stream has ended in both directions. Data that was received before can still be read."""
        return self._core.closed

    @property
    def can_half_close(self) -> bool | None:
        """Whether the peer has the extension `fin`, which `send_eof` needs. None if that is not known yet."""
        extensions = self._multiplexer.protocol.extensions
        return None if extensions is None else "fin" in extensions

    @property
    def is_acknowledged(self) -> bool:
        """Whether the server's application has accepted the stream, as far as this side knows."""
        return self._core.acknowledged

    # Receiving

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive at least one byte, at most `max_bytes` (default: all that has arrived).

        Returns:
          the bytes; `b""` if the peer has ended its direction, or the stream, and all data before that was received.

        Raises:
          trio.ClosedResourceError: the stream, or its connection, was closed on this side.
          trio.BusyResourceError: another task receives from the stream.
          ConnectionClosed: the connection ended before the stream did. Raised once all data received before was read.
          StreamRefused: the server closed the stream without accepting it. Raised likewise.
          StreamReset: the peer aborted the stream. Raised likewise.
          StreamTimeout: a timer closed the stream on this side. Raised likewise.

        Cancellation: no byte is lost.
        """
        if max_bytes is not None:
            max_bytes = operator.index(max_bytes)
            if max_bytes < 1:
                raise ValueError("max_bytes must be at least 1")
        if self._receiving:
            raise trio.BusyResourceError("another task is receiving from this stream")
        core = self._core
        received = core.received
        if core.closed:
            self._check_not_closed()
        self._receiving = True
        try:
            if received.size or core.closed or core.end_received:
                await trio.lowlevel.checkpoint_if_cancelled()
                await trio.lowlevel.cancel_shielded_checkpoint()
            else:
                # This is a checkpoint, too: a task that is cancelled already does not wait.
                core.receiver = trio.lowlevel.current_task()
                await trio.lowlevel.wait_task_rescheduled(self._abort_receive)
            if core.closed:
                self._check_not_closed()
            if not received.size:
                if core.end_received or core.ended is StreamEnd.PEER:
                    return b""
                raise self._broken()
            data = received.take(max_bytes)
            core.until_check -= len(data)
            if core.until_check <= 0:
                self._multiplexer.flow_control.check_window(core)
            if core.read_waiter is not None:
                core.data_read()
            return data
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

    # Sending

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send `data`. Return when all of it was accepted for sending, which is before it has been sent.

        Raises:
          trio.ClosedResourceError: the stream, or its connection, was closed on this side, or `send_eof` was called.
          trio.BusyResourceError: another task sends, or waits to send, on the stream.
          trio.BrokenResourceError: the peer has closed the stream; or one of its subclasses:
          ConnectionClosed, StreamRefused, StreamReset, StreamTimeout: see `receive_some`.

        Cancellation: a part of the data may have been accepted. The stream remains usable.
        """
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        core, send_queue = self._core, self._send_queue
        if core.send_ended or send_queue.broken:
            self._check_sendable()
        self._sending = True
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            if type(data) is bytes and 0 < (size := len(data)) <= self._max_data and size <= core.credit:
                # The path of nearly every call: one frame, which is not copied, and no wait.
                header, writer = self._prefix + self._encode_length(size), self._writer
                is_idle = send_queue.writer_idle
                may_write = is_idle and (size >= _MIN_WRITTEN or writer.inline_writes_left)
                if may_write and writer.write_now(core, header, data):
                    core.credit -= size
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    return
                if send_queue.offer(core, header, data):
                    core.credit -= size
                    if is_idle:
                        writer.notify()
                    await trio.lowlevel.cancel_shielded_checkpoint()
                    return
            if not await self._send_pieces(Pieces(core, data, self._prefix, self._encode_length, self._max_data)):
                await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            self._sending = False

    async def _send_pieces(self, pieces: Pieces) -> bool:
        """Write or queue all frames of `pieces`. Return whether this had to wait."""
        core, send_queue, writer = self._core, self._send_queue, self._writer
        is_large = pieces.size >= _MIN_WRITTEN
        left = _MAX_WRITTEN
        waited = False
        while not pieces.is_empty:
            credit = core.credit
            if credit < MIN_CREDIT and credit < pieces.needed_credit:
                waited = True
                await self._wait_credit(pieces.needed_credit)
            elif is_large and send_queue.writer_idle and (size := pieces.write(writer)):
                left -= size
                if left <= 0 and not pieces.is_empty:
                    waited, left = True, _MAX_WRITTEN
                    await trio.lowlevel.checkpoint()
                    self._check_sendable()
            elif send_queue.feed(pieces):
                if send_queue.writer_idle:
                    writer.notify()
            elif pieces.size >= MAX_DATA or not pieces.is_one_frame:
                # Left in the line, except a small frame: a batch would take those of many tasks, which then compete
                # for the next turns in random order.
                waited = True
                core.sender = trio.lowlevel.current_task()
                try:
                    await send_queue.wait_queued(pieces)
                finally:
                    core.sender = None
                if not pieces.is_empty:
                    self._check_sendable()
            else:
                waited = True
                await self._wait_room()
                # None if the server's NEGO has come meanwhile, which counts the data sent before it.
                if (frame := pieces.next_frame()) is not None:
                    send_queue.put(*frame)
                else:
                    send_queue.give_back()
        return waited

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until `send_all` might accept data at once.

        Raises and cancellation: as for `send_all`; nothing is sent.
        """
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            send_queue = self._send_queue
            blocked = self._core.credit < MIN_CREDIT
            if blocked:
                await self._wait_credit(MIN_CREDIT)
            if not send_queue.has_room:
                blocked = True
                await self._wait_room()
                send_queue.give_back()
            if not blocked:
                await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            self._sending = False

    def _begin_sending(self) -> None:
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._check_sendable()
        self._sending = True

    async def send_eof(self) -> None:
        """End the sending direction. The peer receives all data sent before, then the end, and can still send.

        On a client that has not received the server's NEGO, this waits for it. A second call does nothing.

        Raises:
          NotSupported: the peer does not have the extension `fin`. The stream is as before.
          trio.ClosedResourceError, trio.BusyResourceError, trio.BrokenResourceError: see `send_all`.

        Cancellation: the direction has not been ended.
        """
        core = self._core
        if core.send_ended and not core.closed:
            await trio.lowlevel.checkpoint()
            return
        if core.ended is StreamEnd.FINISHED and not core.closed_locally:
            # Both directions have ended by `send_eof`.
            await trio.lowlevel.checkpoint()
            return
        self._begin_sending()
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
            blocked = False
            while self.can_half_close is None:
                blocked = True
                await core.park_waiter()
                self._check_sendable()
            if not self.can_half_close:
                if not blocked:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                raise NotSupported("the peer does not support ending a stream in one direction")
            if not self._send_queue.has_room:
                blocked = True
                await self._wait_room()
            self._multiplexer.finish_stream(core)
            if not blocked:
                await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            self._sending = False

    async def _wait_credit(self, needed: int) -> None:
        """Wait until the peer has granted at least `needed` bytes of credit."""
        while self._core.credit < needed:
            await self._core.wait_credit()
            self._check_sendable()

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
        while not (core.acknowledged or core.closed):
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

    async def refuse(self, code: StreamCode = StreamCode.NOT_ALLOWED, reason: str = "") -> None:
        """(server) Close the stream without having accepted it: the client gets `StreamRefused`.

        Args:
          code: the reason. It is sent if the client has the extension `reset` (extensions: 4).
          reason: the reason as text, for people. It must not tell about other users, or about the network behind the
            server. The wire format "legacy" sends only this text. At most 512 characters of printable ASCII are sent.

        Raises:
          RuntimeError: this is the client's end, or the stream was accepted before.
          TypeError, ValueError: `code` is not a `StreamCode`, or `reason` is not a `str`.

        Cancellation: the stream is refused anyway.
        """
        why = _reason(code, reason)
        if not self.connection.is_server:
            raise RuntimeError("only a server refuses streams")
        if self._core.acknowledged:
            raise RuntimeError("the stream was accepted before")
        self._multiplexer.reset_stream(self._core, why, refuse=True)
        await trio.lowlevel.checkpoint()

    async def reset(self, code: StreamCode = StreamCode.GENERAL_FAILURE, reason: str = "") -> None:
        """Abort the stream: data that has not been sent is dropped, and the peer gets `StreamReset`.

        Without the extensions `fin` and `reset`, the peer sees the same end as after `aclose`. Resetting a stream that
        was closed drops the data that has not been sent yet.

        Args:
          code, reason: the reason, as for `refuse`. It is sent if the peer has the extension `reset` (extensions: 4).

        Raises:
          TypeError, ValueError: as for `refuse`.

        Cancellation: the stream is aborted anyway.
        """
        self._multiplexer.reset_stream(self._core, _reason(code, reason))
        await trio.lowlevel.checkpoint()

    # Closing

    async def aclose(self) -> None:
        """Close the stream in both directions. Data that was accepted for sending is sent first, in the background.

        Tasks that wait on the stream on this side get `trio.ClosedResourceError`. Closing again does nothing.

        Cancellation: the stream is aborted, as by `reset`: data that has not been sent is dropped.
        """
        try:
            await trio.lowlevel.checkpoint_if_cancelled()
        except trio.Cancelled:
            self._multiplexer.reset_stream(self._core)
            raise
        self._multiplexer.close_stream(self._core)
        try:
            await trio.lowlevel.checkpoint()
        except trio.Cancelled:
            self._multiplexer.reset_stream(self._core)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the stream, as by `aclose`; after an error, abort it if the peer can tell that from an end."""
        if error is None or not await abort_stream(self, StreamReason(StreamCode.GENERAL_FAILURE)):
            await self.aclose()

    # Errors

    def _check_not_closed(self) -> None:
        core = self._core
        if core.closed_locally:
            raise trio.ClosedResourceError("this stream is closed")
        if core.ended is StreamEnd.CONNECTION and self._multiplexer.is_closed_locally:
            raise trio.ClosedResourceError("the connection of this stream is closed")

    def _check_sendable(self) -> None:
        self._check_not_closed()
        core = self._core
        if core.send_ended and core.ended in (None, StreamEnd.FINISHED):
            raise trio.ClosedResourceError("this stream was ended by send_eof")
        if core.closed or self._send_queue.broken:
            raise self._broken()

    def _broken(self) -> Exception:
        ended, code, reason = self._core.ended, self._core.reason.code, self._core.reason.text or None
        if ended is None or ended is StreamEnd.CONNECTION:
            return self._multiplexer.closed_error()
        text = ended.value if reason is None else f"{ended.value}: {reason}"
        if code:
            text = f"{text} (code {code.value}, {code.name})"
        if ended in (StreamEnd.REFUSED, StreamEnd.UNSERVED):
            return StreamRefused(text, reason, code=code, retryable=ended is StreamEnd.UNSERVED)
        if ended is StreamEnd.RESET:
            return StreamReset(text, reason, code=code)
        return _ERRORS[ended](ended.value)


@contextlib.contextmanager
def forwarding(stream: Stream, send: Callable[[bytes], int], on_sent: Callable[[int], object]) -> Iterator[None]:
    """Offer data that arrives while a task waits in `receive_some` to `send` during the block, without waking the task.

    Args:
      stream: the stream.
      send: sends data from its beginning, without a checkpoint. Returns the number of bytes, and raises nothing. The
        task receives what is left.
      on_sent: called with the number of bytes sent in this way, if any. Raises nothing.
    """
    core, flow_control = stream._core, stream._multiplexer.flow_control  # noqa: SLF001 - as in `core_of`

    def forward(data: bytes) -> int:
        if sent := send(data):
            on_sent(sent)
            core.until_check -= sent
            if core.until_check <= 0:
                flow_control.check_window(core)
        return sent

    core.forward = forward
    try:
        yield
    finally:
        core.forward = None


def frame_size_of(stream: Stream) -> int:
    """Return the most bytes of data that a frame of the stream carries."""
    return stream._max_data  # noqa: SLF001 - as in `core_of`


async def abort_stream(stream: Stream, why: StreamReason) -> bool:
    """Abort a stream for this reason. Return False, and do nothing, if the peer cannot tell that from an end.

    On a client that has not received the server's NEGO, the stream is aborted in the background once that is known.

    Cancellation: as without.
    """
    core, multiplexer = stream._core, stream._multiplexer  # noqa: SLF001 - as in `core_of`
    if not multiplexer.abort_stream(core, why):
        return False
    await trio.lowlevel.checkpoint()
    return True


def core_of(stream: Stream) -> StreamCore:
    """Return the core of a stream, for other packages: the names of `Stream` without an underscore are public API."""
    return stream._core  # noqa: SLF001 - the only access from outside of the class


def _reason(code: object, text: object) -> StreamReason:
    """Check the reason for refusing or resetting a stream.

    Raises:
      TypeError: the text is not a `str`, or the code is not an integer.
      ValueError: the code is not a `StreamCode`.
    """
    if not isinstance(code, int):
        raise TypeError(f"code must be a StreamCode, not {type(code).__name__}")
    if not isinstance(text, str):
        raise TypeError(f"reason must be a str, not {type(text).__name__}")
    return StreamReason(StreamCode(code), text)
