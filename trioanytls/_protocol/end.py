"""What one end of a connection has in either wire format: its state, its open streams, and limits on idle frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar, Final, Protocol

from .events import Event, EventTuple
from .exceptions import LimitExceeded, NotSupported
from .extensions import NO_NAMES, Extension
from .interface import FrameCounters
from .limits import ProtocolLimits
from .state_machine import (
    ConnectionEvent,
    ConnectionState,
    ConnectionTable,
    StreamAction,
    StreamEvent,
    StreamState,
    StreamTable,
)
from .stream_codes import NO_REASON, StreamReason

#: The events of the actions that frames of streams require.
STREAM_EVENTS: Final = {
    StreamAction.REFRESH: Event.REFRESHED,
    StreamAction.DATA: Event.DATA,
    StreamAction.ACCEPT: Event.OPENED,
    StreamAction.CONFIRM: Event.ACKNOWLEDGED,
    StreamAction.END: Event.ENDED,
    StreamAction.REFUSE: Event.REFUSED,
    StreamAction.FINISH: Event.FINISHED,
    StreamAction.ABORT: Event.RESET,
    StreamAction.GRANT: Event.GRANTED,
}
#: The actions of frames that carry nothing.
IDLING: Final = (StreamAction.REFRESH, StreamAction.DROP)
# The actions of this end after which frames of the peer may arrive late.
_CROSSING: Final = (
    StreamAction.SEND_OPEN,
    StreamAction.SEND_RST,
    StreamAction.SEND_FIN,
    StreamAction.SEND_FIN_RST,
    StreamAction.SEND_RESET,
)


class Decoder(FrameCounters, Protocol):
    """A wire format's decoder of frames."""

    @property
    def unconsumed(self) -> bytes:
        """The bytes from the beginning of the last frame on."""

    @property
    def incomplete(self) -> bytes:
        """The beginning of a frame that is still incomplete."""


