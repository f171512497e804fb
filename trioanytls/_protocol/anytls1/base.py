"""Both ends of the protocol without I/O: what a frame means now, and what is to be answered (protocol: 4 and 5).

Bytes go in through `receive`, which yields events; answers collect in `replies`, to be sent in that order. What the
application does is a method that returns the frame to send. Nothing here knows the time, and nothing waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from trioanytls._protocol import data_blocks
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.events import Event, EventTuple
from trioanytls._protocol.exceptions import DataBlockError, LimitExceeded, ProtocolViolation
from trioanytls._protocol.limits import ProtocolLimits
from trioanytls._protocol.state_machine import (
    STREAM,
    ConnectionEvent,
    ConnectionState,
    ConnectionTable,
    StreamAction,
    StreamEvent,
    StreamState,
)
from trioanytls._protocol.stream_ids import OpenedStreamIds

from . import frames
from .frame_decoder import FrameDecoder
from .frames import FrameType

_DATA: Final = int(FrameType.STREAM_DATA)
_PADDING: Final = int(FrameType.PADDING)
_ENDING: Final = (FrameType.ALERT, FrameType.CLOSE)
_DELIVER: Final = StreamAction.DELIVER
_STREAM_EVENTS: Final = {
    StreamAction.REFRESH: Event.REFRESHED,
    StreamAction.DELIVER: Event.DATA,
    StreamAction.ACCEPT: Event.OPENED,
    StreamAction.CONFIRM: Event.ACKNOWLEDGED,
    StreamAction.END: Event.ENDED,
    StreamAction.REFUSE: Event.REFUSED,
}
_FRAMES_TO_SEND: Final[dict[StreamAction, Callable[[int], bytes]]] = {
    StreamAction.SEND_OPEN: frames.encode_open,
    StreamAction.SEND_ACK: frames.encode_ack,
    StreamAction.SEND_RST: frames.encode_rst,
}

# What a frame of a stream does when it does nothing.
_IDLING: Final = (StreamAction.REFRESH, StreamAction.DROP)
# What this end does to streams that may make frames of the peer come late.
_CROSSING: Final = (StreamAction.SEND_OPEN, StreamAction.SEND_RST)


class BaseProtocol:
    """What both ends have in common.

    Attributes:
      state: where this end stands.
      streams: the state of each open stream, by its id.
      decoder: what takes the bytes apart; it counts frames.
      replies: encoded frames that the peer's frames ask for; whoever sends them takes them out.
      version: the version agreed upon, None before that.
    """

    def __init__(self, table: ConnectionTable, limits: ProtocolLimits) -> None:
        self.state = ConnectionState.TLS
        self.streams: dict[int, StreamState] = {}
        self.decoder = FrameDecoder(limits.max_control_payload)
        self.replies: list[bytes] = []
        self.version: int | None = None
        self._table = table
        self._limits = limits
        # Frames in a row that carried nothing; PADDING frames that were counted, its bytes up to now, and before the
        # first of those frames.
        self._idle_frames = 0
        self._paddings = 0
        self._padding = 0
        self._padding_before = 0
        self._opened = OpenedStreamIds()
        self._ping_outstanding = False
        # Set when what arrives cannot be read any more: it is ignored.
        self._deaf = False
        self._handlers: dict[int, Callable[[int, object], EventTuple | None]] = {
            FrameType.ALERT: self._alert,
            FrameType.CLOSE: self._close,
            FrameType.PINGPONG: self._pingpong,
        }

    # What arrives

    def receive(self, data: bytes | memoryview) -> Iterator[EventTuple]:
        """The events that `data` brings. Exhaust the iterator before the next call.

        Raises:
          ProtocolViolation: the peer broke the protocol; what came before that has been yielded. `unconsumed` are
            the bytes from the offending frame on.
          AuthenticationFailed: (server) the client is not one of ours; `unconsumed` is all that it sent.
        """
        if self._deaf:
            return
        before = self.state
        try:
            for frame in self.decoder.decode(data):
                kind, stream_id, payload = frame
                before = self.state
                after = self._table[self.state][kind]
                if after is not self.state:
                    if isinstance(after, str):
                        raise ProtocolViolation.of(kind, stream_id, after)
                    self.state = after
                elif after >= ConnectionState.CLOSING and kind not in _ENDING:
                    # The end has begun; what still arrives has no meaning, but that the peer leaves as well.
                    continue
                if kind == _DATA and stream_id in self.streams:
                    # Legal in every open state, and changes none: the table says the same, in more time.
                    if payload:
                        self._idle_frames = 0
                    else:
                        self._idle(kind, stream_id)
                    yield frame
                elif kind >= FrameType.STREAM:
                    event = self._stream_frame(kind, stream_id, payload)
                    if event is not None:
                        yield event, stream_id, payload
                elif kind == _PADDING:
                    self._count_padding()
                elif (handler := self._handlers.get(kind)) is not None:
                    answer = handler(stream_id, payload)
                    if answer is not None:
                        yield answer
                before = self.state
        except ProtocolViolation:
            # Nobody knows where the next frame would begin.
            self._deaf = True
            # Behind the end, what cannot be read has no meaning either.
            if before < ConnectionState.CLOSING:
                raise

    @property
    def unconsumed(self) -> bytes:
        """Where `receive` has raised, the bytes that the protocol did not consume; to be asked for at once."""
        return self.decoder.unconsumed

    @property
    def incomplete(self) -> bytes:
        """The bytes that have not made a frame yet, for whoever takes over when no more come."""
        return self.decoder.incomplete

    def stream_state(self, stream_id: int) -> StreamState:
        """Where a stream stands, whether it is open, was, or never was."""
        state = self.streams.get(stream_id)
        if state is None:
            state = StreamState.CLOSED if stream_id in self._opened else StreamState.IDLE
        return state

    def _stream_frame(self, kind: int, stream_id: int, payload: object) -> Event | None:
        entry = STREAM[self.stream_state(stream_id)][kind]
        if isinstance(entry, str):
            raise ProtocolViolation.of(kind, stream_id, entry)
        action, after = entry
        if action is StreamAction.ACCEPT:
            # Ids MUST increase (spec: Streams / Explicit Data Stream Identifiers); gaps are legal.
            if stream_id <= self._opened.highest:
                rule = f"stream ids must increase, but {self._opened.highest} was opened before"
                raise ProtocolViolation.of(kind, stream_id, rule)
            self._opened.add(stream_id)
        # Data that is late for a stream is no idling: it was under way when the stream was closed here.
        if action in _IDLING and not payload:
            self._idle(kind, stream_id)
        else:
            self._idle_frames = 0
        self._enter(stream_id, after)
        return _STREAM_EVENTS.get(action)

    def _enter(self, stream_id: int, state: StreamState) -> None:
        if state is not StreamState.CLOSED:
            self.streams[stream_id] = state
        else:
            self.streams.pop(stream_id, None)

    def _idle(self, kind: int, stream_id: int) -> None:
        """A frame has come that carries nothing; a peer that sends nothing else only keeps us busy."""
        if not self._idle_frames:
            self._padding_before = self._padding
        self._idle_frames += 1
        if self._idle_frames > self._limits.max_idle_frames:
            rule = f"more than {self._limits.max_idle_frames} consecutive idle frames"
            raise LimitExceeded.of(kind, stream_id, rule)

    def _count_padding(self) -> None:
        """PADDING has begun, or more of it has come."""
        if self._paddings != self.decoder.frames[_PADDING]:
            self._paddings = self.decoder.frames[_PADDING]
            self._idle(_PADDING, 0)
        self._padding = self.decoder.payload_bytes[_PADDING]
        if self._padding - self._padding_before > self._limits.max_idle_bytes:
            rule = f"more than {self._limits.max_idle_bytes} consecutive bytes of padding"
            raise LimitExceeded.of(_PADDING, 0, rule)

    def _alert(self, stream_id: int, payload: object) -> EventTuple:
        try:
            text = data_blocks.parse_text(block_of(payload))
        except DataBlockError as error:
            raise ProtocolViolation.of(FrameType.ALERT, stream_id, data_blocks.redacted_rule(error)) from None
        return Event.ALERTED, 0, text

    def _close(self, _stream_id: int, payload: object) -> EventTuple:
        code = payload if isinstance(payload, int) else CloseCode.PROTOCOL_ERROR
        return Event.LEFT, 0, CloseCode.from_wire(code)

    def _pingpong(self, _stream_id: int, _payload: object) -> EventTuple | None:
        # One that is outstanding is answered by whichever PINGPONG comes next, also by the peer's own request: then no
        # exchange can go on for ever (protocol: 4).
        if self._ping_outstanding:
            self._ping_outstanding = False
            return Event.PONG, 0, None
        self.replies.append(frames.encode_pingpong())
        return None

    # What the application does

    def handshake_done(self) -> None:
        """TLS is up: the connection begins."""
        after = self._table[self.state][ConnectionEvent.HANDSHAKE]
        if isinstance(after, str):
            raise RuntimeError(after)
        self.state = after

    def ping(self) -> bytes:
        """The PINGPONG frame to send. One is outstanding at a time; its answer is `Event.PONG`."""
        self._ping_outstanding = True
        return frames.encode_pingpong()

    def close_stream(self, stream_id: int) -> bytes | None:
        """Close a stream: the RST frame to send, None where none is to be."""
        return self._stream_event(stream_id, StreamEvent.CLOSE)

    def _stream_event(self, stream_id: int, event: StreamEvent) -> bytes | None:
        entry = STREAM[self.stream_state(stream_id)][event]
        assert not isinstance(entry, str)  # noqa: S101 - a local event breaks no rule of the wire; a test walks the table
        action, after = entry
        if action is StreamAction.MISUSE:
            raise RuntimeError(f"stream {stream_id}: {event.name.lower()} is not for this end, or not now")
        if action in _CROSSING:
            # What comes late for the stream, since the peer does not know yet, is no idling.
            self._idle_frames = 0
        self._enter(stream_id, after)
        encode = _FRAMES_TO_SEND.get(action)
        return encode(stream_id) if encode else None

    def leave(self) -> None:
        """This end leaves: what arrives from here on is ignored."""
        self._move(ConnectionEvent.LEAVE)

    def transport_closed(self) -> None:
        """The transport has ended."""
        self._move(ConnectionEvent.TRANSPORT_CLOSED)

    def _move(self, event: ConnectionEvent) -> None:
        after = self._table[self.state][event]
        assert not isinstance(after, str)  # noqa: S101 - leaving is legal in every state; a test walks the table
        self.state = after


def block_of(payload: object) -> bytes:
    """Return the payload of a frame that has a data block."""
    return payload if isinstance(payload, bytes) else b""
