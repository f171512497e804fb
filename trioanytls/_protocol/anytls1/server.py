"""The server's end of the protocol (protocol: 4 and 5)."""

from __future__ import annotations

import re
from typing import ClassVar

from trioanytls._protocol import data_blocks
from trioanytls._protocol.credentials import UserTable
from trioanytls._protocol.events import Event, EventTuple
from trioanytls._protocol.exceptions import VersionNotSupported
from trioanytls._protocol.extensions import NO_EXTENSIONS, ExtensionOffer
from trioanytls._protocol.limits import ProtocolLimits
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._protocol.server_end import ServerEnd
from trioanytls._protocol.state_machine import SERVER, StreamEvent
from trioanytls._protocol.stream_codes import NO_REASON, StreamReason

from . import frames
from .auth_decoder import AuthDecoder
from .base import BaseProtocol, block_of
from .frames import FrameType, describe
from .negotiation import VERSIONS, NegotiationKeys, format_extensions

_MD5 = re.compile(r"[0-9a-f]{32}")


class ServerProtocol(ServerEnd, BaseProtocol):
    """The server's end."""

    def __init__(
        self,
        users: UserTable,
        scheme: PaddingScheme,
        limits: ProtocolLimits = ProtocolLimits(),
        offer: ExtensionOffer = NO_EXTENSIONS,
    ) -> None:
        super().__init__(SERVER, limits, users, scheme, AuthDecoder(limits.max_auth_padding))
        self._offer = offer

    def _authenticated(self) -> None:
        # AUTH is decoded apart from all other frames.
        self.decoder.frames[FrameType.AUTH] += 1

    def acknowledge(self, stream_id: int) -> bytes | None:
        """Accept a stream. Return the STREAM_ACK frame to send, None if it was sent already or the stream is closed."""
        frames_to_send = self._stream_event(stream_id, StreamEvent.ACKNOWLEDGE)
        return frames_to_send[0] if frames_to_send else None

    @property
    def highest_id(self) -> int:
        """The highest id of a stream that the client has opened, 0 if there is none."""
        return self.opened_ids.highest

    def refuse(self, stream_id: int, reason: StreamReason = NO_REASON) -> tuple[bytes, ...]:
        """Refuse a stream. Return the frame to send, RST or STREAM_RESET, none if the stream is closed already."""
        return self.reset_stream(stream_id, reason)

    def _nego(self, stream_id: int, payload: object) -> EventTuple:
        keys = NegotiationKeys(FrameType.CLIENT_NEGO, stream_id, block_of(payload))
        offered = keys.versions()
        self.peer_identifier = keys.single("client")
        digest = keys.single("padding-md5")
        if not _MD5.fullmatch(digest):
            raise keys.violation("invalid padding-md5: expected 32 lower-case hex digits")
        version = next((version for version in VERSIONS if version in offered), None)
        if version is None:
            raise VersionNotSupported.of(
                describe(FrameType.CLIENT_NEGO), stream_id, "none of the offered versions is supported"
            )
        named = keys.extensions()
        accepted = frozenset(name for name in self._offer.names if name in named)
        window = keys.window() if "window" in accepted else None
        self.version = version
        self._agree(accepted, window)
        answer = {"v": [str(version)], **format_extensions(accepted, self._offer.window)}
        # At once, directly followed by the scheme (spec: Version Negotiation; Padding Scheme Update).
        self.replies.append(frames.encode_server_nego(data_blocks.format_key_values(answer)))
        if digest != self._scheme.digest:
            self.replies.append(frames.encode_padding_update_scheme(self._scheme.to_bytes()))
        return Event.NEGOTIATED, 0, None

    HANDLERS: ClassVar = {**BaseProtocol.HANDLERS, FrameType.CLIENT_NEGO: _nego}
