"""Both ends of the protocol without I/O: what a frame means now, and what is to be answered (protocol: 4 and 5).

Bytes go in through `receive`, which yields events; answers collect in `replies`, to be sent in that order. What the
application does is a method that returns the frame to send. Nothing here knows the time, and nothing waits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from typing import Final

from trioanytls._protocol import data_blocks
from trioanytls._protocol.credentials import UserTable, hash_password
from trioanytls._protocol.exceptions import (
    AuthenticationFailed,
    DataBlockError,
    LimitExceeded,
    ProtocolViolation,
    SchemeError,
    VersionNotSupported,
)
from trioanytls._protocol.limits import ProtocolLimits
from trioanytls._protocol.padding_scheme import PaddingScheme
from trioanytls._protocol.state_machine import (
    CLIENT,
    SERVER,
    STREAM,
    ConnectionEvent,
    ConnectionState,
    ConnectionTable,
    StreamAction,
    StreamEvent,
    StreamState,
)
from trioanytls._protocol.stream_ids import OpenedStreamIds
from trioanytls._version import __version__

from . import frames
from .frame_decoder import AuthDecoder, FrameDecoder
from .frames import MAX_STREAM_ID, CloseCode, FrameType

#: The protocol versions that this implementation speaks, the preferred one first.
VERSIONS: Final = (1,)
#: What the `client` key of our NEGO says.
IDENTIFIER: Final = f"trioanytls/{__version__}"


class Event(IntEnum):
    """What `receive` yields, as the first member of a tuple `(event, stream id, payload)`."""

    #: Bytes for a stream. (The value of the frame's type: such a frame is passed on as it came from the decoder.)
    DATA = FrameType.STREAM_DATA
    #: A frame refreshed a stream's timer, and nothing else.
    REFRESHED = 0x40
    #: The peer opened a stream.
    OPENED = 0x41
    #: The peer's application accepted a stream.
    ACKNOWLEDGED = 0x42
    #: The peer closed a stream.
    ENDED = 0x43
    #: The peer closed a stream that it had not accepted.
    REFUSED = 0x44
    #: The answer to our PINGPONG.
    PONG = 0x45
    #: The client is who the payload says.
    AUTHENTICATED = 0x46
    #: Versions are agreed upon: `version` is set.
    NEGOTIATED = 0x47
    #: The server wants the payload, a `PaddingScheme`, used for later connections.
    SCHEME = 0x48
    #: The peer leaves; the payload is its `CloseCode`.
    LEFT = 0x49
    #: The peer leaves because of a violation; the payload is its ALERT text.
    ALERTED = 0x4A


#: An event, a stream id (0 where it is about the connection), and what belongs to it.
EventTuple = tuple[int, int, object]

_DATA: Final = int(FrameType.STREAM_DATA)
_PADDING: Final = int(FrameType.PADDING)
_ENDING: Final = (FrameType.ALERT, FrameType.CLOSE)
_DELIVER: Final = StreamAction.DELIVER
_STREAM_EVENTS: Final = {
    StreamAction.REFRESH: Event.REFRESHED,
    StreamAction.DELIVER: Event.DATA,
    StreamAction.ACCEPT: Event.OPENED,
    StreamAction.CONFIRM: Event.ACKNOWLEDGED,
    StreamAction.END: Event.ENDED,
    StreamAction.REFUSE: Event.REFUSED,
}
_FRAMES_TO_SEND: Final[dict[StreamAction, Callable[[int], bytes]]] = {
    StreamAction.SEND_OPEN: frames.encode_open,
    StreamAction.SEND_ACK: frames.encode_ack,
    StreamAction.SEND_RST: frames.encode_rst,
}

# What a frame of a stream does when it does nothing.
_IDLING: Final = (StreamAction.REFRESH, StreamAction.DROP)
# What this end does to streams that may make frames of the peer come late.
_CROSSING: Final = (StreamAction.SEND_OPEN, StreamAction.SEND_RST)

_VERSION = re.compile(r"[1-9][0-9]{0,8}")
_MD5 = re.compile(r"[0-9a-f]{32}")
# What an error about a data block has taken from the block stands in quotes, as `repr` makes them. So do a few words of
# our own.
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_OUR_OWN: Final = frozenset({"'v'", "'client'", "'padding-md5'", "'stop'", "'c'", "'min-max'"})


class BaseProtocol:
    """What both ends have in common.

    Attributes:
      state: where this end stands.
      streams: the state of each open stream, by its id.
      decoder: what takes the bytes apart; it counts frames.
      replies: encoded frames that the peer's frames ask for; whoever sends them takes them out.
      version: the version agreed upon, None before that.
    """

    def __init__(self, table: ConnectionTable, limits: ProtocolLimits) -> None:
        self.state = ConnectionState.TLS
        self.streams: dict[int, StreamState] = {}
        self.decoder = FrameDecoder(limits.max_control_payload)
        self.replies: list[bytes] = []
        self.version: int | None = None
        self._table = table
        self._limits = limits
        # Frames in a row that carried nothing; PADDING frames that were counted, its bytes up to now, and before the
        # first of those frames.
        self._idle_frames = 0
        self._paddings = 0
        self._padding = 0
        self._padding_before = 0
        self._opened = OpenedStreamIds()
        self._ping_outstanding = False
        # Set when what arrives cannot be read any more: it is ignored.
        self._deaf = False
        self._handlers: dict[int, Callable[[int, object], EventTuple | None]] = {
            FrameType.ALERT: self._alert,
            FrameType.CLOSE: self._close,
            FrameType.PINGPONG: self._pingpong,
        }

    # What arrives

    def receive(self, data: bytes | memoryview) -> Iterator[EventTuple]:
        """The events that `data` brings. Exhaust the iterator before the next call.

        Raises:
          ProtocolViolation: the peer broke the protocol; what came before that has been yielded. `unconsumed` are
            the bytes from the offending frame on.
          AuthenticationFailed: (server) the client is not one of ours; `unconsumed` is all that it sent.
        """
        if self._deaf:
            return
        before = self.state
        try:
            for frame in self.decoder.decode(data):
                kind, stream_id, payload = frame
                before = self.state
                after = self._table[self.state][kind]
                if after is not self.state:
                    if isinstance(after, str):
                        raise ProtocolViolation.of(kind, stream_id, after)
                    self.state = after
                elif after >= ConnectionState.CLOSING and kind not in _ENDING:
                    # The end has begun; what still arrives has no meaning, but that the peer leaves as well.
                    continue
                if kind == _DATA and stream_id in self.streams:
                    # Legal in every open state, and changes none: the table says the same, in more time.
                    if payload:
                        self._idle_frames = 0
                    else:
                        self._idle(kind, stream_id)
                    yield frame
                elif kind >= FrameType.STREAM:
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
            # Nobody knows where the next frame would begin.
            self._deaf = True
            # Behind the end, what cannot be read has no meaning either.
            if before < ConnectionState.CLOSING:
                raise

    @property
    def unconsumed(self) -> bytes:
        """Where `receive` has raised, the bytes that the protocol did not consume; to be asked for at once."""
        return self.decoder.unconsumed

    @property
    def incomplete(self) -> bytes:
        """The bytes that have not made a frame yet, for whoever takes over when no more come."""
        return self.decoder.incomplete

    def stream_state(self, stream_id: int) -> StreamState:
        """Where a stream stands, whether it is open, was, or never was."""
        state = self.streams.get(stream_id)
        if state is None:
            state = StreamState.CLOSED if stream_id in self._opened else StreamState.IDLE
        return state

    def _stream_frame(self, kind: int, stream_id: int, payload: object) -> Event | None:
        entry = STREAM[self.stream_state(stream_id)][kind]
        if isinstance(entry, str):
            raise ProtocolViolation.of(kind, stream_id, entry)
        action, after = entry
        if action is StreamAction.ACCEPT:
            # Ids MUST increase (spec: Streams / Explicit Data Stream Identifiers); gaps are legal.
            if stream_id <= self._opened.highest:
                rule = f"stream ids increase, and {self._opened.highest} was opened before"
                raise ProtocolViolation.of(kind, stream_id, rule)
            self._opened.add(stream_id)
        # Data that is late for a stream is no idling: it was under way when the stream was closed here.
        if action in _IDLING and not payload:
            self._idle(kind, stream_id)
        else:
            self._idle_frames = 0
        self._enter(stream_id, after)
        return _STREAM_EVENTS.get(action)

    def _enter(self, stream_id: int, state: StreamState) -> None:
        if state is not StreamState.CLOSED:
            self.streams[stream_id] = state
        else:
            self.streams.pop(stream_id, None)

    def _idle(self, kind: int, stream_id: int) -> None:
        """A frame has come that carries nothing; a peer that sends nothing else only keeps us busy."""
        if not self._idle_frames:
            self._padding_before = self._padding
        self._idle_frames += 1
        if self._idle_frames > self._limits.max_idle_frames:
            rule = f"more than {self._limits.max_idle_frames} frames in a row carried nothing"
            raise LimitExceeded.of(kind, stream_id, rule)

    def _count_padding(self) -> None:
        """PADDING has begun, or more of it has come."""
        if self._paddings != self.decoder.frames[_PADDING]:
            self._paddings = self.decoder.frames[_PADDING]
            self._idle(_PADDING, 0)
        self._padding = self.decoder.payload_bytes[_PADDING]
        if self._padding - self._padding_before > self._limits.max_idle_bytes:
            rule = f"more than {self._limits.max_idle_bytes} bytes in a row were padding"
            raise LimitExceeded.of(_PADDING, 0, rule)

    def _alert(self, stream_id: int, payload: object) -> EventTuple:
        try:
            text = data_blocks.parse_text(_block(payload))
        except DataBlockError as error:
            raise ProtocolViolation.of(FrameType.ALERT, stream_id, _rule(error)) from None
        return Event.ALERTED, 0, text

    def _close(self, _stream_id: int, payload: object) -> EventTuple:
        code = payload if isinstance(payload, int) else CloseCode.PROTOCOL_ERROR
        return Event.LEFT, 0, CloseCode.from_wire(code)

    def _pingpong(self, _stream_id: int, _payload: object) -> EventTuple | None:
        # One that is outstanding is answered by whichever PINGPONG comes next, also by the peer's own request: then no
        # exchange can go on for ever (protocol: 4).
        if self._ping_outstanding:
            self._ping_outstanding = False
            return Event.PONG, 0, None
        self.replies.append(frames.encode_pingpong())
        return None

    # What the application does

    def handshake_done(self) -> None:
        """TLS is up: the connection begins."""
        after = self._table[self.state][ConnectionEvent.HANDSHAKE]
        if isinstance(after, str):
            raise RuntimeError(after)
        self.state = after

    def ping(self) -> bytes:
        """The PINGPONG frame to send. One is outstanding at a time; its answer is `Event.PONG`."""
        self._ping_outstanding = True
        return frames.encode_pingpong()

    def close_stream(self, stream_id: int) -> bytes | None:
        """Close a stream: the RST frame to send, None where none is to be."""
        return self._stream_event(stream_id, StreamEvent.CLOSE)

    def _stream_event(self, stream_id: int, event: StreamEvent) -> bytes | None:
        entry = STREAM[self.stream_state(stream_id)][event]
        assert not isinstance(entry, str)  # noqa: S101 - a local event breaks no rule of the wire; a test walks the table
        action, after = entry
        if action is StreamAction.MISUSE:
            raise RuntimeError(f"stream {stream_id}: {event.name.lower()} is not for this end, or not now")
        if action in _CROSSING:
            # What comes late for the stream, since the peer does not know yet, is no idling.
            self._idle_frames = 0
        self._enter(stream_id, after)
        encode = _FRAMES_TO_SEND.get(action)
        return encode(stream_id) if encode else None

    def leave(self) -> None:
        """This end leaves: what arrives from here on is ignored."""
        self._move(ConnectionEvent.LEAVE)

    def transport_closed(self) -> None:
        """The transport has ended."""
        self._move(ConnectionEvent.TRANSPORT_CLOSED)

    def _move(self, event: ConnectionEvent) -> None:
        after = self._table[self.state][event]
        assert not isinstance(after, str)  # noqa: S101 - leaving is legal in every state; a test walks the table
        self.state = after


class ClientProtocol(BaseProtocol):
    """The client's end."""

    def __init__(self, password: str, scheme: PaddingScheme, limits: ProtocolLimits = ProtocolLimits()) -> None:
        super().__init__(CLIENT, limits)
        self._password_hash = hash_password(password)
        self._scheme = scheme
        self._handlers |= {
            FrameType.SERVER_NEGO: self._nego,
            FrameType.PADDING_UPDATE_SCHEME: self._new_scheme,
        }

    def first_frames(self, padding_length: int) -> tuple[bytes, bytes]:
        """AUTH with `padding_length` bytes of padding, and NEGO, which MUST follow it (spec: Version Negotiation)."""
        block = data_blocks.format_key_values(
            {
                "v": [str(version) for version in VERSIONS],
                "client": [IDENTIFIER],
                "padding-md5": [self._scheme.digest],
            }
        )
        return frames.encode_auth(self._password_hash, padding_length), frames.encode_client_nego(block)

    @property
    def exhausted(self) -> bool:
        """Whether the ids are used up: no stream can be opened any more (protocol: 5)."""
        return self._opened.highest >= MAX_STREAM_ID

    def open_stream(self) -> tuple[int, bytes]:
        """Open the next stream: its id, and the frame to send.

        Raises:
          RuntimeError: the ids are used up.
        """
        if self.exhausted:
            raise RuntimeError("all stream ids of this connection are used up")
        stream_id = self._opened.highest + 1
        frame = self._stream_event(stream_id, StreamEvent.OPEN)
        assert frame is not None  # noqa: S101 - the id was never used, so the table says SEND_OPEN
        self._opened.add(stream_id)
        return stream_id, frame

    def _nego(self, stream_id: int, payload: object) -> EventTuple:
        keys = _Keys(FrameType.SERVER_NEGO, stream_id, payload)
        versions = keys.versions()
        if len(versions) != 1 or versions[0] not in VERSIONS:
            raise keys.violation("the version selected was not offered")
        self.version = versions[0]
        return Event.NEGOTIATED, 0, None

    def _new_scheme(self, stream_id: int, payload: object) -> EventTuple:
        kind, limits = FrameType.PADDING_UPDATE_SCHEME, self._limits
        # One is news; a server that says nothing else only keeps us busy.
        self._idle(kind, stream_id)
        block = _block(payload)
        if len(block) > limits.max_scheme_size:
            rule = f"the scheme has {len(block)} bytes, and at most {limits.max_scheme_size} are allowed"
            raise LimitExceeded.of(kind, stream_id, rule)
        try:
            scheme = PaddingScheme.parse(block)
        except SchemeError as error:
            raise ProtocolViolation.of(kind, stream_id, _rule(error)) from None
        excess = limits.find_excess(scheme)
        if excess is not None:
            what, value, limit = excess
            rule = f"the scheme's {what} is {value}, and at most {limit} is allowed"
            raise LimitExceeded.of(kind, stream_id, rule)
        return Event.SCHEME, 0, scheme


