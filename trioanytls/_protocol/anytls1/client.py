"""The client's end of the protocol (protocol: 4 and 5)."""

from __future__ import annotations

from typing import ClassVar

from trioanytls._protocol import data_blocks
from trioanytls._protocol.credentials import hash_password
from trioanytls._protocol.events import Event, EventTuple
from trioanytls._protocol.exceptions import LimitExceeded, ProtocolViolation, SchemeError
from trioanytls._protocol.extensions import EXTENSIONS, NO_EXTENSIONS, NO_NAMES, Extension, ExtensionOffer
from trioanytls._protocol.limits import ProtocolLimits
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._protocol.state_machine import CLIENT, StreamEvent, StreamState

from . import frames
from .base import BaseProtocol, block_of
from .frames import MAX_STREAM_ID, FrameType, describe
from .negotiation import IDENTIFIER, VERSIONS, NegotiationKeys, format_extensions


class ClientProtocol(BaseProtocol):
    """The client's end."""

    def __init__(
        self,
        password: str,
        scheme: PaddingScheme,
        limits: ProtocolLimits = ProtocolLimits(),
        identifier: str = IDENTIFIER,
        offer: ExtensionOffer = NO_EXTENSIONS,
    ) -> None:
        super().__init__(CLIENT, limits)
        self._offer = offer
        # The id in the server's last GOAWAY.
        self._last_served = MAX_STREAM_ID
        self._identifier = identifier
        self._password_hash = hash_password(password)
        self._scheme = scheme

    #: The frames of streams that the first Write waits for: the first stream's OPEN.
    frames_in_first_write = 1
    first_frame_names = ("AUTH", "CLIENT_NEGO")
    #: OPEN goes out with the stream's first data, once writes are no longer shaped.
    opens_alone = False

    def first_writes(self, padding_length: int) -> tuple[bytes, bytes]:
        """Return nothing to write alone, and what the first frames follow in one Write: AUTH and NEGO."""
        return b"", b"".join(self.first_frames(padding_length))

    def first_frames(self, padding_length: int) -> tuple[bytes, bytes]:
        """Encode AUTH with `padding_length` bytes of padding, and NEGO.

        NEGO MUST follow AUTH directly (spec: Version Negotiation).
        """
        block = data_blocks.format_key_values(
            {
                "v": [str(version) for version in VERSIONS],
                "client": [self._identifier],
                "padding-md5": [self._scheme.digest],
                **format_extensions(self._offer.names, self._offer.window),
            }
        )
        return frames.encode_auth(self._password_hash, padding_length), frames.encode_client_nego(block)

    @property
    def undecided(self) -> frozenset[Extension]:
        """The extensions that this end has offered, as long as the server's NEGO has not arrived."""
        return self._offer.names if self.extensions is None else NO_NAMES

    @property
    def exhausted(self) -> bool:
        """True if all stream ids are used up, so that no further stream can be opened (protocol: 5)."""
        return self.opened_ids.highest >= MAX_STREAM_ID

    def open_stream(self) -> tuple[int, bytes]:
        """Open the next stream. Return its id and the frame to send.

        Raises:
          RuntimeError: all stream ids are used up.
        """
        if self.exhausted:
            raise RuntimeError("all stream ids of this connection are used up")
        stream_id = self.opened_ids.highest + 1
        # The id was never used, so the table says SEND_OPEN.
        (frame,) = self._stream_event(stream_id, StreamEvent.OPEN)
        self.opened_ids.add(stream_id)
        return stream_id, frame

    def _nego(self, stream_id: int, payload: object) -> EventTuple:
        keys = NegotiationKeys(FrameType.SERVER_NEGO, stream_id, block_of(payload))
        versions = keys.versions()
        if len(versions) != 1 or versions[0] not in VERSIONS:
            raise keys.violation("the selected version was not offered")
        named = keys.extensions()
        offered = self._offer.names
        if unknown := [name for name in EXTENSIONS if name in named and name not in offered]:
            raise keys.violation(f"the extension {unknown[0]!r} was not offered")
        accepted = frozenset(name for name in offered if name in named)
        window = keys.window() if "window" in accepted else None
        self.version = versions[0]
        self._agree(accepted, window)
        return Event.NEGOTIATED, 0, None

    def _goaway(self, stream_id: int, payload: object) -> EventTuple:
        kind = FrameType.GOAWAY
        last_served = payload if isinstance(payload, int) else 0
        if last_served > self._last_served:
            rule = f"the id {last_served} is higher than {self._last_served} in the one before"
            raise ProtocolViolation.of(describe(kind), stream_id, rule)
        self._idle(kind, stream_id)
        self._last_served = last_served
        for unserved in [one for one in self.streams if one > last_served]:
            self._enter(unserved, StreamState.CLOSED)
        return Event.GOING_AWAY, 0, last_served

    def _new_scheme(self, stream_id: int, payload: object) -> EventTuple:
        kind, limits = FrameType.PADDING_UPDATE_SCHEME, self._limits
        # A server that sends nothing but schemes only keeps this end busy.
        self._idle(kind, stream_id)
        block = block_of(payload)
        if len(block) > limits.max_scheme_size:
            rule = f"scheme of {len(block)} bytes exceeds the limit of {limits.max_scheme_size}"
            raise LimitExceeded.of(describe(kind), stream_id, rule)
        try:
            scheme = PaddingScheme.parse(block)
        except SchemeError as error:
            raise ProtocolViolation.of(describe(kind), stream_id, data_blocks.redacted_rule(error)) from None
        excess = limits.find_excess(scheme)
        if excess is not None:
            what, value, limit = excess
            rule = f"the scheme's {what} ({value}) exceeds the limit of {limit}"
            raise LimitExceeded.of(describe(kind), stream_id, rule)
        return Event.SCHEME, 0, scheme

    HANDLERS: ClassVar = {
        **BaseProtocol.HANDLERS,
        FrameType.SERVER_NEGO: _nego,
        FrameType.PADDING_UPDATE_SCHEME: _new_scheme,
        FrameType.GOAWAY: _goaway,
    }
