"""The client's end of the legacy format (legacy: 3 and 4)."""

from __future__ import annotations

from trioanytls._protocol.credentials import hash_password
from trioanytls._protocol.events import Event, EventTuple
from trioanytls._protocol.exceptions import LimitExceeded, SchemeError
from trioanytls._protocol.limits import ProtocolLimits
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._protocol.state_machine import ConnectionState, StreamEvent, StreamState
from trioanytls._protocol.stream_codes import StreamReason

from . import frames
from .base import VERSION, LegacyProtocol, decode_text
from .frames import MAX_STREAM_ID, Command
from .preamble import encode_preamble
from .scheme import parse_scheme
from .settings import format_settings, parse_settings, parse_version
from .states import CLIENT


class LegacyClientProtocol(LegacyProtocol):
    """The client's end."""

    #: The frames of streams that the first Write waits for: SYN and the first PSH.
    frames_in_first_write = 2
    first_frame_names = ("preamble", "Settings")
    #: Each frame is a Write, SYN too.
    opens_alone = True

    def __init__(
        self,
        password: str,
        scheme: PaddingScheme,
        limits: ProtocolLimits = ProtocolLimits(),
        identifier: str = "",
    ) -> None:
        super().__init__(CLIENT, limits)
        self._password_hash = hash_password(password)
        self._scheme = scheme
        self._identifier = identifier
        self._last_id = 0
        self._handlers |= {
            Command.SERVER_SETTINGS: self._server_settings,
            Command.UPDATE_PADDING_SCHEME: self._new_scheme,
            Command.SYN: self._syn,
            Command.SYNACK: self._synack,
        }

    def first_writes(self, padding_length: int) -> tuple[bytes, bytes]:
        """Return the preamble, which is a Write alone, and Settings, which the first frames follow in one Write."""
        settings = {"v": str(VERSION), "client": self._identifier, "padding-md5": self._scheme.digest}
        settings_frame = frames.encode(Command.SETTINGS, data=format_settings(settings))
        return encode_preamble(self._password_hash, padding_length), settings_frame

    def encode_alert(self, _text: str) -> bytes | None:
        """Return None: only servers send Alert."""
        return None

    @property
    def exhausted(self) -> bool:
        """Whether all stream ids are used up."""
        return self._last_id >= MAX_STREAM_ID

    def open_stream(self) -> tuple[int, bytes]:
        """Open the next stream. Return its id and the frame to send.

        Raises:
          RuntimeError: all stream ids are used up.
        """
        if self.exhausted:
            raise RuntimeError("all stream ids of this connection are used up")
        self._last_id += 1
        # The id is not in use, so the table says SEND_OPEN.
        (frame,) = self._stream_event(self._last_id, StreamEvent.OPEN)
        return self._last_id, frame

    def _handle(self, command: int, stream_id: int, text: bytes) -> EventTuple | None:
        if command == Command.FIN and self.version is None and stream_id in self.streams:
            # As with data: the server accepts the password, and speaks version 1.
            self.version = 1
        return super()._handle(command, stream_id, text)

    def _server_settings(self, _stream_id: int, text: bytes) -> EventTuple | None:
        self._idle(Command.SERVER_SETTINGS, 0)
        version = parse_version(parse_settings(text))
        if self.state is ConnectionState.CONFIRMED and version == self.version:
            return None
        self.version = version
        self.state = ConnectionState.CONFIRMED
        return Event.NEGOTIATED, 0, None

    def _new_scheme(self, stream_id: int, text: bytes) -> EventTuple | None:
        self._idle(Command.UPDATE_PADDING_SCHEME, stream_id)
        name, limits = self.describe(Command.UPDATE_PADDING_SCHEME), self._limits
        if len(text) > limits.max_scheme_size:
            raise LimitExceeded(f"{name}: scheme of {len(text)} bytes exceeds the limit of {limits.max_scheme_size}")
        try:
            scheme = parse_scheme(text)
        except SchemeError:
            # The old one stays in use.
            return None
        excess = limits.find_excess(scheme)
        if excess is not None:
            what, value, limit = excess
            raise LimitExceeded(f"{name}: the scheme's {what} ({value}) exceeds the limit of {limit}")
        self._scheme = scheme
        return Event.SCHEME, 0, scheme

    def _syn(self, stream_id: int, _text: bytes) -> None:
        """Refuse a stream: only clients open them."""
        self._idle(Command.SYN, stream_id)
        self.replies.append(frames.encode(Command.FIN, stream_id))

    def _synack(self, stream_id: int, text: bytes) -> EventTuple | None:
        state = self.streams.get(stream_id)
        if state is None or (state is not StreamState.OPENING and not text):
            self._idle(Command.SYNACK, stream_id)
            return None
        self._idle_frames = 0
        if not text:
            self.streams[stream_id] = StreamState.ESTABLISHED
            return Event.ACKNOWLEDGED, stream_id, None
        del self.streams[stream_id]
        self.replies.append(frames.encode(Command.FIN, stream_id))
        return Event.REFUSED, stream_id, StreamReason(text=decode_text(text))