class ServerProtocol(BaseProtocol):
    """The server's end.

    Attributes:
      user: the name of the user who authenticated, None before that.
      peer_identifier: what the client's NEGO said of its implementation, None before that.
    """

    def __init__(self, users: UserTable, scheme: PaddingScheme, limits: ProtocolLimits = ProtocolLimits()) -> None:
        super().__init__(SERVER, limits)
        self.user: str | None = None
        self.peer_identifier: str | None = None
        self._users = users
        self._scheme = scheme
        self._auth: AuthDecoder | None = AuthDecoder(limits.max_auth_padding)
        # Whose hash it is, before the frame is complete.
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
        # The padding of an AUTH frame whose hash is unknown is not waited for (protocol: 4).
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
        """All that came, as long as the client has not authenticated; see `BaseProtocol.unconsumed` for afterwards."""
        return bytes(self._auth.received) if self._auth and self._auth.received else super().unconsumed

    @property
    def incomplete(self) -> bytes:
        """Likewise."""
        return bytes(self._auth.received) if self._auth else super().incomplete

    def acknowledge(self, stream_id: int) -> bytes | None:
        """Accept a stream: the STREAM_ACK frame to send, None where it was sent, or the stream is closed."""
        return self._stream_event(stream_id, StreamEvent.ACKNOWLEDGE)

    def _nego(self, stream_id: int, payload: object) -> EventTuple:
        keys = _Keys(FrameType.CLIENT_NEGO, stream_id, payload)
        offered = keys.versions()
        self.peer_identifier = keys.single("client")
        digest = keys.single("padding-md5")
        if not _MD5.fullmatch(digest):
            raise keys.violation("padding-md5 is not 32 lower-case hex digits")
        self.version = next((version for version in VERSIONS if version in offered), None)
        if self.version is None:
            raise VersionNotSupported.of(FrameType.CLIENT_NEGO, stream_id, "none of the versions offered is supported")
        # At once, and the scheme directly behind it (spec: Version Negotiation; Padding Scheme Update).
        self.replies.append(frames.encode_server_nego(data_blocks.format_key_values({"v": [str(self.version)]})))
        if digest != self._scheme.digest:
            self.replies.append(frames.encode_padding_update_scheme(self._scheme.to_bytes()))
        return Event.NEGOTIATED, 0, None


