"""The wire formats by name, and the choice between them on one port (legacy: 9)."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from .anytls1.client import ClientProtocol
from .anytls1.server import ServerProtocol
from .close_codes import CloseCode
from .credentials import AUTH_BEGINNING, UserTable
from .events import Event, EventTuple
from .exceptions import AuthenticationFailed
from .extensions import NO_EXTENSIONS, NO_NAMES, Extension, ExtensionOffer
from .interface import ClientWireProtocol, FrameCounters, ServerWireProtocol, WireFormat
from .legacy.client import LegacyClientProtocol
from .legacy.preamble import HEADER_SIZE, PASSWORD_HASH_SIZE
from .legacy.server import LegacyServerProtocol
from .limits import ProtocolLimits
from .padding_scheme import PaddingScheme
from .state_machine import ConnectionState
from .stream_codes import NO_REASON, StreamReason
from .traffic_shaper import PaddingFrames

WIRE_FORMATS: Final[tuple[WireFormat, ...]] = ("anytls1", "legacy")


def check_format(name: str, value: object) -> None:
    """Check that an argument names a wire format.

    Raises:
      ValueError: it does not.
    """
    if value not in WIRE_FORMATS:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, WIRE_FORMATS))}, not {value!r}")


def check_formats(values: object) -> None:
    """Check that an argument is a collection of wire formats, at least one.

    Raises:
      TypeError: it is not a collection, or it is a `str`.
      ValueError: it is empty, or contains something else.
    """
    if isinstance(values, str) or not isinstance(values, Collection):
        raise TypeError(f"protocols must be a collection of wire formats, not {type(values).__name__}")
    if not values:
        raise ValueError("protocols must not be empty")
    for value in values:
        check_format("each of protocols", value)


def check_identifier(wire_format: WireFormat, identifier: str) -> None:
    """Check that a client of this format can have this `Config.client_identifier`.

    Raises:
      ValueError: the identifier is empty, for which `anytls1` has no place.
    """
    if wire_format == "anytls1" and not identifier:
        raise ValueError('client_identifier must not be empty with protocol="anytls1"')


def make_client(
    wire_format: WireFormat,
    password: str,
    scheme: PaddingScheme,
    limits: ProtocolLimits,
    identifier: str,
    offer: ExtensionOffer = NO_EXTENSIONS,
) -> ClientWireProtocol:
    """Make the client's end of a connection in this format.

    Raises:
      ValueError: the password cannot be encoded; or the identifier is empty, for which `anytls1` has no place.
    """
    check_identifier(wire_format, identifier)
    if wire_format == "anytls1":
        return ClientProtocol(password, scheme, limits, identifier, offer)
    return LegacyClientProtocol(password, scheme, limits, identifier)


def make_server(
    wire_formats: Collection[WireFormat],
    users: UserTable,
    scheme: PaddingScheme,
    limits: ProtocolLimits,
    offer: ExtensionOffer = NO_EXTENSIONS,
) -> ServerWireProtocol:
    """Make the server's end of a connection in one of these formats."""
    if "legacy" not in wire_formats:
        return ServerProtocol(users, scheme, limits, offer)
    return ServerFormatSelector(wire_formats, users, scheme, limits, offer)


