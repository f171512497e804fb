"""The server's end of the legacy format (legacy: 2 and 3)."""

from __future__ import annotations

from collections.abc import Iterator

from trioanytls._protocol.credentials import UserTable
from trioanytls._protocol.events import Event, EventTuple
from trioanytls._protocol.exceptions import AuthenticationFailed
from trioanytls._protocol.limits import ProtocolLimits
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._protocol.state_machine import ConnectionState, StreamAction, StreamEvent

from . import frames
from .base import VERSION, LegacyProtocol
from .frames import Command
from .preamble import PreambleDecoder
from .settings import format_settings, parse_settings, parse_version
from .states import SERVER


class LegacyServerProtocol(LegacyProtocol):
    """The server's end.

    Attributes:
      user: the name of the authenticated user; None before that.
      peer_identifier: the name and version that the client's implementation gives itself; None before that.
    """

    def __init__(self, users: UserTable, scheme: PaddingScheme, limits: ProtocolLimits = ProtocolLimits()) -> None:
        super().__init__(SERVER, limits)
        self.user: str | None = None
        self.peer_identifier: str | None = None
        self._users = users
        self._scheme = scheme
        self._preamble: PreambleDecoder | None = PreambleDecoder(limits.max_auth_padding)
        self._found: str | None = None
        self._handlers |= {Command.SETTINGS: self._settings}

    def receive(self, data: bytes | memoryview) -> Iterator[EventTuple]:
        """See `LegacyProtocol.receive`."""
        preamble = self._preamble
        if preamble is None or self.state is not ConnectionState.WAIT_AUTH:
            return super().receive(data)
        return self._authenticate(preamble, data)

    def _authenticate(self, preamble: PreambleDecoder, data: bytes | memoryview) -> Iterator[EventTuple]:
        preamble.feed(bytes(data))
        if preamble.password_hash is None:
            return
        if self._found is None:
            self._found = self._users.find(preamble.password_hash)
        if self._found is None:
            raise AuthenticationFailed("no user has this password")
        if preamble.rest is None:
            return
        self.user = self._found
        self.state = ConnectionState.WAIT_NEGO
        self._preamble = None
        yield Event.AUTHENTICATED, 0, self.user
        yield from super().receive(preamble.rest)

    @property
    def unconsumed(self) -> bytes:
        """All bytes received until the client has authenticated; the bytes from the offending frame on after that."""
        return bytes(self._preamble.received) if self._preamble is not None else super().unconsumed

    @property
    def incomplete(self) -> bytes:
        """The bytes received that do not make a complete preamble or frame yet."""
        return bytes(self._preamble.received) if self._preamble is not None else super().incomplete

    def encode_alert(self, text: str) -> bytes | None:
        """Return the Alert frame that tells the client about a violation."""
        return frames.encode(Command.ALERT, data=text.encode("utf-8", "replace"))

    def acknowledge(self, stream_id: int) -> bytes | None:
        """Accept a stream. Return the SYNACK frame to send, None if there is none to send."""
        return self._stream_event(stream_id, StreamEvent.ACKNOWLEDGE)

    def refuse(self, stream_id: int, text: str = "") -> bytes | None:
        """Refuse a stream. Return the frames to send: SYNACK with the text, if the client has version 2, and FIN."""
        fin = self.close_stream(stream_id)
        if fin is None or not text or not self._synacks:
            return fin
        data = text.encode("utf-8", "replace")[: frames.MAX_DATA]
        return frames.encode(Command.SYNACK, stream_id, data) + fin

    def _encode_action(self, action: StreamAction, stream_id: int) -> bytes | None:
        if action is StreamAction.SEND_ACK and not self._synacks:
            return None
        return super()._encode_action(action, stream_id)

    def _settings(self, stream_id: int, text: bytes) -> EventTuple | None:
        if not text:
            self._idle(Command.SETTINGS, stream_id)
            return None
        if self.state is ConnectionState.OPEN:
            self._idle(Command.SETTINGS, stream_id)
        settings = parse_settings(text)
        version = parse_version(settings)
        self.version = min(version, VERSION)
        self.peer_identifier = settings.get("client", "")
        # In this order, and before any SYNACK (legacy: 3, "Server on Settings").
        if settings.get("padding-md5") != self._scheme.digest:
            self.replies.append(frames.encode(Command.UPDATE_PADDING_SCHEME, data=self._scheme.text))
        if version >= VERSION:
            self.replies.append(frames.encode(Command.SERVER_SETTINGS, data=format_settings({"v": str(VERSION)})))
        self.state = ConnectionState.OPEN
        return Event.NEGOTIATED, 0, None