class _Keys:
    """The keys of a NEGO frame."""

    def __init__(self, kind: FrameType, stream_id: int, payload: object) -> None:
        self._kind = kind
        self._stream_id = stream_id
        try:
            self._keys = data_blocks.parse_key_values(_block(payload))
        except DataBlockError as error:
            raise self.violation(_rule(error)) from None

    def violation(self, rule: str) -> ProtocolViolation:
        """The error for the frame."""
        return ProtocolViolation.of(self._kind, self._stream_id, rule)

    def versions(self) -> list[int]:
        """The key `v`."""
        values: Iterable[str] = self._keys.get("v", ("",))
        if not all(_VERSION.fullmatch(value) for value in values):
            raise self.violation("the key 'v' is missing or not a list of version numbers")
        return [int(value) for value in values]

    def single(self, key: str) -> str:
        """A key that has one value."""
        values = self._keys.get(key, ())
        if len(values) != 1:
            raise self.violation(f"the key {key!r} is missing or has more than one value")
        return values[0]


def _rule(error: DataBlockError | SchemeError) -> str:
    """Which rule a block breaks, without what it says: that may be long, and anything, and is not for the log."""
    return _QUOTED.sub(lambda quoted: quoted[0] if quoted[0] in _OUR_OWN else "'...'", error.args[0])


def _block(payload: object) -> bytes:
    return payload if isinstance(payload, bytes) else b""