class ServerFormatSelector:
    """The server's end until the client's first bytes tell its wire format (legacy: 9).

    It collects the 34 bytes that either format begins with, and looks both possible password hashes up, each in
    constant time. It then yields `Event.SELECTED` with the end that the connection continues with, and its events.
    """

    PADDING: Final = LegacyServerProtocol.PADDING
    name: Final = None
    greeting: Final = ""
    version: int | None = None
    user: str | None = None
    peer_identifier: str | None = None
    extensions: frozenset[Extension] | None = None
    receive_window: int | None = None
    send_window: int | None = None
    peer_pings: bool = False
    highest_id: Final = 0
    undecided: Final = NO_NAMES
    follows_scheme: Final = False
    ends_with_transport: Final = False
    can_ping: Final = False
    acknowledges: Final = False

    def __init__(
        self,
        wire_formats: Collection[WireFormat],
        users: UserTable,
        scheme: PaddingScheme,
        limits: ProtocolLimits,
        offer: ExtensionOffer = NO_EXTENSIONS,
    ) -> None:
        self.state = ConnectionState.TLS
        self.replies: list[bytes] = []
        self._accepts_anytls1 = "anytls1" in wire_formats
        self._users = users
        self._anytls1 = ServerProtocol(users, scheme, limits, offer)
        self._legacy = LegacyServerProtocol(users, scheme, limits)
        self._received = bytearray()
        self._left = False
        self._chosen: ServerWireProtocol | None = None

    @property
    def decoder(self) -> FrameCounters:
        """The counters: nothing was received as a frame."""
        return self._legacy.decoder

    @property
    def unconsumed(self) -> bytes:
        """All bytes received, until the format is known."""
        return bytes(self._received) if self._chosen is None else self._chosen.unconsumed

    @property
    def incomplete(self) -> bytes:
        """All bytes received."""
        return bytes(self._received)

    def receive(self, data: bytes | memoryview) -> Iterator[EventTuple]:
        """Consume `data`. See `WireProtocol.receive`.

        Raises:
          AuthenticationFailed: the bytes are the beginning of neither format, or no user has the password.
        """
        if self._left:
            return
        is_first = not self._received
        self._received += data
        received = self._received
        if len(received) < HEADER_SIZE:
            # Legacy clients send the preamble in one TLS record, as the servers in the field demand. A client of
            # anytls1 may send AUTH in pieces. Nothing else is waited for, so that a short request reaches the fallback.
            if is_first and not (self._accepts_anytls1 and AUTH_BEGINNING.startswith(received[:2])):
                raise AuthenticationFailed("the first data is too short for a preamble")
            if not is_first and not AUTH_BEGINNING.startswith(received[:2]):
                raise AuthenticationFailed("the first data is neither AUTH nor a preamble")
            return
        # Always both, over all users, so that the time tells nothing about them.
        legacy_user = self._users.find(bytes(received[:PASSWORD_HASH_SIZE]))
        anytls1_user = self._users.find(bytes(received[2:HEADER_SIZE]))
        chosen: ServerWireProtocol
        if legacy_user is not None:
            chosen = self._legacy
        elif anytls1_user is not None and self._accepts_anytls1 and received.startswith(AUTH_BEGINNING):
            chosen = self._anytls1
        else:
            raise AuthenticationFailed("no user has this password")
        self._chosen = chosen
        chosen.handshake_done()
        yield Event.SELECTED, 0, chosen
        yield from chosen.receive(bytes(received))

    def handshake_done(self) -> None:
        """Begin the connection: the TLS handshake is done."""
        self.state = ConnectionState.WAIT_AUTH

    def leave(self) -> None:
        """Close this end: ignore everything that arrives from now on."""
        self._left = True
        self.state = ConnectionState.CLOSING

    def transport_closed(self) -> None:
        """Note that the transport has ended."""
        self.state = ConnectionState.CLOSED

    def encode_close(self, _code: CloseCode) -> bytes | None:
        """Return None: an unauthenticated client gets no frame."""
        return None

    def encode_alert(self, _text: str) -> bytes | None:
        """Return None: an unauthenticated client gets no frame."""
        return None

    # Not called before the format is known

    @property
    def padding_frames(self) -> PaddingFrames:
        """The frames to pad with."""
        return self._legacy.padding_frames

    @property
    def max_data(self) -> int:
        """The most data of one frame that this end sends."""
        return self._legacy.max_data

    @property
    def max_stall_timeout(self) -> float:
        """There is no stream yet that could stall the reader."""
        return self._legacy.max_stall_timeout

    @property
    def data_bytes_received(self) -> int:
        """No bytes were received for streams."""
        return 0

    def describe(self, kind: int) -> str:
        """Return the name of a frame type for texts."""
        return self._legacy.describe(kind)

    def data_prefix(self, stream_id: int) -> bytes:
        """See `WireProtocol.data_prefix`."""
        return self._legacy.data_prefix(stream_id)

    def encode_length(self, length: int) -> bytes:
        """See `WireProtocol.encode_length`."""
        return self._legacy.encode_length(length)

    def ping(self) -> bytes:
        """See `WireProtocol.ping`."""
        return self._legacy.ping()

    def close_stream(self, stream_id: int) -> tuple[bytes, ...]:
        """See `WireProtocol.close_stream`."""
        return self._legacy.close_stream(stream_id)

    def reset_stream(self, stream_id: int, reason: StreamReason = NO_REASON) -> tuple[bytes, ...]:
        """See `WireProtocol.reset_stream`."""
        return self._legacy.reset_stream(stream_id, reason)

    def encode_reset(self, stream_id: int, reason: StreamReason = NO_REASON) -> bytes:
        """See `WireProtocol.encode_reset`."""
        return self._legacy.encode_reset(stream_id, reason)

    def encode_close_of_stream(self, stream_id: int) -> tuple[bytes, ...]:
        """See `WireProtocol.encode_close_of_stream`."""
        return self._legacy.encode_close_of_stream(stream_id)

    def finish_stream(self, stream_id: int) -> tuple[bytes, ...]:
        """See `WireProtocol.finish_stream`."""
        return self._legacy.finish_stream(stream_id)

    def encode_window(self, stream_id: int, increment: int) -> bytes:
        """See `WireProtocol.encode_window`."""
        return self._legacy.encode_window(stream_id, increment)

    def count_grant(self, stream_id: int, *, idle: bool) -> None:
        """See `WireProtocol.count_grant`."""

    def encode_goaway(self, highest_id: int) -> bytes:
        """See `WireProtocol.encode_goaway`."""
        return self._legacy.encode_goaway(highest_id)

    def is_open(self, _stream_id: int) -> bool:
        """Return False: there is no stream yet."""
        return False

    def acknowledge(self, stream_id: int) -> bytes | None:
        """See `ServerWireProtocol.acknowledge`."""
        return self._legacy.acknowledge(stream_id)

    def refuse(self, stream_id: int, reason: StreamReason = NO_REASON) -> tuple[bytes, ...]:
        """See `ServerWireProtocol.refuse`."""
        return self._legacy.refuse(stream_id, reason)
