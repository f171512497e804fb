"""The reader: the only caller of the transport's `receive_some`.

It waits for the transport, and for an application to read when a stream's buffer is full: there is no flow-control
window in the protocol, so TCP has to push back. It never waits for the writer, see `send_queue`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Awaitable, Callable, Collection
from typing import TYPE_CHECKING

import trio

from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.events import Event
from trioanytls._protocol.exceptions import AuthenticationFailed, LimitExceeded, ProtocolViolation
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._protocol.state_machine import ConnectionState
from trioanytls._transport.tls_stream import TLSStream, is_truncation

from . import close_reason
from .stream import Stream, StreamEnd

if TYPE_CHECKING:
    from .connection import Connection

# How much is asked of the transport, in bytes.
_READ_SIZE = 64 * 1024

# When `Reader.catch_up` is done: after so many passes of the event loop in a row that brought nothing (two are needed:
# in the first one the reader runs on what the pass before has seen of the socket), or so many in all.
_QUIET_PASSES = 3
_MAX_PASSES = 200

# A stream that holds up others has to free this part of what it holds too much of within each `stall_timeout`.
_STALL_SHARE = 0.25

# How often what has arrived may be answered without the writer's task: enough to close one stream and open the next.
_ANSWERS = 2

# How much is read and discarded after the end of the connection, in bytes.
_MAX_LINGER = 1024 * 1024

_DATA = int(Event.DATA)


class Reader:
    """Takes bytes from the transport, and brings what they mean to the streams and the connection.

    Attributes:
      bytes_received: how many bytes came.
      last_read: when the last frame came, or the last piece of the payload of one that is passed on as it comes, on
        Trio's clock; the connection's beginning before that. Bytes of a frame that is never complete do not count.
      waiting_since: (server) since when the client owes AUTH, or NEGO.
      stalled: whether the reader waits for an application to read.
      resumed: when it last did so no more.
      peer_left: whether the peer has sent CLOSE or ALERT.
      peer_gone: set when nothing more comes that could matter.
      late: what came after the connection was handed over, and is the fallback's.
    """

    def __init__(self, connection: Connection, transport: trio.abc.Stream) -> None:
        self.bytes_received = 0
        self.last_read = self.waiting_since = self._now = trio.current_time()
        self.stalled = False
        self.resumed = -math.inf
        self.peer_gone = trio.Event()
        self.late = b""
        self._connection = connection
        self.peer_left = False
        self._max_pending_control = connection.config.max_pending_control + 2 * connection.config.max_streams
        self._transport = transport

    async def run(self) -> None:
        """Read until the transport ends, or the peer has left. Raises nothing."""
        received = self._connection._received
        transport = self._transport
        receive: Callable[[], Awaitable[bytes | bytearray | memoryview]]
        if isinstance(transport, TLSStream):
            receive = transport.receiving_views()
        else:
            receive = functools.partial(transport.receive_some, _READ_SIZE)
        try:
            while data := await receive():
                self.bytes_received += len(data)
                if self._connection._is_handed_over:
                    # By the timer task, in the moment when it came.
                    self.late = bytes(data)
                    return
                self._now = trio.current_time()
                self._connection._writer.inline_writes_left = _ANSWERS
                # No checkpoint in it: the data may be a view of a buffer that all connections of the thread share.
                if full := self._process(data):
                    await self._wait_until_read(full)
                    # An application may let go of what it does not read: what is in there is not to be kept from here.
                    full = None
                if received.total > received.limit:
                    await self._wait_until_all_read()
                if self.peer_left or self._connection._is_handed_over:
                    return
            self._ended_early()
        except trio.BrokenResourceError as error:
            self._broke(error)
        except trio.ClosedResourceError:
            # By the connection's end, which waits for nothing more from here.
            pass
        finally:
            self.peer_gone.set()

    async def linger(self) -> None:
        """Read and discard until the transport ends, or more than 1 MiB has come. `run` has stopped.

        Raises:
          trio.BrokenResourceError, trio.ClosedResourceError: from the transport.
        """
        limit = self.bytes_received + _MAX_LINGER
        while self.bytes_received <= limit and (data := await self._transport.receive_some(_READ_SIZE)):
            self.bytes_received += len(data)

    def _ended_early(self) -> None:
        if self._waits_for_auth:
            self._not_authenticated()
        else:
            self._lost("the connection ended without a CLOSE frame")

    def _broke(self, error: trio.BrokenResourceError) -> None:
        if not self._waits_for_auth:
            self._lost("the connection broke", error)
        elif is_truncation(error):
            self._not_authenticated()
        else:
            # There is nothing to hand over.
            self.peer_gone.set()
            self._connection._not_authenticated(AuthenticationFailed("the connection broke before AUTH was complete"))

    @property
    def _waits_for_auth(self) -> bool:
        return self._connection._protocol.state is ConnectionState.WAIT_AUTH

    def _not_authenticated(self) -> None:
        error = AuthenticationFailed("the connection ended before AUTH was complete")
        self._connection._not_authenticated(error, self._connection._protocol.incomplete)

    def _lost(self, reason: str, cause: BaseException | None = None) -> None:
        self.peer_gone.set()
        self._connection._end(close_reason.transport_lost(reason, cause))

    def _process(self, data: bytes | bytearray | memoryview) -> Collection[Stream] | None:
        """Do what the data asks for; the streams that have more now than their buffers are to hold."""
        connection = self._connection
        streams, limit = connection._streams, connection.config.receive_buffer_size
        now = self._now
        full: dict[Stream, None] | None = None
        try:
            # A peer that asks for answers has to read them, or our memory would be its to fill.
            if connection._send_queue.pending_control > self._max_pending_control:
                raise LimitExceeded(f"more than {self._max_pending_control} unread answers are queued")
            for event, stream_id, payload in connection._protocol.receive(
                data if isinstance(data, memoryview) else bytes(data)
            ):
                if event == _DATA:
                    stream = streams[stream_id]
                    if stream._receive_data(payload, now) > limit:  # type: ignore[arg-type]  # DATA carries bytes
                        full = full or {}
                        full[stream] = None
                else:
                    _HANDLERS[event](self, stream_id, payload)
            if connection._protocol.decoder.progressed:
                self.last_read = now
            connection._send_replies()
        except AuthenticationFailed as error:
            connection._not_authenticated(error, connection._protocol.unconsumed)
        except ProtocolViolation as error:
            connection._violated(error, connection._protocol.unconsumed)
        return full

    async def catch_up(self) -> None:
        """Wait until what has arrived up to now was processed. To be awaited before a timer that seems to have run out
        does anything, and then to be followed by another look.

        The data may be in the socket, because the event loop stood still or because this task's turn comes before the
        reader's. Data that arrives all the time does not hold up the timer for ever.
        """
        quiet = passes = 0
        while quiet < _QUIET_PASSES and passes < _MAX_PASSES:
            before = self.bytes_received
            await trio.lowlevel.checkpoint()
            passes += 1
            quiet = quiet + 1 if self.bytes_received == before else 0

    async def _wait_until_read(self, full: Collection[Stream]) -> None:
        """Hold the transport until the application has read some of these streams, or has held up others for too long:
        all together for `stall_timeout`, however many they are.

        Streams that are read, but slowly, get that time again if they have freed enough (`_STALL_SHARE`): so none holds
        up others for longer than four times `stall_timeout`, however it is read.
        """
        timeout, limit = self._connection.config.stall_timeout, self._connection.config.receive_buffer_size
        costs = {stream: stream._received.cost for stream in full}
        shares = {stream: (cost - limit) * _STALL_SHARE for stream, cost in costs.items()}
        self.stalled = True
        try:
            while any(stream._is_full for stream in costs):
                with trio.CancelScope(deadline=trio.current_time() + timeout) as scope:
                    for stream in costs:
                        while stream._is_full:
                            await stream._wait_read()
                if not scope.cancelled_caught:
                    break
                await self.catch_up()
                for stream, before in costs.items():
                    costs[stream] = cost = stream._received.cost
                    # One that is alone holds up nobody. There may be others later.
                    alone = len(self._connection._streams) == 1
                    if stream._is_full and before - cost < shares[stream] and not alone:
                        stream._expire(StreamEnd.STALLED)
        finally:
            self.stalled = False
            self.last_read = self.resumed = trio.current_time()

    async def _wait_until_all_read(self) -> None:
        """Likewise for all streams together: the one that holds the most makes room if too little of them is read."""
        received, timeout = self._connection._received, self._connection.config.stall_timeout
        cost = received.total
        share = (cost - received.limit) * _STALL_SHARE
        self.stalled = True
        try:
            while self._lacks_room:
                with trio.CancelScope(deadline=trio.current_time() + timeout) as scope:
                    await self._wait_for_room()
                if not scope.cancelled_caught:
                    continue
                await self.catch_up()
                before, cost = cost, received.total
                while before - cost < share and self._lacks_room and self._make_room():
                    pass
        finally:
            self.stalled = False
            self.last_read = self.resumed = trio.current_time()

    @property
    def _lacks_room(self) -> bool:
        """Whether the streams hold too much together. At the end of the connection, nothing more comes that could
        matter.
        """
        received = self._connection._received
        return received.total > received.limit and not self._connection.closed

    async def _wait_for_room(self) -> None:
        """Wait until there is room, or the connection has ended."""
        connection = self._connection
        async with trio.open_nursery() as nursery:

            async def wait_for_end() -> None:
                await connection._ending_event.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(wait_for_end)
            await connection._received.wait()
            nursery.cancel_scope.cancel()

    def _make_room(self) -> bool:
        """Close the stream that holds the most; False where that holds up nobody, being alone on its connection."""
        streams = self._connection._streams
        holding = [stream for stream in {*streams.values(), *self._connection._unread} if stream._received.cost]
        largest = max(holding, key=lambda stream: stream._received.cost, default=None)
        if largest is None or (len(streams) == 1 and not largest._has_ended):
            return False
        largest._starve()
        return True

    # What an event does, other than bytes for a stream

    def _refreshed(self, stream_id: int, _payload: object) -> None:
        self._connection._streams[stream_id]._touch(self._now)

    def _opened(self, stream_id: int, _payload: object) -> None:
        self._connection._accept(stream_id, self._now)

    def _acknowledged(self, stream_id: int, _payload: object) -> None:
        stream = self._connection._streams[stream_id]
        stream._touch(self._now)
        stream._confirm()
        if self._connection._observer is not None:
            self._connection._observer.stream_accepted(stream)

    def _ended(self, stream_id: int, _payload: object) -> None:
        self._connection._forget(stream_id)._end(StreamEnd.PEER)

    def _refused(self, stream_id: int, _payload: object) -> None:
        self._connection._forget(stream_id)._end(StreamEnd.REFUSED)

    def _pong(self, _stream_id: int, _payload: object) -> None:
        self._connection._pong()

    def _authenticated(self, _stream_id: int, _payload: object) -> None:
        # What follows AUTH may not be a whole frame.
        self.waiting_since = self.last_read = self._now
        self._connection._authenticated()

    def _negotiated(self, _stream_id: int, _payload: object) -> None:
        """The protocol keeps what was agreed upon."""
        if self._connection._observer is not None:
            self._connection._observer.negotiated()

    def _scheme(self, _stream_id: int, payload: object) -> None:
        if isinstance(payload, PaddingScheme):
            self._connection.server_padding_scheme = payload
            if self._connection._observer is not None:
                self._connection._observer.scheme_received(payload)

    def _left(self, _stream_id: int, payload: object) -> None:
        self.peer_left = True
        self.peer_gone.set()
        if isinstance(payload, CloseCode):
            self._connection._end(close_reason.peer_closed(payload))

    def _alerted(self, _stream_id: int, payload: object) -> None:
        self.peer_left = True
        self.peer_gone.set()
        self._connection._end(close_reason.peer_alerted(str(payload)))


_HANDLERS: dict[int, Callable[[Reader, int, object], None]] = {
    Event.REFRESHED: Reader._refreshed,
    Event.OPENED: Reader._opened,
    Event.ACKNOWLEDGED: Reader._acknowledged,
    Event.ENDED: Reader._ended,
    Event.REFUSED: Reader._refused,
    Event.PONG: Reader._pong,
    Event.AUTHENTICATED: Reader._authenticated,
    Event.NEGOTIATED: Reader._negotiated,
    Event.SCHEME: Reader._scheme,
    Event.LEFT: Reader._left,
    Event.ALERTED: Reader._alerted,
}
