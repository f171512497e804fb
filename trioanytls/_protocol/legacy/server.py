"""The server's end of the legacy format (legacy: 2 and 3)."""

from __future__ import annotations

import functools

from trioanytls._protocol.credentials import UserTable
from trioanytls._protocol.events import Event, EventTuple
from trioanytls._protocol.limits import ProtocolLimits
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._protocol.server_end import ServerEnd
from trioanytls._protocol.state_machine import ConnectionState, StreamEvent
from trioanytls._protocol.stream_codes import NO_REASON, StreamReason
from trioanytls._protocol.text import one_line

from . import frames
from .base import VERSION, LegacyProtocol
from .frames import Command
from .preamble import PreambleDecoder
from .settings import format_settings, parse_settings, parse_version
from .states import SERVER


class LegacyServerProtocol(ServerEnd, LegacyProtocol):
    """The server's end."""

    def __init__(self, users: UserTable, scheme: PaddingScheme, limits: ProtocolLimits = ProtocolLimits()) -> None:
        super().__init__(SERVER, limits, users, scheme, PreambleDecoder(limits.max_auth_padding))
        self._handlers |= {Command.SETTINGS: self._settings}

    def encode_alert(self, text: str) -> bytes | None:
        """Return the Alert frame that tells the client about a violation."""
        return frames.encode(Command.ALERT, data=text.encode("utf-8", "replace"))

    def acknowledge(self, stream_id: int) -> bytes | None:
        """Accept a stream. Return the SYNACK frame to send, None if there is none to send."""
        synack = self._stream_event(stream_id, StreamEvent.ACKNOWLEDGE)
        return synack[0] if synack and self.acknowledges else None

    @property
    def highest_id(self) -> int:
        """0: ids are used again, so that the highest one says nothing."""
        return 0

    def refuse(self, stream_id: int, reason: StreamReason = NO_REASON) -> tuple[bytes, ...]:
        """Refuse a stream. Return the frames to send: SYNACK with the text, if the client has version 2, and FIN."""
        fin = self.close_stream(stream_id)
        if not fin or not reason.text or not self.acknowledges:
            return fin
        data = reason.text.encode("utf-8", "replace")[: frames.MAX_DATA]
        return frames.encode(Command.SYNACK, stream_id, data), *fin

    @functools.cached_property
    def _update(self) -> bytes:
        """The UpdatePaddingScheme frame: one object for all answers, since many short Settings may come in one read."""
        return frames.encode(Command.UPDATE_PADDING_SCHEME, data=self._scheme.text)

    def _settings(self, stream_id: int, text: bytes) -> EventTuple | None:
        if not text:
            self._idle(Command.SETTINGS, stream_id)
            return None
        if self.state is ConnectionState.OPEN:
            self._idle(Command.SETTINGS, stream_id)
        settings = parse_settings(text)
        version = parse_version(settings)
        self.version = min(version, VERSION)
        self.peer_identifier = one_line(settings.get("client", ""))
        # In this order, and before any SYNACK (legacy: 3, "Server on Settings").
        if settings.get("padding-md5") != self._scheme.digest:
            self.replies.append(self._update)
        if version >= VERSION:
            self.replies.append(frames.encode(Command.SERVER_SETTINGS, data=format_settings({"v": str(VERSION)})))
        self.state = ConnectionState.OPEN
        return Event.NEGOTIATED, 0, None
