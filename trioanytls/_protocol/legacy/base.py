"""The common part of both ends of the legacy format (legacy: 3).

See `_protocol.interface` for the methods and attributes that a connection uses.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Final

from trioanytls._protocol.close_codes import CloseCode
from trioanytls._protocol.end import IDLING, STREAM_EVENTS, ProtocolEnd
from trioanytls._protocol.events import Event, EventTuple
from trioanytls._protocol.exceptions import NotSupported, ProtocolViolation
from trioanytls._protocol.limits import ProtocolLimits
from trioanytls._protocol.state_machine import (
    ConnectionState,
    ConnectionTable,
    StreamAction,
    StreamState,
)
from trioanytls._protocol.text import one_line

from . import frames
from .frame_decoder import FrameDecoder
from .frames import UNKNOWN, Command
from .padding import PADDING_FRAMES
from .states import STREAM

#: The version that this package speaks. It speaks version 1 as well.
VERSION: Final = 2

# Looking up a member of an enum takes 0.2 us, a sixth of the time for a small frame: not in the loop over frames.
_PSH: Final = int(Command.PSH)
_WASTE: Final = int(Command.WASTE)
_DATA: Final = int(Event.DATA)
_OPENING: Final = StreamState.OPENING
_CLOSING: Final = ConnectionState.CLOSING
_MAX_TEXT: Final = 512


class LegacyProtocol(ProtocolEnd):
    """The common part of both ends.

    Attributes:
      version: the version agreed upon: 2 if the peer speaks it, 1 if it is known not to. None before that.
    """

    PADDING = Command.WASTE
    STREAM = STREAM
    FRAMES_TO_SEND = MappingProxyType(
        {
            StreamAction.SEND_OPEN: (functools.partial(frames.encode, Command.SYN),),
            StreamAction.SEND_ACK: (functools.partial(frames.encode, Command.SYNACK),),
            StreamAction.SEND_RST: (functools.partial(frames.encode, Command.FIN),),
        }
    )
    name: Final = "legacy"
    greeting: Final = frames.describe(Command.SETTINGS)
    padding_frames: Final = PADDING_FRAMES
    #: A running connection is shaped with a new scheme at once.
    follows_scheme: Final = True
    #: The format has no CLOSE.
    ends_with_transport: Final = True
    max_data: Final = frames.MAX_DATA
    #: A peer closes the session if it cannot write a control frame for 5 s (legacy: 3, "Errors and ends").
    max_stall_timeout: Final = 4.0

    def __init__(self, table: ConnectionTable, limits: ProtocolLimits) -> None:
        super().__init__(table, limits)
        self.extensions = frozenset()
        self.decoder = FrameDecoder(min(limits.max_control_payload, frames.MAX_DATA), join_data=True)
        self._handlers: dict[int, Callable[[int, bytes], EventTuple | None]] = {
            Command.ALERT: self._alert,
            Command.HEART_REQUEST: self._heart_request,
            Command.HEART_RESPONSE: self._heart_response,
        }

    def describe(self, kind: int) -> str:
        """Return the name of a command for texts."""
        return frames.describe(kind)

    decoder: FrameDecoder

    @property
    def data_bytes_received(self) -> int:
        """The number of bytes received for streams."""
        return self.decoder.payload_bytes[Command.PSH]

    # Encoding

    data_prefix = staticmethod(frames.data_prefix)
    encode_length = staticmethod(frames.encode_length)

    def encode_close(self, _code: CloseCode) -> bytes | None:
        """Return None: the format has no CLOSE. A session ends with the transport."""
        return None

    def encode_alert(self, text: str) -> bytes | None:
        """Return the frame that tells the peer about a violation, None if this end sends none."""
        raise NotImplementedError

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
        streams = self.streams
        try:
            for command, stream_id, data_of_frame in self.decoder.decode(data):
                if self.state >= _CLOSING:
                    # The connection closes: everything that still arrives is meaningless, except that the peer leaves.
                    continue
                if command == _PSH and stream_id in streams:
                    if data_of_frame:
                        self._idle_frames = 0
                    else:
                        self._idle(command, stream_id)
                    if streams[stream_id] is _OPENING and not self.acknowledges:
                        if self.version is None:
                            # ServerSettings of a server of version 2 come before all frames of streams.
                            self.version = 1
                            yield Event.NEGOTIATED, 0, None
                        # Version 1 has no SYNACK: the first data says that the stream was accepted.
                        streams[stream_id] = StreamState.ESTABLISHED
                        yield Event.ACKNOWLEDGED, stream_id, None
                    yield _DATA, stream_id, data_of_frame
                    continue
                after = self._table[self.state][min(command, UNKNOWN)]
                if isinstance(after, str):
                    raise ProtocolViolation(after)
                if command == _WASTE:
                    self._count_padding()
                    continue
                event = self._handle(command, stream_id, data_of_frame or b"")
                if event is not None:
                    yield event
        except ProtocolViolation:
            # The beginning of the next frame is unknown.
            self._violated = True
            if self.state < ConnectionState.CLOSING:
                raise

    @property
    def acknowledges(self) -> bool:
        """Whether streams are accepted by SYNACK, which version 1 does not have, as far as this end knows."""
        return self.version is not None and self.version >= VERSION

    def stream_state(self, stream_id: int) -> StreamState:
        """Return the state of a stream. One that is closed is idle: its id may be used again."""
        return self.streams.get(stream_id, StreamState.IDLE)

    def _handle(self, command: int, stream_id: int, text: bytes) -> EventTuple | None:
        handler = self._handlers.get(command)
        if handler is not None:
            return handler(stream_id, text)
        # Not the command itself: the table has the actions of the application, too.
        entry = STREAM[self.stream_state(stream_id)].get(min(command, UNKNOWN))
        if entry is None or isinstance(entry, str):
            # An unknown command, or one that is meant for the other side.
            self._idle(command, stream_id)
            return None
        action, after = entry
        # Late data was on its way when the stream was closed: megabytes, in a download. Closed ids are not remembered,
        # so that data of a stream that was never open looks the same.
        if action in IDLING and not (command == _PSH and text):
            self._idle(command, stream_id)
        else:
            self._idle_frames = 0
        self._enter(stream_id, after)
        event = STREAM_EVENTS.get(action)
        return None if event is None else (event, stream_id, None)

    def _alert(self, stream_id: int, text: bytes) -> EventTuple | None:
        if not text:
            self._idle(Command.ALERT, stream_id)
            return None
        self.leave()
        return Event.ALERTED, 0, decode_text(text)

    def _heart_request(self, stream_id: int, _text: bytes) -> None:
        self.replies.append(frames.encode(Command.HEART_RESPONSE, stream_id))

    def _heart_response(self, stream_id: int, _text: bytes) -> EventTuple | None:
        if not self._ping_outstanding:
            self._idle(Command.HEART_RESPONSE, stream_id)
            return None
        self._ping_outstanding = False
        return Event.PONG, 0, None

    # Actions of the application

    @property
    def can_ping(self) -> bool:
        """Whether the peer is known to answer HeartRequest, which version 1 ignores."""
        return self.acknowledges

    def ping(self) -> bytes:
        """Return the HeartRequest frame to send. Its answer is `Event.PONG`.

        Raises:
          NotSupported: the peer is not known to speak version 2.
        """
        if not self.can_ping:
            raise NotSupported("the peer has not said that it speaks version 2, which has the heartbeat")
        self._ping_outstanding = True
        return frames.encode(Command.HEART_REQUEST)


def decode_text(text: bytes) -> str:
    """Return a peer's text as one line of printable characters."""
    return one_line(text.decode("utf-8", "replace"), _MAX_TEXT)
