"""The common part of both ends of the protocol: whether a frame is legal now, and its answer (protocol: 4 and 5).

See `_protocol.interface` for the methods and attributes that a connection uses.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar, Final

from trioanytls._protocol import data_blocks
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.end import IDLING, STREAM_EVENTS, ProtocolEnd
from trioanytls._protocol.events import Event, EventTuple
from trioanytls._protocol.exceptions import DataBlockError, ProtocolViolation
from trioanytls._protocol.extensions import NO_EXTENSIONS, Extension, ExtensionOffer
from trioanytls._protocol.limits import ProtocolLimits
from trioanytls._protocol.state_machine import (
    RECEIVING,
    STREAM,
    STREAM_WITH_FIN,
    ConnectionState,
    ConnectionTable,
    StreamAction,
    StreamEvent,
    StreamState,
)
from trioanytls._protocol.stream_codes import MAX_REASON, NO_REASON, StreamCode, StreamReason
from trioanytls._protocol.stream_ids import OpenedStreamIds
from trioanytls._protocol.text import one_line

from . import frames
from .frame_decoder import FrameDecoder
from .frames import FrameType, describe
from .padding import PADDING_FRAMES

# Not looked up for each frame, as in the decoder.
_STREAM: Final = int(FrameType.STREAM)
_DATA: Final = int(FrameType.STREAM_DATA)
_PADDING: Final = int(FrameType.PADDING)
_WINDOW: Final = int(FrameType.STREAM_WINDOW)
_RESET: Final = int(FrameType.STREAM_RESET)
_GOAWAY: Final = int(FrameType.GOAWAY)
_CLOSING: Final = ConnectionState.CLOSING
_CLOSING_FRAMES: Final = (FrameType.ALERT, FrameType.CLOSE)
# The frames of each extension.
_EXTENSION_FRAMES: Final[dict[Extension, tuple[FrameType, ...]]] = {
    "window": (FrameType.STREAM_WINDOW,),
    "fin": (FrameType.STREAM_FIN,),
    "reset": (FrameType.STREAM_RESET,),
    "goaway": (FrameType.GOAWAY,),
}


@functools.cache
def _with_frames(extensions: frozenset[Extension]) -> tuple[frozenset[Extension], frozenset[FrameType]]:
    """Return extensions, and their frames. All connections with the same ones have the same two sets."""
    kinds = frozenset(kind for name, kinds in _EXTENSION_FRAMES.items() if name in extensions for kind in kinds)
    return extensions, kinds


# Replaces the characters that a text block cannot have.
_PRINTABLE: Final = bytes(byte if 0x20 <= byte <= 0x7E else 0x20 for byte in range(256))


class BaseProtocol(ProtocolEnd):
    """The common part of both ends.

    Attributes:
      opened_ids: the ids of all streams that were ever opened.
    """

    PADDING = _PADDING
    STREAM = STREAM
    FRAMES_TO_SEND = MappingProxyType(
        {
            StreamAction.SEND_OPEN: (frames.encode_open,),
            StreamAction.SEND_ACK: (frames.encode_ack,),
            StreamAction.SEND_RST: (frames.encode_rst,),
            StreamAction.SEND_FIN: (frames.encode_fin,),
            StreamAction.SEND_FIN_RST: (frames.encode_fin, frames.encode_rst),
            StreamAction.SEND_RESET: (frames.encode_rst,),
        }
    )
    name: Final = "anytls1"
    greeting: Final = f"{describe(FrameType.CLIENT_NEGO)} on stream {frames.CONTROL_STREAM}"
    padding_frames: Final = PADDING_FRAMES
    #: A new scheme is for later connections (spec: Padding Scheme Update).
    follows_scheme: Final = False
    #: CLOSE ends a connection.
    ends_with_transport: Final = False
    can_ping: Final = True
    acknowledges: Final = True
    #: The most data of one frame that this end sends. The format allows more.
    max_data: Final = 64 * 1024
    #: A peer can do without this end reading for any time.
    max_stall_timeout: Final = math.inf

    decoder: FrameDecoder

    def __init__(self, table: ConnectionTable, limits: ProtocolLimits) -> None:
        super().__init__(table, limits)
        # The ends set it.
        self._offer: ExtensionOffer = NO_EXTENSIONS
        # The ids of the streams on which the peer may send data.
        self._receiving: set[int] = set()
        self.decoder = FrameDecoder(limits.max_control_payload, join_data=True)
        self.opened_ids = OpenedStreamIds()

    def describe(self, kind: int) -> str:
        """Return the name of a frame type for texts."""
        return describe(kind)

    @property
    def data_bytes_received(self) -> int:
        """The number of bytes received for streams."""
        return sum(self.decoder.payload_bytes[FrameType.STREAM :])

    # Encoding

    data_prefix = staticmethod(frames.data_prefix)
    encode_length = staticmethod(frames.encode_length)

    def encode_close(self, code: CloseCode) -> bytes | None:
        """Return the CLOSE frame with this code."""
        return frames.encode_close(code)

    def encode_alert(self, text: str) -> bytes | None:
        """Return the ALERT frame with this text."""
        return frames.encode_alert(data_blocks.format_text(text))

    # Receiving

    def receive(self, data: bytes | memoryview) -> Iterator[EventTuple]:
        """Consume `data` and yield its events. Exhaust the iterator before the next call.

        Raises:
          ProtocolViolation: the peer broke the protocol. The events before that have been yielded. `unconsumed` has
            the bytes from the offending frame on.
          AuthenticationFailed: (server) the client did not authenticate. `unconsumed` has all bytes that it sent.
        """
        if self._violated:
            return
        before, receiving = self.state, self._receiving
        try:
            for frame in self.decoder.decode(data):
                kind, stream_id, payload = frame
                if kind == _DATA and payload and stream_id in receiving and self.state < _CLOSING:
                    # Legal in these states, and changes none of them. The tables say the same, but are slower.
                    self._idle_frames = 0
                    yield frame
                    before = self.state
                    continue
                before = self.state
                after = self._table[self.state][kind]
                if after is not self.state:
                    if isinstance(after, str):
                        raise ProtocolViolation.of(describe(kind), stream_id, after)
                    self.state = after
                elif after >= _CLOSING and kind not in _CLOSING_FRAMES:
                    # The connection is closing. Only the peer's own ALERT or CLOSE still has a meaning.
                    continue
                if kind == _DATA and stream_id in receiving:
                    self._idle(kind, stream_id)
                    yield frame
                elif _STREAM <= kind < _GOAWAY:
                    content: object = payload
                    if kind == _RESET:
                        content = reason_of(stream_id, payload)
                    elif kind == _WINDOW and not payload:
                        raise ProtocolViolation.of(describe(kind), stream_id, "the increment must not be 0")
                    event = self._stream_frame(kind, stream_id, payload)
                    if event is not None:
                        yield event, stream_id, content
                elif kind == _PADDING:
                    self._count_padding()
                elif (handler := self.HANDLERS.get(kind)) is not None:
                    answer = handler(self, stream_id, payload)
                    if answer is not None:
                        yield answer
                before = self.state
        except ProtocolViolation:
            # The beginning of the next frame is unknown.
            self._violated = True
            # While the connection is closing, a violation has no meaning either.
            if before < ConnectionState.CLOSING:
                raise

    def stream_state(self, stream_id: int) -> StreamState:
        """Return the state of a stream, even if it was closed or never opened."""
        state = self.streams.get(stream_id)
        if state is None:
            state = StreamState.CLOSED if stream_id in self.opened_ids else StreamState.IDLE
        return state

    def _stream_frame(self, kind: int, stream_id: int, payload: object) -> Event | None:
        entry = self.STREAM[self.stream_state(stream_id)][kind]
        if isinstance(entry, str):
            raise ProtocolViolation.of(describe(kind), stream_id, entry)
        action, after = entry
        if action is StreamAction.ACCEPT:
            # Ids MUST increase (spec: Streams / Explicit Data Stream Identifiers); gaps are legal.
            if stream_id <= self.opened_ids.highest:
                rule = f"stream ids must increase, but {self.opened_ids.highest} was opened before"
                raise ProtocolViolation.of(describe(kind), stream_id, rule)
            self.opened_ids.add(stream_id)
        # Late data does not count as idle: it was in flight when this end closed the stream.
        if action in IDLING and not (kind == _DATA and payload):
            self._idle(kind, stream_id)
        elif action is not StreamAction.GRANT:
            # Whether a grant of credit is idle depends on the data sent, which this end does not see.
            self._idle_frames = 0
        self._enter(stream_id, after)
        return STREAM_EVENTS.get(action)

    def count_grant(self, stream_id: int, *, idle: bool) -> None:
        """Count a grant of credit as a frame with content, or as an idle one: it answers no data of this end.

        Raises:
          LimitExceeded: there were too many consecutive idle frames.
        """
        if idle:
            self._idle(FrameType.STREAM_WINDOW, stream_id)
        else:
            self._idle_frames = 0

    def _alert(self, stream_id: int, payload: object) -> EventTuple:
        try:
            text = data_blocks.parse_text(block_of(payload))
        except DataBlockError as error:
            raise ProtocolViolation.of(describe(FrameType.ALERT), stream_id, data_blocks.redacted_rule(error)) from None
        return Event.ALERTED, 0, text

    def _close(self, _stream_id: int, payload: object) -> EventTuple:
        code = payload if isinstance(payload, int) else CloseCode.PROTOCOL_ERROR
        return Event.LEFT, 0, CloseCode.from_wire(code)

    def _pingpong(self, _stream_id: int, _payload: object) -> EventTuple | None:
        # The next PINGPONG answers an outstanding one, even if it was meant as a request. This ensures that no exchange
        # continues forever (protocol: 4).
        if self._ping_outstanding:
            self._ping_outstanding = False
            return Event.PONG, 0, None
        self.peer_pings = True
        self.replies.append(frames.encode_pingpong())
        return None

    # Extensions

    def _agree(self, extensions: frozenset[Extension], send_window: int | None) -> None:
        """Put these extensions in force (extensions: 1)."""
        self.extensions, self.decoder.extension_frames = _with_frames(extensions)
        if "window" in extensions:
            self.receive_window, self.send_window = self._offer.window, send_window
        if "fin" in extensions:
            self.STREAM = STREAM_WITH_FIN

    def _has(self, extension: Extension) -> bool:
        return self.extensions is not None and extension in self.extensions

    def _enter(self, stream_id: int, state: StreamState) -> None:
        super()._enter(stream_id, state)
        if state in RECEIVING:
            self._receiving.add(stream_id)
        else:
            self._receiving.discard(stream_id)

    def encode_reset(self, stream_id: int, reason: StreamReason = NO_REASON) -> bytes:
        """Return RST, or STREAM_RESET if there is a reason and the peer knows that frame (extensions: 4)."""
        if not (reason and self._has("reset")):
            return super().encode_reset(stream_id)
        text = reason.text.encode("ascii", "replace").translate(_PRINTABLE)[:MAX_REASON]
        return frames.encode_reset(stream_id, reason.code, text)

    def finish_stream(self, stream_id: int) -> tuple[bytes, ...]:
        """Send no more data on a stream. Return the frames to send, none if STREAM_FIN was sent before.

        Raises:
          NotSupported: the extension `fin` is not in force.
        """
        if not self._has("fin"):
            return super().finish_stream(stream_id)
        return self._stream_event(stream_id, StreamEvent.FINISH)

    def encode_window(self, stream_id: int, increment: int) -> bytes:
        """Return the STREAM_WINDOW frame with these bytes of credit."""
        if self.receive_window is None:
            return super().encode_window(stream_id, increment)
        return frames.encode_window(stream_id, increment)

    def encode_goaway(self, highest_id: int) -> bytes:
        """Return the GOAWAY frame with this id."""
        if not self._has("goaway"):
            return super().encode_goaway(highest_id)
        return frames.encode_goaway(highest_id)

    # Actions of the application

    def ping(self) -> bytes:
        """Return the PINGPONG frame to send. One may be outstanding at a time. Its answer is `Event.PONG`."""
        self._ping_outstanding = True
        return frames.encode_pingpong()

    #: The methods for control frames, by type. They are not bound to each object: that took 600 bytes and a cycle of
    #: references.
    HANDLERS: ClassVar[Mapping[int, Callable[[Any, int, object], EventTuple | None]]] = {
        FrameType.ALERT: _alert,
        FrameType.CLOSE: _close,
        FrameType.PINGPONG: _pingpong,
    }


def reason_of(stream_id: int, payload: object) -> StreamReason:
    """Return the reason in a STREAM_RESET frame.

    Raises:
      ProtocolViolation: its text is not a text block.
    """
    code, block = payload if isinstance(payload, tuple) else (0, b"")
    try:
        text = data_blocks.parse_text(block)
    except DataBlockError as error:
        kind = FrameType.STREAM_RESET
        raise ProtocolViolation.of(describe(kind), stream_id, data_blocks.redacted_rule(error)) from None
    return StreamReason(StreamCode.from_wire(code), one_line(text))


def block_of(payload: object) -> bytes:
    """Return the data block that a frame carries."""
    return payload if isinstance(payload, bytes) else b""
