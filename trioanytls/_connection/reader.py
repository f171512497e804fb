"""The reader: the only caller of the transport's `receive_some`.

It waits for the transport, and for an application to read when a stream's buffer is full: without the extension
`window`, or with a peer that ignores its credit, TCP has to push back. It never waits for the writer, see `send_queue`.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractContextManager

import trio

from trioanytls._protocol.events import Event
from trioanytls._protocol.exceptions import AuthenticationFailed, LimitExceeded, ProtocolViolation
from trioanytls._transport.tls_stream import TLSStream

from .multiplexer import Multiplexer
from .stream_core import StreamCore, StreamEnd

# The most bytes to request from the transport at once.
_READ_SIZE = 64 * 1024

# A stream that holds up others has to free this share of its excess within each `stall_timeout`.
_STALL_SHARE = 0.25

# How many writes may answer one read without the writer's task: enough to close one stream and open the next.
_INLINE_WRITES = 2

# The most bytes to read and discard after the end of the connection.
_MAX_LINGER = 1024 * 1024

_DATA = int(Event.DATA)


class Reader:
    """Receives bytes from the transport, and passes the protocol's events to the streams and to the multiplexer.

    Attributes:
      late: data that arrived after the connection was handed over, and that the fallback gets.
    """

    def __init__(self, multiplexer: Multiplexer, transport: trio.abc.Stream) -> None:
        self.late = b""
        self._multiplexer = multiplexer
        self._progress = multiplexer.progress
        self._config = multiplexer.config
        self._budget = multiplexer.budget
        self._now = multiplexer.progress.last_received
        self._max_pending_control = self._config.max_pending_control + 2 * self._config.max_streams
        self._transport = transport
        # Once data is discarded: the number of received bytes at which that ends.
        self._discard_until: int | None = None

    async def run(self, scope: AbstractContextManager[object], failed: Callable[[Exception], None]) -> None:
        """Read until the transport ends, or the peer has left. Raise nothing.

        Args:
          scope: the cancel scope to read in.
          failed: takes an error that is a bug, here or in the program's transport.
        """
        multiplexer, progress, budget = self._multiplexer, self._progress, self._budget
        transport = self._transport
        receive: Callable[[], Awaitable[bytes | bytearray | memoryview]]
        if isinstance(transport, TLSStream):
            receive = transport.receiving_views()
        else:
            receive = functools.partial(transport.receive_some, _READ_SIZE)
        with scope:
            try:
                while data := await receive():
                    progress.bytes_received += len(data)
                    if self._discard_until is not None:
                        if progress.bytes_received > self._discard_until:
                            return
                        continue
                    if multiplexer.close_reason is not None and multiplexer.is_handed_over:
                        # By a timer, at the moment when the data came.
                        self.late = bytes(data)
                        return
                    self._now = trio.current_time()
                    multiplexer.writer.inline_writes_left = _INLINE_WRITES
                    # No checkpoint in it: the data may be a view of a buffer that all connections of the thread share.
                    if full := self._process(data):
                        await self._wait_until_read(full)
                        # Drop the references: an application may discard a stream that it has not read.
                        full = None
                    if budget.total > budget.limit and not multiplexer.compact():
                        await self._wait_until_all_read()
                    if multiplexer.close_reason is not None and (multiplexer.peer_left or multiplexer.is_handed_over):
                        return
                multiplexer.hooks.transport_lost(multiplexer.connection(), None)
            except trio.BrokenResourceError as error:
                try:
                    multiplexer.hooks.transport_lost(multiplexer.connection(), error)
                except Exception as bug:  # noqa: BLE001 - as below
                    failed(bug)
            except trio.ClosedResourceError:
                # The connection has closed the transport, and needs nothing more from the reader.
                pass
            except Exception as error:  # noqa: BLE001 - logged, and raised in the application
                failed(error)
            finally:
                multiplexer.peer_gone.set()

    async def linger(self) -> None:
        """Discard what arrives, until the transport ends or more than 1 MiB has come. Raise nothing."""
        progress, peer_gone = self._progress, self._multiplexer.peer_gone
        self._discard_until = limit = progress.bytes_received + _MAX_LINGER
        if not peer_gone.is_set():
            # By `run`.
            await peer_gone.wait()
            return
        # It has stopped: at the peer's CLOSE, or by a bug.
        with contextlib.suppress(Exception):
            while progress.bytes_received <= limit and (data := await self._transport.receive_some(_READ_SIZE)):
                progress.bytes_received += len(data)

    def _process(self, data: bytes | bytearray | memoryview) -> Collection[StreamCore] | None:
        """Process received data. Return the streams whose buffers are above their limit now."""
        multiplexer = self._multiplexer
        protocol = multiplexer.protocol
        streams, now = multiplexer.streams, self._now
        full: dict[StreamCore, None] | None = None
        try:
            # A peer that asks for answers has to read them. Otherwise it could fill this side's memory.
            if multiplexer.send_queue.pending_control > self._max_pending_control:
                raise LimitExceeded(f"more than {self._max_pending_control} unread answers are queued")
            for event, stream_id, payload in protocol.receive(data if isinstance(data, memoryview) else bytes(data)):
                if event == _DATA:
                    stream = streams[stream_id]
                    cost = stream.receive_data(payload, now)  # type: ignore[arg-type]  # DATA carries bytes
                    if cost > stream.receive_limit and stream.exceeds_limit():
                        full = full or {}
                        full[stream] = None
                else:
                    multiplexer.handle(event, stream_id, payload, now)
            if protocol.decoder.progressed:
                self._progress.last_received = now
            if multiplexer.protocol.replies:
                multiplexer.send_replies()
        except AuthenticationFailed as error:
            multiplexer.hooks.not_authenticated(multiplexer.connection(), error, protocol.unconsumed)
        except ProtocolViolation as error:
            multiplexer.hooks.violated(multiplexer.connection(), error, protocol.unconsumed)
        return full

    @property
    def _stall_timeout(self) -> float:
        return min(self._config.stall_timeout, self._multiplexer.protocol.max_stall_timeout)

    async def _wait_until_read(self, full: Collection[StreamCore]) -> None:
        """Read nothing until the application has read these streams, or has held up others for too long: all of them
        together for `stall_timeout`, however many they are.

        Streams that are read slowly get that time again if they have freed enough (`_STALL_SHARE`). So a stream holds
        up others for at most four times `stall_timeout`, however it is read.
        """
        timeout = self._stall_timeout
        costs = {stream: stream.received.cost for stream in full}
        shares = {stream: (cost - stream.receive_limit) * _STALL_SHARE for stream, cost in costs.items()}
        self._progress.stall()
        try:
            while any(stream.is_full for stream in costs):
                with trio.CancelScope(deadline=trio.current_time() + timeout) as scope:
                    for stream in costs:
                        while stream.is_full:
                            await stream.wait_read()
                if not scope.cancelled_caught:
                    break
                await self._progress.catch_up()
                for stream, before in costs.items():
                    costs[stream] = cost = stream.received.cost
                    # A stream that is alone holds up no other one. There may be others later.
                    alone = len(self._multiplexer.streams) == 1
                    if stream.is_full and before - cost < shares[stream] and not alone:
                        self._multiplexer.expire_stream(stream, StreamEnd.STALLED)
        finally:
            self._progress.resume()

    async def _wait_until_all_read(self) -> None:
        """Read nothing until the streams together hold no more than their budget. If too little of them is read in
        time, the one that holds the most is closed.
        """
        budget, timeout = self._budget, self._stall_timeout
        cost = budget.total
        share = (cost - budget.limit) * _STALL_SHARE
        self._progress.stall()
        try:
            while self._lacks_room:
                with trio.CancelScope(deadline=trio.current_time() + timeout) as scope:
                    await self._wait_for_room()
                if not scope.cancelled_caught:
                    continue
                await self._progress.catch_up()
                before, cost = cost, budget.total
                while before - cost < share and self._lacks_room and self._make_room():
                    pass
        finally:
            self._progress.resume()

    @property
    def _lacks_room(self) -> bool:
        """Whether the streams together hold more than their budget. Not so once the connection closes: nothing that
        arrives then matters.
        """
        return self._budget.total > self._budget.limit and not self._multiplexer.is_closing

    async def _wait_for_room(self) -> None:
        """Wait until there is room, or the connection closes."""
        async with trio.open_nursery() as nursery:

            async def wait_for_closing() -> None:
                await self._multiplexer.closing.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait_for_closing)
            await self._budget.wait()
            nursery.cancel_scope.cancel()

    def _make_room(self) -> bool:
        """Close the stream that holds the most. Return False if there is none that holds up another one."""
        streams = self._multiplexer.streams
        holding = [stream for stream in {*streams.values(), *self._multiplexer.unread} if stream.received.cost]
        largest = max(holding, key=lambda stream: stream.received.cost, default=None)
        if largest is None or (len(streams) == 1 and not largest.closed):
            return False
        self._multiplexer.discard_stream(largest)
        return True
