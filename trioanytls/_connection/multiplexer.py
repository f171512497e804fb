"""The streams of one connection over one transport: the state that its reader, streams and timers share.

The multiplexer knows the open streams, the send queue, and why the connection closes. It performs no I/O: the reader
passes it the protocol's events, and its frames go through the send queue to the writer.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Final

import trio
from attrs import frozen

from trioanytls._config import Config
from trioanytls._exceptions import ConnectionClosed
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.events import Event
from trioanytls._protocol.exceptions import AuthenticationFailed, ProtocolViolation
from trioanytls._protocol.extensions import MAX_CREDIT, TELLING_ABORTS
from trioanytls._protocol.interface import WireProtocol
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._protocol.stream_codes import NO_REASON, StreamCode, StreamReason

from . import close_reason
from .close_reason import CloseReason
from .flow_control import FlowControl
from .latch import Latch
from .observer import Observer
from .progress import ReceiveProgress
from .receive_buffer import ReceiveBudget
from .send_queue import SendQueue
from .stream_core import StreamCore, StreamEnd
from .writer import Writer

# The reason of an abort without one that must not be taken for an end.
_NO_END: Final = StreamReason(StreamCode.GENERAL_FAILURE)
# The code that the peer is told if a timer closes a stream.
_CODES: Final = {
    StreamEnd.IDLE: StreamCode.IDLE,
    StreamEnd.STALLED: StreamCode.STALLED,
    StreamEnd.UNACKNOWLEDGED: StreamCode.TIMED_OUT,
}


@frozen
class Hooks:
    """The functions in which the two ends of a connection differ. All are called synchronously.

    There is one object for each kind of end, and not for each connection. The first argument is the connection.

    Attributes:
      stream_opened: (server) the client opened the stream with this id, at this time.
      acknowledge: (server) the application accepts the stream with this id; returns the frame to send, if any. On the
        client, raises RuntimeError.
      refuse: (server) the application refuses the stream with this id, for this reason; returns the frames to send.
      stream_expired: a timer closed the stream with this id, for this reason.
      authenticated: (server) the client sent a valid AUTH, at this time.
      not_authenticated: (server) the client did not; with the bytes for the fallback, None if it cannot take over.
      violated: the peer broke the protocol; with the bytes from the offending frame on.
      transport_lost: the transport ended without CLOSE; with its error, if it raised one.
      before_close: the connection is about to close for this reason; returns the reason to close with.
      selected: (server) the client's wire format is known: takes the end of it, and returns it.
    """

    stream_opened: Callable[[Any, int, float], None]
    acknowledge: Callable[[Any, int], bytes | None]
    refuse: Callable[[Any, int, StreamReason], tuple[bytes, ...]]
    stream_expired: Callable[[Any, int, StreamEnd], None]
    authenticated: Callable[[Any, float], None]
    not_authenticated: Callable[[Any, AuthenticationFailed, bytes | None], None]
    violated: Callable[[Any, ProtocolViolation, bytes], None]
    transport_lost: Callable[[Any, trio.BrokenResourceError | None], None]
    before_close: Callable[[Any, CloseReason], CloseReason]
    selected: Callable[[Any, object], WireProtocol]


class Ping:
    """A PINGPONG whose answer is outstanding."""

    __slots__ = ("done", "round_trip", "sent")

    def __init__(self, now: float) -> None:
        self.sent: float = now
        self.done: trio.Event = trio.Event()
        self.round_trip: float | None = None


class Multiplexer:
    """The streams of a connection, and its state.

    Attributes:
      config: the connection's settings.
      protocol: the protocol of this end.
      connection: returns the connection, for its hooks. It lives as long as any of its tasks and streams. A strong
        reference would make a cycle, which is freed late with all that hangs on it.
      hooks: the functions in which this end differs from the other one.
      send_queue, writer: the way out.
      progress: how far the reader has come.
      budget: the memory that the streams' received data takes together.
      streams: the open streams by id.
      streams_opened: the number of streams opened so far.
      ping: the PINGPONG whose answer is outstanding, None if there is none.
      observer: (client of a pool) receives the connection's events.
      server_padding_scheme: (client) the scheme that the server wants used for later connections.
      last_served: (client) the highest id of a stream that the server serves, None if it has not said that it leaves.
      flow_control: grants the peer credit on the streams.
      close_reason: why the connection closes, None as long as it does not.
      negotiated: set when the extensions in force are known, or the connection begins to close.
      closing: set when the connection begins to close.
      write_error: the error that the transport raised on a write.
      peer_left: whether the peer has sent CLOSE or ALERT.
      peer_gone: set when the reader will process nothing more.
    """

    def __init__(
        self,
        protocol: WireProtocol,
        config: Config,
        send_queue: SendQueue,
        writer: Writer,
        connection: object,
        hooks: Hooks,
        estimate_round_trip: Callable[[], float | None] = lambda: None,
    ) -> None:
        self.config = config
        self.protocol: WireProtocol = protocol
        self.connection: weakref.ref[object] = weakref.ref(connection)
        self.hooks = hooks
        self.send_queue = send_queue
        self.writer = writer
        self.progress: ReceiveProgress = ReceiveProgress()
        self.budget: ReceiveBudget = ReceiveBudget(config.connection_receive_buffer_size)
        self.streams: dict[int, StreamCore] = {}
        self.streams_opened: int = 0
        self._unread: weakref.WeakSet[StreamCore] | None = None
        self.ping: Ping | None = None
        self.observer: Observer | None = None
        self.server_padding_scheme: PaddingScheme | None = None
        self.last_served: int | None = None
        self.flow_control: FlowControl = FlowControl(send_queue, estimate_round_trip, self)
        # True if the next answer has to follow the frames of streams that are queued now.
        self._answer_in_order = False
        # The streams that were closed before the negotiation, see `close_stream`, with the reason if they were aborted.
        self._closed_early: dict[StreamCore, StreamReason | None] = {}
        self.close_reason: CloseReason | None = None
        self.negotiated: Latch = Latch()
        self.closing: Latch = Latch()
        self.write_error: BaseException | None = None
        self.peer_left: bool = False
        self.peer_gone: Latch = Latch()

    @property
    def unread(self) -> Iterable[StreamCore]:
        """The streams that have ended and may still hold received data."""
        return self._unread or ()

    # Closing

    @property
    def is_closing(self) -> bool:
        """Whether the connection has closed, or is about to."""
        return self.close_reason is not None

    @property
    def is_closed_locally(self) -> bool:
        """Whether the application closed the connection."""
        return self.close_reason is not None and self.close_reason.local

    @property
    def is_handed_over(self) -> bool:
        """Whether the fallback has the transport, or is about to get it."""
        return self.close_reason is not None and self.close_reason.unconsumed is not None

    def close(self, reason: CloseReason) -> None:
        """Begin to close the connection, and end its streams. The first reason counts."""
        if self.close_reason is not None:
            return
        self.close_reason = reason = self.hooks.before_close(self.connection(), reason)
        self._send_early_closes()
        last_frame = reason.last_frame(self.protocol)
        self.protocol.leave()
        if self.observer is not None:
            self.observer.closing()
        if reason.abort:
            self.send_queue.break_down()
        self.send_queue.finish(last_frame, drain=reason.drain)
        for stream_id in list(self.streams):
            self._end_stream(stream_id, StreamEnd.CONNECTION)
        if self.ping is not None:
            self.ping.done.set()
        self.negotiated.set()
        self.closing.set()

    def close_after_write_error(self) -> None:
        """Close the connection, since the transport cannot be written to any more."""
        self.close(self._write_failure())

    def _write_failure(self) -> CloseReason:
        return close_reason.transport_lost("the connection broke while sending", self.write_error)

    def closed_error(self) -> ConnectionClosed:
        """Make an error that says why the connection has closed, or is about to, with its first cause."""
        return (self.close_reason or self._write_failure()).error()

    def check_open(self) -> None:
        """Check that the connection is usable.

        Raises:
          trio.ClosedResourceError: the connection was closed on this side.
          ConnectionClosed: it has closed otherwise.
        """
        if self.is_closed_locally:
            raise trio.ClosedResourceError("this connection is closed")
        if self.close_reason is not None or self.send_queue.broken:
            raise self.closed_error()

    # Sending

    def send_replies(self) -> None:
        """Send the answers that the protocol has prepared."""
        replies = self.protocol.replies
        if replies:
            for frame in replies:
                if self._answer_in_order:
                    self._queue_answer(frame)
                else:
                    self.send_queue.queue_control(frame)
            replies.clear()
            self.writer.notify()

    def send_ping(self, now: float) -> Ping:
        """Send a PINGPONG. None is outstanding.

        Raises:
          NotSupported: the peer is not known to answer.
        """
        frame = self.protocol.ping()
        self.ping = ping = Ping(now)
        if self._answer_in_order:
            # The server may ask at the same time, and takes this for the answer.
            self._queue_answer(frame)
        else:
            self.send_queue.queue_control(frame, caused_by_peer=False)
        self.writer.notify()
        return ping

    def _queue_answer(self, frame: bytes) -> None:
        """Queue the answer by which the server learns that all streams opened before have arrived (extensions: 5)."""
        self._answer_in_order = False
        self.send_queue.queue_in_order(frame)

    # Streams

    def add_stream(self, stream_id: int, now: float, *, by_peer: bool) -> StreamCore:
        """Add a stream that was opened, by the peer or by this end."""
        core = StreamCore(stream_id, self.send_queue, self.budget, self.config, now, by_peer=by_peer)
        if self.flow_control.windows is not None:
            self.flow_control.add_stream(core, now)
        self.streams[stream_id] = core
        self.streams_opened += 1
        return core

    def reject_stream(self, stream_id: int, reason: StreamReason) -> None:
        """(server) Refuse a stream that the client has opened, for this reason, instead of adding it."""
        # The client may have opened it in the same write as its NEGO. It knows STREAM_RESET, or SYNACK, only after the
        # answer to that.
        self.send_replies()
        for frame in self.hooks.refuse(self.connection(), stream_id, reason):
            self.send_queue.put_control(frame)

    def acknowledge(self, stream: StreamCore) -> None:
        """(server) Accept a stream, see `Stream.acknowledge`.

        Raises:
          RuntimeError: this is the client's end.
        """
        frame = self.hooks.acknowledge(self.connection(), stream.stream_id)
        if frame is not None:
            stream.touch(trio.current_time())
            self.send_queue.put_control(frame)
        stream.confirm()

    def finish_stream(self, stream: StreamCore) -> None:
        """Send no more data on a stream, after the data that is queued. There must be room in the send queue.

        Raises:
          NotSupported: the extension `fin` is not in force.
        """
        for frame in self.protocol.finish_stream(stream.stream_id):
            self.send_queue.queue(stream, frame, b"")
        stream.send_ended = True
        self.writer.notify()
        self._end_if_finished(stream)

    def _end_if_finished(self, stream: StreamCore) -> None:
        """End a stream on which both sides have said that they send no more data."""
        if not self.protocol.is_open(stream.stream_id) and self.streams.get(stream.stream_id) is stream:
            self._end_stream(stream.stream_id, StreamEnd.FINISHED)

    def close_stream(self, stream: StreamCore) -> None:
        """Close a stream for the application, after its queued frames."""
        if not stream.closed_locally:
            stream.close_locally()
            self._remove(stream)
            # None if the peer has closed the stream already: that is not answered.
            frames = self.protocol.close_stream(stream.stream_id)
            if frames and "fin" in self.protocol.undecided:
                # A server that has it takes RST alone for an abort, although the data is complete (extensions: 3). The
                # frames that close the stream wait for the server's NEGO. Nothing else does, but `abort_stream`.
                self._closed_early[stream] = None
            else:
                self._send_last(stream, frames)
            stream.wake_all()

    def abort_stream(self, stream: StreamCore, reason: StreamReason) -> bool:
        """Close a stream after an error, like `reset_stream`, if the peer can tell that from an end.

        Return False, and do nothing, if it cannot: data that was sent may as well arrive. Before the negotiation, it is
        not known whether it can. The frame that aborts the stream then waits, and the data is sent.
        """
        protocol = self.protocol
        if not TELLING_ABORTS.isdisjoint(protocol.extensions or ()):
            self.reset_stream(stream, reason)
            return True
        if TELLING_ABORTS.isdisjoint(protocol.undecided):
            return False
        if not stream.closed_locally:
            stream.close_locally()
            self._remove(stream)
            if protocol.close_stream(stream.stream_id):
                self._closed_early[stream] = reason
            stream.wake_all()
        elif stream in self._closed_early:
            self._closed_early[stream] = reason
        return True

    def _send_early_closes(self) -> None:
        """Send the frames that close the streams which were closed before the negotiation."""
        closed_early, self._closed_early = self._closed_early, {}
        extensions = self.protocol.extensions
        for stream, reason in closed_early.items():
            if reason is None or (extensions is not None and TELLING_ABORTS.isdisjoint(extensions)):
                self._send_last(stream, self.protocol.encode_close_of_stream(stream.stream_id))
            elif extensions is not None:
                stream.drop_queued()
                self._send_last(stream, (self.protocol.encode_reset(stream.stream_id, reason),))
            # Otherwise the connection closes, which no peer takes for the end of a stream.

    @property
    def has_early_closes(self) -> bool:
        """Whether a stream that was closed in order waits for the negotiation."""
        return None in self._closed_early.values()

    def reset_stream(self, stream: StreamCore, reason: StreamReason = NO_REASON, *, refuse: bool = False) -> None:
        """Close a stream for the application, instead of sending its queued frames: the peer's data is cut off.

        With `refuse`, refuse it.
        """
        was_queued = stream.queued > 0
        stream.drop_queued()
        frames: tuple[bytes, ...] = ()
        extensions = self.protocol.extensions or ()
        if not reason and "reset" in extensions and "fin" not in extensions:
            # RST alone is an end then (extensions: 3).
            reason = _NO_END
        if not stream.closed_locally:
            stream.close_locally()
            self._remove(stream)
            if refuse:
                frames = self.hooks.refuse(self.connection(), stream.stream_id, reason)
            else:
                frames = self.protocol.reset_stream(stream.stream_id, reason)
        if stream in self._closed_early:
            del self._closed_early[stream]
            was_queued = True
        if was_queued and not frames:
            # It was closed before, and the peer has not been told.
            frames = (self.protocol.encode_reset(stream.stream_id, reason),)
        undecided = self.protocol.undecided
        if frames and "reset" in undecided and "fin" not in undecided:
            # As in `abort_stream`. With `fin`, RST is an abort.
            self._closed_early[stream] = reason or _NO_END
        else:
            self._send_last(stream, frames)
        stream.wake_all()

    def _send_last(self, stream: StreamCore, frames: tuple[bytes, ...]) -> None:
        """Send the frames that close a stream, after its queued ones. None if the peer does not know of the stream."""
        if stream.sender is not None:
            # It leaves the line first: writing the frames inline makes room, also for more of its data.
            self.send_queue.wake(stream.sender)
        stream.last_frames = ()
        if stream.queued:
            stream.last_frames = frames
        elif frames and stream.on_wire:
            for frame in frames:
                self.send_queue.queue_control(frame, caused_by_peer=stream.opened_by_peer)
            self.writer.notify()

    def expire_stream(self, stream: StreamCore, end: StreamEnd) -> None:
        """Close a stream because of a timer: RST to the peer, `StreamTimeout` to the application (protocol: 5)."""
        self.hooks.stream_expired(self.connection(), stream.stream_id, end)
        self._remove(stream)
        frames = self.protocol.reset_stream(stream.stream_id, StreamReason(_CODES[end], end.value))
        self._terminate(stream, end)
        self._send_last(stream, frames)

    def expire_idle_stream(self, stream: StreamCore) -> None:
        """Close a stream whose idle timer has expired, and cancel its handler, which gets the error first."""
        self.expire_stream(stream, StreamEnd.IDLE)
        if stream.handler_scope is not None:
            stream.handler_scope.cancel()

    def discard_stream(self, stream: StreamCore) -> None:
        """Close an unread stream and discard its buffer, to free the connection's receive budget."""
        if not stream.closed:
            self.expire_stream(stream, StreamEnd.STALLED)
        stream.discard_received()

    def _remove(self, stream: StreamCore) -> None:
        if self.streams.get(stream.stream_id) is stream:
            self._forget(stream.stream_id)

    def _end_stream(self, stream_id: int, reason: StreamEnd) -> None:
        self._terminate(self._forget(stream_id), reason)

    def _forget(self, stream_id: int) -> StreamCore:
        stream = self.streams.pop(stream_id)
        if self.observer is not None:
            self.observer.stream_gone(stream_id)
        return stream

    def _terminate(self, stream: StreamCore, reason: StreamEnd) -> None:
        if stream.received.cost:
            if self._unread is None:
                self._unread = weakref.WeakSet()
            self._unread.add(stream)
        stream.terminate(reason)

    # Events other than DATA

    def handle(self, event: int, stream_id: int, payload: object, now: float) -> None:
        """Act on an event of the protocol other than DATA, which the reader passes to the stream itself."""
        self._HANDLERS[event](self, stream_id, payload, now)

    def _refreshed(self, stream_id: int, _payload: object, now: float) -> None:
        self.streams[stream_id].touch(now)

    def _opened(self, stream_id: int, _payload: object, now: float) -> None:
        self.hooks.stream_opened(self.connection(), stream_id, now)

    def _acknowledged(self, stream_id: int, _payload: object, now: float) -> None:
        stream = self.streams[stream_id]
        stream.touch(now)
        stream.confirm()
        if self.observer is not None:
            self.observer.stream_accepted(stream_id)

    def _ended(self, stream_id: int, _payload: object, _now: float) -> None:
        self._end_stream(stream_id, StreamEnd.PEER)

    def _finished(self, stream_id: int, _payload: object, now: float) -> None:
        stream = self.streams[stream_id]
        stream.touch(now)
        stream.end_received_data()
        self._end_if_finished(stream)

    def _refused(self, stream_id: int, payload: object, _now: float) -> None:
        self._end_for(StreamEnd.REFUSED, stream_id, payload)

    def _reset(self, stream_id: int, payload: object, _now: float) -> None:
        self._end_for(StreamEnd.RESET, stream_id, payload)

    def _end_for(self, end: StreamEnd, stream_id: int, reason: object) -> None:
        if isinstance(reason, StreamReason):
            self.streams[stream_id].reason = reason
        self._end_stream(stream_id, end)

    # Flow control (extensions: 2), see `flow_control`

    def measure_round_trip(self, now: float) -> None:
        """Send a PINGPONG, unless the answer of one is outstanding."""
        if self.ping is None:
            self.send_ping(now)

    def compact(self) -> bool:
        """Join the pieces in the buffers of streams with flow control. Return whether all are in the budget then."""
        for stream in self.streams.values():
            if stream.windows is not None:
                stream.received.compact()
        return self.budget.total <= self.budget.limit

    def _granted(self, stream_id: int, payload: object, now: float) -> None:
        stream, increment = self.streams[stream_id], payload if isinstance(payload, int) else 0
        stream.touch(now)
        if stream.credit + increment > MAX_CREDIT:
            rule = f"an increment of {increment} takes the credit above {MAX_CREDIT}"
            raise ProtocolViolation.of("STREAM_WINDOW", stream_id, rule)
        answers = stream.grant(increment)
        if answers is not None:
            self.protocol.count_grant(stream_id, idle=not answers)

    # The end of a server (extensions: 5)

    def _going_away(self, _stream_id: int, payload: object, _now: float) -> None:
        last_served = payload if isinstance(payload, int) else 0
        self._answer_in_order = self.last_served is None
        self.last_served = last_served
        if self.observer is not None:
            # Before the streams end: their places must not be given to others.
            self.observer.going_away()
        for stream_id in [one for one in self.streams if one > last_served]:
            self.streams[stream_id].reason = StreamReason(StreamCode.SHUTTING_DOWN)
            self._end_stream(stream_id, StreamEnd.UNSERVED)

    def send_goaway(self, last_served: int) -> None:
        """(server) Say that no stream above this id is served."""
        self.send_queue.queue_control(self.protocol.encode_goaway(last_served), caused_by_peer=False)
        self.writer.notify()

    def _pong(self, _stream_id: int, _payload: object, _now: float) -> None:
        ping, self.ping = self.ping, None
        if ping is not None:
            self.flow_control.round_trip = ping.round_trip = trio.current_time() - ping.sent
            ping.done.set()

    def _authenticated(self, _stream_id: int, _payload: object, now: float) -> None:
        # AUTH is not a frame, and the data after it may not be a whole one.
        self.progress.last_received = now
        self.hooks.authenticated(self.connection(), now)

    def _negotiated(self, _stream_id: int, _payload: object, now: float) -> None:
        # The protocol keeps the version and the extensions itself.
        flow_control, first_sent = self.flow_control, self.writer.first_sent
        if flow_control.round_trip is None and first_sent is not None:
            flow_control.round_trip = trio.current_time() - first_sent
        if self.protocol.receive_window is not None:
            flow_control.begin(self.protocol, self.config)
        for stream in self.streams.values():
            if flow_control.windows is not None:
                flow_control.add_stream(stream, now)
            # Those that want to end one direction of a stream.
            stream.wake_waiters()
        self._send_early_closes()
        self.negotiated.set()
        if self.observer is not None:
            self.observer.negotiated()

    def _scheme(self, _stream_id: int, payload: object, _now: float) -> None:
        if isinstance(payload, PaddingScheme):
            self.server_padding_scheme = payload
            if self.protocol.follows_scheme and self.writer.shaper is not None:
                self.writer.shaper.scheme = payload
            if self.observer is not None:
                self.observer.scheme_received(payload)

    def _selected(self, _stream_id: int, payload: object, _now: float) -> None:
        self.protocol = self.hooks.selected(self.connection(), payload)
        if self.protocol.extensions is not None:
            # A format that has none.
            self.negotiated.set()

    def _left(self, _stream_id: int, payload: object, _now: float) -> None:
        self.peer_left = True
        self.peer_gone.set()
        if isinstance(payload, CloseCode):
            self.close(close_reason.peer_closed(payload))

    def _alerted(self, _stream_id: int, payload: object, _now: float) -> None:
        self.peer_left = True
        self.peer_gone.set()
        self.close(close_reason.peer_alerted(str(payload)))

    _HANDLERS: ClassVar[dict[int, Callable[[Multiplexer, int, object, float], None]]] = {
        Event.REFRESHED: _refreshed,
        Event.OPENED: _opened,
        Event.ACKNOWLEDGED: _acknowledged,
        Event.ENDED: _ended,
        Event.REFUSED: _refused,
        Event.PONG: _pong,
        Event.AUTHENTICATED: _authenticated,
        Event.NEGOTIATED: _negotiated,
        Event.SCHEME: _scheme,
        Event.LEFT: _left,
        Event.ALERTED: _alerted,
        Event.SELECTED: _selected,
        Event.FINISHED: _finished,
        Event.RESET: _reset,
        Event.GRANTED: _granted,
        Event.GOING_AWAY: _going_away,
    }
