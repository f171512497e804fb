"""What one end of a connection has in either wire format: its state, its open streams, and limits on idle frames."""

from __future__ import annotations

from typing import ClassVar, Protocol

from .exceptions import LimitExceeded
from .interface import FrameCounters
from .limits import ProtocolLimits
from .state_machine import ConnectionEvent, ConnectionState, ConnectionTable, StreamState


class Decoder(FrameCounters, Protocol):
    """A wire format's decoder of frames."""

    @property
    def unconsumed(self) -> bytes:
        """The bytes from the beginning of the last frame on."""

    @property
    def incomplete(self) -> bytes:
        """The beginning of a frame that is still incomplete."""


class ProtocolEnd:
    """One end of a connection. The wire formats derive both of their ends from it.

    Attributes:
      state: the state of this end.
      streams: the state of each open stream, by its id.
      decoder: decodes the bytes received, and counts frames.
      replies: encoded frames that answer the peer's. The caller takes them out and sends them.
      version: the version agreed upon; None before that.
    """

    #: The type of the frame that is padding, on the wire.
    PADDING: ClassVar[int]

    decoder: Decoder

    def __init__(self, table: ConnectionTable, limits: ProtocolLimits) -> None:
        self.state = ConnectionState.TLS
        self.streams: dict[int, StreamState] = {}
        self.replies: list[bytes] = []
        self.version: int | None = None
        self._table = table
        self._limits = limits
        # The number of consecutive idle frames; the number of padding frames counted, its bytes so far, and its bytes
        # before the first of the idle frames.
        self._idle_frames = 0
        self._paddings = 0
        self._padding = 0
        self._padding_before = 0
        self._ping_outstanding = False
        # Set after a violation: everything that arrives is ignored, since it cannot be decoded.
        self._violated = False

    @property
    def data_bytes_received(self) -> int:
        """The number of bytes received for streams."""
        raise NotImplementedError

    def describe(self, kind: int) -> str:
        """Return the name of a frame type for texts."""
        raise NotImplementedError

    @property
    def unconsumed(self) -> bytes:
        """The bytes that were not consumed when `receive` raised. Valid until the next checkpoint."""
        return self.decoder.unconsumed

    @property
    def incomplete(self) -> bytes:
        """The bytes received that do not make a complete frame yet."""
        return self.decoder.incomplete

    def handshake_done(self) -> None:
        """Begin the connection: the TLS handshake is done."""
        after = self._table[self.state][ConnectionEvent.HANDSHAKE]
        if isinstance(after, str):
            raise RuntimeError(after)
        self.state = after

    def leave(self) -> None:
        """Close this end: ignore everything that arrives from now on."""
        self._move(ConnectionEvent.LEAVE)

    def transport_closed(self) -> None:
        """Note that the transport has ended."""
        self._move(ConnectionEvent.TRANSPORT_CLOSED)

    def _move(self, event: ConnectionEvent) -> None:
        after = self._table[self.state][event]
        assert not isinstance(after, str)  # noqa: S101 - leaving is legal in every state; a test walks the table
        self.state = after

    def _enter(self, stream_id: int, state: StreamState) -> None:
        if state is not StreamState.CLOSED:
            self.streams[stream_id] = state
        else:
            self.streams.pop(stream_id, None)

    def _idle(self, kind: int, stream_id: int) -> None:
        """Count a frame without content. A peer that sends only such frames costs time and gives nothing.

        Raises:
          LimitExceeded: there were too many consecutive ones.
        """
        if not self._idle_frames:
            self._padding_before = self._padding
        self._idle_frames += 1
        if self._idle_frames > self._limits.max_idle_frames:
            rule = f"more than {self._limits.max_idle_frames} consecutive idle frames"
            raise LimitExceeded.of(self.describe(kind), stream_id, rule)

    def _count_padding(self) -> None:
        """Count a frame of padding that has begun, or more of its bytes.

        Raises:
          LimitExceeded: there was too much of it.
        """
        kind = self.PADDING
        if self._paddings != self.decoder.frames[kind]:
            self._paddings = self.decoder.frames[kind]
            self._idle(kind, 0)
        self._padding = self.decoder.payload_bytes[kind]
        if self._padding - self._padding_before > self._limits.max_idle_bytes:
            rule = f"more than {self._limits.max_idle_bytes} consecutive bytes of padding"
            raise LimitExceeded.of(self.describe(kind), 0, rule)
