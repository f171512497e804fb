"""The common part of both ends of the protocol: whether a frame is legal now, and its answer (protocol: 4 and 5).

See `_protocol.interface` for the methods and attributes that a connection uses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Final

from trioanytls._protocol import data_blocks
from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.end import IDLING, STREAM_EVENTS, ProtocolEnd
from trioanytls._protocol.events import Event, EventTuple
from trioanytls._protocol.exceptions import DataBlockError, ProtocolViolation
from trioanytls._protocol.limits import ProtocolLimits
from trioanytls._protocol.state_machine import (
    STREAM,
    ConnectionState,
    ConnectionTable,
    StreamAction,
    StreamState,
)
from trioanytls._protocol.stream_ids import OpenedStreamIds

from . import frames
from .frame_decoder import FrameDecoder
from .frames import FrameType, describe
from .padding import PADDING_FRAMES

# Not looked up for each frame, as in the decoder.
_STREAM: Final = int(FrameType.STREAM)
_DATA: Final = int(FrameType.STREAM_DATA)
_PADDING: Final = int(FrameType.PADDING)
_CLOSING: Final = ConnectionState.CLOSING
_CLOSING_FRAMES: Final = (FrameType.ALERT, FrameType.CLOSE)


class BaseProtocol(ProtocolEnd):
    """The common part of both ends.

    Attributes:
      opened_ids: the ids of all streams that were ever opened.
    """

    PADDING = _PADDING
    STREAM = STREAM
    FRAMES_TO_SEND = MappingProxyType(
        {
            StreamAction.SEND_OPEN: frames.encode_open,
            StreamAction.SEND_ACK: frames.encode_ack,
            StreamAction.SEND_RST: frames.encode_rst,
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
        self.decoder = FrameDecoder(limits.max_control_payload)
        self.opened_ids = OpenedStreamIds()
        self._handlers: dict[int, Callable[[int, object], EventTuple | None]] = {
            FrameType.ALERT: self._alert,
            FrameType.CLOSE: self._close,
            FrameType.PINGPONG: self._pingpong,
        }

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
        before = self.state
        try:
            for frame in self.decoder.decode(data):
                kind, stream_id, payload = frame
                before = self.state
                after = self._table[self.state][kind]
                if after is not self.state:
                    if isinstance(after, str):
                        raise ProtocolViolation.of(describe(kind), stream_id, after)
                    self.state = after
                elif after >= _CLOSING and kind not in _CLOSING_FRAMES:
                    # The connection is closing. Only the peer's own ALERT or CLOSE still has a meaning.
                    continue
                if kind == _DATA and stream_id in self.streams:
                    # Legal in every open state, and changes none of them. The table says the same, but is slower.
                    if payload:
                        self._idle_frames = 0
                    else:
                        self._idle(kind, stream_id)
                    yield frame
                elif kind >= _STREAM:
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
        entry = STREAM[self.stream_state(stream_id)][kind]
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
        if action in IDLING and not payload:
            self._idle(kind, stream_id)
        else:
            self._idle_frames = 0
        self._enter(stream_id, after)
        return STREAM_EVENTS.get(action)

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
        self.replies.append(frames.encode_pingpong())
        return None

    # Actions of the application

    def ping(self) -> bytes:
        """Return the PINGPONG frame to send. One may be outstanding at a time. Its answer is `Event.PONG`."""
        self._ping_outstanding = True
        return frames.encode_pingpong()


def block_of(payload: object) -> bytes:
    """Return the data block that a frame carries."""
    return payload if isinstance(payload, bytes) else b""
