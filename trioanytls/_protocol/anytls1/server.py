"""The server's end of the protocol (protocol: 4 and 5)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from trioanytls._protocol import data_blocks
from trioanytls._protocol.credentials import UserTable
from trioanytls._protocol.events import Event, EventTuple
from trioanytls._protocol.exceptions import AuthenticationFailed, VersionNotSupported
from trioanytls._protocol.limits import ProtocolLimits
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._protocol.state_machine import SERVER, ConnectionState, StreamEvent

from . import frames
from .auth_decoder import AuthDecoder
from .base import BaseProtocol, block_of
from .frames import FrameType, describe
from .negotiation import VERSIONS, NegotiationKeys

_MD5 = re.compile(r"[0-9a-f]{32}")


class ServerProtocol(BaseProtocol):
    """The server's end.

    Attributes:
      user: the name of the authenticated user; None before that.
      peer_identifier: the implementation's name and version from the client's NEGO; None before that.
    """

    def __init__(self, users: UserTable, scheme: PaddingScheme, limits: ProtocolLimits = ProtocolLimits()) -> None:
        super().__init__(SERVER, limits)
        self.user: str | None = None
        self.peer_identifier: str | None = None
        self._users = users
        self._scheme = scheme
        self._auth: AuthDecoder | None = AuthDecoder(limits.max_auth_padding)
        # The user with the hash received, before the frame is complete.
        self._found: str | None = None
        self._handlers[FrameType.CLIENT_NEGO] = self._nego

    def receive(self, data: bytes | memoryview) -> Iterator[EventTuple]:
        """See `BaseProtocol.receive`."""
        auth = self._auth
        if auth is None or self.state is not ConnectionState.WAIT_AUTH:
            return super().receive(data)
        return self._authenticate(auth, data)

    def _authenticate(self, auth: AuthDecoder, data: bytes | memoryview) -> Iterator[EventTuple]:
        auth.feed(bytes(data))
        if auth.password_hash is None:
            return
        # Fail at an unknown hash without waiting for the frame's padding (protocol: 4).
        if self._found is None:
            self._found = self._users.find(auth.password_hash)
        if self._found is None:
            raise AuthenticationFailed("no user has this password")
        if auth.rest is None:
            return
        self.user = self._found
        after = self._table[self.state][FrameType.AUTH]
        assert isinstance(after, ConnectionState)  # noqa: S101 - WAIT_AUTH expects AUTH
        self.state = after
        self._auth = None
        self.decoder.frames[FrameType.AUTH] += 1
        yield Event.AUTHENTICATED, 0, self.user
        yield from super().receive(auth.rest)

    @property
    def unconsumed(self) -> bytes:
        """All bytes received, until the client has authenticated. Then see `BaseProtocol.unconsumed`."""
        return bytes(self._auth.received) if self._auth and self._auth.received else super().unconsumed

    @property
    def incomplete(self) -> bytes:
        """All bytes received, until the client has authenticated. Then see `BaseProtocol.incomplete`."""
        return bytes(self._auth.received) if self._auth else super().incomplete

    def acknowledge(self, stream_id: int) -> bytes | None:
        """Accept a stream. Return the STREAM_ACK frame to send, None if it was sent already or the stream is closed."""
        return self._stream_event(stream_id, StreamEvent.ACKNOWLEDGE)

    def refuse(self, stream_id: int, _text: str = "") -> bytes | None:
        """Refuse a stream. Return the RST frame to send. The format has no text for it."""
        return self.close_stream(stream_id)

    def _nego(self, stream_id: int, payload: object) -> EventTuple:
        keys = NegotiationKeys(FrameType.CLIENT_NEGO, stream_id, block_of(payload))
        offered = keys.versions()
        self.peer_identifier = keys.single("client")
        digest = keys.single("padding-md5")
        if not _MD5.fullmatch(digest):
            raise keys.violation("invalid padding-md5: expected 32 lower-case hex digits")
        self.version = next((version for version in VERSIONS if version in offered), None)
        if self.version is None:
            raise VersionNotSupported.of(
                describe(FrameType.CLIENT_NEGO), stream_id, "none of the offered versions is supported"
            )
        # At once, directly followed by the scheme (spec: Version Negotiation; Padding Scheme Update).
        self.replies.append(frames.encode_server_nego(data_blocks.format_key_values({"v": [str(self.version)]})))
        if digest != self._scheme.digest:
            self.replies.append(frames.encode_padding_update_scheme(self._scheme.to_bytes()))
        return Event.NEGOTIATED, 0, None