class ProtocolEnd:
    """One end of a connection. The wire formats derive both of their ends from it.

    Attributes:
      state: the state of this end.
      streams: the state of each open stream, by its id.
      decoder: decodes the bytes received, and counts frames.
      replies: encoded frames that answer the peer's. The caller takes them out and sends them.
      version: the version agreed upon; None before that.
      extensions: the extensions in force; None before the negotiation.
      receive_window: with `window`, the credit that each stream begins with in the direction towards this end, in
        bytes. None without it.
      send_window: the same in the other direction.
      peer_pings: whether the peer has sent a ping itself. One can cross a ping of this end, and each end then takes the
        other's request for its answer.
    """

    #: The type of the frame that is padding, on the wire.
    PADDING: ClassVar[int]
    #: The state machine of a stream, and the frames that actions of the application send.
    STREAM: StreamTable
    FRAMES_TO_SEND: ClassVar[Mapping[StreamAction, tuple[Callable[[int], bytes], ...]]]

    decoder: Decoder

    def __init__(self, table: ConnectionTable, limits: ProtocolLimits) -> None:
        self.state = ConnectionState.TLS
        self.streams: dict[int, StreamState] = {}
        self.replies: list[bytes] = []
        self.version: int | None = None
        self.extensions: frozenset[Extension] | None = None
        self.receive_window: int | None = None
        self.send_window: int | None = None
        self.peer_pings: bool = False
        self._table = table
        self._limits = limits
        # The number of consecutive idle frames; the number of padding frames counted, its bytes so far, and its bytes
        # before the first of the idle frames.
        self._idle_frames = 0
        self._paddings = 0
        self._padding = 0
        self._padding_before = 0
        self._ping_outstanding = False
        # Set after a violation: everything that arrives is ignored, since it cannot be decoded.
        self._violated = False

    @property
    def data_bytes_received(self) -> int:
        """The number of bytes received for streams."""
        raise NotImplementedError

    def receive(self, data: bytes | memoryview) -> Iterator[EventTuple]:
        """Consume `data` and yield its events."""
        raise NotImplementedError

    def describe(self, kind: int) -> str:
        """Return the name of a frame type for texts."""
        raise NotImplementedError

    @property
    def unconsumed(self) -> bytes:
        """The bytes that were not consumed when `receive` raised. Valid until the next checkpoint."""
        return self.decoder.unconsumed

    @property
    def incomplete(self) -> bytes:
        """The bytes received that do not make a complete frame yet."""
        return self.decoder.incomplete

    def handshake_done(self) -> None:
        """Begin the connection: the TLS handshake is done."""
        after = self._table[self.state][ConnectionEvent.HANDSHAKE]
        if isinstance(after, str):
            raise RuntimeError(after)
        self.state = after

    def leave(self) -> None:
        """Close this end: ignore everything that arrives from now on."""
        self._move(ConnectionEvent.LEAVE)

    def transport_closed(self) -> None:
        """Note that the transport has ended."""
        self._move(ConnectionEvent.TRANSPORT_CLOSED)

    def _move(self, event: ConnectionEvent) -> None:
        after = self._table[self.state][event]
        assert not isinstance(after, str)  # noqa: S101 - leaving is legal in every state; a test walks the table
        self.state = after

    def stream_state(self, stream_id: int) -> StreamState:
        """Return the state of a stream, whether it is open, was, or never was."""
        raise NotImplementedError

    def close_stream(self, stream_id: int) -> tuple[bytes, ...]:
        """Close a stream whose data is complete. Return the frames to send, none if the stream is closed already."""
        return self._stream_event(stream_id, StreamEvent.CLOSE)

    def reset_stream(self, stream_id: int, reason: StreamReason = NO_REASON) -> tuple[bytes, ...]:
        """Abort a stream. Return the frames to send, none if the stream is closed already."""
        frames = self._stream_event(stream_id, StreamEvent.RESET)
        return (self.encode_reset(stream_id, reason),) if frames else ()

    def encode_reset(self, stream_id: int, _reason: StreamReason = NO_REASON) -> bytes:
        """Return the frame that aborts a stream, with the reason if the peer knows a frame for it."""
        (encode,) = self.FRAMES_TO_SEND[StreamAction.SEND_RST]
        return encode(stream_id)

    @property
    def undecided(self) -> frozenset[Extension]:
        """The extensions that this end has offered, as long as it does not know whether the peer has them."""
        return NO_NAMES

    def encode_close_of_stream(self, stream_id: int) -> tuple[bytes, ...]:
        """Return the frames that close a stream whose data is complete, for one that `close_stream` has closed."""
        entry = self.STREAM[StreamState.ESTABLISHED][StreamEvent.CLOSE]
        assert not isinstance(entry, str)  # noqa: S101 - see `_stream_event`
        return tuple(encode(stream_id) for encode in self.FRAMES_TO_SEND[entry[0]])

    def finish_stream(self, _stream_id: int) -> tuple[bytes, ...]:
        """End a stream in the direction from this end. Return the frames to send, none if it has ended already.

        Raises:
          NotSupported: the peer does not know the extension `fin`, or is not known to know it.
        """
        raise NotSupported("the peer does not support half-close")

    def encode_window(self, _stream_id: int, _increment: int) -> bytes:
        """Return the frame that grants more credit on a stream.

        Raises:
          NotSupported: the peer does not know the extension `window`.
        """
        raise NotSupported("the peer does not support flow control")

    def count_grant(self, _stream_id: int, *, idle: bool) -> None:
        """Count a grant of credit. A format without grants has none."""

    def encode_goaway(self, _highest_id: int) -> bytes:
        """Return the frame that says that no stream above this id is served.

        Raises:
          NotSupported: the peer does not know the extension `goaway`.
        """
        raise NotSupported("the peer does not support GOAWAY")

    def _stream_event(self, stream_id: int, event: StreamEvent) -> tuple[bytes, ...]:
        """Return the frames that an action of the application sends."""
        before = self.stream_state(stream_id)
        entry = self.STREAM[before][event]
        assert not isinstance(entry, str)  # noqa: S101 - a local event breaks no rule of the wire; a test checks the table
        action, after = entry
        if action is StreamAction.MISUSE:
            raise RuntimeError(f"stream {stream_id}: cannot {event.name.lower()} in state {before.name}")
        if action in _CROSSING:
            # Frames of the stream that the peer sends before it notices do not count as idle.
            self._idle_frames = 0
        self._enter(stream_id, after)
        return tuple(encode(stream_id) for encode in self.FRAMES_TO_SEND.get(action, ()))

    def is_open(self, stream_id: int) -> bool:
        """Return whether a stream is open in at least one direction."""
        return stream_id in self.streams

    def _enter(self, stream_id: int, state: StreamState) -> None:
        if state is not StreamState.CLOSED:
            self.streams[stream_id] = state
        else:
            self.streams.pop(stream_id, None)

    def _idle(self, kind: int, stream_id: int) -> None:
        """Count a frame without content. A peer that sends only such frames costs time and gives nothing.

        Raises:
          LimitExceeded: there were too many consecutive ones.
        """
        if not self._idle_frames:
            self._padding_before = self._padding
        self._idle_frames += 1
        if self._idle_frames > self._limits.max_idle_frames:
            rule = f"more than {self._limits.max_idle_frames} consecutive idle frames"
            raise LimitExceeded.of(self.describe(kind), stream_id, rule)

    def _count_padding(self) -> None:
        """Count a frame of padding that has begun, or more of its bytes.

        Raises:
          LimitExceeded: there was too much of it.
        """
        kind = self.PADDING
        if self._paddings != self.decoder.frames[kind]:
            self._paddings = self.decoder.frames[kind]
            self._idle(kind, 0)
        self._padding = self.decoder.payload_bytes[kind]
        if self._padding - self._padding_before > self._limits.max_idle_bytes:
            rule = f"more than {self._limits.max_idle_bytes} consecutive bytes of padding"
            raise LimitExceeded.of(self.describe(kind), 0, rule)
